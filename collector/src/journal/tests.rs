//! The journal as its users see it: what was acknowledged comes back, whatever became of the files, and what does not is
//! counted.

#![allow(clippy::cast_possible_truncation, reason = "offsets of test data fit any integer")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;

mod heads;
mod missed;
mod open_ended;
mod versions;

use super::{
    Head, Journal, JournalFault, JournalThread, Row,
    format::HoleSum,
    part::Part,
    reader::Reader,
    recover::{Files, Recovered},
};
use crate::{
    config::{self, Fsync},
    enrich::Identity,
    event::{Batch, Body, Ending, Flags, HoleReason, Origin, Progress, Record, StreamKind, StreamName},
    metrics::{DropReason, Totals},
    process::{Clock, Tape, Times},
    sinks::{Outlet, Source, Waiting},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(dir: &Path, max_bytes: u64) -> config::Journal {
    config::Journal {
        dir: dir.to_owned(),
        max_bytes,
        max_age: Duration::from_secs(3_600),
        fsync: Fsync::Interval,
        fsync_interval: Duration::from_secs(1),
        reserve_percent: 0,
        reserve_bytes: 0,
        queue_bytes: 64 << 20,
    }
}

fn name(container: &str, stream: StreamKind) -> StreamName {
    StreamName {
        namespace: "k8s.io".into(),
        container: container.into(),
        incarnation: 7,
        process: String::new(),
        stream,
    }
}

fn origin(container: &str) -> Arc<Origin> {
    let identity = Arc::new(Identity { pod: Some(format!("pod of {container}")), ..Identity::unknown() });
    Arc::new(Origin::new(name(container, StreamKind::Stdout), identity))
}

/// A journal with its writer.
struct Open {
    journal: Arc<Journal>,
    thread: JournalThread,
    outlet: Outlet,
    runtime: tokio::runtime::Runtime,
    totals: Arc<Totals>,
}

impl Open {
    fn new(config: &config::Journal) -> Self {
        Self::on("a boot", config).expect("the journal opens")
    }

    fn on(boot: &str, config: &config::Journal) -> Result<Self, JournalFault> {
        let totals: Arc<Totals> = Arc::default();
        let Recovered { journal, endings } = Journal::open_on(
            boot.into(),
            Head::ALONE,
            config,
            Files::of(&config.dir)?,
            2,
            Arc::clone(&totals),
        )?;
        let (outlet, exit) = Outlet::queue(config.queue_bytes);
        let thread = JournalThread::start(&journal, exit, endings)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Ok(Self { journal, thread, outlet, runtime, totals })
    }

    fn append(&self, origin: &Arc<Origin>, records: Vec<Record>, ending: Option<Ending>) -> Arc<Progress> {
        let progress: Arc<Progress> = Arc::default();
        let room = self.runtime.block_on(self.outlet.room(records.len(), 0));
        let end = records.last().map_or(0, |record| record.to);
        let receipt = Arc::clone(&progress) as _;
        let (origin, received) = (Arc::clone(origin), Instant::now());
        self.outlet.submit(Batch { origin, records, end, ending, receipt, received, last: true }, room);
        progress
    }

    /// Appends and waits for the acknowledgement.
    fn appended(&self, origin: &Arc<Origin>, records: Vec<Record>) {
        let end = records.last().map_or(0, |record| record.to);
        let progress = self.append(origin, records, None);
        wait("the acknowledgement", || (progress.durable() >= end).then_some(()));
    }

    fn close(self) -> Arc<Totals> {
        drop(self.outlet);
        wait("the writer's end", || self.thread.is_finished().then_some(()));
        wait("the places of sinks", || self.thread.settle().then_some(()));
        self.totals
    }
}

fn wait<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn drain(reader: &mut impl Source) -> Vec<Waiting> {
    std::iter::from_fn(|| reader.try_recv()).collect()
}

fn line(from: u64, text: &str) -> Record {
    let body = Body::Line(Bytes::from(text.to_owned()));
    Record { from, to: from + text.len() as u64 + 1, time_ns: from + 1, flags: Flags::NONE, body }
}

fn lines(from: u64, count: u64, text: &str) -> Vec<Record> {
    let step = text.len() as u64 + 1;
    (0..count).map(|i| line(from + i * step, text)).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    all.retain(|path| path.extension().is_some_and(|ending| ending == "sj"));
    all.sort();
    all
}

#[test]
fn what_was_appended_comes_back_with_its_names() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let (app, hole) = (origin("app"), Body::hole(HoleReason::Overflow));
    let mut records = lines(0, 3, "one");
    records.push(Record { from: 12, to: 20, time_ns: 30, flags: Flags::NONE, body: hole });
    records.push(Record { flags: Flags::CUT_HEAD, time_ns: 31, ..line(20, "tail\r") });
    let open = Open::new(&config);
    open.appended(&app, records.clone());
    let progress = open.append(&app, Vec::new(), Some(Ending::Exact));
    wait("the ending", || progress.has_ended().then_some(()));
    open.close();
    let open = Open::new(&config);
    assert!(!open.journal.figures().unclean);
    let mut reader = open.journal.glance();
    let batches = drain(&mut reader);
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].batch.records, records);
    assert_eq!(batches[0].batch.origin.name, app.name);
    assert_eq!(batches[0].batch.origin.identity, app.identity);
    let row = open.journal.stream(&app.name).expect("known");
    assert_eq!((row.end, row.lines, row.bytes, row.last_ns), (26, 4, 18, 31));
    assert_eq!(
        (row.holes, row.ending),
        (
            vec![HoleSum { reason: HoleReason::Overflow, bytes: 8, number: 1, lines: None }],
            Some(Ending::Exact)
        )
    );
    // The counters of the process go on from there.
    assert_eq!(open.totals.gap_bytes.of(StreamKind::Stdout).get(HoleReason::Overflow), 8);
    assert_eq!(open.totals.log_lines.get(StreamKind::Stdout), 4);
}

