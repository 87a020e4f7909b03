//! Two heads: however streams are moved, and however slow who reads, each reader gets each stream once, whole and in order;
//! and what becomes of one head does not touch the other.

use super::*;
use crate::{
    config::Config,
    event::Store,
    ingest::Memory,
    journal::{Heads, Known, OpenEnded, heads::Opened},
    sinks::Outlets,
};

/// Both heads with their writers.
struct Two {
    heads: Arc<Heads>,
    writers: Vec<JournalThread>,
    outlets: Outlets,
    runtime: tokio::runtime::Runtime,
    totals: Arc<Totals>,
}

/// A stream as the connections have it.
struct Stream {
    origin: Arc<Origin>,
    progress: Arc<Progress>,
    store: Option<Store>,
    end: u64,
    elsewhere: u64,
}

/// Of two heads below that folder.
fn config_of(dir: &Path) -> Config {
    let reserve = "reserve_percent = 0\nreserve_bytes = 0\n";
    let text = format!(
        "[journal]\ndir = \"{at}/memory\"\n{reserve}[journal.disk]\ndir = \"{at}/disk\"\n{reserve}",
        at = dir.display()
    );
    Config::parse(Path::new("c"), &text).expect("valid")
}

impl Two {
    fn new(dir: &Path) -> Self {
        Self::with(&config_of(dir), |_| {})
    }

    /// `look` at what was opened, before anybody writes.
    fn with(config: &Config, look: impl FnOnce(&Opened)) -> Self {
        let totals: Arc<Totals> = Arc::default();
        let opened = Heads::open(config, &totals).expect("both open");
        look(&opened);
        let heads = Arc::clone(&opened.heads);
        let (outlets, writers) = opened.start(config).expect("threads");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { heads, writers, outlets, runtime, totals }
    }

    /// `count` lines of ten bytes, to that head.
    fn append(&self, stream: &mut Stream, store: Store, count: u64) {
        if stream.store.is_some_and(|before| before != store) {
            stream.is_durable();
        }
        let mut records = Vec::new();
        let before = stream.store.replace(store);
        if before.is_some_and(|before| before != store) {
            let from = std::mem::replace(&mut stream.elsewhere, stream.end);
            let body = Body::hole(HoleReason::Moved);
            records.push(Record { from, to: stream.end, time_ns: 1, flags: Flags::NONE, body });
        }
        for from in (0..count).map(|n| stream.end + n * 10) {
            let body = Body::Line(Bytes::from(format!("{from:09}")));
            records.push(Record { from, to: from + 10, time_ns: 1, flags: Flags::NONE, body });
        }
        stream.end += count * 10;
        let outlet = self.outlets.of(store);
        let room = self.runtime.block_on(outlet.room(records.len(), 0));
        let receipt = Arc::clone(&stream.progress) as _;
        let (origin, received, end) = (Arc::clone(&stream.origin), Instant::now(), stream.end);
        outlet.submit(Batch { origin, records, end, ending: None, receipt, received, last: true }, room);
    }

    /// Says how a stream ended, to the head that has it.
    fn end(&self, stream: &Stream, ending: Ending) {
        let outlet = self.outlets.of(stream.store.expect("it has begun"));
        let room = self.runtime.block_on(outlet.room(1, 0));
        let receipt = Arc::clone(&stream.progress) as _;
        let (origin, received, end) = (Arc::clone(&stream.origin), Instant::now(), stream.end);
        let records = Vec::new();
        let said = Batch { origin, records, end, ending: Some(ending), receipt, received, last: true };
        outlet.submit(said, room);
        wait("the ending", || (stream.known(self).row.ending == Some(ending)).then_some(()));
    }

    fn close(self) {
        drop(self.outlets);
        for writer in &self.writers {
            wait("a writer's end", || writer.is_finished().then_some(()));
            wait("the places of sinks", || writer.settle().then_some(()));
        }
    }
}

impl Stream {
    fn new(container: &str) -> Self {
        Self { origin: origin(container), progress: Arc::default(), store: None, end: 0, elsewhere: 0 }
    }

