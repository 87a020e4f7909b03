//! Every container and wrapper that this process knows, and what to do with those that ended.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shimtap_proto::link;
use tokio::time::Instant;

use super::{
    container::{Container, ContainerKey, Counted, State},
    lifecycle::Lifecycle,
    limits::Bounds,
    report::Rpcs,
    sink::SinkTotals,
    totals::Totals,
    usage::{Forgotten, Usage},
    wrapper::Wrapper,
};
use crate::{
    closed::Counts,
    config::Limits,
    enrich::{Details, Identity, ShimKind},
    journal::Heads,
    node::Findings,
    sinks::Backlog,
    time::now_ns,
};

/// Wrappers that are gone and whose event position and figures are remembered, for the case that they come back.
const GONE_WRAPPERS: usize = 1_024;

/// Unwrapped pods that are remembered: enough to see what they have in common.
const UNWRAPPED: usize = 16;

/// What is known.
#[derive(Debug)]
pub struct Registry {
    /// Counters of this process.
    pub totals: Arc<Totals>,
    /// What waits for the journal.
    pub backlog: Backlog,
    /// What waits for its head on a disk, where it has one.
    pub disk_backlog: Option<Backlog>,
    /// The journal, once there is one.
    pub journal: OnceLock<Arc<Heads>>,
    /// What each sink counts.
    pub sinks: Vec<Arc<SinkTotals>>,
    /// A living container's sample that is older than this is not shown.
    pub fresh: Duration,
    /// Labels of pods that are shown, each with the name of the label that shows it.
    pub pod_labels: Vec<(String, String)>,
    /// What became of tasks.
    pub lifecycle: Lifecycle,
    pub(super) usage: Usage,
    /// What is exposed at most.
    pub(super) bounds: Bounds,
    /// Somebody asks containerd what it knows of containers.
    enriched: AtomicBool,
    forgotten: Mutex<Forgotten>,
    containers: Mutex<BTreeMap<ContainerKey, Arc<Container>>>,
    unwrapped: Mutex<VecDeque<Unwrapped>>,
    wrappers: Mutex<Wrappers>,
    findings: Mutex<Arc<Findings>>,
}

/// A pod that was started and runs without a wrapper. Nobody tells of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwrapped {
    /// Unix ns when it was told.
    pub time_ns: u64,
    /// containerd's namespace.
    pub namespace: String,
    /// The id that was started: the sandbox's under CRI.
    pub id: String,
    /// Why; empty where it was not said.
    pub why: String,
}

#[derive(Debug, Default)]
struct Wrappers {
    known: HashMap<u64, Arc<Wrapper>>,
    /// Detached ones, the longest gone first. May name one that is attached again.
    gone: VecDeque<u64>,
    /// Figures of those that were forgotten.
    retired: Rpcs,
}

// === impl Registry ===

impl Registry {
    /// An empty one. Samples are expected once per `interval`.
    #[must_use]
    pub fn new(
        totals: Arc<Totals>,
        backlog: Backlog,
        sinks: Vec<Arc<SinkTotals>>,
        interval: Duration,
    ) -> Self {
        // Two may be missed; and a scraper that comes once a minute must not miss any because of us.
        let fresh = interval.saturating_mul(3).max(Duration::from_secs(120));
        Self {
            lifecycle: Lifecycle::new(Arc::clone(&totals), interval),
            usage: Usage::new(Arc::clone(&totals)),
            bounds: Bounds::new(Limits::default(), Arc::clone(&totals)),
            totals,
            backlog,
            disk_backlog: None,
            journal: OnceLock::new(),
            sinks,
            fresh,
            pod_labels: Vec::new(),
            enriched: AtomicBool::new(false),
            forgotten: Mutex::new(Forgotten::new(now_ns())),
            containers: Mutex::default(),
            unwrapped: Mutex::default(),
            wrappers: Mutex::default(),
            findings: Mutex::default(),
        }
    }