#[test]
fn a_sink_gets_what_it_has_not_acknowledged_and_nothing_else() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let app = origin("app");
    let open = Open::new(&config);
    let mut reader = open.journal.reader("file");
    for i in 0..5 {
        open.appended(&app, lines(i * 10, 1, &format!("line {i:04}")));
    }
    let batches = drain(&mut reader);
    let texts = |batches: &[Waiting]| {
        let froms = batches.iter().flat_map(|waiting| &waiting.batch.records).map(|record| record.from / 10);
        froms.collect::<Vec<_>>()
    };
    assert_eq!(texts(&batches), [0, 1, 2, 3, 4]);
    for i in [4, 0, 2] {
        batches[i].batch.done();
    }
    assert_eq!(open.journal.figures().sinks[0].lag_bytes, 20);
    drop(reader);
    open.close();
    let open = Open::new(&config);
    let mut reader = open.journal.reader("file");
    open.appended(&app, lines(50, 1, "line 0005"));
    let batches = drain(&mut reader);
    assert_eq!(texts(&batches), [1, 3, 5]);
    batches.iter().for_each(|waiting| waiting.batch.done());
    drop(reader);
    open.close();
    let open = Open::new(&config);
    assert_eq!(drain(&mut open.journal.reader("file")).len(), 0);
    assert_eq!(
        drain(&mut open.journal.reader("new")).len(),
        6,
        "a sink of another name begins with the oldest"
    );
}

