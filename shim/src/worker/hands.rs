//! The worker's descriptors: duplicates of what the keeper holds, by slot.
//!
//! The only way to get one is to ask the keeper, which then already has it. Asking waits for the answer, one second
//! at most; a keeper that is gone or mute by then is replaced, from this side, and asked again.

mod wish;

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

pub use self::wish::Wish;
use super::watched::{Replaced, Watched};
use crate::{
    args,
    block::{Block, Slot, Upgrade, care::Reason, linked},
    keeper::{
        self, FD_FLOOR,
        protocol::{Answer, Operation, Request, ToWorker},
    },
    sys::{
        Errno, Kernel,
        atomic::AtomicU32,
        epoll, fd, monotonic_ns,
        pair::{self, Received},
        process,
    },
};

/// A keeper does what it is asked within microseconds; after this it is taken for dead. One that is played by a thread of a test
/// lives however busy the machine is.
const PATIENCE_NS: u64 = if cfg!(test) { 60_000_000_000 } else { 1_000_000_000 };

/// How long one may take to sweep its few files and end.
const LEAVE_MS: u16 = 1000;

/// A keeper that died sooner than this was made in vain, or could not be made; the next but one waits so much longer for each
/// in a row, ten at most. A machine that refuses processes must not be asked in a loop; and while the next one waits, this
/// worker is alone.
const KEEPER_YOUNG_NS: u64 = 50_000_000;
const KEEPER_PAUSE_NS: u64 = 20_000_000;

/// Descriptors by slot, and the way to more.
pub struct Hands {
    block: &'static Block,
    pair: OwnedFd,
    keeper: Watched,
    fds: BTreeMap<Slot, OwnedFd>,
    serial: u32,
    accepted: VecDeque<usize>,
    /// The keeper is gone and has not been replaced yet.
    orphaned: bool,
    /// `pair` is not the one that was last asked about.
    pair_is_new: bool,
    /// No further keeper is made before (CLOCK_MONOTONIC ns).
    keeper_again_ns: u64,
    /// When the last one was (to be) made, and how many in a row in vain.
    keeper_began_ns: u64,
    in_vain: u64,
    /// It did not answer, as opposed to being gone.
    mute: bool,
    /// What came with an answer after nobody waited for it any more: the only writer of a FIFO, perhaps, whose end its reader would
    /// take for the stream's. Kept until the next keeper has made it anew.
    late: Vec<OwnedFd>,
    /// Keepers that were replaced and not yet spoken of.
    replaced: VecDeque<Replaced>,
}

enum Reply {
    Done(Vec<OwnedFd>),
    Refused(Errno),
    KeeperGone,
    KeeperMute,
}

// === impl Reply ===

impl Reply {
    fn of(answer: &Answer, fds: Vec<OwnedFd>) -> Self {
        if answer.errno == 0 { Self::Done(fds) } else { Self::Refused(Errno::from_raw(answer.errno)) }
    }
}

// === impl Hands ===

impl Hands {
    /// From what the keeper left to its forked worker.
    pub fn new(block: &'static Block, pair: OwnedFd, fds: BTreeMap<Slot, OwnedFd>) -> Self {
        Self {
            block,
            keeper: Watched::new(block.tables().keeper_pid.load(Ordering::Acquire), pair.as_fd()),
            pair,
            fds,
            serial: 0,
            accepted: VecDeque::new(),
            orphaned: false,
            pair_is_new: false,
            keeper_again_ns: 0,
            keeper_began_ns: 0,
            in_vain: 0,
            mute: false,
            late: Vec::new(),
            replaced: VecDeque::new(),
        }
    }

