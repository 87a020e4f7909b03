//! When a process of a container was last killed for want of memory, as far as that may explain the container's end.
//!
//! A kill is no mark for life: a child that the kernel took a week ago says nothing of today's SIGKILL, and one that
//! somebody asked for is not the kernel's. What is not known of its time explains nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::sample::Sample;
use crate::time::now_ns;

/// The last shortage.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// When it was learnt of.
    learnt: Option<Instant>,
    /// Unix ns at which somebody's signal for the init process was learnt of; 0 = never.
    killed_ns: u64,
}

// === impl Shortage ===

impl Shortage {
    /// containerd tells of a kill, at once.
    pub(super) fn told(&mut self) {
        self.learnt = Some(Instant::now());
    }

    /// Statistics came, after `old`; `whole`: counted from the container's beginning.
    pub(super) fn sampled(&mut self, old: Option<&Sample>, new: &Sample, whole: bool) {
        let Some(kills) = new.oom_kills else { return };
        let Some(before) = old.and_then(|old| old.oom_kills).or(whole.then_some(0)) else { return };
        // One that may be from before somebody's signal is not what ended it after that.
        let since_ns = old.map_or(0, |old| old.time_ns);
        if kills > before && (self.killed_ns == 0 || since_ns >= self.killed_ns) {
            self.learnt = Some(Instant::now());
        }
    }

    /// Somebody sent the init process a signal, while it ran as far as is known.
    pub(super) fn killed(&mut self) {
        *self = Self { learnt: None, killed_ns: now_ns() };
    }

    /// Does it explain an end by SIGKILL that was learnt of at `end`?
    pub(super) fn explains(&self, end: Instant, within: Duration) -> bool {
        self.learnt.is_some_and(|learnt| end.saturating_duration_since(learnt) <= within)
    }
}