/// The numbers of entries that a sink has had are not given to others when the journal has lost them.
#[test]
fn a_sink_that_is_ahead_of_a_damaged_journal_gets_what_comes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let (app, other) = (origin("app"), origin("other"));
    for loses_all in [false, true] {
        let open = Open::new(&config);
        let mut reader = open.journal.reader("file");
        let from = open.journal.stream(&app.name).map_or(0, |row| row.end);
        open.appended(&app, lines(from, 1, "is kept"));
        let whole = files(dir.path()).pop().expect("a file");
        let length = fs::metadata(&whole).expect("there").len();
        open.appended(&app, lines(from + 8, 20, "is lost"));
        open.appended(&other, lines(0, 20, "is lost"));
        drain(&mut reader).iter().for_each(|waiting| waiting.batch.done());
        drop(reader);
        open.close();
        if loses_all {
            files(dir.path()).iter().for_each(|path| fs::remove_file(path).expect("removable"));
        } else {
            fs::File::options().write(true).open(&whole).expect("there").set_len(length).expect("shorter");
        }

        let open = Open::new(&config);
        let mut reader = open.journal.reader("file");
        assert_eq!(drain(&mut reader).len(), 0);
        let next = origin("next");
        open.appended(&next, lines(0, 3, "comes"));
        open.appended(&app, lines(from + 8, 1, "comes"));
        let batches = drain(&mut reader);
        let said = |origin: &Arc<Origin>| -> Vec<Record> {
            let of_it = batches.iter().filter(|waiting| waiting.batch.origin.name == origin.name);
            of_it.flat_map(|waiting| waiting.batch.records.clone()).collect()
        };
        assert_eq!(said(&next), lines(0, 3, "comes"));
        // Without its table the journal cannot know that the sink has what was before.
        let known = said(&app).into_iter().filter(|record| matches!(record.body, Body::Line(_)));
        assert_eq!(known.collect::<Vec<_>>(), lines(from + 8, 1, "comes"));
        assert_eq!(said(&app).len(), if loses_all { 2 } else { 1 });
        batches.iter().for_each(|waiting| waiting.batch.done());
        assert_eq!(open.journal.figures().sinks[0].lag_bytes, 0);
        drop(reader);
        open.close();
    }
}

#[test]
fn a_line_in_pieces_is_acknowledged_as_a_whole() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let app = origin("app");
    let piece = |from: u64, text: &str| {
        let to = from + text.len() as u64;
        Record { to, flags: Flags::FRAGMENT, ..line(from, text) }
    };
    let open = Open::new(&config);
    let mut reader = open.journal.reader("file");
    open.appended(&app, vec![line(0, "a"), piece(2, "hel")]);
    open.appended(&app, vec![piece(5, "lo ")]);
    let first = drain(&mut reader);
    assert_eq!(first[0].batch.records, [line(0, "a")]);
    first[0].batch.done();
    drop(reader);
    open.close();
    // After a restart the pieces come again, and with the rest they are the line.
    let open = Open::new(&config);
    let row = open.journal.stream(&app.name).expect("known");
    assert_eq!((row.end, row.edge), (8, crate::process::Edge::Within(2)));
    let mut reader = open.journal.reader("file");
    open.appended(&app, vec![line(8, "world")]);
    let batches = drain(&mut reader);
    let records: Vec<_> = batches.iter().flat_map(|waiting| waiting.batch.records.clone()).collect();
    // The line before the first piece was in the same batch, so it comes again.
    assert_eq!(records[0], line(0, "a"));
    let whole = Record { to: 14, time_ns: 3, ..line(2, "hello world") };
    assert_eq!(records[1..], [whole]);
}

#[test]
fn an_unknown_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let open = Open::new(&config);
    open.appended(&origin("app"), lines(0, 1, "kept"));
    open.close();
    let path = files(dir.path()).pop().expect("a file");
    let mut bytes = fs::read(&path).expect("readable");
    bytes[8] = 3;
    fs::write(&path, &bytes).expect("writable");
    let said = Open::on("a boot", &config).err().expect("refused").to_string();
    assert!(said.contains(&format!("{} is of version 3", path.display())), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(fs::read(&path).expect("readable"), bytes);
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn two_collectors_do_not_share_a_journal() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let _open = Open::new(&config);
    assert!(matches!(Open::on("a boot", &config), Err(JournalFault::InUse { .. })));
}

#[test]
fn a_header_that_cannot_be_read_is_put_aside() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let open = Open::new(&config);
    open.appended(&origin("app"), lines(0, 1, "kept"));
    open.close();
    let path = files(dir.path()).pop().expect("a file");
    let mut bytes = fs::read(&path).expect("readable");
    bytes[30] ^= 1;
    fs::write(&path, &bytes).expect("writable");
    let open = Open::new(&config);
    assert!(open.journal.figures().unclean);
    assert_eq!(drain(&mut open.journal.glance()).len(), 0);
    let mut aside = path.into_os_string();
    aside.push(".damaged");
    assert_eq!(fs::read(aside).expect("it is there"), bytes);
}

