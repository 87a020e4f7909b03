//! `[file]` in CRI's format: lines as the kubelet reads them, without names, ids or offsets. What JSON says in members is told here
//! by order and text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    path::Path,
};

use super::{
    Got, Subject, ToFile,
    peer::{Collector, Peer, close, data, gap, open, wait},
};

/// The line that stands for what is not there.
const HOLE: &str = "shimtap: ";

/// The file, with one container's lines; of each stream.
pub struct ToCriFile(ToFile);

/// A line, taken apart.
struct Line<'t> {
    time: &'t str,
    stream: &'t str,
    text: &'t str,
}

impl<'t> Line<'t> {
    fn of(line: &'t str) -> Self {
        let mut parts = line.splitn(4, ' ');
        let mut next = || parts.next().unwrap_or_else(|| panic!("no whole line: {line:?}"));
        let (time, stream, flag, text) = (next(), next(), next(), next());
        assert!(time.len() == 30 && time.ends_with('Z') && flag == "F", "no whole line: {line:?}");
        Self { time, stream, text }
    }

    /// How many bytes of the stream it stands for.
    fn length(&self) -> u64 {
        let hole = self.text.strip_prefix(HOLE).and_then(|hole| hole.split(' ').next());
        hole.map_or(self.text.len() as u64 + 1, |bytes| bytes.parse().expect("a number of bytes"))
    }
}

impl Subject for ToCriFile {
    const NAME: &'static str = ToFile::NAME;
    const CONTAINERS: u32 = 1;

    fn new(dir: &Path) -> Self {
        Self(ToFile::new(dir))
    }

    fn section(&self) -> String {
        self.0.section() + "format = \"cri\"\n"
    }

    fn fail(&mut self) {
        self.0.fail();
    }

    fn heal(&mut self) {
        self.0.heal();
    }

    /// A line that comes again is the same to the byte: times of a container's lines are all different.
    fn got(&self) -> Vec<Got> {
        let text = self.0.text();
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let (mut ends, mut known) = (BTreeMap::<&str, u64>::new(), BTreeMap::<&str, Got>::new());
        let one = |id| {
            let line = Line::of(id);
            let end = ends.entry(line.stream).or_default();
            let got = known.entry(id).or_insert_with(|| {
                let from = *end;
                *end += line.length();
                Got {
                    container: "c0".to_owned(),
                    stream: line.stream.to_owned(),
                    id: id.to_owned(),
                    from,
                    to: *end,
                    text: (!line.text.starts_with(HOLE)).then(|| line.text.to_owned()),
                }
            });
            got.clone()
        };
        whole.map(one).collect()
    }
}

/// Bytes of a line in the test below.
const STEP: u64 = 9;

/// Lines of one stream, of as many bytes.
fn lines(what: &str, range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{what} {n:04}\n")).collect()
}

/// The file and what it was renamed to, the oldest first; an error where the file is being renamed.
fn files(collector: &Collector) -> io::Result<Vec<String>> {
    let at = |n: usize| collector.dir.path().join(format!("log.json.{n}"));
    let kept = (1..).map(at).take_while(|path| path.exists()).count();
    let names = (1..=kept).rev().map(at).chain([collector.log()]);
    names.map(fs::read_to_string).collect()
}

/// Renamed files, a death with a line half written, a hole: each stream is whole and in order, and the hole stands in its place.
#[tokio::test(flavor = "multi_thread")]
async fn each_stream_is_whole_and_in_order_over_files_a_death_and_a_hole() {
    let section = |dir: &Path| {
        let file = ToCriFile::new(dir).section();
        format!("{file}rotate_bytes = 4096\nkeep = 1000\n")
    };
    let collector = Collector::with(section);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c0", 1)).await;
    for from in (0..200).step_by(10) {
        for (handle, what) in [(1, "out"), (2, "err")] {
            peer.send(data(handle, from * STEP, lines(what, from..from + 10).as_bytes())).await;
        }
    }
    peer.send(gap(1, 200 * STEP, 300 * STEP)).await;
    peer.acked_all(&[(1, 300 * STEP), (2, 200 * STEP)]).await;
    let has = |collector: &Collector, text: &str| {
        files(collector).is_ok_and(|files| files.iter().any(|file| file.contains(text)))
    };
    wait("the hole", || has(&collector, "900 bytes are not here: overflow").then_some(()));
    wait("the last line of the other stream", || has(&collector, "err 0199").then_some(()));

    let dir = collector.kill();
    let mut torn =
        fs::OpenOptions::new().append(true).open(dir.path().join("log.json")).expect("it is there");
    torn.write_all(b"2023-11-14T22:13:20.0000").expect("writable");
    let collector = Collector::start_in(dir, section);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    assert_eq!(peer.open(open(0, "c0", 1)).await, [(1, 300 * STEP), (2, 200 * STEP)]);
    for (handle, what, range) in [(1, "out", 300..400), (2, "err", 200..400)] {
        peer.send(data(handle, range.start * STEP, lines(what, range).as_bytes())).await;
        peer.send(close(handle, 400 * STEP)).await;
    }
    peer.acked_all(&[(1, 400 * STEP), (2, 400 * STEP)]).await;
    for last in ["out 0399", "err 0399"] {
        wait(last, || has(&collector, last).then_some(()));
    }

    let files = files(&collector).expect("nothing is written any more");
    assert!(files.len() > 3, "this asks nothing where the file was never renamed");
    for file in &files {
        assert!(file.len() <= 4_096 && file.ends_with('\n'), "{file}");
    }
    let text = files.concat();
    let hole = format!("{HOLE}900 bytes are not here: overflow\n");
    let out = lines("out", 0..200) + &hole + &lines("out", 300..400);
    for (stream, written) in [("stdout", out), ("stderr", lines("err", 0..400))] {
        // What came again after the death is the same line.
        let mut seen = BTreeSet::new();
        let of_it = text.lines().map(Line::of).filter(|line| line.stream == stream);
        let once: Vec<Line<'_>> = of_it.filter(|line| seen.insert((line.time, line.text))).collect();
        assert!(once.is_sorted_by_key(|line| line.time), "{stream}: times go back");
        assert_eq!(
            once.iter().map(|line| format!("{}\n", line.text)).collect::<String>(),
            written,
            "{stream}"
        );
    }
}
