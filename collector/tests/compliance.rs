//! What every sink must do, asked of each of them with the same questions: everything arrives, in order, under ids that
//! do not change; a destination that fails is waited for and holds nobody; a restart loses nothing.
//!
//! A new sink becomes a `Subject` and a line at the bottom; without, this does not compile. CRI's lines name no container, so the
//! file in that format is asked about one at a time, and more in `cri`.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, though not all of it test functions to clippy"
)]

#[path = "../src/closed.rs"]
#[allow(dead_code, unused_imports, reason = "the collector uses the rest")]
mod closed;
#[path = "../src/config/kind.rs"]
mod kind;

mod cri;
mod endpoint;
mod peer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{PipeReader, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Condvar, Mutex},
    thread,
};

use cri::ToCriFile;
use endpoint::{Do, Endpoint};
use kind::SinkKind;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use peer::{Collector, PATIENCE, Peer, close, data, open, wait};
use tempfile::TempDir;

/// Of a journal that is soon full.
const JOURNAL: u64 = 4 << 20;

/// A sink and where it delivers to, which may fail.
trait Subject {
    /// The value of the label `sink`.
    const NAME: &'static str;
    /// How many containers it can tell apart.
    const CONTAINERS: u32 = 2;
    fn new(dir: &Path) -> Self;
    /// Its section.
    fn section(&self) -> String;
    /// What the collector's standard output is to be.
    fn stdout(&mut self) -> Stdio {
        Stdio::inherit()
    }
    /// From here on nothing is taken.
    fn fail(&mut self);
    /// It is well again.
    fn heal(&mut self);
    /// What was taken, in the order of arrival, repeats included.
    fn got(&self) -> Vec<Got>;
}

/// A record that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    container: String,
    stream: String,
    id: String,
    from: u64,
    to: u64,
    /// `None` for a gap.
    text: Option<String>,
}

/// The sink under its collector.
struct Setting<S> {
    subject: S,
    /// `None` only while it is being replaced.
    collector: Option<Collector>,
}

impl<S: Subject> Setting<S> {
    fn start() -> Self {
        Self::start_with(64 << 20)
    }

    fn start_with(journal_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let subject = S::new(dir.path());
        Self::run(subject, dir, journal_bytes)
    }

    fn run(mut subject: S, dir: TempDir, journal_bytes: u64) -> Self {
        let section = subject.section();
        let stdout = subject.stdout();
        let journal = format!(
            "[journal]\ndir = \"{}/journal\"\nmax_bytes = {journal_bytes}\nreserve_percent = 0\nreserve_bytes = 0\n",
            dir.path().display()
        );
        let collector = Collector::launch(dir, |_| section.clone() + &journal, stdout);
        Self { subject, collector: Some(collector) }
    }

    /// Kills the collector and starts another.
    fn replace(mut self) -> Self {
        let dir = self.collector.take().expect("it runs").kill();
        Self::run(self.subject, dir, 64 << 20)
    }

    fn collector(&self) -> &Collector {
        self.collector.as_ref().expect("it runs")
    }

    fn metric(&self, name: &str) -> u64 {
        self.collector().metric(&format!("shimtap_sink_{name}{{sink=\"{}\"}}", S::NAME))
    }

    /// Waits until the last byte of that many streams has arrived; gives everything that has.
    fn arrived(&self, streams: usize, end: u64) -> Vec<Got> {
        wait("the last records", || {
            let got = self.subject.got();
            (got.iter().filter(|got| got.to == end).map(|got| &got.id).collect::<BTreeSet<_>>().len()
                == streams)
                .then_some(got)
        })
    }
}

fn line(i: u64) -> String {
    format!("line {i:07}")
}

/// Lines `range` as a container writes them.
fn lines(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|i| line(i) + "\n").collect::<String>().into_bytes()
}

const STEP: u64 = 13;

