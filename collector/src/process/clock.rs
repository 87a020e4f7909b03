//! The time of records: strictly increasing per container over both of its streams.
//!
//! It never reads the system's clock: a record's time is what the wrapper said of its first byte, moved up by
//! nanoseconds where that would not be later than the record before.

use std::sync::atomic::{AtomicU64, Ordering};

/// The last time given to a record of one container.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

// === impl Clock ===

impl Clock {
    /// No later record has a time of or before `time_ns`.
    pub fn raise(&self, time_ns: u64) {
        self.0.fetch_max(time_ns, Ordering::Relaxed);
    }

    /// The last time given; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The time for a record whose first byte was read at `read_ns` (Unix nanoseconds).
    pub fn stamp(&self, read_ns: u64) -> u64 {
        let step = |last: u64| read_ns.max(last.saturating_add(1));
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            match self.0.compare_exchange_weak(last, step(last), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return step(last),
                Err(now) => last = now,
            }
        }
    }
}
