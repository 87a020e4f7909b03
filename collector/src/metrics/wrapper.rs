//! What one wrapper reports of itself: its counters, and the RPCs that pass through it.
//!
//! Reports are absolute since the wrapper's keeper was started, so the newest replaces the one before; sums over
//! wrappers keep what those that are gone had said last.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shimtap_proto::link;
use tokio::time::Instant;

use super::{
    machine::Machine,
    notices::{Notice, Watch},
    restarts::{Death, Deaths, Survival},
};
use crate::{
    closed::{Closed, closed},
    node::FileFacts,
};

closed! {
    /// The counters of docs/protocol.md.
    pub enum WrapperCount {
        /// ttrpc frames relayed.
        Frames => "frames",
        /// Of these, changed.
        FramesRewritten => "frames_rewritten",
        /// Whose body did not decode.
        FramesUnparsed => "frames_unparsed",
        /// Larger than 4 MiB.
        FramesOversize => "frames_oversize",
        /// Connections that fell back to raw moving.
        RawConnections => "raw_connections",
        /// Requests forwarded unobserved.
        TableOverflow => "table_overflow",
        /// Stats answered by the wrapper.
        SyntheticAnswers => "synthetic_answers",
        /// Wait answers held.
        WaitHeld => "wait_held",
        /// Of these, released by the limit.
        WaitHoldExpired => "wait_hold_expired",
        /// Events lost.
        EventsDropped => "events_dropped",
        /// shim.toml could not be used.
        ConfigFaults => "config_faults",
        /// Streams left alone.
        NotCaptured => "not_captured",
        /// Connections after the first.
        LinkReconnects => "link_reconnects",
        /// New connections that waited for a descriptor.
        AcceptsDelayed => "accepts_delayed",
        /// Output of killed tasks that containerd's end did not take.
        DiscardedAfterKill => "discarded_after_kill_bytes",
        /// Output that no collector had taken when its place was needed.
        Evicted => "evicted_bytes",
        /// Bytes of spool files.
        SpoolBytes => "spool_bytes",
        /// Children made to write them.
        SpoolWriters => "spool_writers",
        /// Times that a bound ended writing.
        SpoolFull => "spool_full",
        /// Times that the disk had no room.
        SpoolRefusedSpace => "spool_refused_space",
        /// Times that it could not be written to.
        SpoolRefusedAccess => "spool_refused_access",
        /// Times that it failed.
        SpoolRefusedIo => "spool_refused_io",
        /// Times that it refused for another reason.
        SpoolRefusedOther => "spool_refused_other",
        /// Times that a directory was not root's alone, or not in memory.
        SpoolUnsafe => "spool_unsafe",
        /// Output that a logger had not taken at its end.
        DiscardedLoggerGone => "discarded_logger_gone_bytes",
        /// Stats answers that left mended.
        StatsRepaired => "stats_repaired",
        /// Stats answers that could not be mended.
        StatsUnrepaired => "stats_unrepaired",
        /// Pods that run unwrapped.
        UnwrappedStarts => "unwrapped_starts",
        /// What a newer wrapper counts and this release does not know.
        Other => "other",
    }
}

closed! {
    /// The methods of the Task service.
    pub enum RpcMethod {
        /// State.
        State => "State",
        /// Create.
        Create => "Create",
        /// Start.
        Start => "Start",
        /// Delete.
        Delete => "Delete",
        /// Pids.
        Pids => "Pids",
        /// Pause.
        Pause => "Pause",
        /// Resume.
        Resume => "Resume",
        /// Checkpoint.
        Checkpoint => "Checkpoint",
        /// Kill.
        Kill => "Kill",
        /// Exec.
        Exec => "Exec",
        /// ResizePty.
        ResizePty => "ResizePty",
        /// CloseIO.
        CloseIo => "CloseIO",
        /// Update.
        Update => "Update",
        /// Wait.
        Wait => "Wait",
        /// Stats.
        Stats => "Stats",
        /// Connect.
        Connect => "Connect",
        /// Shutdown.
        Shutdown => "Shutdown",
        /// Any other.
        Other => "other",
    }
}

