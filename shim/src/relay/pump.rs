//! One direction of a connection as a state machine whose every move is one syscall.
//!
//! docs/adr/0002 has the argument; the states are `block::DirState`. In short: before a frame's first byte moves,
//! SO_PEEK_OFF of the source is set to its length, and it falls by exactly what is consumed; bytes that were taken
//! and not yet delivered are in the pipe or in the frame area. A successor reads both and goes on.

use std::{os::fd::BorrowedFd, sync::atomic::Ordering};

use nix::sys::socket::Shutdown;

use super::{ANSWERS, REQUESTS, STARVED_NS, Want, request::Out, take::Taken};
use crate::{
    block::{
        Dir, DirState, FRAME_AREA, Slot, link_to, linked,
        words::{load, store},
    },
    sys::{
        Errno, Kernel,
        fd::{self, Moved},
        monotonic_ns,
        shared::punch,
    },
    worker::Worker,
};

/// Bytes of a changed frame that go into the pipe in one write: always fits an empty default pipe.
const PIECE: usize = 32 << 10;
/// Largest single move of unframed bytes.
const RAW_MOVE: usize = 1 << 20;
/// Moves after which the other direction gets its turn.
const TURN: usize = 256;

/// What one step came to.
pub(super) enum Step {
    /// Go on with the state as it is now.
    Again,
    /// Wait.
    Wait(Want),
}

/// Descriptors of a direction.
struct Ends<'a> {
    source: BorrowedFd<'a>,
    target: BorrowedFd<'a>,
    pipe: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
}

impl Worker {
    /// Moves until something has to be waited for.
    pub(super) fn dir_pump(&mut self, conn: usize, dir: usize) -> Want {
        for _ in 0..TURN {
            match self.dir_step(conn, dir) {
                Ok(Step::Again) => {}
                Ok(Step::Wait(want)) => return want,
                Err(errno) => self.dir_failed(conn, dir, errno),
            }
        }
        // The turn is over, the work is not: nothing need happen outside for it to go on.
        Want::Turn
    }

    fn dir_step(&mut self, conn: usize, dir: usize) -> Kernel<Step> {
        let entry = self.dir(conn, dir);
        match DirState::load(&entry.state) {
            DirState::Idle => self.idle(conn, dir),
            DirState::Pass => self.pass(conn, dir, entry),
            DirState::Assemble => self.assemble(conn, dir, entry),
            DirState::Put => self.put(conn, dir, entry),
            DirState::Out => self.out(conn, dir, entry),
            DirState::Finish => {
                self.conclude(conn, dir);
                self.frame_done(conn, dir, entry)
            }
            DirState::Raw => self.raw(conn, dir),
            DirState::Ended => Ok(Step::Wait(Want::Nothing)),
        }
    }

    /// Between frames: an answer of ours may go, else the next frame begins.
    fn idle(&mut self, conn: usize, dir: usize) -> Kernel<Step> {
        if dir == ANSWERS
            && let Some(pending) = self.releasable(conn)
        {
            return self.send_held(conn, pending);
        }
        match self.take(conn, dir)? {
            Taken::Wait(want) => Ok(Step::Wait(want)),
            Taken::End => {
                self.source_ended(conn, dir);
                Ok(Step::Again)
            }
            Taken::Raw => {
                if !self.with_pipe(conn, dir) {
                    return Ok(Step::Wait(Want::Nothing));
                }
                DirState::Raw.store(&self.dir(conn, dir).state);
                Ok(Step::Again)
            }
            Taken::Frame { len, state } => {
                if !self.with_pipe(conn, dir) {
                    return Ok(Step::Wait(Want::Nothing));
                }
                let entry = self.dir(conn, dir);
                store(&entry.frame_len, len);
                fd::set_peek_off(
                    self.ends(conn, dir)?.source,
                    i32::try_from(len).map_err(|_| Errno::EMSGSIZE)?,
                )?;
                state.store(&entry.state);
                Ok(Step::Again)
            }
        }
    }

