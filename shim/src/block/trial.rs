//! Reading another release's block on trial: could a worker of this one go on with it?
//!
//! Looks at a copy, so nothing that is found or done here reaches the wrapper. A state that this release does not know
//! is a refusal: a successor would take it for the first state of its kind (see [`super::states`]).

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::Ordering,
};

use thiserror::Error;

use super::{
    Block, ConnState, DirState, EVENTS, LAYOUT, MAGIC, PendingState, Phase, Places, StreamState, Tables,
    TaskState, Upgrade,
    care::{Mode, Reason},
    spool::Verdict,
};
use crate::{
    events::EventRing,
    link::{report::Reporter, stalls::Stalls},
    sys::{
        Errno,
        atomic::AtomicU32,
        shared::{copy_out, memfd},
    },
    tee::Tee,
};

/// More of them do not fit the ring.
const EVENTS_MAX: usize = EVENTS / 4;

/// Why a block is not gone on with.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unreadable {
    #[error("copying its memory block")]
    Copy(#[source] Errno),
    #[error("what it handed out is no memory block of a wrapper")]
    Foreign,
    #[error("its memory block has layout {theirs}, this release reads {} to {}", LAYOUT - 1, LAYOUT + 1)]
    Layout { theirs: u32 },
    #[error("its memory block does not say whose it is")]
    Nobody,
    #[error("{what} {index} is in state {word}, which this release does not know")]
    State { what: &'static str, index: usize, word: u32 },
    #[error("a worker could not begin with it")]
    Begin(#[source] Errno),
}

/// Reads it as a worker would. Any crash of this must be nobody else's: it runs in a process of its own.
pub fn test_read(block: BorrowedFd<'_>) -> Result<(), Unreadable> {
    let copy = copy_of(block).map_err(Unreadable::Copy)?.ok_or(Unreadable::Foreign)?;
    let tables = copy.tables();
    if tables.magic.load(Ordering::Acquire) != MAGIC {
        return Err(Unreadable::Foreign);
    }
    let theirs = tables.version.load(Ordering::Acquire);
    if !Block::can_follow(theirs) {
        return Err(Unreadable::Layout { theirs });
    }
    if !names_somebody(tables) {
        return Err(Unreadable::Nobody);
    }
    states_are_known(tables)?;
    copy.make_ours().map_err(Unreadable::Begin)?;
    begin(Box::leak(Box::new(copy))).map_err(Unreadable::Begin)
}

/// Does a block say nothing that no worker writes? Of one in use, where it lies; it costs some microseconds.
pub fn is_sound(tables: &Tables) -> bool {
    let signed = tables.magic.load(Ordering::Acquire) == MAGIC;
    signed
        && Block::can_follow(tables.version.load(Ordering::Acquire))
        && names_somebody(tables)
        && states_are_known(tables).is_ok()
}

fn names_somebody(tables: &Tables) -> bool {
    let who = &tables.identity;
    ![who.key.get(), who.namespace.get(), who.run_dir.get(), who.inner_path.get()].contains(&String::new())
}

/// `None` where it is not as long as every block is.
fn copy_of(block: BorrowedFd<'_>) -> Result<Option<Block>, Errno> {
    let size = nix::sys::stat::fstat(block)?.st_size;
    if usize::try_from(size) != Ok(Places::TOTAL) {
        return Ok(None);
    }
    let copy = memfd("shimtap-trial", Places::TOTAL)?;
    // Tables and events; what lies behind is bytes to us.
    let (events, len) = Places::events();
    let mut bytes = vec![0u8; events.saturating_add(len)];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match copy_out(block, done, rest)? {
            0 => return Ok(None),
            n => done = done.saturating_add(n),
        }
    }
    let mut put = 0;
    while let Some(rest) = bytes.get(put..).filter(|rest| !rest.is_empty()) {
        let at = i64::try_from(put).map_err(|_| Errno::EFBIG)?;
        put = put.saturating_add(nix::sys::uio::pwrite(copy.as_fd(), rest, at)?);
    }
    Block::map(copy).map(Some)
}

fn states_are_known(tables: &Tables) -> Result<(), Unreadable> {
    let check = |what: &'static str, index: usize, word: &AtomicU32, is_known: fn(&AtomicU32) -> bool| {
        let raw = word.load(Ordering::Acquire);
        if is_known(word) { Ok(()) } else { Err(Unreadable::State { what, index, word: raw }) }
    };
    check("safe mode", 0, &tables.care.mode, Mode::is_known)?;
    check("upgrade", 0, &tables.upgrade, Upgrade::is_known)?;
    for (n, death) in tables.care.deaths.iter().enumerate() {
        check("death", n, &death.reason, Reason::is_known)?;
    }
    for (n, conn) in tables.conns().iter().enumerate() {
        check("connection", n, &conn.state, ConnState::is_known)?;
        for dir in &conn.dirs {
            check("a direction of connection", n, &dir.state, DirState::is_known)?;
        }
    }
    for (n, pending) in tables.pendings().iter().enumerate() {
        check("request", n, &pending.state, PendingState::is_known)?;
    }
    for (n, task) in tables.tasks().iter().enumerate() {
        check("task", n, &task.state, TaskState::is_known)?;
    }
    for (n, stream) in tables.streams().iter().enumerate() {
        check("stream", n, &stream.state, StreamState::is_known)?;
        check("the phase of stream", n, &stream.phase, Phase::is_known)?;
        check("the spool of stream", n, &stream.spool_to, Verdict::is_known)?;
    }
    Ok(())
}