    fn is_durable(&self) {
        wait("the acknowledgement", || (self.progress.durable() >= self.end).then_some(()));
    }

    fn known(&self, two: &Two) -> Known {
        two.heads.stream(&self.origin.name).expect("known")
    }
}

/// What a reader has had of each stream: its lines, and nothing out of place.
#[derive(Default)]
struct Had(BTreeMap<String, u64>);

impl Had {
    fn take(&mut self, waiting: &Waiting) {
        let batch = &waiting.batch;
        let at = self.0.entry(batch.origin.name.container.clone()).or_default();
        for record in &batch.records {
            assert_eq!(record.from, *at, "{record:?} of {}", batch.origin.name.container);
            assert_eq!(record.body, Body::Line(Bytes::from(format!("{at:09}"))));
            *at = record.to;
        }
        batch.done();
    }

    fn take_from(&mut self, source: &mut impl Source, most: usize) -> bool {
        std::iter::from_fn(|| source.try_recv()).take(most).map(|waiting| self.take(&waiting)).count() == most
    }
}

#[test]
fn however_streams_are_moved_a_sink_gets_each_once_and_in_order() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut streams: Vec<_> = ["a", "b", "c"].into_iter().map(Stream::new).collect();
    let mut had = Had::default();
    let mut state = 88_172_645_463_325_252u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) % below
    };
    for _ in 0..4 {
        let two = Two::new(dir.path());
        let mut sink = two.heads.reader("file");
        let mut follower = (two.heads.glance(), Had::default());
        for _ in 0..150 {
            let stream = &mut streams[random(3) as usize];
            let here = stream.store.unwrap_or(Store::Memory);
            let other = if here == Store::Memory { Store::Disk } else { Store::Memory };
            let store = if random(3) == 0 { other } else { here };
            two.append(stream, store, 1 + random(3));
            // Far behind for most of the time, and now and then with everything.
            match random(12) {
                0 => while had.take_from(&mut sink, 1) {},
                1..4 => drop(had.take_from(&mut sink, 1 + random(4) as usize)),
                _ => {}
            }
            if random(4) == 0 {
                while follower.1.take_from(&mut follower.0, 1) {}
            }
        }
        streams.iter().for_each(Stream::is_durable);
        for (of, reader) in [(&mut follower.1, &mut follower.0)] {
            while of.take_from(reader, 1) {}
            assert!(streams.iter().all(|stream| of.0[&stream.origin.name.container] == stream.end));
        }
        for stream in &streams {
            let known = stream.known(&two);
            assert_eq!(
                (known.row.end, Some(known.store), known.elsewhere),
                (stream.end, stream.store, stream.elsewhere)
            );
            assert_eq!((known.row.bytes, known.row.lines), (stream.end, stream.end / 10));
            assert_eq!(known.row.holes, []);
        }
        assert_eq!(two.heads.open_streams().len(), 3, "each once");
        two.close();
    }
    let two = Two::new(dir.path());
    let mut sink = two.heads.reader("file");
    while had.take_from(&mut sink, 1) {}
    assert!(streams.iter().all(|stream| had.0[&stream.origin.name.container] == stream.end));
    let all = streams.iter().map(|stream| stream.end).sum::<u64>();
    assert_eq!(two.totals.log_bytes.total(), all);
    assert_eq!(two.totals.gap_bytes.of(StreamKind::Stdout).total(), 0);
    two.close();
}

#[test]
fn what_the_other_head_has_lost_is_said_and_not_taken_for_moved() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let two = Two::new(dir.path());
    let mut stream = Stream::new("a");
    two.append(&mut stream, Store::Memory, 10);
    two.append(&mut stream, Store::Disk, 10);
    stream.is_durable();
    two.close();
    // As after a boot of the node.
    fs::remove_dir_all(dir.path().join("memory")).expect("it is there");
    let two = Two::new(dir.path());
    let known = stream.known(&two);
    assert_eq!((known.row.end, known.store, known.elsewhere), (200, Store::Disk, 0));
    let mut reader = two.heads.glance();
    let records: Vec<_> = drain(&mut reader).into_iter().flat_map(|waiting| waiting.batch.records).collect();
    assert_eq!((records[0].from, records[0].to), (0, 100));
    assert_eq!(records[0].body, Body::hole(HoleReason::JournalLost));
    assert_eq!((records[1].from, records.len()), (100, 11));
    two.close();
}

