//! Log lines that somebody else can provoke: at most one a second per call site, with how many were hidden.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::now_ns;

/// One call site's share of the log.
#[derive(Debug)]
pub struct Limited {
    last_ns: AtomicU64,
    hidden: AtomicU64,
}

const PAUSE_NS: u64 = 1_000_000_000;

// === impl Limited ===

impl Limited {
    /// For a `static` beside the call.
    #[must_use]
    pub const fn new() -> Self {
        Self { last_ns: AtomicU64::new(0), hidden: AtomicU64::new(0) }
    }

    /// Calls `say` with the number of calls since the last one that were hidden, or counts this one as hidden.
    pub fn say(&self, say: impl FnOnce(u64)) {
        self.say_at(now_ns(), say);
    }

    fn say_at(&self, now: u64, say: impl FnOnce(u64)) {
        let last = self.last_ns.load(Ordering::Relaxed);
        let due = now.abs_diff(last) >= PAUSE_NS;
        if due && self.last_ns.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            say(self.hidden.swap(0, Ordering::Relaxed));
        } else {
            self.hidden.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Limited, PAUSE_NS};

    #[test]
    fn one_line_a_second_and_the_rest_is_counted() {
        let limited = Limited::new();
        let mut said = Vec::new();
        for now in [PAUSE_NS, PAUSE_NS + 1, 2 * PAUSE_NS - 1, 2 * PAUSE_NS, 2 * PAUSE_NS + 5, 9 * PAUSE_NS] {
            limited.say_at(now, |hidden| said.push((now, hidden)));
        }
        assert_eq!(said, [(PAUSE_NS, 0), (2 * PAUSE_NS, 2), (9 * PAUSE_NS, 1)]);
    }
}
