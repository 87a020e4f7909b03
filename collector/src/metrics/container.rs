//! What is known of one container's task: names, state, newest statistics, and what its streams delivered.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use shimtap_proto::link;
use tokio::time::Instant;

use super::{
    labels,
    sample::{Sample, SampleSource},
    spec::Spec,
};
use crate::{
    closed::{Counts, closed},
    enrich::{Identity, ShimKind},
    event::{Ending, HoleReason, StreamKind},
    journal::Row,
    node::HostFigures,
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

closed! {
    /// Where a task is in its life.
    pub enum State {
        /// Create was answered, Start was not.
        Created => "created",
        /// Start was answered.
        Running => "running",
        /// Its init process has ended.
        Exited => "exited",
        /// It was deleted.
        Deleted => "deleted",
        /// Its wrapper went away and did not come back.
        Lost => "lost",
    }
}

/// How long a task's counters are shown after its end, so that a scraper sees the final ones.
pub const KEEP_ENDED: Duration = Duration::from_secs(120);

/// What one stream delivered.
#[derive(Debug)]
pub struct StreamCounts {
    /// Which output.
    pub stream: StreamKind,
    /// Empty = the init process.
    pub process: String,
    /// Why it is not captured; `None` = it is.
    pub not_captured: Option<&'static str>,
    /// A rule says that it is not collected.
    pub off: AtomicBool,
    /// Bytes taken.
    pub bytes: AtomicU64,
    /// Lines made of them.
    pub lines: AtomicU64,
    /// Bytes that are not here, by reason.
    pub gap_bytes: Counts<HoleReason>,
    ending: Mutex<Option<Ending>>,
}

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
    /// Its OCI spec names a network namespace; without one its network is the host's, or not known.
    pub has_own_network: bool,
    /// Gives its records their times.
    pub clock: Arc<Clock>,
    /// What rules leave it of lines.
    pub budget: Arc<Budget>,
    live: Mutex<Live>,
}

/// The part that changes.
#[derive(Debug, Default)]
pub struct Live {
    /// Where it is in its life.
    pub state: Option<State>,
    /// Unix ns of Create's answer; 0 = unknown.
    pub created_ns: u64,
    /// Unix ns of Start's answer; 0 = not yet.
    pub started_ns: u64,
    /// Unix ns of the exit; 0 = not known.
    pub exited_ns: u64,
    /// Exit status of the init process.
    pub exit_status: Option<u32>,
    /// Process id on this host; 0 = unknown.
    pub pid: u32,
    /// Limits, as far as they are known.
    pub spec: Spec,
    /// What this host's kernel said of it last.
    pub host: Option<HostFigures>,
    /// The newest statistics.
    pub sample: Option<Sample>,
    /// How the newest statistics were obtained.
    pub source: Option<SampleSource>,
    /// Its streams.
    pub streams: Vec<Arc<StreamCounts>>,
    /// When its end was learnt.
    pub ended: Option<Instant>,
    /// The connection that told of it last; 0 = that has ended.
    owner: u64,
    /// Since when no connection tells of it.
    detached: Option<Instant>,
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
    /// Somebody asked for other limits; `None` = nobody knows for which.
    Limits(Option<Spec>),
    /// Deleted.
    Deleted,
    /// Its wrapper went away for good.
    Lost,
}

// === impl State ===

impl State {
    /// True where the task has ended, whatever way.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Exited | Self::Deleted | Self::Lost)
    }
}

// === impl StreamCounts ===

impl StreamCounts {
    /// For one stream; `not_captured` says why it delivers nothing.
    #[must_use]
    pub fn new(stream: StreamKind, process: &str, not_captured: Option<&'static str>) -> Self {
        Self {
            stream,
            process: process.to_owned(),
            not_captured,
            off: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            gap_bytes: Counts::default(),
            ending: Mutex::new(None),
        }
    }

    /// Why nothing of it comes; `None` = it does.
    pub fn silent(&self) -> Option<&'static str> {
        self.not_captured.or_else(|| self.off.load(Ordering::Relaxed).then_some("rule"))
    }

    /// Takes over what an earlier process counted.
    pub fn resume(&self, row: &Row) {
        self.bytes.store(row.bytes, Ordering::Relaxed);
        self.lines.store(row.lines, Ordering::Relaxed);
        for (reason, bytes, _) in &row.holes {
            self.gap_bytes.add(*reason, *bytes);
        }
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = row.ending;
    }

    /// The stream ended.
    pub fn close(&self, ending: Ending) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
    }

    /// How it ended; `None` while it has not, as far as is known.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Container ===

impl Container {
    /// A task as its wrapper announced it.
    #[must_use]
    pub fn new(open: &link::Open, identity: Identity, shim: ShimKind) -> Self {
        let live = Live { created_ns: open.created_ns, ..Live::default() };
        Self {
            labels: labels::cadvisor(&identity),
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
        let mut live = self.live();
        let sample = match &live.sample {
            Some(old) if old.time_ns >= sample.time_ns => return false,
            Some(old) => sample.not_below(old),
            None => sample,
        };
        live.sample = Some(sample);
        live.source = Some(source);
        true
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

// === impl Live ===

impl Live {
    /// True from Create to the exit.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state.is_some_and(|state| state == State::Running || state == State::Created)
    }

    /// True where it runs and a wrapper is there that would tell of its end.
    #[must_use]
    pub fn is_told_of(&self) -> bool {
        self.is_running() && self.owner != 0
    }

    fn end(&mut self, state: State) {
        self.state = Some(state);
        self.ended.get_or_insert_with(Instant::now);
    }
}
