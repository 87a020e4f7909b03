//! What becomes of tasks, counted by runtime handler and kind of shim: how long Create and Start took, how they ended,
//! and what was run in them by exec.
//!
//! The handler is known a moment after the task is (`containerd`), and whether a SIGKILL was the kernel's for want of memory
//! a moment after the exit. So what happened may wait a little for its names; it never waits for ever, and what waits is
//! bounded. Each thing is counted exactly once, under labels that do not change afterwards.

mod show;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub(super) use show::render;

use super::{
    bounded::Bounded,
    container::Container,
    totals::{Cut, Totals},
};
use crate::{
    closed::closed,
    enrich::{Role, ShimKind},
};

closed! {
    /// How a task ended.
    pub enum ExitClass {
        /// By itself, with a status of its own.
        Normal => "normal",
        /// With a status from 129 to 192, which is how shims say "by a signal".
        Signal => "signal",
        /// By SIGKILL, after the kernel killed a process of it for want of memory.
        Oom => "oom",
        /// It never ran: Create or Start was refused.
        StartFailure => "start_failure",
        /// Its shim died, so nobody can say a status. Only where that is certain: its wrapper told, or `node/vm/deaths.rs`.
        ShimDeath => "shim_death",
        /// Its VM died, and its shim said no status (one that did is counted by that).
        VmDeath => "vm_death",
    }
}

closed! {
    /// What became of an exec.
    pub enum ExecOutcome {
        /// It ended with 0.
        Success => "success",
        /// It ended with another status.
        Failure => "failure",
        /// It was not started.
        StartFailure => "start_failure",
    }
}

/// What happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Create was answered well, after so many ns.
    Created(u64),
    /// Start was answered well, after so many ns.
    Started(u64),
    /// Create or Start was refused.
    Refused,
    /// The init process ended with this status.
    Exited(u32),
    /// Its shim died while it ran.
    ShimDied,
    /// Its VM died, and nobody told how it ended.
    VmDied,
    /// An exec came to its end; `None` = nobody knows how long it ran.
    Exec(ExecOutcome, Option<u64>),
}

/// Upper bounds of Create and Start: runc takes tens of ms, a virtual machine seconds; few, as each is a series.
pub(super) const START_BOUNDS_NS: [u64; 9] = [
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    30_000_000_000,
];
/// Upper bounds of execs: a probe takes tens of ms, a person's shell an hour.
pub(super) const EXEC_BOUNDS_NS: [u64; 8] = [
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
    300_000_000_000,
    3_600_000_000_000,
];
/// Handlers and kinds together; a node has a handful.
const GROUPS: usize = 32;
/// Classes, codes and groups together; most containers end with 0, 1, 137 or 143.
const EXITS: usize = 256;
/// What may wait for its names; more than a node starts in [`PATIENCE`].
const WAITING: usize = 4_096;
/// How long anything waits for its handler, and a SIGKILL for its cause. Statistics may tell of the cause an interval later.
const PATIENCE: Duration = Duration::from_secs(5);
/// 128 and SIGKILL.
pub(super) const KILLED: u32 = 137;

/// Whose figures they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    /// Runtime handler of the pod; empty = none, or not known.
    pub(super) handler: String,
    pub(super) shim: ShimKind,
}

/// One row of exits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Exit {
    pub(super) group: Group,
    pub(super) class: ExitClass,
    /// Exit status; `None` = there is none, or one of those that have no row of their own.
    pub(super) code: Option<u32>,
}

/// Durations by bucket.
#[derive(Debug)]
pub(super) struct Durations {
    /// Not cumulative; one more than the bounds.
    pub(super) counts: Vec<u64>,
    pub(super) sum_ns: u64,
}

/// Figures of one group.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) create: Durations,
    pub(super) start: Durations,
    pub(super) exec: Durations,
    pub(super) execs: BTreeMap<ExecOutcome, u64>,
}

/// Everything that was counted, and what waits to be.
#[derive(Debug)]
pub struct Lifecycle {
    totals: Arc<Totals>,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    groups: Bounded<Group, Figures>,
    exits: Bounded<Exit, u64>,
    waiting: VecDeque<Waiting>,
    /// A shortage of memory that is older than this when a task ends is not why.
    cause: Duration,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    container: Arc<Container>,
    what: Happened,
}

// === impl Durations ===

impl Durations {
    fn new(bounds: &[u64]) -> Self {
        Self { counts: vec![0; bounds.len().saturating_add(1)], sum_ns: 0 }
    }

