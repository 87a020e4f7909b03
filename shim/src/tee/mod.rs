//! The tee: every byte from a container's FIFO to containerd's, with a copy for the collector made on the way.
//!
//! A byte's way: inner FIFO → pipe (splice) → outer FIFO (splice), and from the pipe by tee(2) into the tap, which is
//! read at once into the mapped ring. `capture` makes streams, `pump` moves, `ring` keeps the copy, `taken` says whether
//! somebody takes it, `pace` says when, `ending` closes. containerd's end is the only thing that may make it wait, as the unwrapped shim would.

mod capture;
mod ending;
mod logger;
pub mod logger_uri;
mod pace;
pub mod pressure;
mod pump;
pub mod ring;
mod taken;
mod uri;

use std::{fs::File, sync::atomic::Ordering};

use nix::sys::epoll::EpollFlags;

use self::{pace::Pace, ring::ChunkPool, taken::Taken};
use crate::{
    block::{Block, Phase, STREAMS, Slot, Stream, StreamState, TaskState, linked},
    relay::Want,
    sys::{Kernel, fd, monotonic_ns},
    worker::{Token, Worker},
};

/// What streams have beside their entries in the block.
pub struct Tee {
    pub(crate) chunks: ChunkPool,
    running: Vec<Running>,
    /// The tap was seen empty by this worker, which has put nothing into it since.
    tap_is_empty: bool,
    /// /dev/null, where output goes that nobody will ever read; opened when first needed.
    nowhere: Option<File>,
}

/// One stream's volatile side: losing it costs a wake-up, nothing else.
#[derive(Default)]
struct Running {
    want: Want,
    /// A writer was there and all have closed: what is in the FIFO is all that comes.
    hung_up: bool,
    pace: Pace,
    /// Since when containerd's end has taken nothing though we had something (CLOCK_MONOTONIC ns).
    stalled_ns: Option<u64>,
    /// That is being counted (`link::stalls`).
    waits: bool,
    /// What it does not take is being thrown away.
    discarding: bool,
    /// When the last byte moved.
    moved_ns: u64,
    /// When unused chunks are looked for.
    trim_ns: Option<u64>,
    /// When a stream that failed is tried again.
    retry_ns: Option<u64>,
    /// Its end is a logger (`logger`), not a FIFO of containerd's.
    logger: bool,
    /// That logger has closed its end; what the container had written before is looked at once more.
    reader_gone: bool,
    looked_last: bool,
    /// How much is in its pipe, where this worker has made every move since that was certain. `None`: ask the kernel.
    in_pipe: Option<usize>,
    taken: Taken,
}

// === impl Tee ===

impl Tee {
    /// From what the block says.
    pub fn recover(block: &'static Block) -> Kernel<Self> {
        let mut running = Vec::new();
        // When the last byte moved died with the predecessor; now is the safe guess, a hold then waits a little more.
        let moved_ns = monotonic_ns();
        let begun = |s| Running { moved_ns, logger: logger::has_logger(s), ..Running::default() };
        running.extend(block.tables().streams().iter().map(begun));
        Ok(Self { chunks: ChunkPool::recover(block)?, running, tap_is_empty: false, nowhere: None })
    }

    fn running(&mut self, stream: usize) -> &mut Running {
        if self.running.len() <= stream {
            self.running.resize_with(stream.saturating_add(1), Running::default);
        }
        self.running.get_mut(stream).expect("just made as long")
    }
}

// === impl Worker ===

