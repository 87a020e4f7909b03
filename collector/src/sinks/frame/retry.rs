//! When to try again: full jitter below a doubling ceiling, and what the other end asks for.
//!
//! Full jitter (any time from nought to the ceiling), because the sinks of all nodes of a cluster fail in the same
//! moment and must not come back in the same moment.

use std::time::Duration;

/// How long pauses are.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The first pause is at most this.
    pub first: Duration,
    /// No pause of our own choosing is longer.
    pub most: Duration,
}

/// Failures in a row, and what follows from them.
#[derive(Debug)]
pub(super) struct Retry {
    pace: Pace,
    failures: u32,
}

/// What stands between a sink and a destination that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breaker {
    /// Delivering.
    Closed = 0,
    /// Pausing; nothing is sent.
    Open = 1,
    /// One request is on its way to see whether it works again.
    HalfOpen = 2,
}

/// Longest Retry-After that is honoured: whoever asks for more gets asked again after this.
const AFTER_MOST: Duration = Duration::from_secs(300);
/// Failures in a row that open the breaker: fewer are an ordinary hiccup.
const BREAK_AFTER: u32 = 3;

// === impl Retry ===

impl Retry {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, failures: 0 }
    }

    /// Counts a failure and says how long to pause: what `after` asks for and our own pause on top of it.
    /// `random` is from 0 to 1.
    pub(super) fn failed(&mut self, after: Option<Duration>, random: f64) -> Duration {
        let ceiling = self.pace.first.saturating_mul(1 << self.failures.min(20)).min(self.pace.most);
        self.failures = self.failures.saturating_add(1);
        after.unwrap_or_default().min(AFTER_MOST).saturating_add(ceiling.mul_f64(random.clamp(0.0, 1.0)))
    }

    /// It works again.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The state while pausing, or while a request is on its way.
    pub(super) fn breaker(&self, pausing: bool) -> Breaker {
        match (self.failures >= BREAK_AFTER, pausing) {
            (false, _) => Breaker::Closed,
            (true, true) => Breaker::Open,
            (true, false) => Breaker::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { first: Duration::from_millis(500), most: Duration::from_secs(30) };

    #[test]
    fn ceilings_double_up_to_the_longest_pause() {
        let mut retry = Retry::new(PACE);
        let longest: Vec<_> = (0..9).map(|_| retry.failed(None, 1.0).as_millis()).collect();
        assert_eq!(longest, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        retry.succeeded();
        assert_eq!(retry.failed(None, 1.0), PACE.first);
    }

    #[test]
    fn pauses_lie_anywhere_below_the_ceiling() {
        let mut retry = Retry::new(PACE);
        assert_eq!(retry.failed(None, 0.0), Duration::ZERO);
        assert_eq!(retry.failed(None, 0.5), Duration::from_millis(500));
        let mut many = Retry { pace: PACE, failures: u32::MAX };
        assert_eq!(many.failed(None, 1.0), PACE.most);
    }

    #[test]
    fn what_is_asked_for_is_kept_and_bounded() {
        let mut retry = Retry::new(PACE);
        let asked = Duration::from_secs(7);
        assert_eq!(retry.failed(Some(asked), 0.0), asked);
        assert_eq!(retry.failed(Some(asked), 1.0), asked + Duration::from_secs(1));
        assert_eq!(retry.failed(Some(Duration::MAX), 0.0), AFTER_MOST);
    }

    #[test]
    fn the_breaker_opens_after_failures_in_a_row() {
        let mut retry = Retry::new(PACE);
        for _ in 1..BREAK_AFTER {
            retry.failed(None, 0.0);
            assert_eq!(retry.breaker(true), Breaker::Closed);
        }
        retry.failed(None, 0.0);
        assert_eq!((retry.breaker(true), retry.breaker(false)), (Breaker::Open, Breaker::HalfOpen));
        retry.succeeded();
        assert_eq!(retry.breaker(false), Breaker::Closed);
    }
}
