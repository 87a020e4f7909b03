//! What is known of one container's task: names, state, newest statistics, and what its streams delivered.

mod execs;
mod live;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

pub use live::{Live, State};
use shimtap_proto::link;
use tokio::time::Instant;

use super::{
    labels,
    limits::Bounds,
    sample::{Said, Sample, SampleSource},
    spec::Spec,
    stream::StreamCounts,
    usage::Used,
};
use crate::{
    enrich::{Identity, Later, ShimKind},
    event::Ending,
    process::Clock,
    rules::Budget,
};

/// Names a task for good.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerKey {
    /// containerd's namespace.
    pub namespace: String,
    /// Container id.
    pub container: String,
    /// 64 random bits chosen at Create.
    pub incarnation: u64,
}

/// How long a task's counters are shown after its end, so that a scraper sees the final ones.
pub const KEEP_ENDED: Duration = Duration::from_secs(120);

/// One task.
#[derive(Debug)]
pub struct Container {
    /// Whose it is.
    pub identity: Arc<Identity>,
    /// What kind of shim it has.
    pub shim: ShimKind,
    /// Its name for good.
    pub key: ContainerKey,
    /// cAdvisor's labels, rendered once: `container="…",id="…",…`.
    pub labels: String,
    /// What containerd's records say of it.
    pub extra: Later,
    /// Unix ns when its wrapper made it; 0 = unknown.
    pub(super) created_ns: u64,
    counted: Counted,
    /// Its OCI spec names a network namespace; without one its network is the host's, or not known.
    pub has_own_network: bool,
    /// Gives its records their times.
    pub clock: Arc<Clock>,
    /// What rules leave it of lines.
    pub budget: Arc<Budget>,
    live: Mutex<Live>,
}

/// Where a container's CPU time is added to its namespace's.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// The namespace's sum.
    pub(super) used: Arc<Used>,
    /// CPU time in ns up to which it was counted before its first sample here: 0 where it began under our eyes. `None` = nobody
    /// knows, and what the first sample says is not counted.
    pub(super) from_ns: Option<u64>,
}

/// What became of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Start was answered.
    Started {
        /// Unix ns.
        at_ns: u64,
        /// Process id; 0 = unknown.
        pid: u32,
    },
    /// The init process ended.
    Exited {
        /// Unix ns.
        at_ns: u64,
        /// Its status.
        status: u32,
    },
    /// Somebody sent its init process a signal.
    Killed,
    /// Somebody asked for other limits; `None` = nobody knows for which.
    Limits(Option<Spec>),
    /// Deleted.
    Deleted,
    /// Its wrapper went away for good.
    Lost,
}

// === impl Container ===

impl Container {
    /// A task as its wrapper announced it.
    #[must_use]
    pub(super) fn new(
        open: &link::Open,
        identity: Identity,
        shim: ShimKind,
        counted: Counted,
        bounds: &Bounds,
    ) -> Self {
        let live = Live { created_ns: open.created_ns, ..Live::default() };
        Self {
            labels: labels::cadvisor(&identity, bounds),
            extra: Later::default(),
            created_ns: open.created_ns,
            counted,
            key: ContainerKey {
                namespace: open.namespace.clone(),
                container: open.container.clone(),
                incarnation: open.incarnation,
            },
            identity: Arc::new(identity),
            shim,
            has_own_network: !open.network_namespace.is_empty(),
            clock: Arc::default(),
            budget: Arc::default(),
            live: Mutex::new(live),
        }
    }

    /// The part that changes. Never held across an await.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the state of a (repeated) announcement.
    pub fn announced(&self, open: &link::Open) {
        if open.started_ns != 0 {
            self.update(Update::Started { at_ns: open.started_ns, pid: open.pid });
        }
        let mut live = self.live();
        live.spec = Spec::announced(open);
        if live.state == Some(State::Lost) {
            // It is back.
            live.state = None;
            live.ended = None;
        }
        if live.state.is_none() {
            live.state = Some(if open.started_ns == 0 { State::Created } else { State::Running });
        }
        // An earlier collector was told of its end, and has counted it.
        if open.exited_ns != 0 && live.is_running() {
            (live.exited_ns, live.exit_status) = (open.exited_ns, Some(open.exit_status));
            live.end(State::Exited);
        }
    }

