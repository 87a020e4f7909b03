//! The words that the block consists of, and the points between two of which a process may die.
//!
//! In the program these are std's atomics and nothing. In tests each write of a word, and each call that moves bytes, is a
//! point at which a fuse may end the worker (`mortal`), so that a death can be put between any two steps. Nothing here may
//! change what a word does.

#[cfg(not(test))]
pub use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

pub use std::sync::atomic::fence;

#[cfg(test)]
pub use self::mortal::{AtomicU8, AtomicU32, AtomicU64, step};

/// Something outside of this process's own memory is about to change.
#[cfg(not(test))]
#[inline(always)]
pub fn step() {}

#[cfg(test)]
pub mod mortal;