    fn pass(&mut self, conn: usize, dir: usize, entry: &Dir) -> Kernel<Step> {
        let ends = self.ends(conn, dir)?;
        let (_, pipe_in) = ends.pipe()?;
        if !ends.push()? {
            return Ok(Step::Wait(Want::Target));
        }
        let left = usize::try_from(fd::peek_off(ends.source)?).unwrap_or(0);
        if left == 0 {
            return self.frame_done(conn, dir, entry);
        }
        match fd::splice(ends.source, pipe_in, left)? {
            Moved::Bytes(_) => Ok(Step::Again),
            // The pipe is empty, so it is the source that has nothing.
            Moved::Blocked => Ok(Step::Wait(Want::Source)),
            // The peer died inside a frame: the other one gets as much of it as there was.
            Moved::End => {
                DirState::Raw.store(&entry.state);
                Ok(Step::Again)
            }
        }
    }

    fn assemble(&mut self, conn: usize, dir: usize, entry: &Dir) -> Kernel<Step> {
        let len = load(&entry.frame_len);
        let ends = self.ends(conn, dir)?;
        let left = usize::try_from(fd::peek_off(ends.source)?).unwrap_or(0);
        if left > 0 {
            let line = self.relay.lines.get(&conn).ok_or(Errno::EBADF)?;
            let area = line.area(dir, false).ok_or(Errno::EFAULT)?;
            return match area.read_from(ends.source, len.saturating_sub(left), left)? {
                None => Ok(Step::Wait(Want::Source)),
                Some(0) => {
                    self.source_ended(conn, dir);
                    Ok(Step::Again)
                }
                Some(_) => Ok(Step::Again),
            };
        }
        // Everything decided here is found again by a successor: see request.rs and answer.rs.
        match self.decide(conn, dir, len) {
            Some(out) => {
                store(&entry.changed, usize::from(out.changed));
                store(&entry.out_len, out.len);
                store(&entry.put_start, 0);
                let next = if out.len == 0 { DirState::Finish } else { DirState::Put };
                next.store(&entry.state);
                Ok(Step::Again)
            }
            None => self.frame_done(conn, dir, entry),
        }
    }

    /// What an assembled frame leaves as.
    fn decide(&mut self, conn: usize, dir: usize, len: usize) -> Option<Out> {
        if self.is_safe() {
            return self.as_it_came(conn, dir, len);
        }
        if dir == REQUESTS { self.request(conn) } else { self.answer(conn) }
    }

    fn put(&mut self, conn: usize, dir: usize, entry: &Dir) -> Kernel<Step> {
        let ends = self.ends(conn, dir)?;
        let (pipe_out, pipe_in) = ends.pipe()?;
        let start = load(&entry.put_start);
        if fd::unread(pipe_out)? == 0 {
            let line = self.relay.lines.get(&conn).ok_or(Errno::EBADF)?;
            let area = line.area(dir, load(&entry.changed) != 0).ok_or(Errno::EFAULT)?;
            let piece = load(&entry.out_len).saturating_sub(start).min(PIECE);
            area.write_to(pipe_in, start, piece)?;
        }
        store(&entry.put_end, start.saturating_add(fd::unread(pipe_out)?));
        DirState::Out.store(&entry.state);
        Ok(Step::Again)
    }

    fn out(&mut self, conn: usize, dir: usize, entry: &Dir) -> Kernel<Step> {
        if !self.ends(conn, dir)?.push()? {
            return Ok(Step::Wait(Want::Target));
        }
        let end = load(&entry.put_end);
        store(&entry.put_start, end);
        let next = if end >= load(&entry.out_len) { DirState::Finish } else { DirState::Put };
        next.store(&entry.state);
        Ok(Step::Again)
    }

    fn raw(&mut self, conn: usize, dir: usize) -> Kernel<Step> {
        let ends = self.ends(conn, dir)?;
        let (_, pipe_in) = ends.pipe()?;
        if !ends.push()? {
            return Ok(Step::Wait(Want::Target));
        }
        match fd::splice(ends.source, pipe_in, RAW_MOVE)? {
            Moved::Bytes(_) => Ok(Step::Again),
            Moved::Blocked => Ok(Step::Wait(Want::Source)),
            Moved::End => {
                self.source_ended(conn, dir);
                Ok(Step::Again)
            }
        }
    }

    /// A frame is through: back to Idle, big areas given back.
    fn frame_done(&mut self, conn: usize, dir: usize, entry: &Dir) -> Kernel<Step> {
        let len = load(&entry.frame_len);
        // The state first: between two frames an empty pipe is as good as none, inside one it is not.
        DirState::Idle.store(&entry.state);
        if let Some(pipe) = linked(&entry.pipe) {
            entry.pipe.store(0, Ordering::Release);
            self.pipes.release(pipe, &mut self.hands);
        }
        if len > PIECE {
            self.punch_frames(conn, dir);
        }
        Ok(Step::Again)
    }