    /// Takes what became of it. States only go forward.
    pub fn update(&self, update: Update) {
        let mut live = self.live();
        let over = live.state.is_some_and(State::is_over);
        match update {
            Update::Started { at_ns, pid } => {
                live.started_ns = at_ns;
                if pid != 0 {
                    live.pid = pid;
                }
                if !over {
                    live.state = Some(State::Running);
                }
            }
            Update::Exited { at_ns, status } => {
                live.exited_ns = at_ns;
                live.exit_status = Some(status);
                live.end(State::Exited);
            }
            Update::Killed => {
                live.killed = true;
                // A signal that came after the end did not cause it.
                if live.exit_status.is_none() {
                    live.shortage.killed();
                }
            }
            Update::Limits(limits) => {
                live.spec = limits.map(|limits| limits.over(live.spec)).unwrap_or_default();
            }
            Update::Deleted => live.end(State::Deleted),
            Update::Lost if !over => live.end(State::Lost),
            Update::Lost => {}
        }
    }

    /// Takes statistics; false where newer ones are there.
    pub fn sampled(&self, sample: Sample, source: SampleSource) -> bool {
        let sample = sample.doubt(self.shim);
        let mut guard = self.live();
        let live = &mut *guard;
        let sample = sample.with_devices(live.sample.as_deref(), self.identity.host_visible);
        let said = Said::from(&sample);
        let sample = match &live.sample {
            Some(old) if old.time_ns >= sample.time_ns => return false,
            Some(old) => sample.not_below(old),
            None => sample,
        };
        if let Some(now) = sample.cpu_ns {
            self.counted.used.add(now.saturating_sub(self.counted_cpu(live).unwrap_or(now)));
        }
        live.shortage.sampled(live.sample.as_deref(), &sample, self.counted.from_ns == Some(0));
        live.sample = Some(Box::new(sample));
        live.said_earlier = live.said.replace(Box::new(said));
        live.source = Some(source);
        true
    }

    /// CPU time in ns that is in its namespace's sum, or was before it could be; `None` = nobody knows yet.
    pub(super) fn counted_cpu(&self, live: &Live) -> Option<u64> {
        live.sample.as_ref().and_then(|sample| sample.cpu_ns).or(self.counted.from_ns)
    }

    /// May an end by SIGKILL that was learnt of at `end` be for want of memory?
    pub(super) fn was_short_of_memory(&self, end: Instant, within: Duration) -> bool {
        self.live().shortage.explains(end, within)
    }

    /// An exec was started; false where so many run that its duration will not be known.
    pub fn exec_started(&self, id: &str, at_ns: u64) -> bool {
        self.live().execs.started(id, at_ns)
    }

    /// An exec ended; gives when it was started where that is known, and `None` where its end was told before.
    pub fn exec_ended(&self, id: &str) -> Option<Option<u64>> {
        self.live().execs.ended(id)
    }

    /// An exec was deleted: nothing more is told of it.
    pub fn exec_deleted(&self, id: &str) {
        self.live().execs.deleted(id);
    }

    /// containerd says that the kernel killed a process of it for want of memory.
    pub fn ran_out_of_memory(&self) {
        let mut live = self.live();
        live.oom_events = live.oom_events.saturating_add(1);
        live.shortage.told();
    }

    /// Streams of its init process that ended, certainly without a byte, while it runs.
    #[must_use]
    pub fn silent_streams(&self) -> u64 {
        let live = self.live();
        let silent = |stream: &&Arc<StreamCounts>| {
            stream.silent().is_none()
                && stream.process.is_empty()
                && stream.ending() == Some(Ending::Exact)
                && stream.bytes.load(Ordering::Relaxed) == 0
                // Bytes that were there and are not here.
                && stream.gap_bytes.iter().all(|(_, bytes)| bytes == 0)
        };
        let count = live.streams.iter().filter(silent).filter(|_| live.state == Some(State::Running)).count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Connection `owner` tells of it from here on.
    pub fn attach(&self, owner: u64) {
        let mut live = self.live();
        live.owner = owner;
        live.detached = None;
    }

    /// Connection `owner` ended.
    pub fn detach(&self, owner: u64) {
        let mut live = self.live();
        if live.owner == owner {
            live.owner = 0;
            live.detached = Some(Instant::now());
        }
    }

    /// Its shim died; false where it had ended before, or that was known.
    pub fn lost_its_shim(&self) -> bool {
        let mut live = self.live();
        if !live.is_running() {
            return false;
        }
        live.end(State::Lost);
        !std::mem::replace(&mut live.shim_died, true)
    }

    /// Takes it for lost where no connection has told of it for `patience`.
    pub fn lose(&self, patience: Duration) {
        let lost = self.live().detached.is_some_and(|since| since.elapsed() >= patience);
        if lost {
            self.update(Update::Lost);
        }
    }

    /// True where it ended long enough ago to be forgotten.
    #[must_use]
    pub fn is_stale(&self, now: Instant) -> bool {
        self.live().ended.is_some_and(|ended| now.duration_since(ended) >= KEEP_ENDED)
    }
}