    /// The task that `open` announces, known or new.
    pub fn container(&self, open: &link::Open, inner: &link::InnerShim) -> Arc<Container> {
        let key = ContainerKey {
            namespace: open.namespace.clone(),
            container: open.container.clone(),
            incarnation: open.incarnation,
        };
        let known = lock(&self.containers).get(&key).cloned();
        let container = known.unwrap_or_else(|| {
            // Made without the lock: it looks into the file system for what the shim left there.
            let new = Arc::new(self.new_container(open, inner));
            Arc::clone(lock(&self.containers).entry(key).or_insert(new))
        });
        container.announced(open);
        container
    }

    /// Every task, in the order of their keys.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }

    /// One task.
    pub(super) fn task(&self, key: &ContainerKey) -> Option<Arc<Container>> {
        lock(&self.containers).get(key).cloned()
    }

    /// Of each container its newest task: a client may start one again under the same id, whose rows have the same labels.
    #[must_use]
    pub fn shown(&self) -> Vec<Arc<Container>> {
        let mut shown: Vec<Arc<Container>> = Vec::new();
        for container in self.containers() {
            let same = |last: &&mut Arc<Container>| {
                (&last.key.namespace, &last.key.container)
                    == (&container.key.namespace, &container.key.container)
            };
            match shown.last_mut().filter(|last| same(last)) {
                Some(last) if last.created_ns <= container.created_ns => *last = container,
                Some(_) => {}
                None => shown.push(container),
            }
        }
        shown
    }

    /// The newest task of that container.
    #[must_use]
    pub fn newest(&self, namespace: &str, container: &str) -> Option<Arc<Container>> {
        let first =
            ContainerKey { namespace: namespace.to_owned(), container: container.to_owned(), incarnation: 0 };
        let last = ContainerKey { incarnation: u64::MAX, ..first.clone() };
        lock(&self.containers)
            .range(first..=last)
            .map(|(_, container)| container)
            .max_by_key(|task| task.created_ns)
            .cloned()
    }

    /// These bounds hold for what is exposed, of containers that are still to come.
    pub fn limit(&mut self, limits: Limits) {
        self.bounds = Bounds::new(limits, Arc::clone(&self.totals));
    }

    /// Somebody asks containerd from here on, so that more may become known of a container than its wrapper says.
    pub fn enrich(&self) {
        self.enriched.store(true, Ordering::Relaxed);
    }

    /// Those of one pod, its sandbox included.
    #[must_use]
    pub fn of_sandbox(&self, namespace: &str, sandbox: &str) -> Vec<Arc<Container>> {
        let is_its = |container: &&Arc<Container>| {
            let its = container.identity.sandbox_id.as_deref().unwrap_or(&container.identity.container_id);
            container.key.namespace == namespace && its == sandbox
        };
        lock(&self.containers).values().filter(is_its).cloned().collect()
    }

    /// What a look at the node found.
    pub fn found(&self, findings: Findings) {
        *lock(&self.findings) = Arc::new(findings);
    }

    /// What the last look at the node found.
    #[must_use]
    pub fn findings(&self) -> Arc<Findings> {
        Arc::clone(&lock(&self.findings))
    }

    /// How many tasks are in each state.
    #[must_use]
    pub fn states(&self) -> Counts<State> {
        let counts = Counts::default();
        for container in self.containers() {
            counts.add(container.live().state.unwrap_or(State::Created), 1);
        }
        counts
    }

    /// Takes tasks for lost that no wrapper has told of for `patience`, and forgets those that ended long ago.
    pub fn sweep(&self, patience: Duration) {
        for container in self.containers() {
            container.lose(patience);
        }
        let now = Instant::now();
        let mut forgotten = lock(&self.forgotten);
        lock(&self.containers).retain(|_, container| {
            let stays = !container.is_stale(now);
            if !stays {
                forgotten.note(container);
            }
            stays
        });
        drop(forgotten);
        self.lifecycle.settle();
    }

