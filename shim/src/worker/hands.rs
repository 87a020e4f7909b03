//! The worker's descriptors: duplicates of what the keeper holds, by slot.
//!
//! The only way to get one is to ask the keeper, which then already has it. Asking waits for the answer, one second
//! at most; a keeper that is gone or mute by then is replaced, from this side, and asked again.

mod successor;
mod wish;

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use self::successor::Attempts;
pub use self::wish::Wish;
use super::watched::{Replaced, Watched};
use crate::{
    block::{Block, Slot},
    keeper::{
        FD_FLOOR,
        protocol::{Answer, Operation, Request, ToWorker},
    },
    sys::{
        Errno, Kernel, epoll, fd, monotonic_ns,
        pair::{self, Received},
    },
};

/// A keeper does what it is asked within microseconds; after this it is taken for dead. One that is played by a thread of a test
/// lives however busy the machine is.
const PATIENCE_NS: u64 = if cfg!(test) { 60_000_000_000 } else { 1_000_000_000 };

/// How long one may take to sweep its few files and end.
const LEAVE_MS: u16 = 1000;

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
    attempts: Attempts,
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
            attempts: Attempts::default(),
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
        let ping = self.question(Operation::Ping, Slot::LISTENER, 0, "");
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
            let request = self.question(operation, slot, count, path);
            match self.ask_once(&request, along) {
                Reply::Done(fds) => return Ok(fds),
                Reply::Refused(errno) => return Err(errno),
                Reply::KeeperGone => self.orphaned = true,
                Reply::KeeperMute => (self.orphaned, self.mute) = (true, true),
            }
        }
        Err(Errno::EOWNERDEAD)
    }

    /// The next question.
    fn question<'a>(&mut self, operation: Operation, slot: Slot, count: u32, path: &'a str) -> Request<'a> {
        self.serial = self.serial.wrapping_add(1);
        Request { serial: self.serial, operation, slot, count, path: path.as_bytes() }
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
