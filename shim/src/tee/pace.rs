//! When a stream that woke us often may wait a little, so that several lines travel in one move.
//!
//! containerd pays a wake-up and a write for each read of its FIFO, and so do we; where several lines gather, a short wait
//! gives back more than it takes. Never on the first bytes after quiet, never with a terminal, never across an exit, and
//! never so long that the FIFO could fill to half: the container must not notice.
//!
//! Waits end at whole multiples of their length on the clock that all processes of the node share. So the wrappers of a
//! node wake by one timer, and containerd finds what all of them bring in one go instead of being woken for each.

/// Moves within a second from which on a stream counts as busy.
const BUSY_MOVES: u32 = 16;
/// Half of a FIFO of default size: what may gather while we wait.
const HALF_FIFO: u64 = 32 << 10;
const SECOND_NS: u64 = 1_000_000_000;
/// Over this time the rate of bytes is taken: short, since a burst must end the waiting at once.
const RATE_NS: u64 = 100_000_000;
/// The shortest time that a rate is divided by.
const RATE_MIN_NS: u64 = 10_000_000;
/// Waiting less than this costs more than it saves.
const WORTH_NS: u64 = 1_000_000;

/// What came within a stretch of time, and within the stretch before it.
#[derive(Debug, Default)]
struct Tally {
    began_ns: u64,
    now: u64,
    before: u64,
}

/// A stream's recent past, and its wait.
#[derive(Debug, Default)]
pub struct Pace {
    moves: Tally,
    bytes: Tally,
    until_ns: Option<u64>,
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, at: u64, n: u64, stretch_ns: u64) {
        let age = at.saturating_sub(self.began_ns);
        if age >= stretch_ns {
            self.before = if age >= 2 * stretch_ns { 0 } else { self.now };
            (self.began_ns, self.now) = (at, 0);
        }
        self.now = self.now.saturating_add(n);
    }

    fn per_second(&self, at: u64, stretch_ns: u64) -> u64 {
        let age = at.saturating_sub(self.began_ns).max(RATE_MIN_NS);
        let now = self.now.saturating_mul(SECOND_NS) / age;
        now.max(self.before.saturating_mul(SECOND_NS / stretch_ns))
    }
}

// === impl Pace ===

impl Pace {
    /// A move of `bytes` ended at `now` and the source is empty: how long may the next one wait?
    pub fn moved(&mut self, now: u64, bytes: u64, coalesce_ms: u32) {
        self.moves.add(now, 1, SECOND_NS);
        self.bytes.add(now, bytes, RATE_NS);
        let longest = u64::from(coalesce_ms).saturating_mul(1_000_000);
        let wait = self.wait_ns(now, longest);
        self.until_ns = (wait >= WORTH_NS).then(|| {
            let until = now.saturating_add(wait);
            // The last common tick before that: once met, the moves of a stream stay with it.
            let tick = until.saturating_sub(until % longest.max(1));
            if tick > now { tick } else { until }
        });
    }

    fn wait_ns(&self, now: u64, longest_ns: u64) -> u64 {
        if self.moves.now.max(self.moves.before) < u64::from(BUSY_MOVES) {
            return 0;
        }
        let per_second = self.bytes.per_second(now, RATE_NS).max(1);
        longest_ns.min(HALF_FIFO.saturating_mul(SECOND_NS) / per_second / 2)
    }

    /// The wait is over, by time or because something ends it.
    pub fn over(&mut self) {
        self.until_ns = None;
    }

    /// Is the next move to wait?
    pub fn is_waiting(&self) -> bool {
        self.until_ns.is_some()
    }

    /// Until when.
    pub fn due_ns(&self) -> Option<u64> {
        self.until_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn paced(every_ms: u64, bytes: u64, count: u64, coalesce_ms: u32) -> Pace {
        let mut pace = Pace::default();
        (0..count).for_each(|n| pace.moved(10 * SECOND_NS + n * every_ms * MS, bytes, coalesce_ms));
        pace
    }

    #[test]
    fn a_quiet_stream_never_waits() {
        assert!(!paced(1, 100, 5, 20).is_waiting(), "the first bytes");
        assert!(!paced(200, 100, 50, 20).is_waiting(), "five a second");
    }

    #[test]
    fn a_busy_stream_of_short_lines_waits_as_long_as_it_is_told() {
        let pace = paced(5, 200, 100, 20);
        let last = 10 * SECOND_NS + 99 * 5 * MS;
        assert_eq!(
            pace.due_ns().map(|at| (at % (20 * MS), at - last)),
            Some((0, 5 * MS)),
            "to the common tick"
        );
        let pace = paced(5, 200, 101, 20);
        assert_eq!(
            pace.due_ns().map(|at| at - last),
            Some(25 * MS),
            "a whole wait, from one tick to the next"
        );
    }

    #[test]
    fn a_wait_too_short_for_a_tick_ends_by_itself() {
        let pace = paced(1, 4096, 900, 20);
        let now = 10 * SECOND_NS + 899 * MS;
        assert!(pace.due_ns().is_some_and(|at| at > now && at <= now + 8 * MS));
    }

    #[test]
    fn zero_means_never() {
        assert!(!paced(5, 200, 100, 0).is_waiting());
    }

    #[test]
    fn a_fast_stream_waits_less_than_its_fifo_needs_to_fill_to_half() {
        let pace = paced(1, 4096, 900, 20);
        let wait = pace.due_ns().map_or(0, |at| at - 10 * SECOND_NS - 899 * MS);
        assert!(wait <= 8 * MS, "4 MB/s fill half a FIFO in 8 ms, waited {wait} ns");
        assert!(!paced(1, 32 << 10, 900, 20).is_waiting(), "32 MB/s");
    }

    #[test]
    fn a_burst_is_seen_before_a_second_has_passed() {
        let mut pace = Pace::default();
        for n in 0..40 {
            pace.moved(10 * SECOND_NS + n * MS / 10, 4096, 20);
            let wait = pace.due_ns().map_or(0, |at| at - 10 * SECOND_NS - n * MS / 10);
            assert!(wait <= 3 * MS, "40 MB/s, move {n}: waited {wait} ns");
        }
    }

    #[test]
    fn after_quiet_it_starts_anew() {
        let mut pace = paced(5, 200, 100, 20);
        pace.moved(20 * SECOND_NS, 200, 20);
        assert!(!pace.is_waiting());
    }
}
