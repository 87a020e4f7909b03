//! What a wrapper's pod is as a virtual machine, and how often such a pod may be asked for statistics.
//!
//! Kata's agent before 4.1 holds its lock while it collects: frequent Stats keep a dying container from being killed
//! (kata-containers#13452). So our own are held back for every Kata of which no later release is certain. What others ask is
//! theirs; it is measured, so that somebody can be told.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{enrich::ShimKind, node::Sandbox};

/// Least time between two Stats of ours, where the release may be an old one.
pub const FLOOR: Duration = Duration::from_secs(30);
/// The release from which on it need not be kept.
pub const MENDED: (u32, u32) = (4, 1);
/// Over less than this, how often others ask is chance.
const SHORTEST: Duration = Duration::from_secs(5);
/// After this a new window is begun; the one before counts until the new one is long enough.
const LONGEST: Duration = Duration::from_secs(120);
/// What is older than two windows says nothing of now.
const FORGOTTEN: Duration = Duration::from_secs(240);

/// One pod's.
#[derive(Debug)]
pub struct Machine {
    sandbox: Mutex<Option<Arc<Sandbox>>>,
    asked: Mutex<Option<Asked>>,
    floor: watch::Sender<Duration>,
    /// Its wrapper has told that its shim is gone, and so outlived it.
    shim_ended: AtomicBool,
    /// Its death was counted.
    died: AtomicBool,
}

/// How often others have asked for statistics: in the window that runs, and in the last one that was whole.
#[derive(Clone, Copy, Debug)]
struct Asked {
    now: Window,
    before: Option<Window>,
}

/// From one report to another.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    from: u64,
    until: Instant,
    count: u64,
}

// === impl Machine ===

impl Default for Machine {
    fn default() -> Self {
        Self {
            sandbox: Mutex::default(),
            asked: Mutex::default(),
            floor: watch::Sender::new(Duration::ZERO),
            shim_ended: AtomicBool::new(false),
            died: AtomicBool::new(false),
        }
    }
}

impl Machine {
    /// It is of this kind, as far as is known before it was looked at.
    pub fn is_of(&self, kind: ShimKind) {
        if self.sandbox().is_none() {
            self.hold_back(kind.is_kata());
        }
    }

    /// It was looked at.
    pub fn seen(&self, sandbox: Sandbox) {
        let mended = sandbox.release.as_ref().is_some_and(|release| release.is_from(MENDED.0, MENDED.1));
        *lock(&self.sandbox) = Some(Arc::new(sandbox));
        self.hold_back(!mended);
    }

    /// What it was when it was looked at last.
    #[must_use]
    pub fn sandbox(&self) -> Option<Arc<Sandbox>> {
        lock(&self.sandbox).clone()
    }

    /// Its wrapper says that its shim is gone, under containers that ran.
    pub fn told_of_its_shims_end(&self) {
        self.shim_ended.store(true, Ordering::Release);
    }

    /// Has it said so? Then it did not die before its shim.
    #[must_use]
    pub fn outlived_its_shim(&self) -> bool {
        self.shim_ended.load(Ordering::Acquire)
    }

    /// It died: true the first time, whoever says so.
    pub fn dies(&self) -> bool {
        !self.died.swap(true, Ordering::AcqRel)
    }

    /// Least time between two Stats of ours, and word of its changes.
    #[must_use]
    pub fn floor(&self) -> watch::Receiver<Duration> {
        self.floor.subscribe()
    }

    /// So many Stats of others' have passed its wrapper by now.
    pub(super) fn asked(&self, count: u64) {
        let now = Instant::now();
        let mut asked = lock(&self.asked);
        let new = Window { since: now, from: count, until: now, count };
        // Of another count nothing is known, nor of what was long ago.
        let known = asked.filter(|asked| count >= asked.now.count && now - asked.now.until <= FORGOTTEN);
        *asked = Some(match known {
            Some(Asked { now: window, .. }) if now - window.since > LONGEST => {
                Asked { now: new, before: Some(Window { until: now, count, ..window }) }
            }
            Some(Asked { now: window, before }) => {
                Asked { now: Window { until: now, count, ..window }, before }
            }
            None => Asked { now: new, before: None },
        });
    }