impl Worker {
    /// The entry at an index that came from the table of streams.
    pub(crate) fn stream(&self, index: usize) -> &'static Stream {
        let streams = &self.block.tables().streams;
        streams.get(index).unwrap_or(&streams[0])
    }

    fn live_streams(&self) -> impl Iterator<Item = (usize, &'static Stream)> + use<> {
        let streams = self.block.tables().streams().iter().enumerate();
        streams.filter(|(_, s)| matches!(StreamState::load(&s.state), StreamState::Setup | StreamState::Live))
    }

    /// Is any stream not yet passed on to its end?
    pub(crate) fn streams_busy(&self) -> bool {
        // The inner shim is gone and so are its writers; what hangs on is a container process that still writes.
        self.live_streams().next().is_some()
    }

    /// The same of a stream whose bytes go to a logger.
    pub(crate) fn loggers_busy(&self) -> bool {
        self.live_streams().any(|(index, _)| self.tee.is_logger(index))
    }

    /// epoll says something about a stream's inner FIFO.
    pub(crate) fn source_event(&mut self, stream: usize, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLHUP) {
            self.tee.running(stream).hung_up = true;
        }
        self.stream_pump(stream);
    }

    /// epoll says something about where a stream's bytes go.
    pub(crate) fn target_event(&mut self, stream: usize, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLERR) && self.tee.is_logger(stream) {
            self.logger_is_gone(stream);
        }
        self.stream_pump(stream);
    }

    /// Moves what can be moved, and waits for what is missing.
    pub(crate) fn stream_pump(&mut self, stream: usize) {
        let entry = self.stream(stream);
        if !matches!(StreamState::load(&entry.state), StreamState::Setup | StreamState::Live) {
            // A predecessor may have died before it had closed what an ended one holds.
            self.stream_close(stream);
            return;
        }
        let want = self.stream_turn(stream);
        if want == Want::Turn {
            self.unfinished.insert(Token::Source(stream));
        }
        self.tee.running(stream).want = want;
        self.stream_register(stream);
    }

    /// Waits for the first byte of a stream whose ends were just opened.
    fn stream_await(&mut self, stream: usize) {
        self.tee.running(stream).want = Want::Source;
        self.stream_register(stream);
    }

    fn stream_register(&mut self, stream: usize) {
        let running = self.tee.running(stream);
        let (want, paced) = (running.want, running.pace.is_waiting());
        let base = Slot::stream(stream);
        // While pacing, only the hang-up wakes us: exit is never delayed.
        let source = match want {
            Want::Source if paced => Some(EpollFlags::empty()),
            Want::Source | Want::SourceChange => Some(EpollFlags::EPOLLIN),
            Want::Target | Want::Turn | Want::Nothing => None,
        };
        // The end of a logger is to be noticed also while nothing is to be said to it; once.
        let live = StreamState::load(&self.stream(stream).state) == StreamState::Live;
        let gone = self.tee.running(stream).reader_gone;
        let watched = (live && !gone && self.tee.is_logger(stream)).then_some(EpollFlags::empty());
        let target = if want == Want::Target { Some(EpollFlags::EPOLLOUT) } else { watched };
        let wanted = [(base, Token::Source(stream), source), (base.plus(2), Token::Target(stream), target)];
        for (slot, token, flags) in wanted {
            if let Ok(fd) = self.hands.get(slot) {
                let _: Kernel<()> = self.poller.want(token.number(), fd, flags);
            }
        }
    }

    /// Streams whose time has come: paced ones, stalled ones of killed tasks, chunks that nobody needs.
    pub(crate) fn tend_streams(&mut self, now: u64) {
        let due: Vec<usize> = self
            .live_streams()
            .map(|(n, _)| n)
            .filter(|n| {
                self.tee
                    .running
                    .get(*n)
                    .is_some_and(|r| r.due_ns(self.patience_ns(*n)).is_some_and(|at| at <= now))
            })
            .collect();
        for stream in due {
            let running = self.tee.running(stream);
            running.pace.over();
            running.retry_ns = None;
            if running.trim_ns.is_some_and(|at| at <= now) {
                running.trim_ns = None;
                // What waits to be passed on is in the ring beyond `pos`: then it is trimmed after the next move.
                let entry = self.stream(stream);
                if Phase::load(&entry.phase) == Phase::Fill {
                    self.tee.chunks.trim(entry);
                }
            }
            self.stream_pump(stream);
        }
    }

    /// The earliest of those times.
    pub(crate) fn streams_due_ns(&self) -> Option<u64> {
        self.live_streams().filter_map(|(n, _)| self.tee.running.get(n)?.due_ns(self.patience_ns(n))).min()
    }

    /// How long (ns) containerd may take nothing before what it does not take is thrown away; `None`: for ever. A reader
    /// that is away (containerd restarts, or hangs with its disk) gets everything, as from the shim alone, unless somebody
    /// would wait for it in vain (docs/adr/0015). A logger's end is its death, which is seen, so it may be as slow as it
    /// likes, also after its Delete; only when no shim is left to end it, one that takes nothing must not keep us for ever.
    fn patience_ns(&self, stream: usize) -> Option<u64> {
        const HUNG_NS: u64 = 5_000_000_000;
        const DELETED_NS: u64 = 1_000_000_000;
        const LOGGER_NS: u64 = 600_000_000_000;
        if self.tee.is_logger(stream) {
            return self.is_inner_gone().then_some(LOGGER_NS);
        }
        let Some(task) = linked(&self.stream(stream).task).map(|t| self.task(t)) else {
            return Some(DELETED_NS);
        };
        if TaskState::load(&task.state) == TaskState::Deleted {
            return Some(DELETED_NS);
        }
        // A killed task whose exit was told has nothing to hang for; containerd's CRI kills each once more at its end.
        let killed = task.killed.load(Ordering::Acquire) != 0 && task.exit_known.load(Ordering::Acquire) == 0;
        (killed || self.is_inner_gone()).then_some(HUNG_NS)
    }

    /// Has containerd taken everything that these streams will (or, for now, do) bring? True after the end, or when
    /// everything is empty and 100 ms have passed without a byte: a grandchild may hold the FIFO for ever.
    pub(crate) fn task_is_drained(&self, task: usize) -> bool {
        let now = monotonic_ns();
        self.task(task).streams.iter().filter_map(linked).all(|stream| self.stream_is_drained(stream, now))
    }

    fn stream_is_drained(&self, stream: usize, now: u64) -> bool {
        const QUIET_NS: u64 = 100_000_000;
        let entry = self.stream(stream);
        let base = Slot::stream(stream);
        let waits = |slot: Slot| self.hands.get(slot).is_ok_and(|f| fd::unread(f).is_ok_and(|n| n > 0));
        let state = StreamState::load(&entry.state);
        if state == StreamState::Free || waits(base.plus(1)) {
            return state == StreamState::Free;
        }
        if state == StreamState::Ended {
            return true;
        }
        let idle = !waits(base) && linked(&entry.pipe).is_none();
        if self.tee.is_logger(stream) {
            // Nobody reads to an end before the Delete, which tells the logger to end: by then it can reach everything but
            // what its own pipe holds, as without us. A slow one has the time that every Wait may be held.
            return idle;
        }
        let exit = linked(&entry.task).map_or(0, |t| self.task(t).exited_mono_ns.load(Ordering::Acquire));
        let moved = self.tee.running.get(stream).map_or(0, |r| r.moved_ns);
        idle && now.saturating_sub(moved.max(exit)) >= QUIET_NS
    }

    /// Lets a task's streams move at once, paced or not.
    pub(crate) fn pump_task_streams(&mut self, task: usize) {
        for stream in self.task(task).streams.iter().filter_map(linked).collect::<Vec<_>>() {
            self.tee.running(stream).pace.over();
            self.stream_pump(stream);
        }
    }
}

// === impl Running ===

impl Running {
    /// `patience_ns`: see [`Worker::patience_ns`].
    fn due_ns(&self, patience_ns: Option<u64>) -> Option<u64> {
        let patience_ns = patience_ns.filter(|_| self.want == Want::Target);
        // At once where its clock has yet to be started.
        let stalled = patience_ns.map(|ns| self.stalled_ns.map_or(0, |at| at.saturating_add(ns)));
        [self.pace.due_ns(), stalled, self.trim_ns, self.retry_ns].into_iter().flatten().min()
    }
}

const _: () = assert!(STREAMS < 1 << 16, "stream indices fit a token");
