//! Numbers between the block's words and the rest: counts that fit by construction, converted in one place.

use std::sync::atomic::Ordering;

use crate::sys::atomic::AtomicU32;

/// A count, read with acquire order.
pub fn load(word: &AtomicU32) -> usize {
    usize::try_from(word.load(Ordering::Acquire)).unwrap_or(0)
}

/// A count, stored with release order; counts here are at most a frame or a pipe long.
pub fn store(word: &AtomicU32, value: usize) {
    word.store(u32::try_from(value).unwrap_or(u32::MAX), Ordering::Release);
}

/// A length as a raw offset.
pub fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