/// Sends lines `range` of a stream, some hundred per message.
async fn send(peer: &Peer, handle: u32, range: std::ops::Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let to = (at + 700).min(range.end);
        peer.send(data(handle, at * STEP, &lines(at..to))).await;
        at = to;
    }
}

/// Demands that each stream has `count` lines, all of them, in order, and that what came again is the same.
fn assert_complete(got: &[Got], streams: usize, count: u64) {
    let mut by_stream: BTreeMap<(String, String), Vec<&Got>> = BTreeMap::new();
    let mut by_id: BTreeMap<&str, &Got> = BTreeMap::new();
    for record in got {
        match by_id.insert(&record.id, record) {
            Some(known) => assert_eq!(known, record, "the same id is the same record"),
            None => {
                by_stream.entry((record.container.clone(), record.stream.clone())).or_default().push(record)
            }
        }
    }
    assert_eq!(by_stream.len(), streams);
    for (stream, records) in by_stream {
        assert_eq!(records.len() as u64, count, "{stream:?}");
        for (i, record) in (0..).zip(records) {
            let expected = (i * STEP, (i + 1) * STEP, Some(line(i)));
            assert_eq!((record.from, record.to, record.text.clone()), expected, "{stream:?} in order");
        }
    }
}

async fn everything_arrives_in_order<S: Subject>() {
    let setting = Setting::<S>::start();
    let (mut peer, _) = Peer::greet(setting.collector(), 1).await;
    let count = 2_000;
    let handles = || 1..=2 * S::CONTAINERS;
    let streams = u64::from(2 * S::CONTAINERS);
    for task in 0..S::CONTAINERS {
        peer.open(open(task, &format!("c{task}"), u64::from(task))).await;
    }
    for at in (0..count).step_by(1_000) {
        for handle in handles() {
            send(&peer, handle, at..at + 1_000).await;
        }
    }
    let ends: Vec<_> = handles().map(|handle| (handle, count * STEP)).collect();
    for (handle, end) in &ends {
        peer.send(close(*handle, *end)).await;
    }
    peer.acked_all(&ends).await;
    assert_complete(&setting.arrived(ends.len(), count * STEP), ends.len(), count);
    setting
        .collector()
        .wait_metric(&format!("shimtap_sink_records_total{{sink=\"{}\"}}", S::NAME), streams * count);
    assert_eq!(setting.metric("records_total"), streams * count);
    assert!(setting.metric("bytes_total") > 0);
    assert_eq!((setting.metric("stalled"), setting.metric("breaker_state")), (0, 0));
    peer::wait("nothing is in flight", || (setting.metric("in_flight") == 0).then_some(()));
}

async fn a_destination_that_fails_is_waited_for<S: Subject>() {
    let mut setting = Setting::<S>::start();
    let (mut peer, _) = Peer::greet(setting.collector(), 1).await;
    peer.open(open(0, "c0", 1)).await;
    send(&peer, 1, 0..10).await;
    peer.acked(1, 10 * STEP).await;
    setting.subject.fail();
    // As JSON more than a pipe holds.
    let count = 8_000;
    send(&peer, 1, 10..count).await;
    peer.send(close(1, count * STEP)).await;
    let total = count * STEP;
    // Its wrapper does not wait for it.
    peer.acked(1, total).await;
    wait("it stands still", || (setting.metric("in_flight") + setting.metric("stalled") > 0).then_some(()));
    assert!(setting.metric("records_total") < count);
    assert!(setting.metric("lag_bytes") > 0);
    assert_eq!(setting.collector().get("/healthz"), "ok\n");
    setting.subject.heal();
    assert_complete(&setting.arrived(1, total), 1, count);
    setting.collector().wait_metric(&format!("shimtap_sink_records_total{{sink=\"{}\"}}", S::NAME), count);
    assert_eq!(setting.metric("records_total"), count, "each record counts once");
    assert_eq!((setting.metric("stalled"), setting.metric("breaker_state")), (0, 0));
    wait("nothing is behind", || (setting.metric("lag_bytes") == 0).then_some(()));
}