    /// The worker's end of the pair, to wait on.
    pub fn pair(&self) -> BorrowedFd<'_> {
        self.pair.as_fd()
    }

    /// Has the pair changed since this was last asked? Its number may be that of an earlier one.
    pub fn take_pair_change(&mut self) -> bool {
        std::mem::take(&mut self.pair_is_new)
    }

    /// The descriptor in a slot; EBADF where there is none.
    pub fn get(&self, slot: Slot) -> Kernel<BorrowedFd<'_>> {
        self.fds.get(&slot).map(OwnedFd::as_fd).ok_or(Errno::EBADF)
    }

    /// Is the slot filled?
    pub fn has(&self, slot: Slot) -> bool {
        self.fds.contains_key(&slot)
    }

    /// Is the slot filled (and, for pairs, the next one)?
    fn is_filled(&self, operation: Operation, slot: Slot) -> bool {
        (0..operation.makes()).all(|n| self.has(slot.plus(n)))
    }

    /// Makes sure that the slot (and, for pairs, the next one) is filled. The errno is the kernel's, from the keeper.
    pub fn ensure(&mut self, operation: Operation, slot: Slot, path: &str) -> Kernel<()> {
        if self.is_filled(operation, slot) {
            return Ok(());
        }
        self.ensure_all(&[Wish { operation, slot, path }]).into_iter().collect()
    }

    fn fill(&mut self, operation: Operation, slot: Slot, fds: Vec<OwnedFd>) -> Kernel<()> {
        if u32::try_from(fds.len()) != Ok(operation.makes()) {
            return Err(Errno::EPROTO);
        }
        for (n, got) in (0..).zip(fds) {
            self.fds.insert(slot.plus(n), fd::raise(got, FD_FLOOR)?);
        }
        Ok(())
    }

    /// Has the keeper hold a descriptor that somebody else gave us, before we use it.
    pub fn hold(&mut self, slot: Slot, given: OwnedFd) -> Kernel<()> {
        if self.has(slot) {
            return Ok(());
        }
        if let Err(errno) = self.ask(Operation::Hold, slot, 0, "", Some(given.as_fd())) {
            // It may have it all the same.
            let _ = self.ask(Operation::Drop, slot, 1, "", None);
            return Err(errno);
        }
        self.fds.insert(slot, fd::raise(given, FD_FLOOR)?);
        Ok(())
    }

    /// Gives `count` slots back; when this returns the keeper has closed its duplicates too.
    pub fn give_back(&mut self, slot: Slot, count: u32) {
        let had = (0..count).filter(|n| self.fds.remove(&slot.plus(*n)).is_some()).count() > 0;
        if had {
            // A keeper that cannot be asked is gone, and its duplicates with it.
            let _ = self.ask(Operation::Drop, slot, count, "", None);
        }
    }

    /// Tells the keeper that this worker is at work; false where there is none to tell.
    pub fn ready(&mut self) -> bool {
        self.ask(Operation::Ready, Slot::LISTENER, 0, "", None).is_ok()
    }

    /// Has the keeper do something that makes no descriptor for us.
    pub fn tell(&mut self, operation: Operation, slot: Slot) -> Kernel<()> {
        self.ask(operation, slot, 0, "", None).map(drop)
    }

    /// Has the keeper answer; one that does not is replaced.
    pub fn check_keeper(&mut self) {
        let _ = self.ask(Operation::Ping, Slot::LISTENER, 0, "", None);
    }

    /// Tells the keeper to become another image; that it has comes to pass after the answer.
    pub fn tell_to_become(&mut self, image: BorrowedFd<'_>) -> Kernel<()> {
        self.ask(Operation::Become, Slot::IMAGE, 0, "", Some(image)).map(drop)
    }

    /// What this worker takes along when it becomes another image: all its slots and the pair.
    pub fn belongings(&self) -> impl Iterator<Item = (Slot, BorrowedFd<'_>)> {
        self.fds.iter().map(|(slot, fd)| (*slot, fd.as_fd()))
    }

    /// The descriptor in a slot is this worker's to keep; the slot is empty then.
    pub fn take(&mut self, slot: Slot) -> Option<OwnedFd> {
        self.fds.remove(&slot)
    }

    /// All is over: the keeper wakes, sees it, sweeps and ends. One that does not would stay behind with all that it holds,
    /// since nobody looks at it once we are gone, and is ended.
    pub fn see_keeper_off(&mut self) {
        if self.orphaned {
            return;
        }
        self.serial = self.serial.wrapping_add(1);
        let ping = Request {
            serial: self.serial,
            operation: Operation::Ping,
            slot: Slot::LISTENER,
            count: 0,
            path: b"",
        };
        let answered =
            matches!(self.ask_once(&ping, None), Reply::Done(_) | Reply::Refused(_) | Reply::KeeperGone);
        if !answered || !epoll::hangs_up_within(self.pair.as_fd(), LEAVE_MS) {
            self.keeper.fence(self.pair.as_fd());
        }
    }

    /// The next keeper that was replaced and not yet spoken of.
    pub fn next_replaced(&mut self) -> Option<Replaced> {
        self.replaced.pop_front()
    }

    /// The next connection that was announced and not yet taken up.
    pub fn next_accepted(&mut self) -> Option<usize> {
        self.accepted.pop_front()
    }

    /// Reads notices; notes a keeper that is gone.
    pub fn receive(&mut self) {
        loop {
            match pair::receive(self.pair.as_fd()) {
                Ok(Received::Message(bytes, fds)) => match ToWorker::decode(&bytes) {
                    Some(ToWorker::Accepted(conn)) => self.take_accepted(conn, fds),
                    _ => self.late.extend(fds),
                },
                Ok(Received::Nothing) | Err(_) => return,
                Ok(Received::Closed) => {
                    self.orphaned = true;
                    return;
                }
            }
        }
    }

    /// Makes a keeper where there is none and it is time.
    pub fn tend_keeper(&mut self) {
        if self.orphaned {
            let _ = self.replace_keeper();
        }
    }

    /// Is there no keeper to listen to?
    pub fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// When a keeper is tried to be made again.
    pub fn keeper_due_ns(&self) -> Option<u64> {
        self.orphaned.then_some(self.keeper_again_ns)
    }

    fn take_accepted(&mut self, conn: usize, fds: Vec<OwnedFd>) {
        for socket in fds {
            if let Ok(socket) = fd::raise(socket, FD_FLOOR) {
                self.fds.insert(Slot::outer(conn), socket);
            }
        }
        self.accepted.push_back(conn);
    }

    fn ask(
        &mut self,
        operation: Operation,
        slot: Slot,
        count: u32,
        path: &str,
        along: Option<BorrowedFd<'_>>,
    ) -> Kernel<Vec<OwnedFd>> {
        let answer = self.ask_keepers(operation, slot, count, path, along);
        self.late.clear();
        answer
    }

    fn ask_keepers(
        &mut self,
        operation: Operation,
        slot: Slot,
        count: u32,
        path: &str,
        along: Option<BorrowedFd<'_>>,
    ) -> Kernel<Vec<OwnedFd>> {
        for _ in 0..2 {
            if self.orphaned {
                self.replace_keeper()?;
                // It never had what was given back; by now the slot may be that of something new.
                if operation == Operation::Drop {
                    return Ok(Vec::new());
                }
            }
            self.serial = self.serial.wrapping_add(1);
            let request = Request { serial: self.serial, operation, slot, count, path: path.as_bytes() };
            match self.ask_once(&request, along) {
                Reply::Done(fds) => return Ok(fds),
                Reply::Refused(errno) => return Err(errno),
                Reply::KeeperGone => self.orphaned = true,
                Reply::KeeperMute => (self.orphaned, self.mute) = (true, true),
            }
        }
        Err(Errno::EOWNERDEAD)
    }

    fn ask_once(&mut self, request: &Request<'_>, along: Option<BorrowedFd<'_>>) -> Reply {
        let deadline = monotonic_ns().saturating_add(PATIENCE_NS);
        if let Err(reply) = self.put_question(request, along, deadline) {
            return reply;
        }
        loop {
            match self.next_answer(deadline) {
                Ok((answer, fds)) if answer.serial == request.serial => return Reply::of(&answer, fds),
                // The late answer to a question that was asked again.
                Ok(_) => {}
                Err(reply) => return reply,
            }
        }
    }

    /// Sends one question; what became of it where it could not be sent.
    fn put_question(
        &self,
        request: &Request<'_>,
        along: Option<BorrowedFd<'_>>,
        deadline: u64,
    ) -> Result<(), Reply> {
        loop {
            match pair::send(self.pair.as_fd(), &request.encode(), along.as_slice()) {
                Ok(()) => return Ok(()),
                Err(Errno::EMSGSIZE) => return Err(Reply::Refused(Errno::ENAMETOOLONG)),
                Err(Errno::EAGAIN | Errno::ENOBUFS) if monotonic_ns() < deadline => {
                    epoll::writable_within(self.pair.as_fd(), 100);
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return Err(Reply::KeeperMute),
                Err(_) => return Err(Reply::KeeperGone),
            }
        }
    }

    /// The next answer, whichever question it belongs to; without one, what became of the keeper.
    fn next_answer(&mut self, deadline: u64) -> Result<(Answer, Vec<OwnedFd>), Reply> {
        loop {
            // Looked at before the answer is: where it was us who had no processor, it has come meanwhile.
            let late = monotonic_ns() >= deadline;
            match pair::receive(self.pair.as_fd()) {
                Ok(Received::Message(bytes, fds)) => match ToWorker::decode(&bytes) {
                    Some(ToWorker::Accepted(conn)) => self.take_accepted(conn, fds),
                    Some(ToWorker::Answer(answer)) => return Ok((answer, fds)),
                    _ => {}
                },
                Ok(Received::Closed) => return Err(Reply::KeeperGone),
                Ok(Received::Nothing) | Err(_) if late => return Err(Reply::KeeperMute),
                Ok(Received::Nothing) | Err(_) => {
                    let left_ns = deadline.saturating_sub(monotonic_ns());
                    let left = u16::try_from(left_ns.div_ceil(1_000_000)).unwrap_or(1000);
                    let _ = epoll::readable_within(self.pair.as_fd(), left);
                }
            }
        }
    }

    /// Execs a keeper from our own image; it takes over our descriptors and this worker.
    fn replace_keeper(&mut self) -> Kernel<()> {
        let now = monotonic_ns();
        if now < self.keeper_again_ns {
            return Err(Errno::EOWNERDEAD);
        }
        let young = self.keeper_began_ns != 0 && now.saturating_sub(self.keeper_began_ns) < KEEPER_YOUNG_NS;
        self.in_vain = if young { self.in_vain.saturating_add(1).min(10) } else { 0 };
        self.keeper_began_ns = now;
        self.keeper_again_ns = now.saturating_add(KEEPER_PAUSE_NS.saturating_mul(self.in_vain));
        self.keeper.fence(self.pair.as_fd());
        // What it handed over before its end is ours.
        self.receive();

        let tables = self.block.tables();
        let (ours, theirs) = pair::pair()?;
        let ours = fd::raise(ours, FD_FLOOR)?;
        let theirs = fd::raise(theirs, FD_FLOOR)?;
        for word in &tables.held {
            word.store(0, Ordering::Release);
        }
        for (slot, held) in &self.fds {
            if let Some(word) = tables.held.get(slot.index()) {
                word.store(u32::try_from(held.as_raw_fd()).unwrap_or(0).saturating_add(1), Ordering::Release);
            }
        }
        let mut inherit: Vec<BorrowedFd<'_>> = self.fds.values().map(OwnedFd::as_fd).collect();
        inherit.extend([theirs.as_fd(), self.block.memfd()]);
        let who = &tables.identity;
        let argv = args::ours(keeper::VERB, &who.namespace.get(), &who.id.get());
        let env = [
            (keeper::ENV_BLOCK.to_owned(), self.block.memfd().as_raw_fd().to_string()),
            (keeper::ENV_PAIR.to_owned(), theirs.as_raw_fd().to_string()),
        ];
        let keeper = process::spawn_self(&argv, &env, &inherit)?;
        note_lost_keeper(&tables.upgrade);
        let mute = std::mem::take(&mut self.mute);
        let reason = if mute { Reason::KeeperHung } else { Reason::KeeperLost };
        let number = u32::try_from(keeper.as_raw()).unwrap_or(0);
        let lost = std::mem::replace(&mut self.keeper, Watched::new(number, ours.as_fd()));
        if lost.number() != 0 {
            tables.care.count(reason);
            self.replaced.push_back(Replaced { reason, keeper: lost });
        }
        // At once, not when it has begun: should it stay mute, this is who is ended, and nobody else.
        tables.keeper_pid.store(number, Ordering::Release);
        self.pair = ours;
        self.pair_is_new = true;
        self.orphaned = false;

        Ok(())
    }
}