    fn punch_frames(&self, conn: usize, dir: usize) {
        let (start, _) = crate::block::Places::frames(conn);
        let at = start.saturating_add(dir.saturating_mul(2 * FRAME_AREA));
        let _ = punch(self.block.memfd(), at, 2 * FRAME_AREA);
    }

    /// The source will send no more, and all it sent is delivered.
    fn source_ended(&mut self, conn: usize, dir: usize) {
        if dir == ANSWERS {
            self.release_all(conn);
            if let Some(pending) = self.releasable(conn) {
                // Answers that the inner shim gave before its end still go out; then this is asked again.
                if self.send_held(conn, pending).is_ok() {
                    return;
                }
            }
        }
        let target_slot = if dir == REQUESTS { Slot::inner(conn) } else { Slot::outer(conn) };
        let source_gone =
            self.relay.lines.get(&conn).and_then(|l| l.hung_up.get(dir)).copied().unwrap_or(true);
        // A dead shim is seen at once in both directions; a half-closed one keeps its other half.
        let how = if dir == ANSWERS && source_gone { Shutdown::Both } else { Shutdown::Write };
        if let Ok(target) = self.hands.get(target_slot) {
            let _ = fd::shutdown(target, how);
        }
        self.dir_ended(conn, dir);
    }

    /// A move was refused. A peer that is gone ends things as its end of file does; anything else would leave a silent
    /// connection, so both peers are told.
    fn dir_failed(&mut self, conn: usize, dir: usize, errno: Errno) {
        match errno {
            Errno::ECONNRESET => self.source_ended(conn, dir),
            // The target reads no more; what the other direction still brings goes on.
            Errno::EPIPE | Errno::ENOTCONN => self.dir_ended(conn, dir),
            _ => {
                for slot in [Slot::outer(conn), Slot::inner(conn)] {
                    if let Ok(socket) = self.hands.get(slot) {
                        let _ = fd::shutdown(socket, Shutdown::Both);
                    }
                }
                self.dir_ended(conn, REQUESTS);
                self.dir_ended(conn, ANSWERS);
            }
        }
    }

    fn dir_ended(&mut self, conn: usize, dir: usize) {
        let entry = self.dir(conn, dir);
        DirState::Ended.store(&entry.state);
        if let Some(pipe) = linked(&entry.pipe) {
            entry.pipe.store(0, Ordering::Release);
            self.pipes.discard(pipe, &mut self.hands);
        }
    }

    /// Makes sure the direction has a pipe of the pool; false: descriptors are short, it is tried again by time.
    pub(super) fn with_pipe(&mut self, conn: usize, dir: usize) -> bool {
        let entry = self.dir(conn, dir);
        if linked(&entry.pipe).is_none() {
            let Ok(pipe) = self.pipes.acquire(&mut self.hands) else {
                self.relay.starved_ns = Some(monotonic_ns().saturating_add(STARVED_NS));
                return false;
            };
            entry.pipe.store(link_to(Some(pipe)), Ordering::Release);
        }
        true
    }

    fn ends(&self, conn: usize, dir: usize) -> Kernel<Ends<'_>> {
        let (outer, inner) = (Slot::outer(conn), Slot::inner(conn));
        let (source, target) = if dir == REQUESTS { (outer, inner) } else { (inner, outer) };
        let pipe = match linked(&self.dir(conn, dir).pipe).map(Slot::pipe) {
            Some(slot) => Some((self.hands.get(slot)?, self.hands.get(slot.plus(1))?)),
            None => None,
        };
        Ok(Ends { source: self.hands.get(source)?, target: self.hands.get(target)?, pipe })
    }
}

// === impl Ends ===

impl<'a> Ends<'a> {
    fn pipe(&self) -> Kernel<(BorrowedFd<'a>, BorrowedFd<'a>)> {
        self.pipe.ok_or(Errno::EBADF)
    }

    /// Empties the pipe into the target; false when the target has no room.
    fn push(&self) -> Kernel<bool> {
        let (pipe_out, _) = self.pipe()?;
        loop {
            let n = fd::unread(pipe_out)?;
            if n == 0 {
                return Ok(true);
            }
            match fd::splice(pipe_out, self.target, n)? {
                Moved::Bytes(_) => {}
                Moved::Blocked => return Ok(false),
                Moved::End => return Err(Errno::EPIPE),
            }
        }
    }
}