#[test]
fn after_a_reboot_open_streams_are_open_ended() {
    for (cut, ending) in [(false, Ending::Reboot), (true, Ending::PowerCut)] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = config(dir.path(), 8 << 20);
        let (running, ended) = (origin("running"), origin("ended"));
        let open = Open::new(&config);
        let records = vec![Record { flags: Flags::FRAGMENT, to: 4, ..line(0, "half") }];
        open.appended(&running, records);
        let progress = open.append(&ended, lines(0, 1, "x"), Some(Ending::Exact));
        wait("the ending", || progress.has_ended().then_some(()));
        open.close();
        if cut {
            // Without the word that the collector ended in order.
            let path = files(dir.path()).pop().expect("a file");
            let file = fs::OpenOptions::new().write(true).open(&path).expect("writable");
            file.set_len(fs::metadata(&path).expect("there").len() - 1).expect("shorter");
        }
        let open = Open::on("the next boot", &config).expect("opens");
        let known = |origin: &Origin| open.journal.stream(&origin.name).expect("known").ending;
        wait("the ending", || known(&running));
        assert_eq!((known(&running), known(&ended)), (Some(ending), Some(Ending::Exact)));
        assert_eq!(open.journal.figures().unclean, cut);
        let mut reader = open.journal.glance();
        let records: Vec<_> =
            drain(&mut reader).iter().flat_map(|waiting| waiting.batch.records.clone()).collect();
        let half = records.iter().find(|record| record.to == 4).expect("what there was of the line");
        assert_eq!(half.flags, Flags::CUT);
        drop(reader);
        open.close();
        // It stays so.
        let open = Open::on("the next boot", &config).expect("opens");
        assert_eq!(open.journal.stream(&running.name).expect("known").ending, Some(ending));
    }
}

/// Text that lz4 cannot make smaller.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let digit = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        char::from(b'0' + (*state % 64) as u8)
    };
    (0..length).map(|_| digit(&mut state)).collect()
}

#[test]
fn the_largest_consumer_pays_and_a_slow_sink_is_told() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 4 << 20);
    let (loud, quiet) = (origin("loud"), origin("quiet"));
    let open = Open::new(&config);
    let mut slow = open.journal.reader("slow");
    let (mut loud_end, mut quiet_end) = (0, 0);
    for i in 0..300 {
        let text = noise(i, 60_000);
        open.appended(&loud, vec![line(loud_end, &text)]);
        loud_end += 60_001;
        if i % 3 == 0 {
            open.appended(&quiet, vec![line(quiet_end, "quiet line")]);
            quiet_end += 11;
        }
        assert!(open.journal.size() <= (4 << 20) + (600 << 10), "{} bytes", open.journal.size());
    }
    assert!(files(dir.path()).len() < 24, "rewritten files are put together: {:?}", files(dir.path()));
    let judge = |reader: &mut Reader| {
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        let (mut dropped, mut lines) = (0, BTreeMap::<String, u64>::new());
        for waiting in drain(reader) {
            let container = waiting.batch.origin.name.container.clone();
            for record in &waiting.batch.records {
                let end = ends.entry(container.clone()).or_default();
                assert_eq!(*end, record.from, "{container} is tiled");
                *end = record.to;
                match record.body {
                    Body::Hole(hole) => {
                        assert_eq!((hole.reason, container.as_str()), (HoleReason::Retention, "loud"));
                        dropped += record.to - record.from;
                    }
                    Body::Line(_) => *lines.entry(container.clone()).or_default() += 1,
                }
            }
        }
        assert_eq!(ends, BTreeMap::from([("loud".into(), loud_end), ("quiet".into(), quiet_end)]));
        assert_eq!(lines["quiet"], 100, "the quiet one has kept everything");
        assert!(lines["loud"] > 20 && dropped > loud_end / 2);
        dropped
    };
    let dropped = judge(&mut slow);
    // The newest of what the files have no more was still in memory.
    let gone = open.totals.journal.dropped.get(DropReason::Size);
    assert!((dropped..dropped + (4 << 20)).contains(&gone), "{dropped} of {gone}");
    let sink = &open.journal.figures().sinks[0];
    assert_eq!(
        sink.lost,
        [(HoleReason::Retention, dropped), (HoleReason::JournalDamaged, 0), (HoleReason::JournalLost, 0)]
    );
    // What was given and not acknowledged comes again, dropped or not.
    drop(slow);
    open.close();
    let open = Open::new(&config);
    judge(&mut open.journal.reader("slow"));
}

