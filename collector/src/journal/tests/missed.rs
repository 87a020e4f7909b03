//! What a sink does not get any more: it is told, and it is counted.

use super::*;
use crate::journal::cursor::Cursor;

/// What a reader gives of each container: holes by reason, and the records tile from where they begin to the end.
#[derive(Debug, Default)]
struct Told {
    begin: BTreeMap<String, u64>,
    end: BTreeMap<String, u64>,
    holes: Vec<(String, HoleReason, u64, u64)>,
}

fn told(reader: &mut Reader) -> Told {
    let mut told = Told::default();
    for waiting in drain(reader) {
        let container = waiting.batch.origin.name.container.clone();
        for record in &waiting.batch.records {
            told.begin.entry(container.clone()).or_insert(record.from);
            let end = told.end.entry(container.clone()).or_insert(record.from);
            assert_eq!(*end, record.from, "{container} is tiled");
            *end = record.to;
            if let Body::Hole(hole) = &record.body {
                told.holes.push((container.clone(), hole.reason, record.from, record.to));
            }
        }
        waiting.batch.done();
    }
    told
}

/// So many lines of text that does not become smaller, each of 60001 bytes.
fn append(open: &Open, app: &Arc<Origin>, numbers: std::ops::Range<u64>) {
    numbers.for_each(|i| open.appended(app, vec![line(i * 60_001, &noise(i, 60_000))]));
}

/// A file that is not the newest: what stands behind it is whole.
#[test]
fn what_a_damaged_older_file_has_lost_is_a_counted_hole_between_what_is_kept() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let (app, brief) = (origin("app"), origin("brief"));
    let open = Open::new(&config);
    // A sink that is promised all, and has had nothing.
    drop(open.journal.reader("file"));
    append(&open, &app, 0..12);
    open.appended(&brief, lines(0, 3, "of the first file alone"));
    append(&open, &app, 12..60);
    open.close();
    let parts = files(dir.path());
    assert!(parts.len() >= 3, "{parts:?}");
    let mut bytes = fs::read(&parts[0]).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&parts[0], bytes).expect("writable");

    let open = Open::new(&config);
    let told = told(&mut open.journal.reader("file"));
    let all = BTreeMap::from([("app".into(), 60 * 60_001), ("brief".into(), 72)]);
    assert_eq!(told.end, all);
    assert!(told.begin.values().all(|begin| *begin == 0), "{told:?}");
    let [(first, of_app, from, to), (second, of_brief, 0, 72)] = &told.holes[..] else {
        panic!("{:?}", told.holes)
    };
    assert_eq!((first.as_str(), second.as_str()), ("app", "brief"));
    assert_eq!((*of_app, *of_brief), (HoleReason::JournalDamaged, HoleReason::JournalDamaged));
    assert!(
        *from > 0 && *to < 30 * 60_001,
        "what is before the damage and behind the file is kept: {told:?}"
    );
    let sink = &open.journal.figures().sinks[0];
    let lost = [
        (HoleReason::Retention, 0),
        (HoleReason::JournalDamaged, to - from + 72),
        (HoleReason::JournalLost, 0),
    ];
    assert_eq!(sink.lost, lost);
}

/// It may have had what is gone, and nobody knows: that is said, and not passed over.
#[test]
fn a_sink_whose_place_cannot_be_read_is_told_of_all_that_is_gone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 4 << 20);
    let app = origin("app");
    let open = Open::new(&config);
    let mut reader = open.journal.reader("file");
    append(&open, &app, 0..150);
    let end = 150 * 60_001;
    assert_eq!(told(&mut reader).end["app"], end);
    drop(reader);
    open.close();
    // As a file system leaves it that keeps the name and not the bytes.
    let path = Cursor::path(dir.path(), "file");
    fs::write(&path, b"").expect("writable");

    let open = Open::new(&config);
    let of_sink = told(&mut open.journal.reader("file"));
    let of_new = told(&mut open.journal.reader("new"));
    let oldest = of_new.begin["app"];
    assert!(
        oldest > 0 && of_new.holes.is_empty(),
        "to a sink that never was nothing is promised: {of_new:?}"
    );
    assert_eq!(of_sink.holes, [("app".into(), HoleReason::Retention, 0, oldest)]);
    assert_eq!((of_sink.begin["app"], of_sink.end["app"]), (0, end));
    assert_eq!(open.journal.figures().sinks[0].lost[0], (HoleReason::Retention, oldest));
    open.close();
    assert!(Cursor::read(&path).is_some(), "from here on it is known again");
}

