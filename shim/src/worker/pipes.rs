//! The pool of pipes: bytes on their way to a target that is not ready stay in one of these.
//!
//! A direction or a stream has a pipe only while bytes are in it, so that a node full of quiet containers uses a
//! handful: pipe pages are a budget per user and node-wide, and containers draw on it too.

use std::sync::atomic::Ordering;

use crate::{
    block::{Block, DirState, PIPES, Slot, linked},
    keeper::protocol::Operation,
    sys::{Errno, Kernel, fd},
    worker::Hands,
};

/// Free pipes kept open; more are given back.
const SPARE: usize = 2;

/// Which pipes are made, and which of them are free.
pub struct Pipes {
    free: Vec<usize>,
    made: Vec<bool>,
}

// === impl Pipes ===

impl Pipes {
    /// From what a predecessor left: made and used ones are used, made and unused ones are free.
    pub fn recover(block: &Block, hands: &mut Hands) -> Self {
        // A predecessor died just before or after a frame: the pipe it had for it is empty, and may never be needed again.
        let dirs = block.tables().conns().iter().flat_map(|c| &c.dirs);
        for dir in dirs.filter(|d| DirState::load(&d.state) == DirState::Idle && linked(&d.pipe).is_some()) {
            dir.pipe.store(0, Ordering::Release);
        }
        let used = Self::in_use(block);
        let mut pipes = Self { free: Vec::new(), made: vec![false; PIPES] };
        let made: Vec<usize> = (0..PIPES).filter(|n| hands.has(Slot::pipe(*n))).collect();
        for n in made {
            pipes.set_made(n, true);
            if used.contains(&n) {
                continue;
            }
            // One that a dead worker was about to throw away may have bytes in it, which are nobody's now.
            match hands.get(Slot::pipe(n)).and_then(fd::unread) {
                Ok(0) => pipes.free.push(n),
                _ => pipes.discard(n, hands),
            }
        }
        pipes
    }

    /// Those that some direction or stream uses, by the block.
    pub fn in_use(block: &Block) -> Vec<usize> {
        let tables = block.tables();
        let dirs = tables.conns().iter().flat_map(|c| &c.dirs).filter_map(|d| linked(&d.pipe));
        let streams = tables.streams().iter().filter_map(|s| linked(&s.pipe));
        dirs.chain(streams).collect()
    }

    /// An empty pipe. ENFILE when all are in use, or the keeper's errno.
    pub fn acquire(&mut self, hands: &mut Hands) -> Kernel<usize> {
        if let Some(pipe) = self.free.pop() {
            return Ok(pipe);
        }
        let pipe = self.made.iter().position(|made| !made).ok_or(Errno::ENFILE)?;
        hands.ensure(Operation::Pipe, Slot::pipe(pipe), "")?;
        self.set_made(pipe, true);
        Ok(pipe)
    }

    /// Takes an empty pipe back.
    pub fn release(&mut self, pipe: usize, hands: &mut Hands) {
        if self.free.len() < SPARE {
            self.free.push(pipe);
        } else {
            self.discard(pipe, hands);
        }
    }

    /// Takes a pipe back whose content nobody wants any more.
    pub fn discard(&mut self, pipe: usize, hands: &mut Hands) {
        hands.give_back(Slot::pipe(pipe), 2);
        self.set_made(pipe, false);
    }

    fn set_made(&mut self, pipe: usize, made: bool) {
        if let Some(m) = self.made.get_mut(pipe) {
            *m = made;
        }
    }
}
