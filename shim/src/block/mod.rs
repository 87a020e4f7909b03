//! The memory block: everything that must outlive a worker, laid out as plain atomics in a memfd.
//!
//! Layout version 2 (1 was never released). It is a format between releases: a worker goes on with the block of one of the
//! release before, and of the one after. So fields are never moved or reused. A release that needs more appends to
//! [`Tables`] (a table that should grow gets a second one beside it) and raises [`LAYOUT`], also for a new state of an old
//! word; its workers find what they appended zeroed when they follow another layout's (docs/adr/0011). What a word
//! means is written where it is declared; a state word is stored last, with release order, after what it speaks of.
//!
//! Who writes what: the *keeper* writes `held`, `care` and, before the first worker, the identity; the *relay thread* of the
//! one living worker writes everything else, except the words marked "link:", which its link thread writes, and those marked
//! "spool:", which the child writes that writes spool files.
//! The offsets of the big areas (frames, output chunks, announcements) follow from [`Places`].

pub mod care;
pub mod counters;
pub mod layout;
pub mod slot;
pub mod spool;
pub mod states;
pub mod text;
pub mod trial;
pub mod words;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use crate::sys::{
    Errno, Kernel,
    shared::{Mapping, memfd, punch},
};

pub use layout::*;
pub use slot::Slot;
pub use states::{ConnState, DirState, PendingState, Phase, StreamState, TaskState, Upgrade};

/// Layout version of this release; `next_layout` is the tests' next one and set by no build of ours.
pub const LAYOUT: u32 = if cfg!(next_layout) { 3 } else { 2 };
/// The first layout that was ever released.
const FIRST: u32 = 2;
/// How long the tables of the layout before were: what lies behind was appended by this one.
const BEFORE: usize = if cfg!(next_layout) { 860_424 } else { size_of::<Tables>() };
/// First word of every block: "shimtap" and a zero.
pub const MAGIC: u64 = u64::from_be_bytes(*b"shimtap\0");

/// Bytes of one output chunk.
pub const CHUNK: usize = 64 << 10;
/// Chunks that all streams of a wrapper share: 4 MiB of unacknowledged output.
pub const CHUNKS: usize = 64;
/// Bytes a frame area can hold: the largest frame that ttrpc allows, and room for a rewritten path or two.
pub const FRAME_AREA: usize = (4 << 20) + (64 << 10);
/// Bytes of one task's announcement (an encoded `Open`).
pub const ANNOUNCEMENT: usize = 16 << 10;
/// Bytes of the event ring.
pub const EVENTS: usize = 128 << 10;

/// Where the areas lie in the memfd, in bytes; all page-aligned.
pub struct Places;

/// The block of one wrapper: its memfd, the tables mapped, the rest mapped where needed.
pub struct Block {
    memfd: OwnedFd,
    tables: Mapping,
}

// === impl Places ===

impl Places {
    /// Bytes kept for the tables, and for what later layouts append to them.
    pub const TABLES: usize = 1 << 20;
    const EVENTS_AT: usize = Self::TABLES;
    const CHUNKS_AT: usize = Self::EVENTS_AT + EVENTS;
    const ANNOUNCEMENTS_AT: usize = Self::CHUNKS_AT + CHUNK * CHUNKS;
    const FRAMES_AT: usize = Self::ANNOUNCEMENTS_AT + ANNOUNCEMENT * TASKS;
    /// Length of the whole (sparse) memfd.
    pub const TOTAL: usize = Self::FRAMES_AT + CONNS * 4 * FRAME_AREA;

    /// The event ring.
    pub const fn events() -> (usize, usize) {
        (Self::EVENTS_AT, EVENTS)
    }

    /// All output chunks; chunk `n` lies `n * CHUNK` into it.
    pub const fn chunks() -> (usize, usize) {
        (Self::CHUNKS_AT, CHUNK * CHUNKS)
    }

    /// The announcement of task `n`.
    pub const fn announcement(n: usize) -> (usize, usize) {
        (Self::ANNOUNCEMENTS_AT + n * ANNOUNCEMENT, ANNOUNCEMENT)
    }

