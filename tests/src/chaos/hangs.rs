//! When something hung or died, and what an answer may take therefore.
//!
//! A hung process is found out within [`LIMIT`]; an answer may be late by that once for each that hung while it was waited for,
//! however long it was not found out. For one that died it may be late by the time that its successor took, as seen from outside, at
//! most by the same: on a machine without time that is seconds.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

pub use crate::standin::client::in_time::LIMIT;

/// Spans of time in which something hung or was dead.
#[derive(Debug, Default)]
pub struct Hangs(Mutex<Vec<Span>>);

#[derive(Clone, Copy, Debug)]
struct Span {
    hangs: bool,
    began: Instant,
    /// Not known while it lasts.
    ended: Option<Instant>,
}

impl Hangs {
    /// Something hangs, or is dead, while `body` runs.
    pub fn during<T>(&self, hangs: bool, body: impl FnOnce() -> T) -> T {
        let spans = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = spans();
        let number = all.len();
        all.push(Span { hangs, began: Instant::now(), ended: None });
        drop(all);
        let result = body();
        if let Some(span) = spans().get_mut(number) {
            span.ended = Some(Instant::now());
        }
        result
    }

    /// Those that were at some time since `start`.
    fn overlap(&self, start: Instant) -> Vec<Span> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|span| span.ended.is_none_or(|ended| ended >= start)).copied().collect()
    }

    /// Whether one hung or was dead at some time since `start`.
    pub fn any_since(&self, start: Instant) -> bool {
        !self.overlap(start).is_empty()
    }

    /// How many hung at some time since `start`.
    pub fn since(&self, start: Instant) -> u32 {
        let hung = self.overlap(start).iter().filter(|span| span.hangs).count();
        u32::try_from(hung).unwrap_or(u32::MAX)
    }

    /// How long the dead of the time since `start` were without a successor.
    fn dead_since(&self, start: Instant) -> Duration {
        let dead = self.overlap(start).into_iter().filter(|span| !span.hangs);
        let took = |span: Span| span.ended.unwrap_or_else(Instant::now).saturating_duration_since(span.began);
        dead.map(|span| took(span).min(LIMIT)).sum()
    }

    /// Demands that what was waited for since `start` came in time; `own` is what it takes without anybody hanging.
    ///
    /// # Errors
    /// It came later than that.
    pub fn in_time(&self, what: &str, start: Instant, own: Duration) -> Result<Duration> {
        let (took, hung, dead) = (start.elapsed(), self.since(start), self.dead_since(start));
        let limit = LIMIT.saturating_mul(hung.max(1)).saturating_add(dead).saturating_add(own);
        ensure!(
            took <= limit,
            "{what} took {took:?}; {hung} hung meanwhile, and others were dead for {dead:?}: {limit:?} at most"
        );
        Ok(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hung_process_excuses_its_time_and_no_more() {
        let hangs = Hangs::default();
        let long_ago = Instant::now().checked_sub(LIMIT * 2 - Duration::from_millis(500)).unwrap();
        assert!(hangs.in_time("an answer", long_ago, Duration::ZERO).is_err(), "nobody hung");
        assert!(hangs.in_time("an answer", long_ago, LIMIT).is_ok(), "containerd's own time");
        hangs.during(true, || ());
        assert!(hangs.in_time("an answer", long_ago, Duration::ZERO).is_err(), "one hung: {hangs:?}");
        let is_in_time = || hangs.in_time("an answer", long_ago, Duration::ZERO).is_ok();
        hangs.during(false, || assert!(!is_in_time(), "one hung and one has just died"));
        hangs.during(true, || assert!(is_in_time(), "two hung"));
        assert_eq!(hangs.since(long_ago), 2);
        assert!(hangs.any_since(long_ago) && !hangs.any_since(Instant::now() + LIMIT), "over by then");
        assert_eq!(hangs.since(Instant::now() + LIMIT), 0, "over by then");
    }
}
