//! The keeper: holds every descriptor that matters and starts the next worker.
//!
//! It accepts connections, opens and connects what the worker asks for, and keeps a duplicate of each result in a
//! table of slots before the worker gets its own ("held before used"). It parses nothing, copies nothing, touches no
//! disk and waits for nobody: what cannot be done at once is an errno in the answer.
//!
//! It lives until the worker says that the inner shim is gone and all is said.

mod accept;
mod open;
pub mod protocol;
mod sweep;

pub use sweep::{TASK_LINK, belongs_to, remove_files, remove_tasks};

use std::{
    collections::{BTreeMap, VecDeque},
    env,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::Ordering,
};

use nix::{
    poll::{PollFd, PollFlags, poll},
    unistd::Pid,
};

use self::protocol::{Answer, Notice, Operation, Request};
use crate::{
    block::{Block, Slot, counters::Counter},
    sys::{
        Errno, Kernel, epoll, fd, monotonic_ns,
        pair::{self, Received},
        process,
    },
    worker,
};

/// Environment of an exec'ed keeper: numbers of inherited descriptors.
pub const ENV_BLOCK: &str = "SHIMTAP_BLOCK_FD";
/// The pair to a living worker, where one is left without its keeper.
pub const ENV_PAIR: &str = "SHIMTAP_PAIR_FD";
/// A pipe into which one byte goes when the first worker is at work.
pub const ENV_READY: &str = "SHIMTAP_READY_FD";
/// What `ps` shows.
pub const VERB: &str = "tap-keeper";

/// Held descriptors have numbers from here on, so that an exec can hand over low ones.
pub const FD_FLOOR: i32 = 16;
/// While descriptors are short, or no worker can be made, the cause is looked at again after this time.
const BREATH_MS: u16 = 100;

/// A worker that lives shorter than this was stillborn; the next one waits so much longer for each in a row.
const STILLBORN_NS: u64 = 3_000_000;
const STILLBORN_PAUSE_NS: u64 = 10_000_000;

/// A descriptor table and a worker to serve.
pub struct Keeper {
    block: Block,
    slots: BTreeMap<Slot, OwnedFd>,
    worker: Option<WorkerEnd>,
    /// Accepted connections that the worker has not been told of.
    unannounced: VecDeque<usize>,
    ready: Option<OwnedFd>,
    /// No more accepting until then (CLOCK_MONOTONIC ns): EMFILE.
    accept_again_ns: u64,
    /// When the last worker began, and how many in a row died at once.
    worker_began_ns: u64,
    stillborn: u64,
}

struct WorkerEnd {
    pair: OwnedFd,
    pidfd: OwnedFd,
    /// It has hung up and will be dead in a moment.
    closed: bool,
}

/// What a forked worker starts from.
pub struct Inheritance {
    /// The block.
    pub block: Block,
    /// All that the keeper held at the fork, same numbers.
    pub slots: BTreeMap<Slot, OwnedFd>,
    /// The worker's end of the pair.
    pub pair: OwnedFd,
}

/// Runs the keeper that `start` or an orphaned worker exec'ed. Returns its exit status.
pub fn main() -> i32 {
    match Keeper::inherit().and_then(Keeper::run) {
        Ok(()) => 0,
        Err(errno) => errno as i32,
    }
}

fn inherited(name: &str) -> Option<OwnedFd> {
    let raw = env::var(name).ok()?.parse::<i32>().ok()?;
    (raw > 2 && fd::is_open(raw)).then(|| fd::adopt(raw)).and_then(|fd| fd::raise(fd, FD_FLOOR).ok())
}

// === impl Keeper ===

impl Keeper {
    fn inherit() -> Kernel<Self> {
        process::ignore_signals();
        process::set_name_and_undumpable(c"tap-keeper");
        process::raise_descriptor_limit();
        let _ = nix::unistd::chdir("/");
        let block = Block::open(inherited(ENV_BLOCK).ok_or(Errno::EBADF)?)?;
        let slots = Self::adopt_slots(&block);
        block.tables().keeper_pid.store(std::process::id(), Ordering::Release);
        let worker = match inherited(ENV_PAIR) {
            Some(pair) => {
                let pid = i32::try_from(block.tables().worker_pid.load(Ordering::Acquire)).unwrap_or(0);
                let pidfd = raised(process::pidfd(Pid::from_raw(pid))).ok();
                // A pair that has not hung up now proves that the number was still the worker's when it was opened.
                let alive = !epoll::has_hung_up(pair.as_fd());
                pidfd.filter(|_| alive).map(|pidfd| WorkerEnd { pair, pidfd, closed: false })
            }
            None => None,
        };
        let ready = inherited(ENV_READY);
        if ready.is_some() {
            // The first of its kind; later ones inherit it.
            process::be_easier_to_spare();
        }
        Ok(Self {
            block,
            slots,
            worker,
            unannounced: VecDeque::new(),
            ready,
            accept_again_ns: 0,
            worker_began_ns: 0,
            stillborn: 0,
        })
    }