/// Retention rewrites a file of which a frame was damaged meanwhile: what that had is lost by the damage, and not for want of room.
#[test]
fn what_a_rewritten_file_has_lost_by_damage_is_called_so() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 4 << 20);
    let (loud, quiet) = (origin("loud"), origin("quiet"));
    let open = Open::new(&config);
    let mut reader = open.journal.reader("file");
    // A frame of its own in the middle of the first file.
    append(&open, &loud, 0..3);
    open.appended(&quiet, lines(0, 40, "of a container that says little"));
    append(&open, &loud, 3..6);
    let first = files(dir.path()).remove(0);
    let mut bytes = fs::read(&first).expect("readable");
    let (part, _) = Part::open(&first).expect("readable").expect("its header is whole");
    let mut frames = part.frames();
    let mut ends = vec![part.body];
    while frames.next().expect("whole").is_some() {
        ends.push(frames.at());
    }
    // The others are of 60 KB.
    let small = ends.windows(2).find(|ends| ends[1] - ends[0] < 10_000).expect("what the quiet one said");
    bytes[small[1] as usize - 1] ^= 4;
    fs::write(&first, bytes).expect("writable");
    append(&open, &loud, 6..200);
    wait("the damage to be found", || open.journal.state().parts.front()?.damaged.then_some(()));
    let told = told(&mut reader);
    let of_quiet = told.holes.iter().filter(|(container, ..)| container == "quiet").collect::<Vec<_>>();
    assert!(matches!(of_quiet.as_slice(), [(_, HoleReason::JournalDamaged, 0, _)]), "{of_quiet:?}");
}

/// Ends a stream, and waits until the journal has it.
fn end(open: &Open, of: &Arc<Origin>) {
    let progress = open.append(of, Vec::new(), Some(Ending::Exact));
    wait("the ending", || progress.has_ended().then_some(()));
}

/// Containers of which none is so large that it pays for the others: what goes is the oldest file.
struct Crowd {
    apps: Vec<Arc<Origin>>,
    at: u64,
}

impl Crowd {
    fn new() -> Self {
        Self { apps: ["a", "b", "c", "d", "e", "f"].map(origin).to_vec(), at: 0 }
    }

    /// They say something until `is_done`.
    fn append(&mut self, open: &Open, is_done: impl Fn() -> bool) {
        let limit = 3 * PATIENCE;
        let deadline = std::time::Instant::now() + limit;
        while !is_done() {
            assert!(std::time::Instant::now() < deadline, "not within {limit:?}: the journal turns over");
            self.apps.iter().for_each(|app| append(open, app, self.at..self.at + 1));
            self.at += 1;
        }
    }

    /// All that is in the journal by now is dropped.
    fn turn_over(&mut self, open: &Open) {
        let next = open.journal.state().next;
        self.append(open, || open.journal.state().parts.front().is_some_and(|part| part.first >= next));
    }

    /// These end as well, and so much is said that nothing is known of `gone` any more.
    fn forget(&mut self, open: &Open, others: &[&str], gone: &str) {
        for other in others.iter().copied().map(origin) {
            open.appended(&other, lines(0, 1, "brief"));
            end(open, &other);
        }
        let gone = origin(gone);
        self.append(open, || open.journal.stream(&gone.name).is_none());
    }
}

fn bytes_of(told: &Told) -> u64 {
    told.holes.iter().map(|(_, _, from, to)| to - from).sum()
}

