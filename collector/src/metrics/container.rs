//! What is known of one container's task: names, state, newest statistics, and what its streams delivered.

use std::{
    collections::HashMap,
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
    limits::Bounds,
    sample::{Said, Sample, SampleSource},
    shortage::Shortage,
    spec::Spec,
    usage::Used,
};
use crate::{
    closed::{Counts, closed},
    enrich::{Identity, Later, ShimKind},
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

/// Execs of one container that are timed at once; more are counted and not timed.
const EXECS: usize = 256;

/// No time that anything lasts.
const NOT_TOLD: u64 = u64::MAX;

/// An exec as far as it was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExecState {
    /// It was started at this Unix ns.
    Runs { since_ns: u64 },
    /// It ended.
    Ended,
}

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
    /// How long containerd took nothing of it, in ns; [`NOT_TOLD`] where its wrapper does not say.
    stalled_ns: AtomicU64,
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
    /// The labels of our own families: `container="…",id="…",name="…",…`.
    pub(super) names: String,
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
    /// Somebody has sent its init process a signal.
    pub killed: bool,
    /// Its shim died while it ran; that is counted once.
    shim_died: bool,
    /// Its shim refuses its statistics again and again.
    pub stats_refused: bool,
    /// Limits, as far as they are known.
    pub spec: Spec,
    /// What this host's kernel said of it last.
    pub host: Option<HostFigures>,
    /// The newest statistics; no counter is below, or absent after, an earlier one.
    pub sample: Option<Sample>,
    /// What the newest said itself, and nothing that was said before: for differences, which of a counter that was only
    /// kept would be 0 and known to nobody.
    pub said: Option<Said>,
    /// The same of those before them, so that what they count can be shown per second at the first look.
    pub said_earlier: Option<Said>,
    /// How often containerd said that the kernel killed a process of it for want of memory.
    pub oom_events: u64,
    shortage: Shortage,
    /// Its execs that are not deleted.
    execs: HashMap<String, ExecState>,
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
    /// Somebody sent its init process a signal.
    Killed,
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
            stalled_ns: AtomicU64::new(NOT_TOLD),
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
        for hole in &row.holes {
            self.gap_bytes.add(hole.reason, hole.bytes);
        }
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = row.ending;
    }

    /// Its wrapper says for how long containerd took nothing of it, in ns, all times together.
    pub fn stalled(&self, ns: u64) {
        self.stalled_ns.store(ns, Ordering::Relaxed);
    }

    /// What it said last.
    #[must_use]
    pub fn stalled_ns(&self) -> Option<u64> {
        Some(self.stalled_ns.load(Ordering::Relaxed)).filter(|ns| *ns != NOT_TOLD)
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
            names: labels::own(&identity, bounds),
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
        let sample = sample.with_devices(live.sample.as_ref(), self.identity.host_visible);
        let said = Said::from(&sample);
        let sample = match &live.sample {
            Some(old) if old.time_ns >= sample.time_ns => return false,
            Some(old) => sample.not_below(old),
            None => sample,
        };
        if let Some(now) = sample.cpu_ns {
            self.counted.used.add(now.saturating_sub(self.counted_cpu(live).unwrap_or(now)));
        }
        live.shortage.sampled(live.sample.as_ref(), &sample, self.counted.from_ns == Some(0));
        live.sample = Some(sample);
        live.said_earlier = live.said.replace(said);
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
        let mut live = self.live();
        // The answers to Start and Wait may come in either order.
        live.execs.contains_key(id) || live.note_exec(id, ExecState::Runs { since_ns: at_ns })
    }

    /// An exec ended; gives when it was started where that is known, and `None` where its end was told before: each
    /// client that waits for it is told.
    pub fn exec_ended(&self, id: &str) -> Option<Option<u64>> {
        let mut live = self.live();
        let since_ns = match live.execs.get(id) {
            Some(ExecState::Ended) => return None,
            Some(ExecState::Runs { since_ns }) => Some(*since_ns),
            None => None,
        };
        live.note_exec(id, ExecState::Ended);
        Some(since_ns)
    }

    /// An exec was deleted: nothing more is told of it.
    pub fn exec_deleted(&self, id: &str) {
        self.live().execs.remove(id);
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

    fn note_exec(&mut self, id: &str, state: ExecState) -> bool {
        if self.execs.len() >= EXECS && !self.execs.contains_key(id) {
            // Whose deletion did not come by now will not come.
            self.execs.retain(|_, state| matches!(state, ExecState::Runs { .. }));
        }
        let room = self.execs.len() < EXECS || self.execs.contains_key(id);
        if room {
            self.execs.insert(id.to_owned(), state);
        }
        room
    }

    fn end(&mut self, state: State) {
        self.state = Some(state);
        self.ended.get_or_insert_with(Instant::now);
    }
}
