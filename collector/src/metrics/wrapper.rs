//! One wrapper: its connections, how far its events were taken, and what it said last.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use shimtap_proto::link;
use tokio::time::Instant;

use super::{
    machine::Machine,
    notices::{Notice, Watch},
    report::{Report, RpcMethod, Rpcs},
    restarts::{Death, Deaths},
};
use crate::node::FileFacts;

/// Most events of a wrapper that wait for their tasks; a pod has few containers.
const EARLY_EVENTS: usize = 256;

/// One wrapper.
#[derive(Debug)]
pub struct Wrapper {
    /// 64 random bits of its keeper.
    pub id: u64,
    connections: AtomicU64,
    /// Highest event taken, plus one; 0 = none.
    events: AtomicU64,
    /// Of these, those whose tasks are not announced yet, oldest first. No connection has them: their numbers are taken, so nobody
    /// is told of them again.
    early: Mutex<VecDeque<link::Event>>,
    /// What its pod is as a VM.
    pub machine: Machine,
    told: Mutex<Told>,
}

/// What it said last.
#[derive(Debug)]
struct Told {
    hello: link::Hello,
    report: Report,
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

// === impl Wrapper ===

impl Wrapper {
    /// A wrapper that said `hello`.
    #[must_use]
    pub fn new(hello: &link::Hello) -> Self {
        let told = Told {
            hello: hello.clone(),
            report: Report::default(),
            at: Instant::now(),
            watch: Watch::default(),
            deaths: Deaths::default(),
        };
        Self {
            id: hello.wrapper,
            connections: AtomicU64::new(0),
            events: AtomicU64::new(0),
            early: Mutex::default(),
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

    /// Keeps an event, which was taken, until its task is announced. Gives how many are lost by that: the oldest make room.
    pub fn keep_early(&self, event: link::Event) -> u64 {
        let mut early = self.early();
        early.push_back(event);
        let mut lost = 0;
        while early.len() > EARLY_EVENTS {
            early.pop_front();
            lost += 1;
        }
        lost
    }

    /// Events that came before their task, in order. They are nobody's any more.
    pub fn take_early(&self, task: u32) -> Vec<link::Event> {
        let mut early = self.early();
        let (its, others): (Vec<_>, Vec<_>) = early.drain(..).partition(|event| event.task == task);
        *early = others.into();
        its
    }

    /// Takes a report; gives what of it is news to a person.
    pub fn reported(&self, said: &link::Report) -> Vec<Notice> {
        let report = Report::of(said);
        if let Some(stats) = report.calls(RpcMethod::Stats) {
            self.machine.asked(stats);
        }
        let mut told = self.told();
        let told = &mut *told;
        let notices = told.watch.look(&told.report, &report, &said.unwrapped_why);
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
        self.told().report.inner_file.as_ref().map(|file| file.facts)
    }

    /// What the linker of that file called its build; `None` = it has no name, or nobody said.
    #[must_use]
    pub fn inner_build(&self) -> Option<String> {
        let told = self.told();
        told.report.inner_file.as_ref().map(|file| file.build.clone()).filter(|build| !build.is_empty())
    }

    /// Its figures. What is in flight counts only while it is connected, for only then it is known to be true.
    #[must_use]
    pub fn report(&self) -> Rpcs {
        let attached = self.is_attached();
        let told = self.told();
        told.report.figures(attached.then(|| told.at.elapsed()))
    }

    fn early(&self) -> MutexGuard<'_, VecDeque<link::Event>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
