//! How long output waits for company on its way to the collector: until the next tick, which all wrappers of a node have in common.
//!
//! Nothing here knows of bytes: what is much enough to go at once is `streams`'.

use std::time::{Duration, Instant};

use crate::sys::monotonic_ns;

/// Once something was sent, what comes next waits for company until the next common tick, [`Gathering`]: with many slow
/// containers a message per few lines, and its acknowledgement, cost more than the lines (docs/adr/0025), and a collector
/// that is woken by one wrapper takes what all the others bring as well. 64 KiB never wait, nor do the first bytes after a
/// quiet time of the whole wrapper. This long where the collector does not say.
const GATHER_MS: u32 = 100;

/// Paced moves of output end at common ticks as well (`tee::pace`), and this long after them: a message that left at the
/// same instant would find nothing, and what was just moved would wait for the next one.
const AFTER_MOVES_NS: u64 = 5_000_000;

/// How far apart the common ticks are at which gathered output goes, in ns; 0 = it does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gathering(u64);

// === impl Gathering ===

impl Gathering {
    /// As the collector has told it in ms; a second at most.
    pub fn told(ms: Option<u32>) -> Self {
        Self(u64::from(ms.unwrap_or(GATHER_MS).min(1000)).saturating_mul(1_000_000))
    }

    /// How long it is from `now` on the node's clock to the next tick; never where nothing is gathered.
    fn wait_ns(self, now: u64) -> Option<u64> {
        let phase = now.saturating_sub(AFTER_MOVES_NS).checked_rem(self.0)?;
        Some(self.0.saturating_sub(phase))
    }

    /// The next tick.
    pub fn next_tick(self) -> Option<Instant> {
        self.wait_ns(monotonic_ns()).map(|ns| Instant::now() + Duration::from_nanos(ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn output_goes_a_moment_after_the_tick_that_moves_end_at() {
        let gathering = Gathering::told(Some(40));
        assert_eq!(gathering.wait_ns(400 * MS), Some(AFTER_MOVES_NS), "moves of this tick are taken along");
        assert_eq!(gathering.wait_ns(400 * MS + AFTER_MOVES_NS), Some(40 * MS), "a whole tick");
        assert_eq!(gathering.wait_ns(439 * MS), Some(MS + AFTER_MOVES_NS));
    }

    #[test]
    fn zero_gathers_nothing_and_nobody_waits_longer_than_a_second() {
        assert_eq!(Gathering::told(Some(0)).wait_ns(400 * MS), None);
        assert_eq!(Gathering::told(Some(u32::MAX)), Gathering::told(Some(1000)));
        assert_eq!(Gathering::told(None), Gathering::told(Some(GATHER_MS)));
    }
}