    fn observe(&mut self, bounds: &[u64], ns: u64) {
        if let Some(count) = self.counts.get_mut(bounds.partition_point(|bound| *bound < ns)) {
            *count = count.saturating_add(1);
        }
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

// === impl Figures ===

impl Default for Figures {
    fn default() -> Self {
        Self {
            create: Durations::new(&START_BOUNDS_NS),
            start: Durations::new(&START_BOUNDS_NS),
            exec: Durations::new(&EXEC_BOUNDS_NS),
            execs: BTreeMap::new(),
        }
    }
}

// === impl Lifecycle ===

impl Lifecycle {
    /// Statistics come once per `interval`.
    pub(super) fn new(totals: Arc<Totals>, interval: Duration) -> Self {
        let book = Book {
            groups: Bounded::new(GROUPS),
            exits: Bounded::new(EXITS),
            waiting: VecDeque::new(),
            cause: PATIENCE.saturating_add(interval),
        };
        Self { totals, book: Mutex::new(book) }
    }

    /// Takes what happened to a task.
    pub fn note(&self, container: &Arc<Container>, what: Happened) {
        let mut book = self.book();
        let new = Waiting { since: Instant::now(), container: Arc::clone(container), what };
        if new.is_ready(book.cause) {
            book.count(&self.totals, &new);
            return;
        }
        if book.waiting.len() >= WAITING
            && let Some(oldest) = book.waiting.pop_front()
        {
            book.count(&self.totals, &oldest);
        }
        book.waiting.push_back(new);
    }

    /// A task was refused of which nothing else is known than whose shim refused it, and another task of its pod, if any.
    pub fn refused(&self, shim: ShimKind, neighbour: Option<&Container>) {
        let handler = neighbour.and_then(Container::handler).unwrap_or_default();
        self.book().exit(&self.totals, Group { handler: handler.to_owned(), shim }, Happened::Refused, false);
    }

    /// Counts what has its names by now, or has waited long enough.
    pub(super) fn settle(&self) {
        let mut book = self.book();
        for one in std::mem::take(&mut book.waiting) {
            if one.is_ready(book.cause) || one.since.elapsed() >= PATIENCE {
                book.count(&self.totals, &one);
            } else {
                book.waiting.push_back(one);
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Waiting ===

impl Waiting {
    /// Is everything known by which it is counted?
    fn is_ready(&self, cause: Duration) -> bool {
        let open = self.what == Happened::Exited(KILLED);
        self.container.is_named() && (!open || self.container.was_short_of_memory(self.since, cause))
    }
}

// === impl Book ===

impl Book {
    fn count(&mut self, totals: &Totals, one: &Waiting) {
        let Waiting { since, container, what } = one;
        let what = *what;
        let handler = container.handler().unwrap_or_default();
        let group = Group { handler: handler.to_owned(), shim: container.shim };
        let (figures, rest) = match what {
            Happened::Refused | Happened::Exited(_) | Happened::ShimDied | Happened::VmDied => {
                self.exit(totals, group, what, container.was_short_of_memory(*since, self.cause));
                return;
            }
            _ => self.groups.place(&group, || Group { handler: "other".to_owned(), ..group.clone() }),
        };
        match what {
            Happened::Created(ns) => figures.create.observe(&START_BOUNDS_NS, ns),
            Happened::Started(ns) => figures.start.observe(&START_BOUNDS_NS, ns),
            Happened::Exec(outcome, ns) => {
                let count = figures.execs.entry(outcome).or_default();
                *count = count.saturating_add(1);
                if let Some(ns) = ns {
                    figures.exec.observe(&EXEC_BOUNDS_NS, ns);
                }
            }
            Happened::Refused | Happened::Exited(_) | Happened::ShimDied | Happened::VmDied => {}
        }
        if rest {
            totals.cuts.add(Cut::Handlers, 1);
        }
    }

    fn exit(&mut self, totals: &Totals, group: Group, what: Happened, short_of_memory: bool) {
        let (class, code) = match what {
            Happened::Exited(KILLED) if short_of_memory => (ExitClass::Oom, Some(KILLED)),
            Happened::Exited(code @ 129..=192) => (ExitClass::Signal, Some(code)),
            Happened::Exited(code) => (ExitClass::Normal, Some(code)),
            Happened::ShimDied => (ExitClass::ShimDeath, None),
            Happened::VmDied => (ExitClass::VmDeath, None),
            _ => (ExitClass::StartFailure, None),
        };
        let exit = Exit { group, class, code };
        // One more per class, so that a class is never lost among the rest.
        let (count, rest) = self.exits.place(&exit, || Exit {
            group: Group { handler: "other".to_owned(), shim: ShimKind::Other },
            class,
            code: None,
        });
        *count = count.saturating_add(1);
        if rest {
            totals.cuts.add(Cut::Exits, 1);
        }
    }
}

// === impl Container ===

impl Container {
    /// Is all known that will ever be known of its names?
    fn is_named(&self) -> bool {
        self.identity.role == Role::Plain || self.extra.is_settled()
    }

    /// The runtime handler of its pod, as far as it is known.
    fn handler(&self) -> Option<&str> {
        self.extra.get()?.handler.as_deref()
    }
}

#[cfg(test)]
mod tests;
