//! Which descriptor has which number in the keeper's table: the only place where the two processes agree on it.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::Ordering,
};

use super::layout::{CONN_COUNT, PIPES, STREAM_COUNT, Tables};
use crate::sys::{Errno, Kernel};

/// A place in the keeper's table of descriptors. Each descriptor that matters has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

// === impl Slot ===

impl Slot {
    const CONN_AT: u32 = 8;
    const STREAM_AT: u32 = Self::CONN_AT + 2 * CONN_COUNT;
    const PIPE_AT: u32 = Self::STREAM_AT + 3 * STREAM_COUNT;
    /// How many there are.
    pub const COUNT: usize = Self::PIPE_AT as usize + 2 * PIPES;

    /// The socket that containerd connects to.
    pub const LISTENER: Self = Self(0);
    /// The lock whose holder lives (see `run_dir`).
    pub const ALIVE: Self = Self(1);
    /// An idle connection to the inner shim: its end is the inner shim's end.
    pub const WATCH: Self = Self(2);
    /// The tap: a pipe, so this and the next.
    pub const TAP: Self = Self(3);
    /// The dead man's switch (docs/adr/0006): a timer that the worker keeps from running out.
    pub const SWITCH: Self = Self(5);
    /// The image that an upgrade leads to, and the one to go back to; only while it takes place.
    pub const IMAGE: Self = Self(6);
    /// See [`Slot::IMAGE`].
    pub const FALLBACK: Self = Self(7);

    /// containerd's end of a connection.
    pub fn outer(conn: usize) -> Self {
        Self::at(Self::CONN_AT, conn, 2, 0)
    }

    /// The inner shim's end of a connection.
    pub fn inner(conn: usize) -> Self {
        Self::at(Self::CONN_AT, conn, 2, 1)
    }

    /// A stream's inner FIFO (reader), then containerd's FIFO: reader, writer. Where its end is a logger: the container's pipe, then
    /// the logger's (see `tee::logger`).
    pub fn stream(stream: usize) -> Self {
        Self::at(Self::STREAM_AT, stream, 3, 0)
    }

    /// A pipe of the pool: read end, and the next slot its write end.
    pub fn pipe(pipe: usize) -> Self {
        Self::at(Self::PIPE_AT, pipe, 2, 0)
    }

    fn at(base: u32, index: usize, width: u32, offset: u32) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX / 4);
        Self(base.saturating_add(index.saturating_mul(width)).saturating_add(offset))
    }

    /// The slot `n` places on.
    pub fn plus(self, n: u32) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The slot before.
    pub fn minus_one(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// As stored in a message.
    pub fn number(self) -> u32 {
        self.0
    }

    /// From a message; `None` where there is no such slot.
    pub fn from_number(n: u32) -> Option<Self> {
        usize::try_from(n).is_ok_and(|n| n < Self::COUNT).then_some(Self(n))
    }

    /// As an index.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

// === impl Tables ===

impl Tables {
    /// A keeper, this one or the one that is about to begin, has this descriptor in its slot. EBADSLT where there is no such slot.
    pub fn note_held(&self, slot: Slot, fd: BorrowedFd<'_>) -> Kernel<()> {
        let word = self.held.get(slot.index()).ok_or(Errno::EBADSLT)?;
        word.store(u32::try_from(fd.as_raw_fd()).unwrap_or(0).saturating_add(1), Ordering::Release);
        Ok(())
    }

    /// It has none there any more.
    pub fn note_released(&self, slot: Slot) {
        if let Some(word) = self.held.get(slot.index()) {
            word.store(0, Ordering::Release);
        }
    }
}