#[test]
fn below_the_reserve_the_journal_is_small() {
    let dir = tempfile::tempdir().expect("temporary directory");
    // Nothing of the disk may be used.
    let config = config::Journal { reserve_percent: 100, ..config(dir.path(), 16 << 20) };
    let open = Open::new(&config);
    let app = origin("app");
    for i in 0..160 {
        open.appended(&app, vec![line(i * 60_001, &noise(i, 60_000))]);
    }
    let left = 4 << 20;
    wait("the rest to be dropped", || (open.journal.size() <= left + (600 << 10)).then_some(()));
    assert!(open.totals.journal.dropped.get(DropReason::DiskReserve) > 4 << 20);
    assert_eq!(open.totals.journal.dropped.get(DropReason::Size), 0);
    // It goes on.
    assert_eq!(open.journal.stream(&app.name).expect("known").end, 160 * 60_001);
}

/// What is to stay free on a disk, as a share and as a number; on a tmpfs the share alone, for it is memory that is limited.
#[test]
fn the_larger_of_both_reserves_holds_on_a_disk_and_the_share_alone_on_a_tmpfs() {
    let most = 16 << 20;
    for (place, is_memory) in [("/var/tmp", false), ("/dev/shm", true)] {
        let dir = tempfile::tempdir_in(place).expect("temporary directory");
        let budget = |reserve_percent, reserve_bytes| {
            let config = config::Journal { reserve_percent, reserve_bytes, ..config(dir.path(), most) };
            let open = Open::new(&config);
            assert_eq!(open.journal.is_in_memory(), is_memory, "{place}");
            let budget = open.journal.budget();
            open.close();
            budget
        };
        let smallest = 4 << 20;
        assert_eq!((budget(0, 0), budget(100, 0)), (most, smallest), "{place}");
        assert_eq!(budget(0, u64::MAX), if is_memory { most } else { smallest }, "{place}");
    }
}

/// What is asked of the disk for each frame is a tenth of the frame's cost.
#[test]
fn the_disk_is_asked_again_when_what_it_said_is_old_and_not_before() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 16 << 20);
    let open = Open::new(&config);
    let said = |age: Duration| {
        let then = std::time::Instant::now().checked_sub(age).expect("not at boot");
        *open.journal.looked.lock().expect("nobody panics") = Some((then, Some(5 << 20)));
        open.journal.budget()
    };
    assert_eq!(said(Duration::ZERO), 5 << 20);
    assert_eq!(said(Duration::from_millis(100)), 16 << 20, "the disk has more");
}

#[test]
fn a_position_outlives_the_lines() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 4 << 20);
    let short = origin("short");
    let open = Open::new(&config);
    open.append(&short, lines(0, 10, "short"), Some(Ending::Exact));
    // Nobody holds more than a quarter here: whole files go.
    for i in 0..160 {
        let other = origin(&format!("other {}", i % 8));
        open.appended(&other, vec![line(60_001 * (i / 8), &noise(i, 60_000))]);
    }
    assert!(open.totals.journal.dropped.get(DropReason::Size) > 0);
    open.close();
    let open = Open::new(&config);
    let mut reader = open.journal.glance();
    let texts = drain(&mut reader);
    assert!(!texts.iter().any(|waiting| waiting.batch.origin.name == short.name), "its lines are gone");
    let row: Row = open.journal.stream(&short.name).expect("its position is not");
    assert_eq!((row.end, row.ending), (60, Some(Ending::Exact)));
}

#[test]
fn output_that_is_too_old_goes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config::Journal { max_age: Duration::from_millis(80), ..config(dir.path(), 8 << 20) };
    let app = origin("app");
    let open = Open::new(&config);
    let mut end = 0;
    wait("old lines to be dropped", || {
        open.appended(&app, vec![line(end, "x")]);
        end += 2;
        (open.totals.journal.dropped.get(DropReason::Age) > 0).then_some(())
    });
    assert_eq!(open.journal.stream(&app.name).expect("known").end, end);
}

