//! What one wrapper reports of itself: its counters, and the RPCs that pass through it.
//!
//! Reports are absolute since the wrapper's keeper was started, so the newest replaces the one before; sums over
//! wrappers keep what those that are gone had said last. There is one per pod, so a report is kept as small as it can be: as
//! it came, the names of what it counts would take more than anything else that is known of a pod.

use std::{collections::BTreeMap, time::Duration};

use shimtap_proto::link;

use super::restarts::Survival;
use crate::{
    closed::{Closed, closed},
    few::Few,
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
        /// Tasks whose place was needed before anybody was told of their end.
        EvictedTasks => "evicted_tasks",
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

/// The newest report of one wrapper.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Process id of the shim inside; 0 = unknown.
    pub(super) inner_pid: u32,
    /// How many workers there were.
    pub(super) generation: u64,
    /// It moves bytes without looking into them.
    pub(super) safe_mode: bool,
    /// The file that the shim inside runs.
    pub(super) inner_file: Option<Box<InnerFile>>,
    /// Its own two processes.
    pub(super) survival: Survival,
    counts: Few<WrapperCount, u64>,
    /// What is in flight is as it was then.
    methods: Few<RpcMethod, Rpc>,
}

/// A shim's file.
#[derive(Debug)]
pub(super) struct InnerFile {
    /// Which one.
    pub(super) facts: FileFacts,
    /// What its linker called its build; empty = nobody said.
    pub(super) build: String,
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

// === impl Report ===

impl Report {
    /// As it was said.
    pub(super) fn of(said: &link::Report) -> Self {
        let mut counts: BTreeMap<WrapperCount, u64> = BTreeMap::new();
        for count in &said.counts {
            let known = WrapperCount::named(&count.name).unwrap_or(WrapperCount::Other);
            let sum = counts.entry(known).or_default();
            *sum = sum.saturating_add(count.value);
        }
        let mut methods: BTreeMap<RpcMethod, Rpc> = BTreeMap::new();
        for method in &said.methods {
            let known = RpcMethod::named(&method.method).unwrap_or(RpcMethod::Other);
            methods.entry(known).or_default().add(&Rpc::of(method));
        }
        Self {
            inner_pid: said.inner_pid,
            generation: said.generation,
            safe_mode: said.safe_mode,
            inner_file: said.inner_file.as_ref().map(|file| Box::new(InnerFile::of(file))),
            survival: Survival::of(said),
            counts: counts.into(),
            methods: methods.into_iter().map(|(method, rpc)| (method, rpc.packed())).collect(),
        }
    }

    /// How often a method was answered; `None` = it says nothing of it.
    pub(super) fn calls(&self, method: RpcMethod) -> Option<u64> {
        self.methods.get(&method).map(|rpc| rpc.count)
    }

    /// One of its counters.
    pub(super) fn count(&self, name: WrapperCount) -> u64 {
        self.counts.get(&name).copied().unwrap_or(0)
    }

    /// Its figures, so long after it was made; `None`: nobody knows whether what was in flight is so still.
    pub(super) fn figures(&self, since: Option<Duration>) -> Rpcs {
        let mut rpcs = Rpcs { survival: self.survival.clone(), ..Rpcs::default() };
        rpcs.counts = self.counts.iter().map(|(name, count)| (*name, *count)).collect();
        for (method, rpc) in self.methods.iter() {
            let mut rpc = rpc.clone();
            rpc.oldest = rpc.oldest.zip(since).map(|(age, since)| age.saturating_add(since));
            if since.is_none() {
                rpc.in_flight = 0;
            }
            rpcs.methods.insert(*method, rpc);
        }
        rpcs
    }
}

// === impl InnerFile ===

impl InnerFile {
    fn of(file: &link::InnerFile) -> Self {
        let facts = FileFacts {
            device: file.device,
            inode: file.inode,
            size: file.size,
            changed_ns: file.changed_ns.into(),
        };
        Self { facts, build: file.build_id.clone() }
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
    fn of(method: &link::MethodReport) -> Self {
        let oldest = method.oldest_ns.filter(|_| method.in_flight > 0);
        Self {
            count: method.count,
            errors: method.errors,
            sum_ns: method.sum_ns,
            buckets: method.buckets.clone(),
            in_flight: method.in_flight.into(),
            oldest: oldest.map(Duration::from_nanos),
        }
    }

    /// Without buckets behind the last one that counts anything: there are none for whoever adds it up.
    fn packed(mut self) -> Self {
        let used =
            self.buckets.iter().rposition(|count| *count != 0).map_or(0, |last| last.saturating_add(1));
        self.buckets.truncate(used);
        self.buckets.shrink_to_fit();
        self
    }

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
