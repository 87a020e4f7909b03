//! How long containerd took nothing of a stream though there was something, so that its container may have waited.
//!
//! The relay thread writes, the link thread reads, neither waits for the other: one word per stream, which is either the sum or,
//! while it grows, the moment from which on its age is the sum. Nothing is allocated before a stream has waited for the first
//! time, and all of it is this worker's: what is told begins anew with the next one.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::block::STREAMS;

/// Of every stream.
#[derive(Default)]
pub struct Stalls(OnceLock<Box<[Stall]>>);

/// Of one.
#[derive(Default)]
struct Stall {
    /// Whose it is: an entry of the block may have become another stream's.
    handle: AtomicU32,
    /// The sum in ns, doubled; or, with the lowest bit, the moment (CLOCK_MONOTONIC ns) whose age it is.
    word: AtomicU64,
}

/// It grows.
const GROWS: u64 = 1;

// === impl Stalls ===

impl Stalls {
    /// containerd's end of `stream`, which the link calls `handle`, takes nothing from now on.
    pub fn begins(&self, stream: usize, handle: u32, now_ns: u64) {
        let all = self.0.get_or_init(|| (0..STREAMS).map(|_| Stall::default()).collect());
        let Some(stall) = all.get(stream) else { return };
        if stall.handle.load(Ordering::Relaxed) != handle {
            stall.word.store(0, Ordering::Release);
            stall.handle.store(handle, Ordering::Release);
        }
        let sum = stall.sum_ns(now_ns);
        stall.word.store(now_ns.saturating_sub(sum) << 1 | GROWS, Ordering::Release);
    }

    /// It took something.
    pub fn ends(&self, stream: usize, now_ns: u64) {
        if let Some(stall) = self.0.get().and_then(|all| all.get(stream)) {
            stall.word.store(stall.sum_ns(now_ns) << 1, Ordering::Release);
        }
    }

    /// How long it has taken nothing, all times together, in ns.
    pub fn of(&self, stream: usize, handle: u32, now_ns: u64) -> u64 {
        let stall = self.0.get().and_then(|all| all.get(stream));
        let its = stall.filter(|stall| stall.handle.load(Ordering::Acquire) == handle);
        its.map_or(0, |stall| stall.sum_ns(now_ns))
    }
}

// === impl Stall ===

impl Stall {
    fn sum_ns(&self, now_ns: u64) -> u64 {
        let word = self.word.load(Ordering::Acquire);
        if word & GROWS == 0 { word >> 1 } else { now_ns.saturating_sub(word >> 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_added_up_and_the_one_that_lasts_is_in_it() {
        let stalls = Stalls::default();
        assert_eq!((stalls.of(3, 7, 90), stalls.0.get().is_none()), (0, true), "nobody waited");
        stalls.begins(3, 7, 100);
        assert_eq!((stalls.of(3, 7, 100), stalls.of(3, 7, 130)), (0, 30));
        stalls.ends(3, 140);
        assert_eq!(stalls.of(3, 7, 900), 40);
        stalls.begins(3, 7, 1_000);
        stalls.ends(3, 1_005);
        assert_eq!((stalls.of(3, 7, 2_000), stalls.of(4, 7, 2_000)), (45, 0));
        // The next stream in its place.
        assert_eq!(stalls.of(3, 8, 2_000), 0);
        stalls.begins(3, 8, 2_000);
        assert_eq!((stalls.of(3, 8, 2_001), stalls.of(3, 7, 2_001)), (1, 0));
        // What is out of place ends nothing.
        stalls.ends(STREAMS, 1);
        stalls.begins(STREAMS, 1, 1);
    }
}
