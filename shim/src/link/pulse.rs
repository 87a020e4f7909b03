//! Does the link thread still turn? It counts its turns; where it has taken none for long, it is prodded and has to.
//!
//! The relay thread only reads a number and rings a bell: whatever the link thread holds or waits for, it cannot
//! hold this.

use std::{
    os::fd::BorrowedFd,
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
};

use super::bell::Bell;
use crate::sys::Kernel;

/// The count, and the bell for prodding.
pub struct Pulse {
    bell: Bell,
    turns: AtomicU64,
    thread: AtomicI32,
}

// === impl Pulse ===

impl Pulse {
    /// No turn yet.
    pub fn new() -> Kernel<Self> {
        Ok(Self { bell: Bell::new()?, turns: AtomicU64::new(0), thread: AtomicI32::new(0) })
    }

    /// Link thread: it is the calling one.
    pub fn begin(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::Release);
        self.beat();
    }

    /// Link thread: a turn of whatever it does.
    pub fn beat(&self) {
        self.turns.fetch_add(1, Ordering::AcqRel);
    }

    /// Link thread: was prodded, and says so.
    pub fn answer(&self) {
        self.bell.hear();
        self.beat();
    }

    /// Readable while it was prodded and has not answered.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Relay thread: turns so far.
    pub fn count(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// Relay thread: take one.
    pub fn prod(&self) {
        self.bell.ring();
    }

    /// Its number in /proc/self/task; 0 = it never began.
    pub fn thread(&self) -> i32 {
        self.thread.load(Ordering::Acquire)
    }
}