    /// The four frame areas of connection `n`: to the inner shim as read and as changed, then the same from it.
    pub const fn frames(n: usize) -> (usize, usize) {
        (Self::FRAMES_AT + n * 4 * FRAME_AREA, 4 * FRAME_AREA)
    }
}

// === impl Block ===

impl Block {
    /// A new, empty block.
    pub fn create() -> Kernel<Self> {
        let block = Self::map(memfd("shimtap-block", Places::TOTAL)?)?;
        block.sign();
        Ok(block)
    }

    /// Says that it is one, of this layout.
    pub(crate) fn sign(&self) {
        let tables = self.tables();
        tables.version.store(LAYOUT, Ordering::Relaxed);
        tables.magic.store(MAGIC, Ordering::Release);
    }

    /// As if it were new: users of blocks that live for ever would otherwise run out of descriptors.
    #[cfg(any(test, fuzzing))]
    pub fn renew(&self) {
        self.punch((0, Places::TOTAL));
        self.sign();
    }

    /// A block that another process made. EPROTO where it is none of ours, or of a layout that is not ours or a neighbour.
    pub fn open(memfd: OwnedFd) -> Kernel<Self> {
        let block = Self::open_own(memfd)?;
        let tables = block.tables();
        let of_ours = tables.magic.load(Ordering::Acquire) == MAGIC;
        if !of_ours || !Self::can_follow(tables.version.load(Ordering::Relaxed)) {
            return Err(Errno::EPROTO);
        }
        Ok(block)
    }

    /// A block that another process of this very image had in use: whatever it says now, it is one. EPROTO where it is not as long as
    /// every block is.
    pub fn open_own(memfd: OwnedFd) -> Kernel<Self> {
        let size = nix::sys::stat::fstat(&memfd)?.st_size;
        if usize::try_from(size) != Ok(Places::TOTAL) {
            return Err(Errno::EPROTO);
        }
        Self::map(memfd)
    }

    /// Can this release go on with a block of that layout?
    pub fn can_follow(layout: u32) -> bool {
        layout >= FIRST && layout.abs_diff(LAYOUT) <= 1
    }

    /// A worker of this release begins, perhaps after one of another: what only this layout knows is nobody's by now, so it
    /// starts from zero. Done by workers, never by a keeper: it may be replaced under a worker that uses those words.
    pub fn make_ours(&self) -> Kernel<()> {
        let version = &self.tables().version;
        let was = version.load(Ordering::Acquire);
        if was == LAYOUT {
            return Ok(());
        }
        if was < LAYOUT {
            let appended = vec![0u8; size_of::<Tables>().saturating_sub(BEFORE)];
            let at = i64::try_from(BEFORE).map_err(|_| Errno::EFBIG)?;
            nix::sys::uio::pwrite(self.memfd(), &appended, at)?;
        }
        version.store(LAYOUT, Ordering::Release);
        Ok(())
    }

    pub(crate) fn map(memfd: OwnedFd) -> Kernel<Self> {
        let tables = Mapping::new(memfd.as_fd(), 0, Places::TABLES)?;
        tables.view::<Tables>(0).ok_or(Errno::EFAULT)?;
        Ok(Self { memfd, tables })
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        self.tables.view::<Tables>(0).expect("checked when the block was mapped")
    }

    /// The memfd, for hand-over and for [`crate::sys::shared::copy_out`].
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// Maps one of [`Places`]' ranges.
    pub fn map_place(&self, (offset, len): (usize, usize)) -> Kernel<Mapping> {
        Mapping::new(self.memfd(), offset, len)
    }

    /// Gives the pages of one of [`Places`]' ranges back.
    pub fn punch(&self, (offset, len): (usize, usize)) {
        // Failing costs memory, nothing else.
        let _ = punch(self.memfd(), offset, len);
    }

    /// The next number for a task or stream; 0 is never given.
    pub fn next_handle(&self) -> u32 {
        self.tables().handles.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

const _: () = assert!(size_of::<Tables>() <= Places::TABLES && size_of::<Tables>() >= BEFORE);

#[cfg(any(test, fuzzing))]
pub mod damage;
#[cfg(test)]
mod tests;