    /// The numbers in `held` are this process's, inherited over exec.
    fn adopt_slots(block: &Block) -> BTreeMap<Slot, OwnedFd> {
        let mut slots = BTreeMap::new();
        for (n, word) in (0u32..).zip(&block.tables().held) {
            let raw = i32::try_from(word.load(Ordering::Acquire)).unwrap_or(0).saturating_sub(1);
            let Some(slot) = Slot::from_number(n).filter(|_| raw > 2 && fd::is_open(raw)) else {
                word.store(0, Ordering::Release);
                continue;
            };
            let held = fd::adopt(raw);
            let _ = fd::set_cloexec(held.as_fd(), true);
            slots.insert(slot, held);
        }
        slots
    }

    fn run(mut self) -> Kernel<()> {
        loop {
            if self.worker.is_none() && self.may_fork() {
                self = match self.next_worker() {
                    Ok(keeper) => keeper,
                    // In the child: the worker's life is over.
                    Err(status) => std::process::exit(status),
                };
            }
            let woken = self.wait()?;
            if woken.listener {
                self.accept_all();
            }
            if woken.worker {
                self.serve();
            }
            self.announce();
            if woken.death {
                self.bury();
            }
            if self.block.tables().over.load(Ordering::Acquire) != 0 {
                sweep::sweep(&self.block);
                return Ok(());
            }
        }
    }

    /// The next worker begins at once, unless several in a row have died at once: a fault that kills every worker must not
    /// cost the machine a core.
    fn may_fork(&self) -> bool {
        let pause_ns = self.stillborn.min(10).saturating_mul(STILLBORN_PAUSE_NS);
        monotonic_ns() >= self.worker_began_ns.saturating_add(pause_ns)
    }