/// One wrapper.
#[derive(Debug)]
pub struct Wrapper {
    /// 64 random bits of its keeper.
    pub id: u64,
    connections: AtomicU64,
    /// Highest event taken, plus one; 0 = none.
    events: AtomicU64,
    /// What its pod is as a VM.
    pub machine: Machine,
    told: Mutex<Told>,
}

/// What it said last.
#[derive(Debug)]
struct Told {
    hello: link::Hello,
    report: link::Report,
    at: Instant,
    watch: Watch,
    deaths: Deaths,
}

/// What `ps` shows of a wrapper.
#[derive(Clone, Debug)]
pub struct About {
    /// Its release.
    pub version: String,
    /// Base name of the shim inside.
    pub inner: String,
    /// Process id of the shim inside; 0 = unknown.
    pub inner_pid: u32,
    /// Process id of the keeper; 0 = unknown.
    pub keeper_pid: u32,
    /// Process id of the worker.
    pub worker_pid: u32,
    /// How many workers it has had.
    pub generation: u64,
    /// It moves bytes without looking into them.
    pub safe_mode: bool,
    /// containerd's namespace.
    pub namespace: String,
    /// The id whose `start` made it.
    pub id: String,
}

/// Figures of one method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rpc {
    /// Calls answered.
    pub count: u64,
    /// Of these, with a status other than OK.
    pub errors: u64,
    /// Sum of durations in ns.
    pub sum_ns: u64,
    /// Not cumulative, by the link's buckets.
    pub buckets: Vec<u64>,
    /// Calls without an answer yet.
    pub in_flight: u64,
    /// Age of the oldest of them.
    pub oldest: Option<Duration>,
}

/// Figures of one or more wrappers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rpcs {
    /// By method.
    pub methods: BTreeMap<RpcMethod, Rpc>,
    /// Wrappers' own counters.
    pub counts: BTreeMap<WrapperCount, u64>,
    /// Their restarts.
    pub survival: Survival,
}

// === impl Wrapper ===

impl Wrapper {
    /// A wrapper that said `hello`.
    #[must_use]
    pub fn new(hello: &link::Hello) -> Self {
        let told = Told {
            hello: hello.clone(),
            report: link::Report::new(),
            at: Instant::now(),
            watch: Watch::default(),
            deaths: Deaths::default(),
        };
        Self {
            id: hello.wrapper,
            connections: AtomicU64::new(0),
            events: AtomicU64::new(0),
            machine: Machine::default(),
            told: Mutex::new(told),
        }
    }