fn lost(open: &Open) -> BTreeMap<&'static str, u64> {
    let sinks = open.journal.figures().sinks;
    sinks.into_iter().map(|sink| (sink.name, sink.lost.iter().map(|(_, bytes)| bytes).sum())).collect()
}

/// Its output was dropped, and then so many other streams have ended that nothing is known of it any more: a sink that was away all
/// the while cannot be told of it, and it is counted.
#[test]
fn what_is_dropped_of_a_stream_that_is_forgotten_is_counted_for_a_sink_that_was_behind() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 4 << 20);
    let (mut crowd, early) = (Crowd::new(), origin("early"));
    let open = Open::new(&config);
    let (mut none, mut half) = (open.journal.reader("none"), open.journal.reader("half"));
    open.appended(&early, lines(0, 10, "given to one of them"));
    assert_eq!(told(&mut half).end["early"], 210);
    open.appended(&early, lines(210, 10, "given to none of them"));
    end(&open, &early);
    crowd.turn_over(&open);
    // Of what began before it, nothing is promised to this one.
    let mut late = open.journal.reader("late");
    crowd.forget(&open, &["x", "y", "z"], "early");

    let mut said = Vec::new();
    for reader in [&mut none, &mut half, &mut late] {
        let told = told(reader);
        assert!(!told.end.contains_key("early"), "nobody knows of it: {told:?}");
        assert!(crowd.apps.iter().all(|app| told.end[&app.name.container] == crowd.at * 60_001), "{told:?}");
        said.push(bytes_of(&told));
    }
    let counted = BTreeMap::from([("none", said[0] + 430), ("half", said[1] + 220), ("late", said[2])]);
    assert_eq!(lost(&open), counted, "what nobody can be told of is counted");
    drop((none, half, late));
    open.close();
    let open = Open::new(&config);
    let mut reader = open.journal.reader("none");
    crowd.turn_over(&open);
    let said = bytes_of(&told(&mut reader));
    assert_eq!(lost(&open)["none"], said, "and once, not again by the next process");
}

/// What a sink has and has not acknowledged may have to be told again after a death: as long as that is so, the journal knows whose
/// it is. And a reader knows of no more streams than the journal does.
#[test]
fn a_stream_of_which_a_sink_has_something_in_hand_is_not_forgotten() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut crowd, early) = (Crowd::new(), origin("early"));
    let open = Open::new(&config(dir.path(), 4 << 20));
    let mut reader = open.journal.reader("file");
    open.appended(&early, lines(0, 10, "is on its way to the sink"));
    let in_hand = drain(&mut reader);
    end(&open, &early);
    crowd.turn_over(&open);
    crowd.forget(&open, &["u", "v", "w"], "u");
    let is_known = || open.journal.stream(&early.name).is_some();
    assert!(is_known(), "of two that ended later nothing is known");
    let known = || open.journal.state().table.rows().count();
    told(&mut reader);
    assert_eq!(reader.ends.len(), known());
    in_hand.iter().for_each(|waiting| waiting.batch.done());
    crowd.forget(&open, &["x", "y", "z"], "early");
    told(&mut reader);
    assert_eq!(reader.ends.len(), known());
}

/// The entry that says how a stream ended is dropped, and nothing else that the sink has not had: its last line, which has no end,
/// would wait for the rest for ever.
#[test]
fn a_last_line_without_an_end_is_given_where_only_the_streams_end_was_dropped() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut crowd, shell) = (Crowd::new(), origin("shell"));
    let open = Open::new(&config(dir.path(), 4 << 20));
    let mut reader = open.journal.reader("otlp");
    let mut prompt = line(0, "prompt>");
    (prompt.to, prompt.flags) = (7, Flags::FRAGMENT);
    open.appended(&shell, vec![prompt.clone()]);
    assert_eq!(drain(&mut reader).len(), 0, "it may go on");
    end(&open, &shell);
    crowd.turn_over(&open);

    let given = drain(&mut reader);
    let of_shell: Vec<_> = given.iter().filter(|waiting| waiting.batch.origin.name == shell.name).collect();
    let [last] = of_shell.as_slice() else { panic!("{of_shell:?}") };
    assert_eq!(last.batch.records, [Record { flags: Flags::UNTERMINATED, ..prompt }]);
    assert_eq!(last.batch.ending, Some(Ending::Exact));
    given.iter().for_each(|waiting| waiting.batch.done());
    let sink = &open.journal.figures().sinks[0];
    assert_eq!((sink.lag_bytes, sink.oldest_ns), (0, None), "nothing waits");
}