/// Bytes of a wide line.
const WIDE: u64 = 1_024;

/// A wide line that looks like noise.
fn wide(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text: Vec<u8> = (1..WIDE)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b'0' + (state >> 58).to_le_bytes()[0]
        })
        .collect();
    text.push(b'\n');
    text
}

async fn what_waits_is_bounded_and_the_rest_is_a_gap<S: Subject>() {
    let mut setting = Setting::<S>::start_with(JOURNAL);
    setting.subject.fail();
    let (mut peer, _) = Peer::greet(setting.collector(), 1).await;
    peer.open(open(0, "c0", 1)).await;
    // More than the journal keeps, and nothing that lz4 could make smaller.
    let end: u64 = 12 << 20;
    let message: u64 = 64 << 10;
    for from in (0..end / message).map(|n| n * message) {
        let lines = (from / WIDE..(from + message) / WIDE).flat_map(wide).collect::<Vec<_>>();
        peer.send(data(1, from, &lines)).await;
    }
    peer.send(close(1, end)).await;
    peer.acked(1, end).await;
    // What is being written may stand beside what has to go.
    assert!(setting.collector().metric("shimtap_journal_bytes") <= 2 * JOURNAL);
    let rss = setting.collector().metric("process_resident_memory_bytes");
    assert!(rss < 96 << 20, "{rss} bytes are resident");
    setting.subject.heal();
    let mut next = 0;
    let mut missing = 0;
    for record in setting.arrived(1, end) {
        assert_eq!(record.from, next, "no hole that nobody admits");
        match record.text {
            Some(text) => assert_eq!(text.as_bytes(), wide(record.from / WIDE).trim_ascii_end()),
            None => missing += record.to - record.from,
        }
        next = record.to;
    }
    assert!(missing > 0, "this asks nothing where the journal keeps it all");
    let counted = format!("shimtap_sink_gap_bytes_total{{sink=\"{}\",reason=\"retention\"}}", S::NAME);
    assert_eq!(setting.collector().metric(&counted), missing);
}

async fn a_restart_loses_nothing<S: Subject>() {
    let mut setting = Setting::<S>::start();
    let (mut peer, _) = Peer::greet(setting.collector(), 1).await;
    peer.open(open(0, "c0", 1)).await;
    send(&peer, 1, 0..3_000).await;
    peer.acked(1, 1_000 * STEP).await;
    setting.subject.fail();
    send(&peer, 1, 3_000..6_000).await;
    let mut setting = setting.replace();
    setting.subject.heal();
    let (mut peer, _) = Peer::greet(setting.collector(), 1).await;
    let next = peer.open(open(0, "c0", 1)).await[0].1;
    assert!(next >= 1_000 * STEP, "what was acknowledged is kept");
    send(&peer, 1, next / STEP..8_000).await;
    peer.send(close(1, 8_000 * STEP)).await;
    peer.acked(1, 8_000 * STEP).await;
    assert_complete(&setting.arrived(1, 8_000 * STEP), 1, 8_000);
}

async fn an_end_does_not_wait_for_a_destination_that_fails<S: Subject>() {
    let mut setting = Setting::<S>::start();
    setting.subject.fail();
    let (mut peer, _) = Peer::greet(setting.collector(), 1).await;
    peer.open(open(0, "c0", 1)).await;
    send(&peer, 1, 0..8_000).await;
    wait("something is on its way", || {
        (setting.metric("in_flight") + setting.metric("stalled") > 0).then_some(())
    });
    let (status, _dir) = setting.collector.take().expect("it runs").stop();
    assert_eq!(status, Some(0));
    assert!(setting.subject.got().len() < 8_000);
}

