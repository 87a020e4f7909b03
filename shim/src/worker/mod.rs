//! The worker: one epoll loop that relays frames and tees output, and a second thread for link and stats.
//!
//! The loop is level-triggered and keeps no state of its own that matters: what a move has come to is in the block
//! and in the kernel, so that a worker may die at any instruction and its successor goes on. It waits for containerd
//! and the inner shim and for nothing else: not for the link thread, a disk, or a log.

mod beat;
mod control;
#[cfg(any(test, fuzzing))]
pub mod damage;
mod deaths;
pub mod hands;
mod image;
mod inner;
#[cfg(test)]
pub(crate) mod model;
mod pipes;
mod recover;
mod spool;
pub mod watched;

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering,
};

use nix::sys::epoll::{EpollEvent, EpollFlags};

pub use self::{
    deaths::on_the_wire,
    hands::Hands,
    image::{VERB, main_of_image},
    pipes::Pipes,
};
use crate::{
    block::{
        Block,
        care::{Mode, Reason},
    },
    events::EventRing,
    keeper::Inheritance,
    link::{self, Switchboard},
    relay::Relay,
    sys::{Kernel, epoll::Poller, monotonic_ns, process},
    tee::Tee,
};

/// Exit status of a worker whose pod is over, or that makes way for its successor.
const OVER: i32 = 0;

/// After the inner shim is gone, this long is waited for a collector that is attached to take the last bytes. What it has
/// not taken then, or what there was no collector for, goes to a file.
const LINGER_NS: u64 = 5_000_000_000;
/// The same where none is about, and where no file can be had.
const LINGER_ALONE_NS: u64 = 1_000_000_000;
/// Connections and output that do not end by themselves are ended after this.
const HOLD_ON_NS: u64 = 10_000_000_000;

/// How often it is looked whether it is over.
const LOOK_NS: u64 = 50_000_000;

/// What an epoll token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// The pair to the keeper.
    Keeper,
    /// The idle connection to the inner shim.
    Watch,
    /// The link thread has something for the relay.
    Link,
    /// containerd's end of a connection.
    Outer(usize),
    /// The inner shim's end.
    Inner(usize),
    /// A stream's inner FIFO.
    Source(usize),
    /// A stream's outer FIFO.
    Target(usize),
    /// Connections that the keeper has not accepted yet.
    Queue,
}

/// Everything the loop works with.
pub struct Worker {
    pub(crate) block: &'static Block,
    pub(crate) hands: Hands,
    pub(crate) poller: Poller,
    pub(crate) pipes: Pipes,
    pub(crate) relay: Relay,
    pub(crate) tee: Tee,
    pub(crate) events: EventRing,
    pub(crate) board: &'static Switchboard,
    /// Connections and streams that had their turn and have more to do.
    pub(crate) unfinished: BTreeSet<Token>,
    inner: inner::Inner,
    /// How much it dares, for all its life.
    pub(crate) mode: Mode,
    /// In safe mode: streams whose FIFO the shim has not opened yet (`relay::safe`).
    pub(crate) unled: Vec<usize>,
    /// It runs in the process of a keeper that could not fork.
    stands_in: bool,
    /// Where `start` waits for a first worker.
    awaited: Option<OwnedFd>,
    beat: beat::Beat,
    /// Since when the upgrade at hand is where it is.
    upgrade: image::Wait,
    spooling: spool::Spooling,
}

/// The life of a forked worker, from what the keeper left it to its exit status.
pub fn main(inheritance: Inheritance) -> i32 {
    process::set_name_and_undumpable(c"tap-worker");
    process::set_lenient_timers();
    process::let_children_go();
    match Worker::recover(inheritance).and_then(Worker::run) {
        Ok(()) => OVER,
        Err(errno) => errno as i32,
    }
}

// === impl Token ===

impl Token {
    const WIDTH: u64 = 1 << 32;

    /// As epoll carries it.
    pub fn number(self) -> u64 {
        let (kind, index) = match self {
            Self::Keeper => (0, 0),
            Self::Watch => (1, 0),
            Self::Link => (2, 0),
            Self::Outer(n) => (3, n),
            Self::Inner(n) => (4, n),
            Self::Source(n) => (5, n),
            Self::Target(n) => (6, n),
            Self::Queue => (7, 0),
        };
        kind * Self::WIDTH + u64::try_from(index).unwrap_or(0)
    }

    fn from_number(number: u64) -> Option<Self> {
        let index = usize::try_from(number % Self::WIDTH).ok()?;
        Some(match number / Self::WIDTH {
            0 => Self::Keeper,
            1 => Self::Watch,
            2 => Self::Link,
            3 => Self::Outer(index),
            4 => Self::Inner(index),
            5 => Self::Source(index),
            6 => Self::Target(index),
            7 => Self::Queue,
            _ => return None,
        })
    }
}

// === impl Worker ===