/// What retention takes from one head is a gap; what lies between in the other one is not.
#[test]
fn what_retention_takes_from_one_head_is_told_apart_from_what_the_other_has() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let two = Two::new(dir.path());
    let mut stream = Stream::new("a");
    drop(two.heads.reader("file"));
    for (store, count) in [(Store::Memory, 1), (Store::Disk, 2), (Store::Memory, 3), (Store::Disk, 4)] {
        two.append(&mut stream, store, count);
    }
    stream.is_durable();
    two.close();
    let two = Two::new(dir.path());
    let disk = Arc::clone(two.heads.of(Store::Disk).expect("there is one"));
    disk.begin_part().expect("a new part");
    assert!(disk.make_room(), "the older one goes");
    two.append(&mut stream, Store::Disk, 1);
    stream.is_durable();
    let mut reader = two.heads.reader("file");
    let records: Vec<_> = drain(&mut reader).into_iter().flat_map(|waiting| waiting.batch.records).collect();
    let mut shown: Vec<_> =
        records.iter().map(|record| (record.from, record.to, matches!(record.body, Body::Line(_)))).collect();
    shown.sort_unstable();
    let lines = |from: u64, to: u64| (from..to).map(|n| (n * 10, n * 10 + 10, true));
    let gap = |from: u64, to: u64| [(from * 10, to * 10, false)];
    let wanted: Vec<_> =
        lines(0, 1).chain(gap(1, 3)).chain(lines(3, 6)).chain(gap(6, 10)).chain(lines(10, 11)).collect();
    assert_eq!(shown, wanted);
    two.close();
}

#[test]
fn damage_of_one_head_does_not_touch_the_other() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let two = Two::new(dir.path());
    let (mut kept, mut hit) = (Stream::new("kept"), Stream::new("hit"));
    two.append(&mut kept, Store::Disk, 20);
    two.append(&mut hit, Store::Memory, 20);
    for stream in [&kept, &hit] {
        stream.is_durable();
    }
    two.close();
    for entry in fs::read_dir(dir.path().join("memory")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|end| end == "sj") {
            let mut bytes = fs::read(&path).expect("readable");
            bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
            fs::write(&path, bytes).expect("writable");
        }
    }
    let two = Two::new(dir.path());
    assert_eq!(kept.known(&two).row.end, 200);
    assert!(two.heads.stream(&hit.origin.name).is_none());
    let unclean: Vec<_> =
        two.heads.figures().iter().map(|(store, figures)| (*store, figures.unclean)).collect();
    assert_eq!(unclean, [(Store::Memory, true), (Store::Disk, false)]);
    let mut had = Had::default();
    while had.take_from(&mut two.heads.glance(), 1) && had.0["kept"] < 200 {}
    assert_eq!(had.0["kept"], 200);
    two.append(&mut kept, Store::Disk, 1);
    kept.is_durable();
    two.close();
}

