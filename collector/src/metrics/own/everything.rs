//! A registry in which everything that there is to be shown has happened: each family of the table has a value that is not the one
//! it starts with.
//!
//! What can be made by those who make it in earnest is (the journal, what wrappers tell); the rest is counted by hand, as those do
//! who count: that somebody does is asked in `moved`.

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use protobuf::{EnumOrUnknown, Message, MessageField};
use shimtap_proto::link;
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::Instant};

use super::super::{
    Container, ContainerdCall, ContainerdResult, ContainerdState, ExecOutcome, Happened, Sample,
    SampleSource, SinkTotals, StreamCounts, Totals, registry::Registry,
};
use crate::{
    closed::{Closed, Counts},
    config::{self, Config},
    enrich::{Details, Overhead, ShimKind},
    event::{Batch, Body, Ending, Flags, HoleReason, Origin, Progress, Record, StreamKind},
    journal::{Heads, Journal, JournalThread},
    node::{
        self, Component, Facts, Findings, HostFigures, HostUse, Hypervisor, Interface, Orphan, OrphanKind,
        Sandbox, Usage, Vcpus,
    },
    sinks::{Outlet, Room, Source},
    time::now_ns,
};
use containerd_shim_protos::cgroups_v2::metrics as v2;

/// What is shown, and what has to be there as long as it is.
pub(super) struct Everything {
    pub(super) registry: Registry,
    _journal: TempDir,
    _queued: Room,
}

pub(super) fn hello(wrapper: u64) -> link::Hello {
    link::Hello { wrapper, protocol: 1, version: "1".into(), ..Default::default() }
}

pub(super) fn open() -> link::Open {
    link::Open {
        namespace: "default".into(),
        container: "c\"1\\".into(),
        incarnation: 1,
        started_ns: 5_000_000_000,
        annotations: [
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.container-name", "app"),
            ("io.kubernetes.cri.sandbox-namespace", "shop"),
            ("io.kubernetes.cri.sandbox-name", "cart\"1\\"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        cpu_shares: Some(102),
        memory_limit_bytes: Some(1 << 30),
        memory_swap_limit_bytes: Some(2 << 30),
        ..Default::default()
    }
}

pub(super) fn report(create: u64) -> link::Report {
    link::Report {
        counts: vec![
            link::Count { name: "frames".into(), value: 9, ..Default::default() },
            link::Count { name: "of the future".into(), value: 2, ..Default::default() },
        ],
        methods: vec![
            link::MethodReport {
                method: "Create".into(),
                count: create,
                errors: 1,
                sum_ns: 1_500_000_000,
                buckets: vec![0, 0, 0, create],
                in_flight: 1,
                oldest_ns: Some(2_000_000_000),
                ..Default::default()
            },
            link::MethodReport { method: "Frobnicate".into(), count: 1, ..Default::default() },
        ],
        safe_mode: create > 2,
        generation: create,
        without_worker_ns: 2_500_000_000,
        restarts: vec![
            link::Restarts {
                reason: link::RestartReason::RESTART_REASON_CRASHED.into(),
                count: 2,
                ..Default::default()
            },
            link::Restarts { reason: EnumOrUnknown::from_i32(99), count: 1, ..Default::default() },
        ],
        ..Default::default()
    }
}

/// More than the journal below may hold, line by line.
const LINES: u64 = 120;
/// Of each.
const LINE_BYTES: usize = 60_000;

pub(super) fn everything() -> Everything {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("temporary directory");
    let totals: Arc<Totals> = Arc::default();
    let journal = journal(dir.path(), &totals, &runtime);
    let sink = Arc::new(SinkTotals::new("file"));
    delivered(&sink);
    let (entrance, _exit) = Outlet::queue(1000);
    let queued = runtime.block_on(entrance.room(1, 1));
    let registry =
        Registry::new(Arc::clone(&totals), entrance.backlog(), vec![sink], Duration::from_secs(10));
    registry.journal.set(Arc::new(Heads::alone(journal))).expect("the only one");
    counted(&totals);
    told(&registry);
    machine(&registry);
    Everything { registry, _journal: dir, _queued: queued }
}

/// A journal that was not closed in order, has dropped what its sink had not read, and has something that it has not
/// acknowledged; of its only stream nobody told the end.
fn journal(dir: &Path, totals: &Arc<Totals>, runtime: &Runtime) -> Arc<Journal> {
    let text = format!(
        "[journal]\ndir = \"{}\"\nmax_bytes = {}\nreserve_percent = 0\nreserve_bytes = 0\n",
        dir.display(),
        4 << 20
    );
    let config = Config::parse(Path::new("c"), &text).expect("a configuration").journal;
    write(&config, &Arc::default(), runtime, 1);
    let newest = fs::read_dir(dir).expect("its folder").flatten().map(|entry| entry.path());
    let newest = newest.filter(|path| path.extension().is_some_and(|end| end == "sj")).max();
    let newest = fs::File::options().write(true).open(newest.expect("a file")).expect("writable");
    // Without its last word.
    newest.set_len(newest.metadata().expect("there").len() - 1).expect("shorter");
    write(&config, totals, runtime, LINES)
}

/// Opens a journal, appends so many lines that nothing makes smaller, and has a sink read what is left of them.
fn write(config: &config::Journal, totals: &Arc<Totals>, runtime: &Runtime, lines: u64) -> Arc<Journal> {
    let opened = Journal::open(config, 1, Arc::clone(totals)).expect("a journal");
    let mut slow = opened.journal.reader("file");
    let (outlet, exit) = Outlet::queue(64 << 20);
    let writer = JournalThread::start(&opened.journal, exit, opened.endings).expect("a thread");
    let origin = Arc::new(Origin::unknown());
    let mut state: u32 = 1;
    for n in 0..lines {
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            b'0' + u8::try_from(state % 64).expect("below 64")
        });
        let text: Bytes = noise.take(LINE_BYTES).collect();
        let length = u64::try_from(LINE_BYTES).expect("a length") + 1;
        let (from, to) = (n * length, (n + 1) * length);
        let record = Record { from, to, time_ns: n + 1, flags: Flags::NONE, body: Body::Line(text) };
        let progress: Arc<Progress> = Arc::default();
        let room = runtime.block_on(outlet.room(1, LINE_BYTES));
        let batch = Batch {
            origin: Arc::clone(&origin),
            records: vec![record],
            end: to,
            ending: (n + 1 == lines).then_some(Ending::WrapperLost),
            receipt: Arc::clone(&progress) as _,
            received: Instant::now(),
            last: true,
        };
        outlet.submit(batch, room);
        while progress.durable() < to {
            std::thread::yield_now();
        }
    }
    drop(outlet);
    while !writer.is_finished() {
        std::thread::yield_now();
    }
    while slow.try_recv().is_some() {}
    drop(slow);
    // Those that write down how far sinks are have the journal as well.
    while !writer.settle() {
        std::thread::yield_now();
    }
    opened.journal
}

