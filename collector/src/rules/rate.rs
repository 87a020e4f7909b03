//! How many lines a container may write: buckets that fill steadily and are emptied by lines.
//!
//! Rules may give the two outputs of a container different rates, and these must never share a bucket: lines of one rate would
//! fill it for those of the other. So there is one bucket per rate, and the streams of a rate share it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lines of a container, all its streams of that rate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Lines per second, lasting.
    pub lines_per_sec: u32,
    /// Lines at once.
    pub burst_lines: u32,
}

/// What a container has left, of each rate; the one that was asked last comes first.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Vec<Bucket>>);

/// Rates of a container at a time: one per output, and as many again while a reload comes to its streams one by one.
const RATES: usize = 4;

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

    /// [`Self::burst_lines`] in the unit of a bucket.
    fn burst(self) -> u64 {
        NANO.saturating_mul(u64::from(self.burst_lines))
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
    /// True where one more line of a stream of this rate may come now. A rate that is new here begins with all of its burst; of
    /// more than [`RATES`] the one that was not asked for longest is forgotten.
    pub fn take(&self, rate: Rate, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = buckets.iter().position(|bucket| bucket.rate == rate);
        let mut bucket = known.map_or_else(|| Bucket::full(rate, now), |known| buckets.remove(known));
        let may = bucket.take(now);
        buckets.truncate(RATES - 1);
        buckets.insert(0, bucket);
        may
    }
}

// === impl Bucket ===

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, nano_lines: rate.burst(), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at);
        self.at = now;
        self.nano_lines = self.nano_lines.saturating_add(gained(self.rate, since)).min(self.rate.burst());
        let left = self.nano_lines.checked_sub(NANO);
        self.nano_lines = left.unwrap_or(self.nano_lines);
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

    /// Each is asked in turn, as two outputs do whose lines come by turns: each is held to its own rate.
    #[test]
    fn rates_that_take_turns_do_not_fill_each_others_bucket() {
        let (budget, start) = (Budget::default(), Instant::now());
        let other = Rate { lines_per_sec: 100, burst_lines: 50 };
        let mut lines = [0, 0];
        for ms in (0..3000).step_by(30) {
            let now = start + Duration::from_millis(ms);
            for (lines, rate) in lines.iter_mut().zip([RATE, other]) {
                *lines += taken(&budget, rate, now);
            }
        }
        // The burst, and what 2970 ms add.
        assert_eq!(lines, [3 + 29, 50 + 297]);
    }

    #[test]
    fn of_rates_that_reloads_leave_behind_the_newest_are_kept() {
        let (budget, now) = (Budget::default(), Instant::now());
        let of = |burst_lines| Rate { burst_lines, ..RATE };
        taken(&budget, RATE, now);
        for burst_lines in 10..20 {
            assert_eq!(taken(&budget, of(burst_lines), now), usize::try_from(burst_lines).expect("small"));
            assert_eq!(taken(&budget, RATE, now), 0, "it is in use");
        }
        assert_eq!(budget.0.lock().expect("whole").len(), RATES);
    }
}
