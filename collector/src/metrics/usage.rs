//! CPU time by namespace, what ended containers used included.
//!
//! A sum over living containers falls whenever one ends, so that nobody can tell what a namespace cost. Here each new sample
//! adds what was used since the one before, and nothing is ever taken away. Of a container that is older than this process,
//! what it had used before the first sample is not added: a counter that starts again must not count twice. Nor is what was
//! counted of one that was forgotten, and of which somebody tells again.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use shimtap_proto::link;

use super::{
    bounded::Bounded,
    container::{Container, ContainerKey, State},
    families as f, labels,
    limits::Bounds,
    registry::Registry,
    text::{Text, Value},
    totals::{Cut, Totals},
};
use crate::enrich::Identity;

/// Namespaces that have rows of their own.
const NAMESPACES: usize = 1_000;

/// Tasks that were forgotten and may come back: those whose wrapper was away for long, or that ended and were not deleted.
const FORGOTTEN: usize = 1_024;

/// CPU time of one namespace in ns.
#[derive(Debug, Default)]
pub(super) struct Used(AtomicU64);

/// CPU time by containerd's namespace and Kubernetes' (empty where there is none).
#[derive(Debug)]
pub(super) struct Usage {
    totals: Arc<Totals>,
    rows: Mutex<Bounded<(String, String), Arc<Used>>>,
}

/// What was counted of tasks that are not there any more.
#[derive(Debug)]
pub(super) struct Forgotten {
    /// Unix ns: of a task that was made before, and is not below, nobody knows what was counted.
    since_ns: u64,
    /// The longest forgotten first.
    tasks: VecDeque<(ContainerKey, Since)>,
}

/// What is known of one of them.
#[derive(Clone, Copy, Debug)]
struct Since {
    /// Unix ns when its wrapper made it.
    created_ns: u64,
    /// CPU time in ns that was counted.
    counted_ns: Option<u64>,
}

// === impl Used ===

impl Used {
    pub(super) fn add(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}

// === impl Forgotten ===

impl Forgotten {
    /// Nothing yet; what was made before `since_ns` is older than the counting.
    pub(super) const fn new(since_ns: u64) -> Self {
        Self { since_ns, tasks: VecDeque::new() }
    }

    /// A task is forgotten; the longest forgotten makes room.
    pub(super) fn note(&mut self, container: &Container) {
        let live = container.live();
        if live.state == Some(State::Deleted) {
            return;
        }
        let counted_ns = container.counted_cpu(&live);
        self.tasks.push_back((container.key.clone(), Since { created_ns: container.created_ns, counted_ns }));
        if self.tasks.len() > FORGOTTEN
            && let Some((_, oldest)) = self.tasks.pop_front()
        {
            // It was seen, and nobody knows any more what of it.
            self.since_ns = self.since_ns.max(oldest.created_ns.saturating_add(1));
        }
    }

    /// CPU time in ns that was counted of a task before anybody told of it now; `None` = not known.
    pub(super) fn counted(&self, open: &link::Open) -> Option<u64> {
        let is_it = |key: &ContainerKey| {
            (key.incarnation, &key.container, &key.namespace)
                == (open.incarnation, &open.container, &open.namespace)
        };
        let seen = self.tasks.iter().rev().find(|(key, _)| is_it(key));
        match seen {
            Some((_, since)) => since.counted_ns,
            None => (open.created_ns >= self.since_ns).then_some(0),
        }
    }
}

// === impl Usage ===

impl Usage {
    pub(super) const fn new(totals: Arc<Totals>) -> Self {
        Self { totals, rows: Mutex::new(Bounded::new(NAMESPACES)) }
    }