async fn an_end_delivers_what_is_there<S: Subject>() {
    let mut setting = Setting::<S>::start();
    let (mut peer, _) = Peer::greet(setting.collector(), 1).await;
    peer.open(open(0, "c0", 1)).await;
    send(&peer, 1, 0..5_000).await;
    peer.acked(1, 5_000 * STEP).await;
    let (status, _dir) = setting.collector.take().expect("it runs").stop();
    assert_eq!(status, Some(0));
    wait("all of it has arrived", || (setting.subject.got().len() == 5_000).then_some(()));
    assert_complete(&setting.subject.got(), 1, 5_000);
}

/// `[file]`; it fails as a full disk does.
struct ToFile {
    path: PathBuf,
    kept: PathBuf,
}

impl Subject for ToFile {
    const NAME: &'static str = "file";

    fn new(dir: &Path) -> Self {
        Self { path: dir.join("log.json"), kept: dir.join("kept.json") }
    }

    fn section(&self) -> String {
        format!("[file]\npath = \"{}\"\n", self.path.display())
    }

    fn fail(&mut self) {
        fs::rename(&self.path, &self.kept).expect("it is there");
        symlink("/dev/full", &self.path).expect("nothing is there");
    }

    fn heal(&mut self) {
        fs::remove_file(&self.path).expect("the link is ours");
        fs::rename(&self.kept, &self.path).expect("it was kept");
    }

    fn got(&self) -> Vec<Got> {
        from_json(self.text().as_bytes())
    }
}

impl ToFile {
    /// What it has.
    fn text(&self) -> String {
        let path = if self.kept.exists() { &self.kept } else { &self.path };
        fs::read_to_string(path).expect("readable")
    }
}

/// `[stdout]`; it fails as a reader does that stops reading.
struct ToStdout(Arc<(Mutex<Read_>, Condvar)>);

#[derive(Default)]
struct Read_ {
    stopped: bool,
    text: Vec<u8>,
}

impl ToStdout {
    fn read(shared: &(Mutex<Read_>, Condvar), mut pipe: PipeReader) {
        let mut block = [0; 4_096];
        loop {
            let state = shared.0.lock().expect("no panic under it");
            drop(shared.1.wait_while(state, |state| state.stopped).expect("no panic under it"));
            let Ok(n @ 1..) = pipe.read(&mut block) else { break };
            shared.0.lock().expect("no panic under it").text.extend_from_slice(&block[..n]);
        }
        // What a death tore is no line.
        let mut state = shared.0.lock().expect("no panic under it");
        let whole = state.text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        state.text.truncate(whole);
    }

    fn stop(&self, stopped: bool) {
        self.0.0.lock().expect("no panic under it").stopped = stopped;
        self.0.1.notify_all();
    }
}

impl Subject for ToStdout {
    const NAME: &'static str = "stdout";

    fn new(_: &Path) -> Self {
        Self(Arc::default())
    }

    fn section(&self) -> String {
        "[stdout]\n".to_owned()
    }

    fn stdout(&mut self) -> Stdio {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let shared = Arc::clone(&self.0);
        thread::spawn(move || Self::read(&shared, reader));
        writer.into()
    }

    fn fail(&mut self) {
        self.stop(true);
    }

    fn heal(&mut self) {
        self.stop(false);
    }

    fn got(&self) -> Vec<Got> {
        // Its reader must not wait for ours.
        let text = self.0.0.lock().expect("no panic under it").text.clone();
        from_json(&text)
    }
}

/// `[otlp]`; it fails as an overloaded endpoint does.
struct ToOtlp(Endpoint);

impl Subject for ToOtlp {
    const NAME: &'static str = "otlp";

    fn new(_: &Path) -> Self {
        Self(Endpoint::start())
    }

    fn section(&self) -> String {
        format!("[otlp]\nendpoint = \"{}\"\nretry_most_secs = 1\n", self.0.url())
    }

    fn fail(&mut self) {
        self.0.otherwise(Do::Answer(503, String::new(), "busy".into()));
    }

    fn heal(&mut self) {
        self.0.otherwise(Do::Take);
    }

