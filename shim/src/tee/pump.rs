//! One stream as a state machine whose every move is one syscall (docs/adr/0002, `block::Phase`).
//!
//! Pipe and tap are touched by nobody else, so after a death FIONREAD of the two says which step was done; the phase
//! and the two figures it is measured against are in the block. The tap is shared by all streams of a worker: it is
//! empty between turns, and `tap_owner` says whose turn it was.

use std::{
    fs::OpenOptions,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::Ordering,
};

use super::ring::{ChunkPool, in_tap};
use crate::{
    block::{
        Phase, Slot, Stream, StreamState, TaskState,
        counters::Counter,
        link_to, linked,
        words::{load, store, wide},
    },
    keeper::protocol::Operation,
    link::Switchboard,
    relay::Want,
    sys::{
        Errno, Kernel, epoll,
        fd::{self, Moved},
        monotonic_ns, unix_ns,
    },
    worker::Worker,
};

/// How long a stream that could not be moved at all rests.
const RETRY_NS: u64 = 50_000_000;
/// Most bytes of one move: a pipe of default size.
const MOVE: usize = 64 << 10;
/// Phases after which other streams and the relay get their turn.
const TURN: usize = 16;

enum Step {
    Again,
    Wait(Want),
    /// All is passed on and no more will come.
    End,
}

impl Worker {
    /// Moves a stream until something has to be waited for or its turn is over.
    pub(super) fn stream_turn(&mut self, index: usize) -> Want {
        let in_setup = StreamState::load(&self.stream(index).state) == StreamState::Setup;
        if in_setup && self.tee.is_logger(index) {
            // Its logger has yet to come, and the container is not started before Create was answered.
            return Want::Nothing;
        }
        for _ in 0..TURN {
            match self.stream_step(index) {
                Ok(Step::Again) => {}
                Ok(Step::Wait(want)) => return want,
                Ok(Step::End) => {
                    self.stream_end(index);
                    return Want::Nothing;
                }
                // Descriptors are short, or containerd's FIFO is gone from the disk: tried again by time.
                Err(_) => {
                    self.tee.running(index).retry_ns = Some(monotonic_ns().saturating_add(RETRY_NS));
                    return Want::Nothing;
                }
            }
        }
        // The turn is over, the work is not: nothing need happen outside for it to go on.
        Want::Turn
    }

    fn stream_step(&mut self, index: usize) -> Kernel<Step> {
        let stream = self.stream(index);
        match Phase::load(&stream.phase) {
            Phase::Fill => self.fill(index, stream),
            Phase::Tee => self.copy(index, stream),
            Phase::Drain => self.drain(stream, in_tap(self.hands.get(Slot::TAP)?)),
            Phase::Pass => self.pass_on(index, stream),
        }
    }

    fn fill(&mut self, index: usize, stream: &Stream) -> Kernel<Step> {
        let pipe = match linked(&stream.pipe) {
            Some(pipe) => pipe,
            None => {
                let pipe = self.pipes.acquire(&mut self.hands)?;
                stream.pipe.store(link_to(Some(pipe)), Ordering::Release);
                // The pool holds empty ones only.
                self.tee.running(index).in_pipe = Some(0);
                pipe
            }
        };
        let slot = Slot::pipe(pipe);
        if self.in_pipe(index, pipe)? == 0 {
            if self.is_last_look_done(index) {
                self.return_pipe(stream, pipe);
                return Ok(Step::End);
            }
            let source = self.hands.get(Slot::stream(index))?;
            match fd::splice(source, self.hands.get(slot.plus(1))?, MOVE)? {
                Moved::Bytes(n) => self.tee.running(index).in_pipe = Some(n),
                Moved::Blocked => {
                    self.return_pipe(stream, pipe);
                    // Somebody may hold the FIFO for ever, but the shim is done with the process.
                    let over = self.is_done_with(index, stream);
                    return Ok(if over { Step::End } else { Step::Wait(Want::Source) });
                }
                Moved::End => {
                    // Without a shim, or when it is done with the process, nobody will come who has not come yet.
                    let nobody_comes = self.is_inner_gone() || self.is_done_with(index, stream);
                    let source = self.hands.get(Slot::stream(index))?;
                    let ended = nobody_comes || self.tee.running(index).hung_up || epoll::has_hung_up(source);
                    // A first writer may have come, written and gone since the splice.
                    if ended && fd::unread(source)? > 0 {
                        return Ok(Step::Again);
                    }
                    self.return_pipe(stream, pipe);
                    return Ok(if ended { Step::End } else { Step::Wait(Want::Source) });
                }
            }
        }
        Phase::Tee.store(&stream.phase);
        Ok(Step::Again)
    }

