//! Tasks whose Stats the inner shim refuses, and when each is asked for again.
//!
//! A policy in a confidential guest may deny Stats for good. Such a task is left alone for minutes; that it lives is known
//! from everything else. Codes do not tell a policy from a failure (Kata's Rust shim answers UNKNOWN to both), so what counts is
//! that it was refused again and again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Refused so often in a row, a task is left alone.
const PATIENCE: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A pod has no more tasks at once; those that ended are forgotten.
const TASKS: usize = 128;

/// By the task's handle.
#[derive(Default)]
pub(super) struct Refusals {
    by_task: BTreeMap<u32, Refusal>,
}

struct Refusal {
    times: u32,
    /// No request before this instant.
    until: Instant,
}

// === impl Refusals ===

impl Refusals {
    /// Stats was answered with a status other than OK.
    pub(super) fn refused(&mut self, task: u32) {
        let now = Instant::now();
        let refusal = self.by_task.entry(task).or_insert(Refusal { times: 0, until: now });
        refusal.times = refusal.times.saturating_add(1);
        if let Some(more) = refusal.times.checked_sub(PATIENCE) {
            let pause = FIRST_PAUSE.saturating_mul(1 << more.min(8));
            refusal.until = now + pause.min(LONGEST_PAUSE);
        }
        while self.by_task.len() > TASKS {
            // The one whose time comes first has been left alone for longest; the one at hand stays.
            let others = self.by_task.iter().filter(|(other, _)| **other != task);
            let Some(oldest) = others.min_by_key(|(_, refusal)| refusal.until).map(|(other, _)| *other)
            else {
                break;
            };
            self.by_task.remove(&oldest);
        }
    }

    /// The task has ended: there is nothing left to be asked for.
    pub(super) fn forget(&mut self, task: u32) {
        self.by_task.remove(&task);
    }

    /// Stats was answered.
    pub(super) fn answered(&mut self, task: u32) {
        self.by_task.remove(&task);
    }

    /// Is it to be left alone now?
    pub(super) fn rests(&self, task: u32) -> bool {
        self.by_task.get(&task).is_some_and(|refusal| Instant::now() < refusal.until)
    }

    /// Those that are refused again and again.
    pub(super) fn tasks(&self) -> Vec<u32> {
        let often = self.by_task.iter().filter(|(_, refusal)| refusal.times >= PATIENCE);
        often.map(|(task, _)| *task).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Instants are the process's own; nothing here waits for one.
    #[test]
    fn what_is_refused_again_and_again_is_left_alone() {
        let mut refusals = Refusals::default();
        for _ in 1..PATIENCE {
            refusals.refused(7);
            assert!(!refusals.rests(7) && refusals.tasks().is_empty(), "it may have been a moment's");
        }
        refusals.refused(7);
        assert!(refusals.rests(7) && !refusals.rests(8));
        assert_eq!(refusals.tasks(), [7]);
        refusals.answered(7);
        assert!(!refusals.rests(7) && refusals.tasks().is_empty());
    }

    #[test]
    fn the_pause_grows_to_minutes_and_no_further() {
        let mut refusals = Refusals::default();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let before = Instant::now();
            refusals.refused(7);
            pauses.push(refusals.by_task[&7].until.saturating_duration_since(before).as_secs());
        }
        let exact = [0, 0, 60, 120, 240, 300, 300];
        let near = |pause: &u64, exact: u64| pause.abs_diff(exact) <= 1;
        assert!(pauses.iter().zip(exact).all(|(pause, exact)| near(pause, exact)), "{pauses:?}");
        assert!(pauses.last().is_some_and(|pause| near(pause, 300)), "{pauses:?}");
    }

    #[test]
    fn tasks_that_ended_make_room() {
        let mut refusals = Refusals::default();
        // Handles count down: the one at hand is the first of the map.
        for task in (0..1_000).rev() {
            refusals.refused(task);
            assert!(refusals.by_task.contains_key(&task), "{task}: what was refused just now is known");
        }
        assert_eq!(refusals.by_task.len(), TASKS);
        assert!(refusals.by_task.keys().all(|task| *task < 128), "the oldest made room");
        refusals.forget(7);
        assert!(!refusals.by_task.contains_key(&7));
    }
}