    /// Forks a worker. In the parent: self, with or (where fork was refused) without it. In the child: the
    /// worker's exit status, when it is over.
    fn next_worker(mut self) -> Result<Self, i32> {
        let Ok((ours, theirs)) = pair::pair() else { return Ok(self) };
        // Room for the pidfd is made sure of before there is a child that would need it.
        let Ok(room) = process::duplicate(ours.as_fd()) else { return Ok(self) };
        let (Ok(ours), Ok(theirs)) = (fd::raise(ours, FD_FLOOR), fd::raise(theirs, FD_FLOOR)) else {
            return Ok(self);
        };
        // Whatever a dead worker was not told of is in the table for the next one to find.
        self.unannounced.clear();
        self.worker_began_ns = monotonic_ns();
        self.block.tables().generation.fetch_add(1, Ordering::AcqRel);
        match process::fork_worker() {
            Ok(Some(pid)) => {
                self.block
                    .tables()
                    .worker_pid
                    .store(u32::try_from(pid.as_raw()).unwrap_or(0), Ordering::Release);
                drop(room);
                match process::pidfd(pid) {
                    Ok(pidfd) => self.worker = Some(WorkerEnd { pair: ours, pidfd, closed: false }),
                    // Never one that cannot be watched: it would be a second one beside the next.
                    Err(_) => drop(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)),
                }
                Ok(self)
            }
            Ok(None) => {
                drop((ours, room, self.worker, self.ready, self.unannounced));
                Err(worker::main(Inheritance { block: self.block, slots: self.slots, pair: theirs }))
            }
            Err(_) => Ok(self),
        }
    }

    fn wait(&self) -> Kernel<Woken> {
        let mut fds = Vec::with_capacity(3);
        let accepting = self.slots.get(&Slot::LISTENER).filter(|_| self.may_accept());
        if let Some(listener) = accepting {
            fds.push((PollFd::new(listener.as_fd(), PollFlags::POLLIN), Woken::LISTENER));
        }
        if let Some(worker) = &self.worker {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, !self.unannounced.is_empty());
            if !worker.closed {
                fds.push((PollFd::new(worker.pair.as_fd(), events), Woken::WORKER));
            }
            fds.push((PollFd::new(worker.pidfd.as_fd(), PollFlags::POLLIN), Woken::DEATH));
        }
        let waits_for_time = self.worker.is_none() || self.accept_again_ns != 0;
        let timeout = if waits_for_time { i32::from(BREATH_MS) } else { -1 };
        let (mut polled, kinds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        match poll(
            &mut polled,
            nix::poll::PollTimeout::try_from(timeout).unwrap_or(nix::poll::PollTimeout::NONE),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
        let hit = |kind: u8| {
            polled.iter().zip(&kinds).any(|(p, k)| *k == kind && p.revents().is_some_and(|r| !r.is_empty()))
        };
        Ok(Woken { listener: hit(Woken::LISTENER), worker: hit(Woken::WORKER), death: hit(Woken::DEATH) })
    }

    /// Does what the worker has asked for, all of it.
    fn serve(&mut self) {
        while let Some(worker) = &mut self.worker {
            match pair::receive(worker.pair.as_fd()) {
                Ok(Received::Message(bytes, _)) => self.answer(&bytes),
                Ok(Received::Nothing) | Err(_) => return,
                Ok(Received::Closed) => {
                    worker.closed = true;
                    return;
                }
            }
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        let Some(request) = Request::decode(bytes) else { return };
        let result = self.perform(&request);
        let errno = result.err().map_or(0, |e| e as i32);
        let answer = Answer { serial: request.serial, errno };
        let fds: Vec<_> = if errno == 0 { self.results(&request) } else { Vec::new() };
        if let Some(worker) = &self.worker {
            // A full queue can only mean a worker that does not read: it will ask again, or be replaced.
            let _ = pair::send(worker.pair.as_fd(), &answer.encode(), &fds);
        }
    }

    fn results(&self, request: &Request<'_>) -> Vec<std::os::fd::BorrowedFd<'_>> {
        (0..request.operation.makes())
            .filter_map(|n| self.slots.get(&request.slot.plus(n)).map(OwnedFd::as_fd))
            .collect()
    }

    fn perform(&mut self, request: &Request<'_>) -> Kernel<()> {
        match request.operation {
            Operation::Ready => {
                if let Some(ready) = self.ready.take() {
                    let _ = nix::unistd::write(&ready, b"1");
                }
                Ok(())
            }
            Operation::Drop => {
                for n in 0..request.count {
                    self.release(request.slot.plus(n));
                }
                Ok(())
            }
            Operation::Fetch => self.slots.get(&request.slot).map(drop).ok_or(Errno::EBADF),
            // Asked for before by a worker that died: it is there.
            _ if self.slots.contains_key(&request.slot) => Ok(()),
            Operation::InnerFifo => {
                open::inner_fifo(request.path()?).and_then(|fd| self.hold(request.slot, fd))
            }
            Operation::OuterReader => {
                open::outer_reader(request.path()?).and_then(|fd| self.hold(request.slot, fd))
            }
            Operation::OuterWriter => {
                let reader = self.slots.get(&request.slot.minus_one()).ok_or(Errno::EBADF)?;
                open::outer_writer(reader.as_fd()).and_then(|fd| self.hold(request.slot, fd))
            }
            Operation::Connect => {
                open::inner_socket(&self.block.tables().identity).and_then(|fd| self.hold(request.slot, fd))
            }
            Operation::Pipe => {
                let (reader, writer) = fd::pipe()?;
                self.hold(request.slot.plus(1), writer)?;
                self.hold(request.slot, reader)
            }
        }
    }

    /// Puts a descriptor into its slot; the table in the block says so to successors.
    fn hold(&mut self, slot: Slot, fd: OwnedFd) -> Kernel<()> {
        let fd = fd::raise(fd, FD_FLOOR)?;
        let word = self.block.tables().held.get(slot.index()).ok_or(Errno::EBADSLT)?;
        word.store(u32::try_from(fd.as_raw_fd()).unwrap_or(0).saturating_add(1), Ordering::Release);
        self.slots.insert(slot, fd);
        Ok(())
    }

    fn release(&mut self, slot: Slot) {
        if let Some(word) = self.block.tables().held.get(slot.index()) {
            word.store(0, Ordering::Release);
        }
        self.slots.remove(&slot);
    }

    /// A worker's end: first everything it had asked for, then the next one may come.
    fn bury(&mut self) {
        self.serve();
        self.worker = None;
        let lived = monotonic_ns().saturating_sub(self.worker_began_ns);
        self.stillborn = if lived < STILLBORN_NS { self.stillborn.saturating_add(1) } else { 0 };
        if self.block.tables().over.load(Ordering::Acquire) == 0 {
            self.block.tables().counters.add(Counter::WorkerDeaths);
        }
    }

    fn announce(&mut self) {
        while let (Some(conn), Some(worker)) = (self.unannounced.front().copied(), &self.worker) {
            let Some(socket) = self.slots.get(&Slot::outer(conn)) else {
                self.unannounced.pop_front();
                continue;
            };
            if pair::send(worker.pair.as_fd(), &Notice::accepted(conn), &[socket.as_fd()]).is_err() {
                // Its queue is full, or it is dead: its successor finds the connection in the table.
                return;
            }
            self.unannounced.pop_front();
        }
    }
}

fn raised(fd: Kernel<OwnedFd>) -> Kernel<OwnedFd> {
    fd.and_then(|fd| fd::raise(fd, FD_FLOOR))
}

struct Woken {
    listener: bool,
    worker: bool,
    death: bool,
}

impl Woken {
    const LISTENER: u8 = 0;
    const WORKER: u8 = 1;
    const DEATH: u8 = 2;
}