    /// Is its task deleted, or whoever read it gone?
    fn is_done_with(&mut self, index: usize, stream: &Stream) -> bool {
        let task = linked(&stream.task).map(|t| TaskState::load(&self.task(t).state));
        task == Some(TaskState::Deleted) || self.tee.running(index).reader_gone
    }

    /// When a logger is gone, what its container had written by then is taken once more, and then never again.
    fn is_last_look_done(&mut self, index: usize) -> bool {
        let running = self.tee.running(index);
        running.reader_gone && std::mem::replace(&mut running.looked_last, true)
    }

    fn copy(&mut self, index: usize, stream: &Stream) -> Kernel<Step> {
        let pipe = linked(&stream.pipe).ok_or(Errno::EBADF)?;
        let filled = self.in_pipe(index, pipe)?;
        let taken = self.is_taken(index, stream);
        let (tap_out, tap_in) = (self.hands.get(Slot::TAP)?, self.hands.get(Slot::TAP.plus(1))?);
        let pipe_out = self.hands.get(Slot::pipe(pipe))?;
        let mut teed = if self.tee.tap_is_empty { 0 } else { in_tap(tap_out) };
        // What is there and is not this stream's is nobody's.
        if teed > 0 && linked(&self.block.tables().tap_owner) != Some(index) {
            fd::forget(tap_out);
            teed = 0;
        }
        self.block.tables().tap_owner.store(link_to(Some(index)), Ordering::Release);
        self.tee.tap_is_empty = false;
        if teed == 0 && stream.unwanted.load(Ordering::Acquire) == 0 && !self.is_safe() {
            let room = self.tee.chunks.reserve(stream, filled.min(MOVE), taken);
            if room > 0
                && let Moved::Bytes(n) = fd::tee(pipe_out, tap_in, room)?
            {
                teed = n;
            }
        }
        store(&stream.teed, teed);
        store(&stream.filled, filled);
        Phase::Drain.store(&stream.phase);
        // In the same turn: the tap is empty before another stream may want it.
        self.drain(stream, teed)
    }

    /// Takes the copy from the tap, which still holds `left` bytes of it, into the ring.
    fn drain(&mut self, stream: &Stream, mut left: usize) -> Kernel<Step> {
        let tap_out = self.hands.get(Slot::TAP)?;
        let pos = stream.pos.load(Ordering::Acquire);
        ChunkPool::mark(stream, pos, unix_ns());
        let teed = load(&stream.teed);
        while left > 0 {
            let at = pos.saturating_add(wide(teed.saturating_sub(left)));
            match self.tee.chunks.fill(stream, tap_out, at, left) {
                Ok(n) if n > 0 && teed > 0 => left = left.saturating_sub(n),
                // No memory for the copy: first the word that says so, then it is thrown away.
                _ => {
                    store(&stream.teed, 0);
                    fd::forget(tap_out);
                    left = 0;
                }
            }
        }
        self.tee.tap_is_empty = true;
        stream.next.store(pos.saturating_add(wide(passes(stream))), Ordering::Release);
        Phase::Pass.store(&stream.phase);
        self.block.tables().tap_owner.store(0, Ordering::Release);
        Ok(Step::Again)
    }

    /// Bytes in the stream's pipe: the kernel's count, which need not be asked where every move since the last answer was
    /// this worker's.
    fn in_pipe(&mut self, index: usize, pipe: usize) -> Kernel<usize> {
        if let Some(known) = self.tee.running(index).in_pipe {
            return Ok(known);
        }
        let asked = fd::unread(self.hands.get(Slot::pipe(pipe))?)?;
        self.tee.running(index).in_pipe = Some(asked);
        Ok(asked)
    }

