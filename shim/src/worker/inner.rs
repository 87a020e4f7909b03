//! Whether the inner shim is there: an idle connection to it says so by its end, and then connecting anew, and its process.
//!
//! Connecting alone is not enough: Kata's Rust shim leaves its listening socket to its hypervisor and to virtiofsd, which outlive it,
//! so that a dead shim's address still connects, for ever and to nobody (seen). So the process counts as well, where it is certain
//! which one it is: one that ran the inner shim's binary under the number that the shim itself gave. Where that was never so (a
//! shim in a pid namespace of its own, a script), connecting alone decides, as ever.
//!
//! When it has ended, and everything that it had said is passed on, each task of whose end it had not told is told of: nobody else
//! will say it.

use std::sync::atomic::Ordering;

use nix::sys::epoll::EpollFlags;
use shimtap_proto::link::{Event, EventKind};

use super::{HOLD_ON_NS, LINGER_ALONE_NS, LINGER_NS, LOOK_NS, Token, Worker};
use crate::{
    block::{Slot, TaskState},
    keeper::protocol::Operation,
    link,
    sys::{Errno, monotonic_ns, process, unix_ns},
};

/// One that ends in order closes its connections before it ends: its process is looked at for as long after that.
const LOOKS: u8 = 20;
const PAUSE_NS: u64 = 1_000_000_000;

/// What this worker knows of it. Its successor learns it anew, and may tell of the same tasks once more.
#[derive(Debug, Default)]
pub(super) struct Inner {
    /// Set when its end was seen (CLOCK_MONOTONIC ns).
    gone_ns: Option<u64>,
    /// Since when nobody is waited for any more but whoever takes what there is to say.
    over_ns: Option<u64>,
    /// When the idle connection to it is tried again, or its process looked at.
    again_ns: Option<u64>,
    /// How often its process is still looked at.
    looks: u8,
    /// The number under which its binary was seen to run.
    process: Option<u32>,
    /// What it took along was told.
    told: bool,
}

impl Worker {
    /// Registers for the inner shim's end.
    pub(super) fn watch_inner(&mut self) {
        let path = self.block.tables().identity.inner_path.get();
        match self.hands.ensure(Operation::Connect, Slot::WATCH, &path) {
            // Somebody else holds its socket.
            Ok(()) if self.has_its_process_ended() => {
                self.hands.give_back(Slot::WATCH, 1);
                self.inner_ended();
            }
            Ok(()) => {
                if let Ok(watch) = self.hands.get(Slot::WATCH) {
                    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
                    let _ = self.poller.want(Token::Watch.number(), watch, Some(flags));
                }
            }
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => self.inner_ended(),
            // Its backlog is full, or descriptors are short.
            Err(_) => self.inner.again_ns = Some(monotonic_ns().saturating_add(LOOK_NS)),
        }
    }

    /// The same where it could not be done before, if it is time.
    pub(super) fn tend_inner(&mut self, now: u64) {
        if self.inner.again_ns.is_some_and(|at| at <= now) {
            self.inner.again_ns = None;
            self.watch_inner();
            self.look_again(now);
        }
    }

    fn look_again(&mut self, now: u64) {
        let wanted = self.inner.process.is_some() && !self.is_inner_gone();
        if let Some(left) = self.inner.looks.checked_sub(1).filter(|_| wanted) {
            self.inner.looks = left;
            self.inner.again_ns.get_or_insert(now.saturating_add(PAUSE_NS));
        }
    }

    /// When that is due.
    pub(super) fn inner_due_ns(&self) -> Option<u64> {
        self.inner.again_ns
    }

    /// The idle connection ended: the inner shim has, or it closes idle connections.
    pub(super) fn watch_ended(&mut self) {
        if let Ok(watch) = self.hands.get(Slot::WATCH) {
            let _ = self.poller.want(Token::Watch.number(), watch, None);
        }
        self.hands.give_back(Slot::WATCH, 1);
        self.inner.looks = LOOKS;
        self.watch_inner();
        self.look_again(monotonic_ns());
    }

    /// The shim has said which process it is, or a worker begins: if that one runs it now, its end is the shim's.
    pub(crate) fn note_inner_process(&mut self) {
        let said = self.block.tables().identity.inner_pid.load(Ordering::Relaxed);
        if said == 0 || self.inner.process == Some(said) {
            return;
        }
        let runs = link::inner_pid(self.block.tables());
        self.inner.process = Some(runs).filter(|pid| *pid != 0).or(self.inner.process);
    }

    /// A process that is killed gives up its image before its connections: whoever sees those end does not find it any more.
    fn has_its_process_ended(&self) -> bool {
        self.inner.process.is_some_and(|pid| !link::runs_inner(self.block.tables(), pid))
    }

    fn inner_ended(&mut self) {
        self.inner.gone_ns.get_or_insert_with(monotonic_ns);
        // Nobody will answer what is in flight, and nobody will open what was never opened.
        for task in 0..self.block.tables().tasks().len() {
            self.task_undo(task);
        }
        for stream in 0..self.block.tables().streams().len() {
            self.stream_pump(stream);
        }
    }

    /// Has the inner shim ended?
    pub(crate) fn is_inner_gone(&self) -> bool {
        self.inner.gone_ns.is_some()
    }

    /// The inner shim has ended, no connection is left and every stream is passed on, or somebody has held on to one for too long; and
    /// the collector has it all, or a file has the rest, or neither came in time.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(gone) = self.inner.gone_ns else { return false };
        let now = monotonic_ns();
        let waited = now.saturating_sub(gone);
        if !self.relay.is_busy() || waited >= HOLD_ON_NS {
            self.tell_what_it_took_along();
        }
        // Whoever still holds on to a connection or a FIFO after that is no client of this shim any more. A logger is given up by its
        // stream, which ends then.
        let holds_on = self.relay.is_busy() || self.streams_busy();
        if self.loggers_busy() || (holds_on && waited < HOLD_ON_NS) {
            return false;
        }
        let over = *self.inner.over_ns.get_or_insert(now);
        let patience = if self.board.expects_collector() { LINGER_NS } else { LINGER_ALONE_NS };
        self.board.has_said_everything(self.block)
            || self.is_spooled(now, over).unwrap_or(now.saturating_sub(over) >= patience)
    }

    /// Behind all other events, since nothing more can come from it.
    fn tell_what_it_took_along(&mut self) {
        // In safe mode nobody listens to how tasks end.
        if std::mem::replace(&mut self.inner.told, true) || self.is_safe() {
            return;
        }
        for task in self.block.tables().tasks() {
            let state = TaskState::load(&task.state);
            let ran = matches!(state, TaskState::Created | TaskState::Running);
            if !ran || task.exit_known.load(Ordering::Acquire) != 0 {
                continue;
            }
            let pid = task.pid.load(Ordering::Relaxed);
            self.events.push(Event {
                time_ns: unix_ns(),
                kind: EventKind::EVENT_KIND_LOST.into(),
                task: task.handle.load(Ordering::Relaxed),
                container: task.id.get(),
                pid,
                outlived: process::lives(pid),
                ..Default::default()
            });
        }
        self.board.wake_link();
    }
}
