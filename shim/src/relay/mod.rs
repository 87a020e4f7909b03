//! The relay: one connection of containerd's to one connection of the inner shim's, frame by frame.
//!
//! A frame's way: `pump` moves it and knows where it is; `take` decides which frames are looked at; `request` and
//! `answer` say what they mean; `hold` keeps answers back for a while or gives our own; `repair` mends statistics. Order and bytes of what is not
//! rewritten never change, and nothing is injected towards the inner shim on a relayed connection.

mod answer;
mod hold;
mod pending;
mod pump;
mod repair;
mod request;
mod safe;
mod take;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use nix::sys::{epoll::EpollFlags, socket::Shutdown};
use shimtap_proto::control::MAGIC;

use crate::{
    block::{CONNS, Conn, ConnState as State, Dir, DirState, FRAME_AREA, Places, Slot, linked, note_used},
    keeper::protocol::Operation,
    sys::{
        Errno, fd, monotonic_ns,
        shared::{Area, Mapping},
    },
    worker::{Token, Worker},
};

/// To the inner shim.
pub(crate) const REQUESTS: usize = 0;
/// To containerd.
pub(crate) const ANSWERS: usize = 1;

/// How long what lacks a descriptor waits before it asks again.
const STARVED_NS: u64 = 20_000_000;

/// What a direction waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Want {
    #[default]
    Nothing,
    /// More from the source.
    Source,
    /// A change at the source: it has bytes, but not enough of them.
    SourceChange,
    /// Room at the target.
    Target,
    /// Nothing but its next turn.
    Turn,
}

/// What a living connection has beside its entry in the block.
pub(crate) struct Line {
    frames: Mapping,
    wants: [Want; 2],
    /// The peer will send no more: containerd, inner shim.
    source_done: [bool; 2],
    /// The peer is gone altogether.
    hung_up: [bool; 2],
}

/// The connections.
pub struct Relay {
    lines: BTreeMap<usize, Line>,
    /// Some direction got no pipe (descriptors are short): tried again at this time (CLOCK_MONOTONIC ns).
    starved_ns: Option<u64>,
    /// Connections that were announced without their sockets.
    missed: BTreeSet<usize>,
    /// Some answer is (or may be) held or ours; spares looking.
    holding: bool,
    /// Some Stats is (or may be) bounded.
    bounded: Cell<bool>,
    /// What Updates in flight ask for, by the request's entry. Not in the block: a successor that does not have it says so.
    resources: RefCell<BTreeMap<usize, Vec<u8>>>,
}

// === impl Relay ===

impl Relay {
    /// No connection adopted yet; whatever a predecessor left is looked for.
    pub fn new() -> Self {
        Self {
            lines: BTreeMap::new(),
            starved_ns: None,
            missed: BTreeSet::new(),
            holding: true,
            bounded: Cell::new(true),
            resources: RefCell::default(),
        }
    }

    /// Is any connection open?
    pub fn is_busy(&self) -> bool {
        !self.lines.is_empty()
    }
}

// === impl Line ===

impl Line {
    /// The frame area of a direction: as read, or as changed.
    pub(crate) fn area(&self, dir: usize, changed: bool) -> Option<Area<'_>> {
        let n = dir.checked_mul(2)?.checked_add(usize::from(changed))?;
        self.frames.area(n.checked_mul(FRAME_AREA)?, FRAME_AREA)
    }
}

// === impl Worker ===

impl Worker {
    /// When directions that got no pipe are tried again.
    pub(crate) fn starved_until_ns(&self) -> Option<u64> {
        self.relay.starved_ns
    }

    /// This connection lacks a descriptor: nothing is waited for but time.
    fn starve(&mut self, conn: usize) {
        self.relay.starved_ns = Some(monotonic_ns().saturating_add(STARVED_NS));
        for dir in [REQUESTS, ANSWERS] {
            self.note_want(conn, dir, Want::Nothing);
        }
        self.conn_register(conn);
    }

    /// Tries them again, if it is time.
    pub(crate) fn tend_starved(&mut self, now: u64) {
        if self.relay.starved_ns.is_some_and(|at| now >= at) {
            self.relay.starved_ns = None;
            for conn in std::mem::take(&mut self.relay.missed) {
                self.conn_begin(conn);
            }
            let conns: Vec<usize> = self.relay.lines.keys().copied().collect();
            conns.into_iter().for_each(|conn| self.conn_pump(conn));
        }
    }

