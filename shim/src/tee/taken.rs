//! Whether a collector is taking a stream's copy at the moment.
//!
//! It decides which bytes are dropped where a stream writes faster than they are taken (docs/adr/0027): the newest while it
//! takes, since the oldest are on their way; else the oldest, so that whoever comes back finds what was last.

/// From one acknowledgement to the next, with much outstanding, at most. One that takes longer counts as away.
const PATIENCE_NS: u64 = 200_000_000;

/// How far the acknowledgements of a stream were, and when that was last good enough.
#[derive(Debug, Default)]
pub struct Taken {
    acked: u64,
    since_ns: u64,
}

// === impl Taken ===

impl Taken {
    /// Before each copy, at `now` (CLOCK_MONOTONIC): the bytes up to `acked` are taken, those up to `pos` were passed on.
    pub fn is_going_on(&mut self, acked: u64, pos: u64, now: u64) -> bool {
        // Nothing is waited for, or something has come.
        if acked >= pos || acked != self.acked {
            self.since_ns = now;
        }
        self.acked = acked;
        now.saturating_sub(self.since_ns) < PATIENCE_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn acknowledgements_that_go_on_are_a_collector_that_takes() {
        let mut taken = Taken::default();
        assert!(taken.is_going_on(0, 0, 1000 * MS), "the first bytes after a long time");
        assert!(taken.is_going_on(0, 900, 1199 * MS), "its acknowledgement is on its way");
        assert!(!taken.is_going_on(0, 900, 1200 * MS), "none came");
        assert!(taken.is_going_on(1, 5000, 1300 * MS), "it goes on");
        assert!(!taken.is_going_on(1, 5000, 1500 * MS));
        assert!(taken.is_going_on(5000, 5000, 9000 * MS), "all is taken");
    }

    #[test]
    fn a_successor_gives_it_time() {
        assert!(
            !Taken::default().is_going_on(0, 100, 1000 * MS),
            "with nothing known it is as if it were away"
        );
        assert!(Taken::default().is_going_on(7, 100, 1000 * MS), "but for what was acknowledged before");
    }
}