/// What a container wrote, through a tape, as the connections do it.
fn taped(bytes: &[u8], cuts: &[usize], clock: &Clock) -> Vec<Vec<Record>> {
    let mut tape = Tape::default();
    let mut batches = Vec::new();
    let mut at = 0;
    for cut in cuts {
        let end = (at + cut).min(bytes.len());
        let mut records = Vec::new();
        let times = Times { offsets: &[], ns: &[], otherwise: 5 };
        let chunk = Bytes::copy_from_slice(&bytes[at..end]);
        tape.data(at as u64, chunk, times, clock, &mut records).expect("in order");
        tape.fragment(clock, &mut records);
        at = end;
        batches.push(records);
    }
    batches.retain(|records| !records.is_empty());
    batches
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Any records, cut off or with a bit flipped anywhere behind the header: the journal opens, gives a prefix of each
    /// stream, knows its end, and goes on from there.
    #[test]
    fn damage_leaves_a_prefix(
        texts in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab\r\n\xff".to_vec()), 1..300), 2),
        cuts in prop::collection::vec(1..40usize, 1..30),
        place in any::<prop::sample::Index>(),
        flip in prop::option::of(0..8u8),
    ) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = config(dir.path(), 8 << 20);
        let origins = [origin("first"), origin("second")];
        let open = Open::new(&config);
        let taped: Vec<_> = texts.iter().map(|text| taped(text, &cuts, &Clock::default())).collect();
        for i in 0..taped.iter().map(Vec::len).max().unwrap_or(0) {
            for (origin, batches) in origins.iter().zip(&taped) {
                if let Some(records) = batches.get(i) {
                    open.appended(origin, records.clone());
                }
            }
        }
        open.close();
        let path = files(dir.path()).pop().expect("a file");
        let (part, _) = Part::open(&path).expect("readable").expect("its header is whole");
        let header = part.body as usize;
        let mut bytes = fs::read(&path).expect("readable");
        let at = header + place.index(bytes.len() - header);
        match flip {
            Some(bit) => bytes[at] ^= 1 << bit,
            None => bytes.truncate(at),
        }
        fs::write(&path, &bytes).expect("writable");
        let open = Open::new(&config);
        prop_assert!(open.journal.figures().unclean);
        let ends: Vec<_> = origins.iter().map(|origin| open.journal.stream(&origin.name).map_or(0, |row| row.end)).collect();
        // The connections go on from there, and so does the journal.
        for (i, origin) in origins.iter().enumerate() {
            let row = open.journal.stream(&origin.name);
            let edge = row.as_ref().map_or_else(Default::default, |row| row.edge);
            let (mut tape, clock) = (Tape::resumed(ends[i], edge, None), Clock::default());
            clock.raise(row.map_or(0, |row| row.last_ns));
            let rest = Bytes::copy_from_slice(&texts[i][ends[i] as usize..]);
            let mut records = Vec::new();
            let times = Times { offsets: &[], ns: &[], otherwise: 5 };
            tape.data(ends[i], rest, times, &clock, &mut records).expect("in order");
            tape.close(texts[i].len() as u64, 9, &clock, &mut records).expect("its end");
            let progress = open.append(origin, records, Some(Ending::Exact));
            wait("the rest", || progress.has_ended().then_some(()));
        }
        let mut at = BTreeMap::new();
        let mut times = BTreeMap::new();
        for waiting in drain(&mut open.journal.glance()) {
            let container = waiting.batch.origin.name.container.clone();
            let text = &texts[usize::from(container == "second")];
            for record in &waiting.batch.records {
                prop_assert_eq!(record.from, *at.get(&container).unwrap_or(&0), "{} is tiled", container);
                prop_assert!(record.time_ns > *times.get(&container).unwrap_or(&0));
                let Body::Line(message) = &record.body else { panic!("nothing is missing") };
                let raw = &text[record.from as usize..record.to as usize];
                prop_assert!(raw.starts_with(message));
                let end = &raw[message.len()..];
                let open_end = record.flags.has(Flags::UNTERMINATED);
                prop_assert!(matches!(end, b"\n" | b"\r\n") || open_end && end.is_empty(), "{record:?} {end:?}");
                at.insert(container.clone(), record.to);
                times.insert(container.clone(), record.time_ns);
            }
        }
        prop_assert_eq!(at, BTreeMap::from([("first".into(), texts[0].len() as u64), ("second".into(), texts[1].len() as u64)]));
    }
}