    /// A connection that the keeper accepted.
    pub(crate) fn conn_begin(&mut self, conn: usize) {
        if self.conn_adopt(conn) {
            self.conn_pump(conn);
        }
    }

    /// Takes a connection up without moving anything on it. False where that was done before, or cannot be done now.
    fn conn_adopt(&mut self, conn: usize) -> bool {
        if self.relay.lines.contains_key(&conn) || conn >= CONNS {
            return false;
        }
        let there = self.hands.ensure(Operation::Fetch, Slot::outer(conn), "");
        let frames = there.and_then(|()| self.block.map_place(Places::frames(conn)));
        let Ok(frames) = frames else {
            // Descriptors or mappings are short; the keeper holds it until they are not.
            self.relay.missed.insert(conn);
            self.relay.starved_ns = Some(monotonic_ns().saturating_add(STARVED_NS));
            return false;
        };
        let line = Line { frames, wants: Default::default(), source_done: [false; 2], hung_up: [false; 2] };
        self.relay.lines.insert(conn, line);
        note_used(&self.block.tables().conns_used, conn);
        let entry = self.conn(conn);
        if State::load(&entry.state) == State::Free {
            State::Quiet.store(&entry.state);
        }
        true
    }

    /// Those that were accepted before this worker was born. All of them are taken up before the first one moves: what goes on
    /// one may let an answer go on another.
    pub(crate) fn conns_begin(&mut self) {
        let there: Vec<usize> = (0..CONNS).filter(|conn| self.hands.has(Slot::outer(*conn))).collect();
        let adopted: Vec<usize> = there.into_iter().filter(|conn| self.conn_adopt(*conn)).collect();
        for conn in adopted {
            self.conn_pump(conn);
        }
    }