/// One of whatever it counts.
fn once<L: Closed>(counts: &Counts<L>) {
    counts.add(L::ALL.first().copied().expect("a variant"), 1);
}

fn delivered(sink: &SinkTotals) {
    for counter in [&sink.records, &sink.bytes, &sink.writes, &sink.elsewhere_bytes, &sink.splits] {
        counter.add(1);
    }
    once(&sink.requests);
    for counts in [&sink.rejected, &sink.rejected_bytes, &sink.retried, &sink.retried_bytes] {
        once(counts);
    }
    for gauge in [&sink.in_flight, &sink.breaker, &sink.stalled, &sink.unsettled] {
        gauge.set(1);
    }
    sink.duration.observe(Duration::from_millis(3));
    sink.delay.observe(Duration::from_millis(3));
    sink.error("ENOSPC");
}

fn counted(totals: &Totals) {
    once(&totals.log_bytes);
    once(&totals.log_lines);
    once(&totals.log_repeated);
    once(totals.gap_bytes.of(StreamKind::Stdout));
    once(totals.holes.of(StreamKind::Stdout));
    totals.limited(HoleReason::RateLimit, Some(3));
    for counter in [
        &totals.redactions,
        &totals.redacted_unsearched,
        &totals.connections_accepted,
        &totals.events_missed,
        &totals.spool_files,
        &totals.spool_records,
        &totals.containerd.oom_events,
    ] {
        counter.add(1);
    }
    totals.connections.up();
    once(&totals.ingest_faults);
    once(&totals.events);
    once(&totals.spool_aside);
    once(&totals.samples);
    once(&totals.samples_undecoded);
    once(&totals.cuts);
    once(&totals.sandbox_deaths);
    totals.containerd.called(ContainerdCall::Get, ContainerdResult::Ok);
    totals.containerd.set(ContainerdState::Up, "");
    totals.journal.stalled.refused(true);
    totals.journal.error("ENOSPC");
    totals.journal.fsync.observe(Duration::from_millis(3));
}

/// What wrappers say, and containerd.
fn told(registry: &Registry) {
    registry.enrich();
    registry.attach(&hello(1)).reported(&report(3));
    let container =
        registry.container(&open(), &link::InnerShim { binary: "runc".into(), ..Default::default() });
    let stats = stats();
    let mut sample = Sample::decode(&stats).expect("decodes");
    // Only the first cgroup version counts these.
    sample.failcnt = Some(1);
    let earlier = Sample { time_ns: sample.time_ns - 1, cpu_ns: Some(1), ..sample.clone() };
    assert!(container.sampled(earlier, SampleSource::Polled));
    assert!(container.sampled(sample, SampleSource::Polled));
    container.live().host = Some(figures());
    container.live().streams.push(Arc::new(written()));
    container.extra.settle(Details::default());
    for what in [
        Happened::Created(1),
        Happened::Started(1),
        Happened::Exec(ExecOutcome::Success, Some(1)),
        Happened::Exited(0),
    ] {
        registry.lifecycle.note(&container, what);
    }
    let pause = ("io.kubernetes.cri.container-type".to_owned(), "sandbox".to_owned());
    let sandbox = link::Open { container: "s".into(), annotations: [pause].into(), ..open() };
    let sandbox = registry.container(&sandbox, &link::InnerShim::default());
    let overhead = Overhead { memory_bytes: Some(1 << 27), cpu_millis: Some(250) };
    sandbox.extra.settle(Details { overhead, ..Details::default() });
    let kata =
        link::InnerShim { binary: "/opt/kata/bin/containerd-shim-kata-v2".into(), ..Default::default() };
    let doubted = registry.container(&link::Open { container: "k".into(), ..open() }, &kata);
    assert!(doubted.sampled(Sample::decode(&stats).expect("decodes"), SampleSource::Polled));
}