impl Worker {
    fn run(mut self) -> Kernel<()> {
        self.begin();
        // After it: whoever waits for this worker waits for the relay, not for the other thread.
        if self.mode != Mode::Bare {
            link::spawn(self.block, self.board);
        }
        loop {
            if self.tend()? {
                return Ok(());
            }
            if self.is_over() {
                self.block.tables().over.store(1, Ordering::Release);
                self.hands.see_keeper_off();
                // Again, or in its place: whichever of the two dies in this, the other one leaves nothing behind.
                crate::keeper::sweep(self.block);
                return Ok(());
            }
            self.turn(self.next_wake_ms())?;
        }
    }

    /// Takes up what a predecessor left.
    fn begin(&mut self) {
        self.note_inner_process();
        self.watch_inner();
        // A refusal costs the notice of a keeper that is hung, nothing else.
        let _ = self.watch_queue();
        let awaited = self.awaited.take();
        if self.stands_in {
            // Nobody is told: a pod that would begin in a keeper's place alone is better off unwrapped.
            self.block.tables().care.note_ready(monotonic_ns());
        } else {
            if let Some(awaited) = awaited {
                // By itself: the keeper's turn in between would be one more for everybody to wait for.
                let _ = nix::unistd::write(&awaited, b"1");
            }
            self.hands.ready();
        }
        self.tell_deaths();
        self.pump_everything();
    }

    /// Waits for events and sees to them, and to what had more to do.
    fn turn(&mut self, longest_ms: Option<u16>) -> Kernel<()> {
        let mut events = [EpollEvent::empty(); 32];
        let n = self.poller.wait(&mut events, longest_ms)?;
        let unfinished = std::mem::take(&mut self.unfinished);
        for event in events.iter().take(n) {
            if let Some(token) = Token::from_number(event.data()) {
                self.handle(token, event.events());
            }
        }
        for token in unfinished {
            self.handle(token, EpollFlags::empty());
        }
        Ok(())
    }

    fn handle(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Keeper => self.hear_keeper(),
            Token::Watch => self.watch_ended(),
            Token::Link => self.board.clear_relay_wake(),
            Token::Outer(conn) => self.conn_event(conn, 0, flags),
            Token::Inner(conn) => self.conn_event(conn, 1, flags),
            Token::Source(stream) => self.source_event(stream, flags),
            Token::Target(stream) => self.target_event(stream, flags),
            Token::Queue => self.queue_has_moved(monotonic_ns()),
        }
    }

    /// What is due by time or by another thread's doing rather than by a descriptor. True: this worker is to end, and
    /// another to begin.
    fn tend(&mut self) -> Kernel<bool> {
        let now = monotonic_ns();
        if self.tend_beat(now) || self.is_relieved() || self.tend_upgrade(now) || self.tend_mode(now) {
            return Ok(true);
        }
        self.tend_streams(now);
        self.lead_streams();
        self.tend_held(now);
        self.tend_starved(now);
        self.tend_tasks();
        self.tend_spool(now);
        self.tend_inner(now);
        self.adopt_accepted();
        self.hands.tend_keeper();
        if self.hands.take_pair_change() {
            self.poller.forget(Token::Keeper.number());
        }
        let listening = (!self.hands.is_orphaned()).then_some(EpollFlags::EPOLLIN);
        self.poller.want(Token::Keeper.number(), self.hands.pair(), listening)?;
        self.tell_replaced_keepers();
        Ok(false)
    }

    /// A stand-in has made a keeper that works: its part is over.
    fn is_relieved(&mut self) -> bool {
        if !self.stands_in || self.hands.is_orphaned() || !self.hands.ready() {
            return false;
        }
        self.block.tables().care.announce(Reason::Replaced);
        true
    }

    fn next_wake_ms(&self) -> Option<u16> {
        if !self.unfinished.is_empty() {
            return Some(0);
        }
        let now = monotonic_ns();
        let mut due = [
            self.streams_due_ns(),
            self.held_due_ns(),
            self.starved_until_ns(),
            self.inner_due_ns(),
            self.hands.keeper_due_ns(),
            Some(self.beat_due_ns()),
            self.upgrade_due_ns(),
        ]
        .into_iter()
        .flatten()
        .min();
        if self.is_inner_gone() {
            // Whether it is over depends on the other thread too.
            due = Some(due.unwrap_or(u64::MAX).min(now.saturating_add(LOOK_NS)));
        }
        // Rounded up: waking before the time is waking twice.
        due.map(|at| u16::try_from(at.saturating_sub(now).div_ceil(1_000_000)).unwrap_or(u16::MAX))
    }

    /// Reads the keeper's notices.
    fn hear_keeper(&mut self) {
        self.hands.receive();
        self.adopt_accepted();
    }

    /// Connections that the keeper has announced, also those that came along with an answer to something else.
    fn adopt_accepted(&mut self) {
        while let Some(conn) = self.hands.next_accepted() {
            self.sign_is_due();
            self.conn_begin(conn);
        }
    }

    fn pump_everything(&mut self) {
        self.conns_begin();
        for stream in 0..self.block.tables().streams().len() {
            self.stream_pump(stream);
        }
    }

    fn watch_link(&mut self, wake: &OwnedFd) -> Kernel<()> {
        self.poller.want(Token::Link.number(), wake.as_fd(), Some(EpollFlags::EPOLLIN))
    }
}
