//! How many lines a container may write: a bucket that fills steadily and is emptied by lines.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lines of a container, all its streams together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Lines per second, lasting.
    pub lines_per_sec: u32,
    /// Lines at once.
    pub burst_lines: u32,
}

/// What a container has left.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Option<Bucket>>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    /// Lines that may still come, in units of 1 / 10^9: so that no fraction is lost.
    nano_lines: u64,
    at: Instant,
}

const NANO: u64 = 1_000_000_000;

// === impl Rate ===

impl Rate {
    /// So many, and twice as many at once.
    #[must_use]
    pub const fn lasting(lines_per_sec: u32) -> Self {
        Self { lines_per_sec, burst_lines: lines_per_sec.saturating_mul(2) }
    }

    /// The smaller of both in each respect.
    #[must_use]
    pub fn narrowed(self, other: Self) -> Self {
        Self {
            lines_per_sec: self.lines_per_sec.min(other.lines_per_sec),
            burst_lines: self.burst_lines.min(other.burst_lines),
        }
    }
}

// === impl Budget ===

impl Budget {
    /// True where one more line may come now. A new rate begins with a full bucket.
    pub fn take(&self, rate: Rate, now: Instant) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket { rate, nano_lines: NANO.saturating_mul(u64::from(rate.burst_lines)), at: now };
        let bucket = bucket.get_or_insert(full);
        if bucket.rate != rate {
            *bucket = full;
        }
        let since = now.saturating_duration_since(bucket.at);
        bucket.at = now;
        bucket.nano_lines = bucket.nano_lines.saturating_add(gained(rate, since)).min(full.nano_lines);
        let left = bucket.nano_lines.checked_sub(NANO);
        bucket.nano_lines = left.unwrap_or(bucket.nano_lines);
        left.is_some()
    }
}

fn gained(rate: Rate, since: Duration) -> u64 {
    let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    nanos.saturating_mul(u64::from(rate.lines_per_sec))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { lines_per_sec: 10, burst_lines: 3 };

    fn taken(budget: &Budget, rate: Rate, now: Instant) -> usize {
        (0..100).filter(|_| budget.take(rate, now)).count()
    }

    #[test]
    fn a_burst_and_then_so_many_per_second() {
        let (budget, start) = (Budget::default(), Instant::now());
        assert_eq!(taken(&budget, RATE, start), 3);
        assert_eq!(taken(&budget, RATE, start + Duration::from_millis(99)), 0);
        assert_eq!(taken(&budget, RATE, start + Duration::from_millis(100)), 1);
        assert_eq!(taken(&budget, RATE, start + Duration::from_secs(60)), 3, "no more than the burst");
    }

    #[test]
    fn fractions_add_up() {
        let (budget, start) = (Budget::default(), Instant::now());
        taken(&budget, RATE, start);
        let lines = (1..=1000).filter(|ms| budget.take(RATE, start + Duration::from_millis(*ms))).count();
        assert_eq!(lines, 10);
    }

    #[test]
    fn another_rate_begins_anew() {
        let (budget, now) = (Budget::default(), Instant::now());
        taken(&budget, RATE, now);
        assert_eq!(taken(&budget, Rate { burst_lines: 5, ..RATE }, now), 5);
    }
}