/// The keeper that was (to be) of a new image is gone, and this worker's image is the one that goes on.
fn note_lost_keeper(upgrade: &AtomicU32) {
    if matches!(Upgrade::load(upgrade), Upgrade::Asked | Upgrade::KeeperDone) {
        Upgrade::KeeperLost.store(upgrade);
    }
}

/// The pool entries that some direction or stream uses, by the block.
pub fn pipes_in_use(block: &Block) -> Vec<usize> {
    let tables = block.tables();
    let dirs = tables.conns().iter().flat_map(|c| &c.dirs).filter_map(|d| linked(&d.pipe));
    let streams = tables.streams().iter().filter_map(|s| linked(&s.pipe));
    dirs.chain(streams).collect()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The only writer of a FIFO came with an answer that nobody waited for any more: its reader must not see an end before
    /// the next keeper has made another one.
    #[test]
    fn what_came_late_is_kept_until_the_next_answer() {
        let block: &'static Block = Box::leak(Box::new(Block::create().unwrap()));
        let (ours, theirs) = pair::pair().unwrap();
        let (reader, writer) = fd::pipe().unwrap();
        let mut hands = Hands::new(block, ours, BTreeMap::new());
        let late = Answer { serial: 77, errno: 0 }.encode();
        pair::send(theirs.as_fd(), &late, &[writer.as_fd()]).unwrap();
        drop(writer);
        hands.receive();
        assert!(!epoll::has_hung_up(reader.as_fd()), "its only writer is gone");
        let keeper = thread::spawn(move || {
            let _ = epoll::readable_within(theirs.as_fd(), 10_000);
            let Ok(Received::Message(bytes, _)) = pair::receive(theirs.as_fd()) else { panic!("a question") };
            let serial = Request::decode(&bytes).unwrap().serial;
            pair::send(theirs.as_fd(), &Answer { serial, errno: 0 }.encode(), &[]).unwrap();
            theirs
        });
        assert!(hands.ready());
        assert!(epoll::has_hung_up(reader.as_fd()), "it is not needed any more");
        keeper.join().unwrap();
    }
}
