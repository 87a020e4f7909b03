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