    /// How often others ask for the statistics of one of its `containers`; `None` where that is not known, or never.
    #[must_use]
    pub fn asked_every(&self, containers: u32) -> Option<Duration> {
        let asked = (*lock(&self.asked))?;
        let whole = |window: &Window| window.until - window.since >= SHORTEST;
        let window = Some(asked.now).filter(whole).or(asked.before.filter(whole))?;
        let count = u32::try_from(window.count.saturating_sub(window.from)).ok()?;
        let all = (window.until - window.since).saturating_mul(containers);
        (containers > 0).then(|| all.checked_div(count)).flatten()
    }

    fn hold_back(&self, wanted: bool) {
        let floor = if wanted { FLOOR } else { Duration::ZERO };
        self.floor.send_if_modified(|now| std::mem::replace(now, floor) != floor);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Facts, HostUse, Release};

    fn sandbox(release: Option<&str>) -> Sandbox {
        let release = release.map(|text| {
            let mut numbers = text.split('.').map(|number| number.parse().ok());
            let finished = numbers.next().flatten().zip(numbers.next().flatten());
            Release { text: text.to_owned(), finished, rust: true }
        });
        Sandbox {
            at: Instant::now(),
            shim: ShimKind::KataRust,
            release,
            build: None,
            pids: Default::default(),
            facts: Facts::default(),
            components: Default::default(),
            vcpus: None,
            host: HostUse::default(),
            overhead_cpu_ns: None,
            overhead_memory_bytes: None,
        }
    }

    #[test]
    fn only_a_release_that_is_certain_lifts_the_floor() {
        let machine = Machine::default();
        let floor = machine.floor();
        assert_eq!(*floor.borrow(), Duration::ZERO);
        machine.is_of(ShimKind::Host);
        machine.is_of(ShimKind::Other);
        assert_eq!(*floor.borrow(), Duration::ZERO, "not Kata's");
        for kind in [ShimKind::Kata, ShimKind::KataGo, ShimKind::KataRust] {
            machine.is_of(kind);
            assert_eq!(*floor.borrow(), FLOOR, "{kind:?}");
        }
        for (release, kept) in [
            (None, true),
            (Some("4.0.0"), true),
            (Some("3.32.0"), true),
            (Some("4.1.0"), false),
            (Some("5.0.0"), false),
        ] {
            machine.seen(sandbox(release));
            machine.is_of(ShimKind::Kata);
            assert_eq!(*floor.borrow() == FLOOR, kept, "{release:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn how_often_others_ask_is_measured() {
        let machine = Machine::default();
        assert_eq!(machine.asked_every(1), None);
        machine.asked(1_000);
        tokio::time::advance(SHORTEST / 2).await;
        machine.asked(1_005);
        assert_eq!(machine.asked_every(2), None, "too short to say");
        tokio::time::advance(SHORTEST / 2).await;
        machine.asked(1_010);
        assert_eq!(machine.asked_every(2), Some(Duration::from_secs(1)));
        assert_eq!(machine.asked_every(0), None);
        // Across several windows somebody who asks is never lost from sight.
        let mut count = 1_010;
        for second in 0..500 {
            tokio::time::advance(Duration::from_secs(1)).await;
            count += 2;
            machine.asked(count);
            let every = machine.asked_every(2).map(|every| every.as_secs_f64());
            assert!(every.is_some_and(|every| (0.9..1.1).contains(&every)), "{second}: {every:?}");
        }
        // Nobody asks any more: that is known when a window without a request was whole.
        for _ in 0..=(LONGEST.as_secs() + SHORTEST.as_secs()) {
            tokio::time::advance(Duration::from_secs(1)).await;
            machine.asked(count);
        }
        assert_eq!(machine.asked_every(2), None, "nobody asks any more");
        machine.asked(3);
        assert_eq!(machine.asked_every(2), None, "another count");
    }
}