    /// Where a container's time is added to.
    pub(super) fn of(&self, identity: &Identity, bounds: &Bounds) -> Arc<Used> {
        let namespace = identity.namespace.as_deref().unwrap_or_default();
        let key =
            (bounds.value(&identity.runtime_namespace).into_owned(), bounds.value(namespace).into_owned());
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let (used, cut) = rows.place(&key, || ("other".to_owned(), "other".to_owned()));
        if cut {
            self.totals.cuts.add(Cut::Namespaces, 1);
        }
        Arc::clone(used)
    }
}

/// Writes the family.
pub(super) fn render(text: &mut Text, registry: &Registry) {
    let rows = registry.usage.rows.lock().unwrap_or_else(PoisonError::into_inner);
    let mut writer = text.family(&f::NAMESPACE_CPU);
    for ((runtime, namespace), used) in rows.iter() {
        let mut row = String::new();
        labels::push(&mut row, "runtime_namespace", Some(runtime));
        labels::push(&mut row, "namespace", Some(namespace));
        writer.sample(&row, Value::Ns(used.0.load(Ordering::Relaxed)), None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shimtap_proto::link;

    use super::*;
    use crate::{
        metrics::{Container, Sample, SampleSource, render_own},
        sinks::Backlog,
        time::now_ns,
    };

    fn task(registry: &Registry, id: &str, pod: &str, created_ns: u64) -> Arc<Container> {
        let namespace = ("io.kubernetes.cri.sandbox-namespace".to_owned(), pod.to_owned());
        let open = link::Open {
            namespace: "k8s.io".into(),
            container: id.into(),
            created_ns,
            annotations: [namespace].into(),
            ..Default::default()
        };
        registry.container(&open, &link::InnerShim::default())
    }

    fn used(container: &Container, time_ns: u64, cpu_ns: u64) {
        let sample = Sample { time_ns, cpu_ns: Some(cpu_ns), ..Sample::default() };
        assert!(container.sampled(sample, SampleSource::Polled));
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_containers_used_stays_and_what_was_used_before_us_is_not_ours() {
        let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
        let shown = |namespace: &str| {
            let row = format!("{{runtime_namespace=\"k8s.io\",namespace=\"{namespace}\"}} ");
            let text = render_own(&registry);
            let lines = text.lines().filter(|line| line.starts_with("shimtap_namespace_cpu_seconds_total"));
            lines.filter_map(|line| Some(line.split_once(&row)?.1.to_owned())).next()
        };
        let (new, old) = (
            task(&registry, "new", "web", now_ns() + 1),
            task(&registry, "old", "web", now_ns() - 9_000_000_000),
        );
        used(&new, 1, 2_000_000_000);
        used(&old, 1, 70_000_000_000);
        assert_eq!(shown("web").as_deref(), Some("2"), "of the old one nobody knows since when");
        used(&old, 2, 71_500_000_000);
        // A shim whose cgroup is gone says less than before: nothing is taken away.
        used(&new, 2, 1_000_000_000);
        assert_eq!(shown("web").as_deref(), Some("3.5"));
        old.update(crate::metrics::Update::Deleted);
        drop(old);
        tokio::time::advance(Duration::from_secs(300)).await;
        registry.sweep(Duration::from_secs(60));
        assert_eq!(registry.containers().len(), 1);
        assert_eq!(shown("web").as_deref(), Some("3.5"), "it ended and was forgotten");
        assert_eq!(shown("other"), None);
        // A wrapper that was away for so long that its task was forgotten.
        new.attach(1);
        new.detach(1);
        tokio::time::advance(Duration::from_secs(60)).await;
        registry.sweep(Duration::from_secs(60));
        drop(new);
        tokio::time::advance(Duration::from_secs(300)).await;
        registry.sweep(Duration::from_secs(60));
        assert_eq!(registry.containers().len(), 0);
        let back = task(&registry, "new", "web", now_ns() + 1);
        used(&back, 3, 2_250_000_000);
        assert_eq!(shown("web").as_deref(), Some("3.75"), "only what came since it was last seen");
    }

    #[tokio::test]
    async fn of_more_forgotten_tasks_than_have_room_none_counts_twice() {
        let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
        let mut forgotten = Forgotten::new(0);
        let open = |created_ns| link::Open { container: "x".into(), created_ns, ..Default::default() };
        assert_eq!(forgotten.counted(&open(5)), Some(0));
        for n in 0..=FORGOTTEN {
            forgotten.note(&task(&registry, &n.to_string(), "web", 7));
        }
        assert_eq!((forgotten.counted(&open(7)), forgotten.counted(&open(8))), (None, Some(0)));
    }
}