    /// A connection of it said `hello`.
    pub fn attach(&self, hello: &link::Hello) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.told().hello = hello.clone();
    }

    /// A connection of it ended. Gives how many are left.
    pub fn detach(&self) -> u64 {
        self.connections.fetch_sub(1, Ordering::Relaxed).saturating_sub(1)
    }

    /// True while a connection is there.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.connections.load(Ordering::Relaxed) > 0
    }

    /// Highest event taken from it.
    #[must_use]
    pub fn event_seq(&self) -> Option<u64> {
        self.events.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Takes an event's number: `None` where it was taken before, else how many before it are missing.
    pub fn take_event(&self, seq: u64) -> Option<u64> {
        let before = self.events.load(Ordering::Relaxed);
        if seq < before {
            return None;
        }
        self.events.store(seq.saturating_add(1), Ordering::Relaxed);
        Some(if before == 0 { 0 } else { seq.saturating_sub(before) })
    }

    /// Takes a report; gives what of it is news to a person.
    pub fn reported(&self, report: link::Report) -> Vec<Notice> {
        let stats = report.methods.iter().find(|method| method.method == RpcMethod::Stats.label());
        if let Some(stats) = stats {
            self.machine.asked(stats.count);
        }
        let mut told = self.told();
        let told = &mut *told;
        let notices = told.watch.look(&told.report, &report);
        told.report = report;
        told.at = Instant::now();
        notices
    }

    /// A worker or keeper of it was replaced.
    pub fn died(&self, death: Death) {
        self.told().deaths.add(death);
    }

    /// The last of those, newest first.
    #[must_use]
    pub fn deaths(&self) -> Vec<Death> {
        self.told().deaths.newest_first()
    }

    /// What it is.
    #[must_use]
    pub fn about(&self) -> About {
        let told = self.told();
        let binary = told.hello.inner.binary.as_str();
        About {
            version: told.hello.version.clone(),
            inner: binary.rsplit('/').next().unwrap_or(binary).to_owned(),
            // A greeting may be older than the shim's own word, a first report younger than none.
            inner_pid: match told.report.inner_pid {
                0 => told.hello.inner.pid,
                pid => pid,
            },
            keeper_pid: told.hello.keeper_pid,
            worker_pid: told.hello.worker_pid,
            // A wrapper that has not reported yet has said it in its greeting.
            generation: told.hello.generation.max(told.report.generation),
            safe_mode: told.report.safe_mode,
            namespace: told.hello.namespace.clone(),
            id: told.hello.id.clone(),
        }
    }

    /// The path of the shim inside.
    #[must_use]
    pub fn inner(&self) -> link::InnerShim {
        self.told().hello.inner.clone().unwrap_or_default()
    }

    /// The file that its inner shim runs.
    #[must_use]
    pub fn inner_file(&self) -> Option<FileFacts> {
        let told = self.told();
        let file = told.report.inner_file.as_ref()?;
        Some(FileFacts {
            device: file.device,
            inode: file.inode,
            size: file.size,
            changed_ns: file.changed_ns.into(),
        })
    }

    /// What the linker of that file called its build; `None` = it has no name, or nobody said.
    #[must_use]
    pub fn inner_build(&self) -> Option<String> {
        let told = self.told();
        Some(told.report.inner_file.as_ref()?.build_id.clone()).filter(|build| !build.is_empty())
    }

    /// Its figures. What is in flight counts only while it is connected, for only then it is known to be true.
    #[must_use]
    pub fn report(&self) -> Rpcs {
        let attached = self.is_attached();
        let told = self.told();
        let since = told.at.elapsed();
        let mut rpcs = Rpcs { survival: Survival::of(&told.report), ..Rpcs::default() };
        for count in &told.report.counts {
            let known = WrapperCount::ALL.iter().copied().find(|known| known.label() == count.name);
            let sum = rpcs.counts.entry(known.unwrap_or(WrapperCount::Other)).or_default();
            *sum = sum.saturating_add(count.value);
        }
        for method in &told.report.methods {
            let known = RpcMethod::ALL.iter().copied().find(|known| known.label() == method.method);
            let oldest = method.oldest_ns.filter(|_| attached && method.in_flight > 0);
            let rpc = Rpc {
                count: method.count,
                errors: method.errors,
                sum_ns: method.sum_ns,
                buckets: method.buckets.clone(),
                in_flight: if attached { u64::from(method.in_flight) } else { 0 },
                oldest: oldest.map(|ns| Duration::from_nanos(ns).saturating_add(since)),
            };
            rpcs.methods.entry(known.unwrap_or(RpcMethod::Other)).or_default().add(&rpc);
        }
        rpcs
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Rpcs ===

impl Rpcs {
    /// Adds another's figures.
    pub fn add(&mut self, other: &Self) {
        for (name, value) in &other.counts {
            let sum = self.counts.entry(*name).or_default();
            *sum = sum.saturating_add(*value);
        }
        for (method, rpc) in &other.methods {
            self.methods.entry(*method).or_default().add(rpc);
        }
        self.survival.add(&other.survival);
    }
}

// === impl Rpc ===

impl Rpc {
    fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.errors = self.errors.saturating_add(other.errors);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        // One more bucket than bounds; a peer's further ones mean nothing.
        self.buckets.resize(link::BUCKETS_NS.len().saturating_add(1), 0);
        for (sum, value) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum = sum.saturating_add(*value);
        }
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.oldest = self.oldest.max(other.oldest);
    }
}