/// What a shim answers: nothing that the second cgroup version has is 0.
fn stats() -> link::Stats {
    let cpu = v2::CPUStat {
        usage_usec: 3_000_000,
        user_usec: 2_000_000,
        system_usec: 1_000_000,
        nr_periods: 10,
        nr_throttled: 2,
        throttled_usec: 5,
        ..Default::default()
    };
    let memory = v2::MemoryStat {
        anon: 10,
        file: 20,
        file_mapped: 3,
        inactive_file: 5,
        usage: 100,
        max_usage: 200,
        swap_usage: 7,
        swap_limit: 9,
        pgfault: 11,
        ..Default::default()
    };
    let io = v2::IOEntry { major: 8, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4, ..Default::default() };
    let metrics = v2::Metrics {
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        memory_events: MessageField::some(v2::MemoryEvents { oom_kill: 1, ..Default::default() }),
        pids: MessageField::some(v2::PidsStat { current: 4, limit: 50, ..Default::default() }),
        io: MessageField::some(v2::IOStat { usage: vec![io], ..Default::default() }),
        ..Default::default()
    };
    link::Stats {
        time_ns: now_ns(),
        type_url: "io.containerd.cgroups.v2.Metrics".into(),
        value: metrics.write_to_bytes().expect("encodes"),
        source: EnumOrUnknown::new(link::StatsSource::STATS_SOURCE_POLLED),
        ..Default::default()
    }
}

/// What this host's kernel says.
fn figures() -> HostFigures {
    let counts = node::Counts { bytes: 1, packets: 2, errors: 3, dropped: 4 };
    let interface = Interface { received: counts, sent: counts };
    HostFigures {
        time_ns: now_ns(),
        processes: Some(1),
        interfaces: Some([("eth0".to_owned(), interface)].into()),
        ..HostFigures::default()
    }
}

/// What a stream of it has delivered.
fn written() -> StreamCounts {
    let stream = StreamCounts::new(StreamKind::Stdout, "", None);
    stream.bytes.store(2, Ordering::Relaxed);
    stream.lines.store(1, Ordering::Relaxed);
    once(&stream.gap_bytes);
    stream.stalled(1);
    stream
}

/// What a look at a pod that is such a VM may find.
pub(super) fn vm(shim: ShimKind, facts: Facts) -> Sandbox {
    let usage = Usage {
        cpu_ns: Some(1),
        resident_bytes: Some(2),
        swap_bytes: Some(3),
        proportional_bytes: Some(4),
        threads: 5,
    };
    Sandbox {
        at: Instant::now(),
        shim,
        release: None,
        build: None,
        pids: Default::default(),
        facts,
        components: [(Component::Vmm, usage)].into(),
        vcpus: Some(Vcpus { count: 1, run_ns: Some(2), wait_ns: Some(3) }),
        host: HostUse { memory_bytes: Some(9), cpu_ns: Some(8) },
        overhead_cpu_ns: Some(-1_500_000_000),
        overhead_memory_bytes: Some(-7),
    }
}

/// A pod that is a VM, and what was found beside it.
fn machine(registry: &Registry) {
    let facts = Facts {
        hypervisor: Some(Hypervisor::Qemu),
        memory_bytes: Some(1 << 30),
        confidential: Some(true),
        ..Facts::default()
    };
    let sandbox = vm(ShimKind::KataRust, facts);
    registry.attach(&link::Hello { id: "vm".into(), ..hello(7) }).machine.seen(sandbox);
    let orphan = Orphan {
        kind: OrphanKind::Vmm,
        sandbox: "gone".into(),
        pid: Some(1),
        name: "qemu".into(),
        proof: Vec::new(),
    };
    registry.found(Findings { looked: true, orphans: vec![orphan], ..Findings::default() });
    silenced(registry);
}

/// A container of that pod whose output a policy denies.
pub(super) fn silenced(registry: &Registry) -> Arc<Container> {
    let of = ("io.kubernetes.cri.sandbox-id".to_owned(), "vm".to_owned());
    let open = link::Open {
        namespace: String::new(),
        container: "denied".into(),
        annotations: [of].into(),
        ..open()
    };
    let denied = registry.container(&open, &link::InnerShim::default());
    denied.announced(&open);
    let stream = StreamCounts::new(StreamKind::Stdout, "", None);
    stream.close(Ending::Exact);
    denied.live().streams.push(Arc::new(stream));
    denied
}