/// A boot ends the streams of the one before, with its reason: nobody waits for their wrappers, and however many starts come to
/// nothing before there is a writer, the next one finds as much to do.
#[test]
fn the_ends_of_an_earlier_boots_streams_wait_for_a_start_that_writes_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config_of(dir.path());
    let running = origin("running");
    let earlier =
        Open::on("an earlier boot", config.journal_disk.as_ref().expect("there is one")).expect("opens");
    earlier.appended(&running, vec![Record { flags: Flags::FRAGMENT, to: 4, ..line(0, "half") }]);
    earlier.close();
    let is_left = |opened: &Opened| {
        assert_eq!(opened.heads.open_streams().len(), 1, "its end is not written yet");
        assert_eq!(opened.open_streams().len(), 0, "it does not go on");
        assert!(opened.heads.figures().iter().all(|(_, figures)| !figures.unclean));
    };
    for _ in 0..2 {
        is_left(&Heads::open(&config, &Arc::default()).expect("both open"));
    }
    let two = Two::with(&config, is_left);
    let known = wait("its end", || two.heads.known(&running.name).filter(|known| known.row.ending.is_some()));
    assert_eq!((known.row.ending, known.row.lines), (Some(Ending::Reboot), 1));
    assert_eq!(two.totals.log_lines.get(StreamKind::Stdout), 1, "the line that nobody finishes is one");
    two.close();
    let two = Two::with(&config, |opened| assert_eq!(opened.heads.open_streams().len(), 0));
    assert_eq!(two.heads.known(&running.name).expect("known").row.ending, Some(Ending::Reboot));
    two.close();
}

/// Everything in a folder.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(dir).expect("there").map(|entry| entry.expect("readable").path());
    files.map(|path| (path.clone(), fs::read(&path).expect("readable"))).collect()
}

/// The memory's head could be opened, and its newest file is torn: it stays torn where nothing can run.
#[test]
fn a_later_releases_file_in_one_head_leaves_the_other_as_it_is() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config_of(dir.path());
    let (mut on_disk, mut in_memory) = (Stream::new("on disk"), Stream::new("in memory"));
    let two = Two::with(&config, |_| {});
    two.append(&mut on_disk, Store::Disk, 3);
    two.append(&mut in_memory, Store::Memory, 3);
    two.close();
    let newest = |dir: &Path| files(dir).pop().expect("a file");
    let (memory, disk) = (dir.path().join("memory"), dir.path().join("disk"));
    let mut bytes = fs::read(newest(&disk)).expect("readable");
    bytes[8] = 99;
    fs::write(newest(&disk), &bytes).expect("writable");
    let torn = fs::read(newest(&memory)).expect("readable");
    fs::write(newest(&memory), &torn[..torn.len() - 1]).expect("writable");
    let before = [contents(&memory), contents(&disk)];
    let said = Heads::open(&config, &Arc::default()).expect_err("refused").to_string();
    assert!(said.contains("is of version 99") && said.contains("nothing was changed"), "{said}");
    assert_eq!([contents(&memory), contents(&disk)], before);
}

#[test]
fn a_stream_of_both_heads_is_open_ended_once_and_where_it_has_not_ended_in_the_other() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let two = Two::new(dir.path());
    let [mut lost, mut told, mut here] = ["lost", "told", "here"].map(Stream::new);
    for stream in [&mut lost, &mut told] {
        two.append(stream, Store::Memory, 3);
        two.append(stream, Store::Disk, 2);
    }
    two.append(&mut here, Store::Disk, 1);
    for stream in [&lost, &told, &here] {
        stream.is_durable();
    }
    // Taken for ended, and then gone on with.
    two.end(&told, Ending::WrapperLost);
    two.append(&mut told, Store::Memory, 1);
    told.is_durable();
    two.end(&told, Ending::Exact);
    two.end(&lost, Ending::WrapperLost);
    two.end(&here, Ending::Inexact);
    let listed = |two: &Two| {
        let of = |it: &OpenEnded| {
            (it.origin.name.container.clone(), it.ending, it.bytes, it.gap_bytes, it.reached)
        };
        let mut all: Vec<_> = two.heads.open_ended().iter().map(of).collect();
        all.sort();
        all
    };
    let wanted = [
        ("here".to_owned(), Ending::Inexact, 10, 0, 10),
        ("lost".to_owned(), Ending::WrapperLost, 50, 0, 50),
    ];
    assert_eq!(listed(&two), wanted);
    two.close();
    // From here on the other head has the ending as well.
    let two = Two::new(dir.path());
    let memory = two.heads.of(Store::Memory).expect("there is one");
    let ending = || memory.stream(&lost.origin.name).and_then(|row| row.ending);
    assert_eq!(wait("the ending", ending), Ending::WrapperLost);
    assert_eq!(listed(&two), wanted);
    two.close();
}