    fn got(&self) -> Vec<Got> {
        let whole =
            |record: &endpoint::Got, key: &str| match endpoint::attribute(&record.record.attributes, key) {
                Some(Value::IntValue(n)) => n.try_into().expect("an offset"),
                other => panic!("{key} is {other:?}"),
            };
        let all = self.0.got();
        all.into_iter()
            .map(|got| Got {
                stream: endpoint::text(&got.record.attributes, "log.iostream").expect("log.iostream"),
                from: whole(&got, "shimtap.offset.from"),
                to: whole(&got, "shimtap.offset.to"),
                text: match got.record.body.and_then(|body| body.value) {
                    _ if endpoint::text(&got.record.attributes, "shimtap.gap.reason").is_some() => None,
                    Some(Value::StringValue(text)) => Some(text),
                    other => panic!("a body of {other:?}"),
                },
                container: got.container,
                id: got.id,
            })
            .collect()
    }
}

fn from_json(text: &[u8]) -> Vec<Got> {
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines
        .map(|line| {
            let record: serde_json::Value = serde_json::from_slice(line).expect("a JSON object");
            let text = |key: &str| record[key].as_str().expect("text").to_owned();
            Got {
                container: text("container_id"),
                stream: text("stream"),
                id: text("id"),
                from: record["offset"]["from"].as_u64().expect("an offset"),
                to: record["offset"]["to"].as_u64().expect("an offset"),
                text: record["message"].as_str().map(str::to_owned),
            }
        })
        .collect()
}

macro_rules! comply {
    ($($sink:ident: $($subject:ident $asked:ident),+;)+) => {
        /// The labels of the subjects that stand for a sink.
        const fn asked_for(sink: SinkKind) -> &'static [&'static str] {
            match sink { $(SinkKind::$sink => &[$($subject::NAME),+],)+ }
        }

        $($(mod $asked {
            comply!(@ask $subject everything_arrives_in_order, a_destination_that_fails_is_waited_for,
                what_waits_is_bounded_and_the_rest_is_a_gap, a_restart_loses_nothing,
                an_end_does_not_wait_for_a_destination_that_fails, an_end_delivers_what_is_there);
        })+)+
    };
    (@ask $subject:ident $($question:ident),+) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $question() {
            let asked = super::$question::<super::$subject>();
            tokio::time::timeout(super::PATIENCE * 3, asked).await.expect("an answer in time");
        }
    )+ };
}

comply! {
    File: ToFile file, ToCriFile file_cri;
    Stdout: ToStdout stdout;
    Otlp: ToOtlp otlp;
}

#[test]
fn each_sink_of_the_configuration_is_asked_under_its_own_name() {
    for sink in <SinkKind as closed::Closed>::ALL {
        assert!(asked_for(*sink).iter().all(|name| *name == sink.label()), "{sink:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sink_that_fails_holds_no_other() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (file, mut stdout) = (ToFile::new(dir.path()), ToStdout::new(dir.path()));
    let mut otlp = ToOtlp::new(dir.path());
    otlp.fail();
    let sections = [file.section(), stdout.section(), otlp.section()].concat();
    let out = stdout.stdout();
    let collector = Collector::launch(dir, |_| sections.clone(), out);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c0", 1)).await;
    send(&peer, 1, 0..5_000).await;
    peer.acked(1, 5_000 * STEP).await;
    for got in [&file as &dyn Fetch, &stdout] {
        wait("all of it has arrived", || (got.fetch().len() == 5_000).then_some(()));
        assert_complete(&got.fetch(), 1, 5_000);
    }
    assert_eq!(otlp.got(), []);
    otlp.heal();
    wait("the third has it too", || (otlp.got().len() == 5_000).then_some(()));
    assert_complete(&otlp.got(), 1, 5_000);
}

/// A subject of any kind, to be read.
trait Fetch {
    fn fetch(&self) -> Vec<Got>;
}

impl<S: Subject> Fetch for S {
    fn fetch(&self) -> Vec<Got> {
        self.got()
    }
}