/// Its process dies before the sink has acknowledged that it was told of a gap: the next one tells it again, whether or not the
/// stream went on meanwhile, and no more once it was acknowledged.
#[test]
fn a_gap_that_was_not_acknowledged_is_told_again_by_the_next_process() {
    for goes_on in [false, true] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = config(dir.path(), 4 << 20);
        let (mut crowd, quiet) = (Crowd::new(), origin("quiet"));
        let open = Open::new(&config);
        let mut reader = open.journal.reader("otlp");
        open.appended(&quiet, lines(0, 10, "is dropped"));
        crowd.turn_over(&open);
        let gap = |reader: &mut Reader| {
            let told = told(reader);
            let mut holes = told.holes.into_iter();
            let of_quiet = holes.find(|(container, ..)| container == "quiet");
            (of_quiet.map(|(_, reason, from, to)| (reason, from, to)), told.end.get("quiet").copied())
        };
        let mut unacknowledged = drain(&mut reader);
        let mut end = 110;
        for _ in 0..u64::from(goes_on) * 2 {
            open.appended(&quiet, lines(end, 1, "goes on"));
            unacknowledged.append(&mut drain(&mut reader));
            end += 8;
        }
        drop((reader, unacknowledged));
        open.close();

        let open = Open::new(&config);
        let mut reader = open.journal.reader("otlp");
        assert_eq!(gap(&mut reader), (Some((HoleReason::Retention, 0, 110)), Some(end)), "{goes_on}");
        drop(reader);
        open.close();
        let open = Open::new(&config);
        assert_eq!(gap(&mut open.journal.reader("otlp")), (None, None), "it was acknowledged");
        assert_eq!(lost(&open)["otlp"], 0);
        open.close();
    }
}

/// All files that had it are gone, and it is still in memory for the readers: nothing of that is lost.
#[test]
fn what_is_dropped_and_still_in_memory_is_given_and_not_counted() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config::Journal { max_age: Duration::ZERO, ..config(dir.path(), 4 << 20) };
    let open = Open::new(&config);
    let mut reader = open.journal.reader("file");
    let all = ["u", "v", "w", "x", "y", "z"];
    for other in all.map(origin) {
        open.appended(&other, lines(0, 1, "brief"));
        end(&open, &other);
    }
    wait("its files to go", || {
        open.journal.state().parts.iter().all(|part| !part.has_entries()).then_some(())
    });
    let told = told(&mut reader);
    assert_eq!((told.end, told.holes), (all.map(|name| (name.to_owned(), 6)).into(), Vec::new()));
    assert_eq!(lost(&open)["file"], 0);
}

/// What a stream has in the journal's other head is not lost with this one's.
#[test]
fn what_the_other_head_has_is_not_among_what_is_lost_with_a_forgotten_stream() {
    let mut row = Row::new(1, origin("app"));
    let body = Body::hole(HoleReason::Moved);
    let moved = Record { from: 10, to: 30, time_ns: 1, flags: Flags::NONE, body };
    row.apply(&[line(0, "own lines"), moved, line(30, "own again")], Some(Ending::Exact), 1);
    for (from, own) in [(0, 20), (5, 15), (10, 10), (20, 10), (30, 10), (35, 5), (40, 0), (50, 0)] {
        assert_eq!(row.own_behind(from), own, "from {from}");
    }
}
