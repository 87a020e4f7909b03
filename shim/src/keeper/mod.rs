//! The keeper: holds every descriptor that matters and starts the next worker.
//!
//! It accepts connections, opens and connects what the worker asks for, and keeps a duplicate of each result in a
//! table of slots before the worker gets its own ("held before used"). It parses nothing, copies nothing, touches no
//! disk and waits for nobody: what cannot be done at once is an errno in the answer.
//!
//! It lives until the worker says that the inner shim is gone and all is said.

mod accept;
mod beside;
mod deaths;
mod image;
#[cfg(any(test, fuzzing))]
#[expect(clippy::unwrap_used, reason = "a part of tests; clippy knows only cfg(test) by itself")]
mod in_process;
mod next;
mod open;
pub mod protocol;
mod serve;
mod spool;
mod sweep;
mod wait;

pub use deaths::Cause;
#[cfg(any(test, fuzzing))]
pub use in_process::InProcess;
pub use sweep::{TASK_LINK, belongs_to, remove_files, remove_task, remove_tasks, sweep};

use std::{
    collections::{BTreeMap, VecDeque},
    env,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering,
};

use nix::{sys::signalfd::SignalFd, unistd::Pid};

use self::protocol::Notice;
use crate::{
    block::{
        Block, Slot,
        care::{Mode, Reason},
    },
    sys::{Errno, Kernel, epoll, fd, pair, process, timer},
};

/// Environment of an exec'ed keeper: numbers of inherited descriptors.
pub const ENV_BLOCK: &str = "SHIMTAP_BLOCK_FD";
/// The pair to a living worker, where one is left without its keeper.
pub const ENV_PAIR: &str = "SHIMTAP_PAIR_FD";
/// A pipe into which one byte goes when the first worker is at work.
pub const ENV_READY: &str = "SHIMTAP_READY_FD";
/// Set where the process was a keeper already, of another image.
const ENV_BECAME: &str = "SHIMTAP_BECAME";
/// What `ps` shows.
pub const VERB: &str = "tap-keeper";

/// Held descriptors have numbers from here on, so that an exec can hand over low ones.
pub const FD_FLOOR: i32 = 16;
/// While descriptors are short, or no worker can be made, the cause is looked at again after this time.
const BREATH_MS: u16 = 100;

/// A quiet worker gives a sign of life this often (docs/adr/0006).
pub const BEAT_NS: u64 = 3_500_000_000;
/// So much later than it should have given one, it is taken for hung; also after an accepted connection.
pub const GRACE_NS: u64 = 2_000_000_000;

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
    /// Descriptors in reserve, for the moment when a worker is needed and there are no others.
    spares: Vec<OwnedFd>,
    /// Where SIGUSR2 arrives; none where the kernel refused it.
    asked: Option<SignalFd>,
    /// The image in its slot is to be become.
    to_become: bool,
    /// Where the image is a new one, for a while.
    trial: Option<image::Trial>,
    /// The child that writes spool files, where it is this keeper's.
    spooler: Option<spool::Spooler>,
}

struct WorkerEnd {
    pair: OwnedFd,
    pidfd: OwnedFd,
    pid: Pid,
    /// It has hung up and will be dead in a moment.
    closed: bool,
    /// It was sent SIGKILL; nothing is left but to wait for its end.
    doomed: bool,
}

/// What a forked worker starts from.
pub struct Inheritance {
    /// The block.
    pub block: Block,
    /// All that the keeper held at the fork, same numbers.
    pub slots: BTreeMap<Slot, OwnedFd>,
    /// The worker's end of the pair.
    pub pair: OwnedFd,
    /// Where `start` waits to hear that a worker is at work.
    pub ready: Option<OwnedFd>,
    /// How much it dares.
    pub mode: Mode,
    /// It runs in the process of a keeper that could not fork.
    pub stands_in: bool,
}

/// Runs the keeper that `start` or an orphaned worker exec'ed. Returns its exit status.
pub fn main() -> i32 {
    match Keeper::inherit().and_then(Keeper::run) {
        Ok(()) => 0,
        Err(errno) => errno as i32,
    }
}

/// The descriptor whose number this variable gives.
pub fn inherited(name: &str) -> Option<OwnedFd> {
    let raw = env::var(name).ok()?.parse::<i32>().ok()?;
    (raw > 2 && fd::is_open(raw)).then(|| fd::adopt(raw)).and_then(|fd| fd::raise(fd, FD_FLOOR).ok())
}