    /// The wrapper of that id, known or new; it is attached from here on.
    pub fn attach(&self, hello: &link::Hello) -> Arc<Wrapper> {
        let mut wrappers = lock(&self.wrappers);
        let wrapper = wrappers.known.entry(hello.wrapper).or_insert_with(|| Arc::new(Wrapper::new(hello)));
        let wrapper = Arc::clone(wrapper);
        wrapper.attach(hello);
        wrapper
    }

    /// The same of one that is not there: it spoke by a file.
    pub fn wrapper(&self, hello: &link::Hello) -> Arc<Wrapper> {
        let mut wrappers = lock(&self.wrappers);
        let wrapper = wrappers.known.entry(hello.wrapper).or_insert_with(|| Arc::new(Wrapper::new(hello)));
        Arc::clone(wrapper)
    }

    /// Is the wrapper of that id connected?
    #[must_use]
    pub fn is_attached(&self, id: u64) -> bool {
        lock(&self.wrappers).known.get(&id).is_some_and(|wrapper| wrapper.is_attached())
    }

    /// How many are.
    #[must_use]
    pub fn attached_count(&self) -> usize {
        lock(&self.wrappers).known.values().filter(|wrapper| wrapper.is_attached()).count()
    }

    /// A connection of that wrapper ended.
    pub fn detach(&self, wrapper: &Wrapper) {
        if wrapper.detach() == 0 {
            self.part_with(wrapper);
        }
    }

    /// It says nothing more for now: it is forgotten when enough others have gone after it.
    pub fn part_with(&self, wrapper: &Wrapper) {
        if wrapper.is_attached() {
            return;
        }
        let mut wrappers = lock(&self.wrappers);
        wrappers.gone.push_back(wrapper.id);
        while wrappers.gone.len() > GONE_WRAPPERS {
            let Some(id) = wrappers.gone.pop_front() else { break };
            let again = wrappers.gone.contains(&id);
            if let Some(old) = wrappers.known.get(&id).filter(|old| !old.is_attached() && !again).cloned() {
                wrappers.retired.add(&old.report());
                wrappers.known.remove(&id);
            }
        }
    }

    /// A pod runs unwrapped; the oldest of those remembered makes room.
    pub fn note_unwrapped(&self, pod: Unwrapped) {
        let mut unwrapped = lock(&self.unwrapped);
        unwrapped.truncate(UNWRAPPED - 1);
        unwrapped.push_front(pod);
    }

    /// The last pods that run unwrapped, newest first.
    #[must_use]
    pub fn unwrapped(&self) -> Vec<Unwrapped> {
        lock(&self.unwrapped).iter().cloned().collect()
    }

    /// Wrappers that are connected, in the order of their ids.
    #[must_use]
    pub fn attached(&self) -> Vec<Arc<Wrapper>> {
        let mut all: Vec<_> =
            lock(&self.wrappers).known.values().filter(|wrapper| wrapper.is_attached()).cloned().collect();
        all.sort_by_key(|wrapper| wrapper.id);
        all
    }

    /// A wrapper by its number, also a while after it went.
    #[must_use]
    pub fn known(&self, id: u64) -> Option<Arc<Wrapper>> {
        lock(&self.wrappers).known.get(&id).cloned()
    }

    /// The figures of all wrappers that ever were, together.
    #[must_use]
    pub fn rpcs(&self) -> Rpcs {
        let wrappers = lock(&self.wrappers);
        let mut sum = wrappers.retired.clone();
        for wrapper in wrappers.known.values() {
            sum.add(&wrapper.report());
        }
        sum
    }
}

impl Registry {
    fn new_container(&self, open: &link::Open, inner: &link::InnerShim) -> Container {
        let identity = Identity::new(open, inner);
        let sandbox = identity.sandbox_id.as_deref().unwrap_or(&identity.container_id);
        let shim = ShimKind::of(&inner.binary, sandbox, Path::new("/"));
        let used = self.usage.of(&identity, &self.bounds);
        let from_ns = lock(&self.forgotten).counted(open);
        let container = Container::new(open, identity, shim, Counted { used, from_ns }, &self.bounds);
        if !self.enriched.load(Ordering::Relaxed) {
            container.extra.settle(Details::default());
        }
        container
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