/// What a worker makes of a block before its first move.
fn begin(block: &'static Block) -> Result<(), Errno> {
    let _ = Tee::recover(block)?;
    let ring = EventRing::new(block)?;
    let mut position = ring.tail();
    // It is written while it is read: what is torn must not be read for ever.
    for _ in 0..EVENTS_MAX {
        let Some((_, behind)) = ring.at(position) else { break };
        position = behind;
    }
    let _ = Reporter::new().changed(block, &Stalls::default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody() -> Block {
        let block = Block::create().unwrap();
        let who = &block.tables().identity;
        for text in [&who.key, &who.namespace, &who.run_dir, &who.inner_path] {
            text.set("x");
        }
        block
    }

    #[test]
    fn a_block_of_ours_or_a_neighbour_s_is_read_and_left_as_it_is() {
        for layout in [LAYOUT, LAYOUT + 1] {
            let block = somebody();
            block.tables().version.store(layout, Ordering::Release);
            assert_eq!(test_read(block.memfd()), Ok(()));
            assert_eq!(block.tables().version.load(Ordering::Relaxed), layout);
        }
    }

    #[test]
    fn a_block_that_says_what_no_worker_writes_is_not_sound() {
        assert!(is_sound(somebody().tables()));
        assert!(!is_sound(Block::create().unwrap().tables()), "nobody's");
        let damages: [fn(&Tables); 4] = [
            |tables| tables.magic.store(0, Ordering::Release),
            |tables| tables.version.store(LAYOUT + 2, Ordering::Release),
            |tables| tables.care.mode.store(9, Ordering::Release),
            |tables| assert!(tables.identity.key.set("")),
        ];
        for (n, damage) in damages.into_iter().enumerate() {
            let block = somebody();
            damage(block.tables());
            assert!(!is_sound(block.tables()), "damage {n}");
        }
    }

    #[test]
    fn what_cannot_be_gone_on_with_is_refused() {
        assert_eq!(test_read(memfd("x", 4096).unwrap().as_fd()), Err(Unreadable::Foreign));
        assert_eq!(test_read(memfd("x", Places::TOTAL).unwrap().as_fd()), Err(Unreadable::Foreign));
        assert_eq!(test_read(Block::create().unwrap().memfd()), Err(Unreadable::Nobody));
        let far = somebody();
        far.tables().version.store(LAYOUT + 2, Ordering::Release);
        assert_eq!(test_read(far.memfd()), Err(Unreadable::Layout { theirs: LAYOUT + 2 }));
        let later = somebody();
        super::super::note_used(&later.tables().tasks_used, 1);
        later.tables().tasks[1].state.store(77, Ordering::Release);
        let state = Unreadable::State { what: "task", index: 1, word: 77 };
        assert_eq!(test_read(later.memfd()), Err(state));
    }
}