    fn pass_on(&mut self, index: usize, stream: &Stream) -> Kernel<Step> {
        let next = stream.next.load(Ordering::Acquire);
        // From the two figures alone: `pos` may have been moved already by a worker that died right after.
        let moving = passes(stream);
        let rest = load(&stream.filled).saturating_sub(moving);
        let pipe = linked(&stream.pipe).ok_or(Errno::EBADF)?;
        self.open_target(index)?;
        let mut held = self.in_pipe(index, pipe)?;
        while held > rest {
            let left = held.saturating_sub(rest);
            let Some(n) = self.pass_some(index, pipe, left)? else {
                self.tee.waits(index, stream, self.board);
                return Ok(Step::Wait(Want::Target));
            };
            held = held.saturating_sub(n);
            self.tee.running(index).in_pipe = Some(held);
            self.tee.waits_no_more(index, self.board);
        }
        if load(&stream.teed) == 0 && moving > 0 {
            self.passed_uncopied(stream, next);
        }
        stream.pos.store(next, Ordering::Release);
        let now = monotonic_ns();
        self.passed(index, stream, now, wide(moving));
        Phase::store(if rest == 0 { Phase::Fill } else { Phase::Tee }, &stream.phase);
        if rest > 0 {
            return Ok(Step::Again);
        }
        Ok(self.after_move(index, now, wide(moving)))
    }

    /// Moves some of `left` bytes to containerd's end, or to nowhere if they would wait there in vain; how many. None: they wait.
    fn pass_some(&mut self, index: usize, pipe: usize, left: usize) -> Kernel<Option<usize>> {
        let pipe_out = self.hands.get(Slot::pipe(pipe))?;
        match fd::splice(pipe_out, self.hands.get(Slot::stream(index).plus(2))?, left) {
            Ok(Moved::Bytes(n)) => {
                let running = self.tee.running(index);
                (running.stalled_ns, running.discarding) = (None, false);
                return Ok(Some(n));
            }
            Ok(Moved::Blocked | Moved::End) => {}
            // What a logger has not taken before its end nobody will take; the collector has it.
            Err(Errno::EPIPE) if self.tee.is_logger(index) => self.tee.running(index).reader_gone = true,
            Err(errno) => return Err(errno),
        }
        let patience_ns = self.patience_ns(index);
        if !self.tee.running(index).reader_gone && !self.tee.is_stalled(index, patience_ns) {
            return Ok(None);
        }
        let Moved::Bytes(n) = fd::splice(pipe_out, self.tee.nowhere()?, left)? else { return Ok(Some(0)) };
        self.block.tables().counters.add_many(self.tee.reason_to_discard(index), wide(n));
        Ok(Some(n))
    }

    /// Is there a collector, and does it take what this stream brings?
    fn is_taken(&mut self, index: usize, stream: &Stream) -> bool {
        let (acked, pos) = (stream.acked.load(Ordering::Acquire), stream.pos.load(Ordering::Acquire));
        let goes_on = self.tee.running(index).taken.is_going_on(acked, pos, monotonic_ns());
        goes_on && self.board.is_attached()
    }

    /// What was passed on up to `next` has no copy.
    fn passed_uncopied(&mut self, stream: &Stream, next: u64) {
        if self.is_safe() {
            stream.uncopied.store(next, Ordering::Release);
        } else if stream.unwanted.load(Ordering::Acquire) == 0 && ChunkPool::is_waited_for(stream) {
            return;
        }
        self.tee.chunks.skip(stream, next);
    }

    /// containerd's FIFO gets its writer when there is something to say to it, or Create has succeeded: a client whose
    /// Create fails, and who may try again with the same FIFOs, must find them as the inner shim left ours.
    pub(super) fn open_target(&mut self, index: usize) -> Kernel<()> {
        let slot = Slot::stream(index).plus(2);
        if self.hands.has(slot) {
            return Ok(());
        }
        self.hands.ensure(Operation::OuterWriter, slot, "")
    }