    /// The table entry of a connection.
    pub(crate) fn conn(&self, conn: usize) -> &'static Conn {
        let conns = &self.block.tables().conns;
        conns.get(conn).unwrap_or(&conns[0])
    }

    /// One direction's entry.
    pub(crate) fn dir(&self, conn: usize, dir: usize) -> &'static Dir {
        let dirs = &self.conn(conn).dirs;
        dirs.get(dir).unwrap_or(&dirs[0])
    }

    /// epoll says something about one end: 0 = containerd's, 1 = the inner shim's.
    pub(crate) fn conn_event(&mut self, conn: usize, end: usize, flags: EpollFlags) {
        if let Some(line) = self.relay.lines.get_mut(&conn) {
            let gone = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            let done = gone || flags.contains(EpollFlags::EPOLLRDHUP);
            if let Some(flag) = line.source_done.get_mut(end) {
                *flag |= done;
            }
            if let Some(flag) = line.hung_up.get_mut(end) {
                *flag |= gone;
            }
            self.conn_pump(conn);
        }
    }

    /// Moves what can be moved in both directions, then waits for what is missing, or ends the connection.
    pub(crate) fn conn_pump(&mut self, conn: usize) {
        // One that was not taken up, for want of descriptors, or has ended meanwhile.
        if !self.relay.lines.contains_key(&conn) {
            return;
        }
        if State::load(&self.conn(conn).state) == State::Quiet && !self.conn_connect(conn) {
            return;
        }
        for dir in [REQUESTS, ANSWERS] {
            let want = self.dir_pump(conn, dir);
            self.note_want(conn, dir, want);
        }
        if self.conn_is_over(conn) {
            self.conn_end(conn);
        } else {
            self.conn_register(conn);
        }
    }

    fn note_want(&mut self, conn: usize, dir: usize, want: Want) {
        if want == Want::Turn {
            self.unfinished.insert(Token::Outer(conn));
        }
        if let Some(slot) = self.relay.lines.get_mut(&conn).and_then(|l| l.wants.get_mut(dir)) {
            *slot = want;
        }
    }

    /// Connects to the inner shim at the first byte; probes come and go without one. False: nothing to pump.
    fn conn_connect(&mut self, conn: usize) -> bool {
        let mut byte = [0u8; 1];
        let first = self.hands.get(Slot::outer(conn)).and_then(|outer| {
            fd::set_peek_off(outer, 0)?;
            fd::peek(outer, &mut byte)
        });
        match first {
            Ok(None) => {
                self.wait_for_source(conn, Want::Source);
                false
            }
            Ok(Some(1)) if byte == MAGIC.first_chunk().copied().unwrap_or_default() => {
                self.hear_request(conn);
                false
            }
            // Its address may connect all the same: see `worker::inner`.
            Ok(Some(1)) if self.is_inner_gone() => {
                self.conn_end(conn);
                false
            }
            Ok(Some(1)) => match self.hands.ensure(Operation::Connect, Slot::inner(conn), "") {
                Ok(()) => {
                    State::Up.store(&self.conn(conn).state);
                    true
                }
                // The client sees what it would see of a dead shim.
                Err(Errno::ECONNREFUSED | Errno::ENOENT) => {
                    self.conn_end(conn);
                    false
                }
                // A full backlog, or descriptors are short: connect(2) would have waited, too.
                Err(_) => {
                    self.starve(conn);
                    false
                }
            },
            // Gone without having wanted anything, as probes are.
            _ => {
                self.conn_end(conn);
                false
            }
        }
    }

    /// A connection that has nothing to forward yet.
    pub(crate) fn wait_for_source(&mut self, conn: usize, want: Want) {
        if let Some(line) = self.relay.lines.get_mut(&conn) {
            line.wants = [want, Want::Nothing];
        }
        self.conn_register(conn);
    }

    fn conn_is_over(&self, conn: usize) -> bool {
        let ended = |dir| DirState::load(&self.dir(conn, dir).state) == DirState::Ended;
        let gone = |end: usize| {
            self.relay.lines.get(&conn).and_then(|l| l.hung_up.get(end)).copied().unwrap_or(true)
        };
        (ended(REQUESTS) && ended(ANSWERS)) || (ended(REQUESTS) && gone(0)) || (ended(ANSWERS) && gone(1))
    }

    /// Ends both connections at once, whatever duplicates exist, and gives everything back.
    pub(crate) fn conn_end(&mut self, conn: usize) {
        State::Closing.store(&self.conn(conn).state);
        for (slot, token) in self.conn_ends(conn) {
            if let Ok(socket) = self.hands.get(slot) {
                let _ = self.poller.want(token.number(), socket, None);
                let _ = fd::shutdown(socket, Shutdown::Both);
            }
        }
        self.forget_pendings(conn);
        for dir in [REQUESTS, ANSWERS] {
            let entry = self.dir(conn, dir);
            if let Some(pipe) = linked(&entry.pipe) {
                entry.pipe.store(0, Ordering::Release);
                self.pipes.discard(pipe, &mut self.hands);
            }
            for word in [&entry.pending, &entry.out_len, &entry.frame_len] {
                word.store(0, Ordering::Release);
            }
            DirState::Idle.store(&entry.state);
        }
        self.relay.lines.remove(&conn);
        self.block.punch(Places::frames(conn));
        // Inner end first: while the outer one is held, the keeper does not use the entry for another connection.
        self.hands.give_back(Slot::inner(conn), 1);
        State::Free.store(&self.conn(conn).state);
        self.hands.give_back(Slot::outer(conn), 1);
    }

    fn conn_ends(&self, conn: usize) -> [(Slot, Token); 2] {
        [(Slot::outer(conn), Token::Outer(conn)), (Slot::inner(conn), Token::Inner(conn))]
    }

    fn conn_register(&mut self, conn: usize) {
        let Some(wants) = self.relay.lines.get(&conn).map(|l| l.wants) else { return };
        let [requests, answers] = wants;
        let ends = self.conn_ends(conn);
        for ((slot, token), (reads, writes)) in
            ends.into_iter().zip([(requests, answers), (answers, requests)])
        {
            if let Ok(socket) = self.hands.get(slot)
                && self.poller.want(token.number(), socket, interest(reads, writes)).is_err()
            {
                // No memory for a registration: looked at by time until there is.
                self.relay.starved_ns = Some(monotonic_ns().saturating_add(STARVED_NS));
            }
        }
    }
}

/// Which events matter at a socket: the direction that reads from it, the one that writes to it.
fn interest(reads: Want, writes: Want) -> Option<EpollFlags> {
    let mut flags = EpollFlags::empty();
    match reads {
        Want::Source => flags |= EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
        // Level-triggered, half a header would wake us for ever.
        Want::SourceChange => flags |= EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET,
        Want::Target | Want::Turn | Want::Nothing => {}
    }
    if writes == Want::Target {
        flags |= EpollFlags::EPOLLOUT;
    }
    (!flags.is_empty()).then_some(flags)
}