/// The worker that made this keeper, if it has lived to see it.
fn adopt_worker(block: &Block, pair: OwnedFd) -> Option<WorkerEnd> {
    let pid = i32::try_from(block.tables().worker_pid.load(Ordering::Acquire)).unwrap_or(0);
    let pid = Pid::from_raw(pid);
    let pidfd = raised(process::pidfd(pid)).ok();
    // A pair that has not hung up now proves that the number was still the worker's when it was opened.
    let alive = !epoll::has_hung_up(pair.as_fd());
    let found = pidfd.filter(|_| alive).map(|pidfd| WorkerEnd::new(pair, pidfd, pid));
    if found.is_none() {
        deaths::found_dead(&block.tables().care, pid);
    }
    found
}

// === impl Keeper ===

impl Keeper {
    /// With nothing in its hands, and without a worker.
    fn idle(block: Block) -> Self {
        Self {
            block,
            slots: BTreeMap::new(),
            worker: None,
            unannounced: VecDeque::new(),
            ready: None,
            accept_again_ns: 0,
            worker_began_ns: 0,
            stillborn: 0,
            spares: Vec::new(),
            asked: None,
            to_become: false,
            trial: None,
            spooler: None,
        }
    }

    fn inherit() -> Kernel<Self> {
        process::ignore_signals();
        process::set_name_and_undumpable(c"tap-keeper");
        process::raise_descriptor_limit();
        let _ = nix::unistd::chdir("/");
        let memfd = inherited(ENV_BLOCK).ok_or(Errno::EBADF)?;
        // Whoever is not another image than it was is of the image that made the block, or went on with it: a keeper for which
        // it were none of ours would leave its worker alone for ever. See `mind_damage`.
        let became = env::var_os(ENV_BECAME).is_some();
        let block = if became { Block::open(memfd)? } else { Block::open_own(memfd)? };
        let slots = Self::adopt_slots(&block);
        process::reap_children_ourselves();
        let asked = process::take_by_descriptor(nix::sys::signal::Signal::SIGUSR2).ok();
        block.tables().keeper_pid.store(std::process::id(), Ordering::Release);
        let worker = inherited(ENV_PAIR).and_then(|pair| adopt_worker(&block, pair));
        let spooler = spool::Spooler::adopt(&block);
        let ready = inherited(ENV_READY);
        let mut keeper = Self { slots, worker, ready, asked, spooler, ..Self::idle(block) };
        keeper.make_switch()?;
        if keeper.ready.is_some() {
            keeper.provide();
        }
        if became {
            keeper.has_become();
        }
        // A worker that was busy replacing us has had other things to do than to give signs.
        keeper.arm(BEAT_NS.saturating_add(GRACE_NS));
        keeper.keep_spares();
        Ok(keeper)
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
            } else if woken.switch
                && self.slots.get(&Slot::SWITCH).is_some_and(|s| timer::has_run_out(s.as_fd()))
            {
                // Hung is dead: fenced by its pidfd, buried when it is gone.
                self.end_worker(Reason::Hung);
            }
            if woken.asked {
                self.hear_signal();
            }
            if woken.spooler {
                self.reap_spooler();
            }
            self.tend_mode();
            self.tend_trial();
            self.tend_image();
            if self.block.tables().over.load(Ordering::Acquire) != 0 {
                sweep::sweep(&self.block);
                return Ok(());
            }
        }
    }

    /// Puts a descriptor into its slot; the table in the block says so to successors.
    fn hold(&mut self, slot: Slot, fd: OwnedFd) -> Kernel<()> {
        let fd = fd::raise(fd, FD_FLOOR)?;
        self.block.tables().note_held(slot, fd.as_fd())?;
        self.slots.insert(slot, fd);
        Ok(())
    }

    fn release(&mut self, slot: Slot) {
        self.block.tables().note_released(slot);
        self.slots.remove(&slot);
    }

    fn announce(&mut self) {
        while let (Some(conn), Some(worker)) = (self.unannounced.front().copied(), &self.worker) {
            let Some(socket) = self.slots.get(&Slot::outer(conn)) else {
                self.unannounced.pop_front();
                continue;
            };
            self.expect_sign();
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

// === impl WorkerEnd ===

impl WorkerEnd {
    fn new(pair: OwnedFd, pidfd: OwnedFd, pid: Pid) -> Self {
        Self { pair, pidfd, pid, closed: false, doomed: false }
    }
}