    fn passed(&mut self, index: usize, stream: &Stream, now: u64, bytes: u64) {
        const TRIM_AFTER_NS: u64 = 1_000_000_000;
        let running = self.tee.running(index);
        running.moved_ns = now;
        if bytes >= wide(MOVE / 4) {
            running.trim_ns = Some(now.saturating_add(TRIM_AFTER_NS));
        }
        self.board.output_moved(stream);
    }

    /// The pipe is empty again: more at once, or after a pause.
    fn after_move(&mut self, index: usize, now: u64, bytes: u64) -> Step {
        let coalesce_ms = self.block.tables().coalesce_ms.load(Ordering::Relaxed);
        let task = linked(&self.stream(index).task).map(|t| self.task(t));
        let may_pace = task.is_some_and(|t| {
            t.terminal.load(Ordering::Relaxed) == 0 && t.exit_known.load(Ordering::Acquire) == 0
        });
        let running = self.tee.running(index);
        if may_pace && !running.hung_up {
            running.pace.moved(now, bytes, coalesce_ms);
        }
        if running.pace.is_waiting() {
            let stream = self.stream(index);
            if let Some(pipe) = linked(&stream.pipe) {
                self.return_pipe(stream, pipe);
            }
            return Step::Wait(Want::Source);
        }
        Step::Again
    }

    fn return_pipe(&mut self, stream: &Stream, pipe: usize) {
        stream.pipe.store(0, Ordering::Release);
        self.pipes.release(pipe, &mut self.hands);
    }

    /// A worker that died in the middle of a copy left bytes in the tap: they are finished first, whoever's they are.
    pub(crate) fn finish_tap(&mut self) {
        if let Some(owner) = linked(&self.block.tables().tap_owner) {
            for _ in 0..TURN {
                let phase = Phase::load(&self.stream(owner).phase);
                if !matches!(phase, Phase::Tee | Phase::Drain) || self.stream_step(owner).is_err() {
                    break;
                }
            }
        }
        if let Ok(tap) = self.hands.get(Slot::TAP) {
            fd::forget(tap);
        }
    }
}

/// How many of the pipe's bytes this round passes on: those that were copied; without a copy all of them, and the ring
/// starts anew behind.
fn passes(stream: &Stream) -> usize {
    let teed = load(&stream.teed);
    if teed == 0 { load(&stream.filled) } else { teed }
}

// === impl Tee ===

impl super::Tee {
    /// Has containerd's end taken nothing for longer than `patience_ns`? That clock runs only while there is a bound: who
    /// was away for an hour before the kill has as long after it as anybody.
    fn is_stalled(&mut self, index: usize, patience_ns: Option<u64>) -> bool {
        let now = monotonic_ns();
        let running = self.running(index);
        let Some(patience_ns) = patience_ns else {
            (running.stalled_ns, running.discarding) = (None, false);
            return false;
        };
        let since = *running.stalled_ns.get_or_insert(now);
        running.discarding |= now.saturating_sub(since) >= patience_ns;
        running.discarding
    }

    /// containerd's end takes nothing.
    fn waits(&mut self, index: usize, stream: &Stream, board: &Switchboard) {
        if !std::mem::replace(&mut self.running(index).waits, true) {
            board.stalls.begins(index, stream.handle.load(Ordering::Relaxed), monotonic_ns());
        }
    }

    /// It took something, or what it did not take is gone.
    fn waits_no_more(&mut self, index: usize, board: &Switchboard) {
        if std::mem::take(&mut self.running(index).waits) {
            board.stalls.ends(index, monotonic_ns());
        }
    }

    fn reason_to_discard(&self, index: usize) -> Counter {
        if self.is_logger(index) { Counter::DiscardedLoggerGone } else { Counter::DiscardedAfterKill }
    }

    fn nowhere(&mut self) -> Kernel<BorrowedFd<'_>> {
        if self.nowhere.is_none() {
            let file = OpenOptions::new().write(true).open("/dev/null");
            self.nowhere = Some(file.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?);
        }
        self.nowhere.as_ref().map(AsFd::as_fd).ok_or(Errno::EBADF)
    }
}
