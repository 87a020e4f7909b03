//! A worker that begins anew in place: as the image that its keeper has become (docs/adr/0011), or as its own where safe mode
//! is over (docs/adr/0007).
//!
//! No process ends, so at any instant two hold every descriptor, and a death at that instant is one like any other: the
//! one that is left goes on, with the image that it has. The block is what both images read.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use nix::unistd::Pid;

use super::Worker;
use crate::{
    args,
    block::{
        Block, DirState, Slot, Upgrade,
        care::{Mode, Reason},
    },
    keeper::{Cause, ENV_BLOCK, ENV_PAIR, Inheritance, inherited, protocol::Operation},
    sys::{Errno, Kernel, fd, image, monotonic_ns, process, unix_ns},
};

/// What `ps` shows of a worker that was not forked.
pub const VERB: &str = "tap-worker";
/// Its descriptors, as `slot:number` joined by commas.
const ENV_SLOTS: &str = "SHIMTAP_SLOTS";
/// When the image before it had its last turn (CLOCK_MONOTONIC ns).
const ENV_SINCE: &str = "SHIMTAP_SINCE_NS";
/// Set where that was the same image, and no upgrade.
const ENV_AGAIN: &str = "SHIMTAP_AGAIN";

/// A keeper has become another image within milliseconds; after this it is asked whether it lives.
const KEEPER_NS: u64 = 3_000_000_000;
/// So long a moment is waited for in which no frame is half assembled. Any moment will do.
const QUIET_NS: u64 = 100_000_000;

/// How long an upgrade has been where it is; lost with a worker, and begun anew by the next.
#[derive(Default)]
pub struct Wait(Option<(Upgrade, u64)>);

// === impl Wait ===

impl Wait {
    /// Since when it is this step (CLOCK_MONOTONIC ns).
    fn since_ns(&mut self, step: Upgrade, now: u64) -> u64 {
        match self.0 {
            Some((last, since)) if last == step => since,
            _ => self.0.insert((step, now)).1,
        }
    }
}

// === impl Worker ===

impl Worker {
    /// Takes the upgrade a step on, where one is under way. True: this worker is to end, and one of the new image to begin.
    pub(super) fn tend_upgrade(&mut self, now: u64) -> bool {
        let step = Upgrade::load(&self.block.tables().upgrade);
        match step {
            Upgrade::Asked => {
                if now >= self.upgrade.since_ns(step, now).saturating_add(KEEPER_NS) {
                    self.give_keeper_up();
                }
                false
            }
            Upgrade::KeeperDone => {
                let waited = now.saturating_sub(self.upgrade.since_ns(step, now));
                let is_moment = self.is_between_frames() || waited >= QUIET_NS;
                is_moment && !self.is_link_in_the_kernel() && self.become_next(now)
            }
            _ => {
                self.upgrade = Wait::default();
                false
            }
        }
    }

    /// When it has to be looked at again.
    pub(super) fn upgrade_due_ns(&self) -> Option<u64> {
        let (step, since) = self.upgrade.0?;
        let at = since.saturating_add(if step == Upgrade::Asked { KEEPER_NS } else { QUIET_NS });
        let now = monotonic_ns();
        Some(if at > now { at } else { now.saturating_add(QUIET_NS) })
    }

    /// An exec waits for the end of every other thread, and one in an uninterruptible call (a frozen disk) does not end: the
    /// relay would stand still with it.
    fn is_link_in_the_kernel(&self) -> bool {
        let thread = self.board.pulse.thread();
        thread != 0 && process::state_of_thread(thread) == Some('D')
    }

    /// It has not become anything. If it does not even answer, it is replaced, by the image that is here.
    fn give_keeper_up(&mut self) {
        self.hands.check_keeper();
        let word = &self.block.tables().upgrade;
        if Upgrade::load(word) == Upgrade::Asked {
            Upgrade::Interrupted.store(word);
        }
    }

    fn is_between_frames(&self) -> bool {
        let states =
            self.block.tables().conns().iter().flat_map(|c| &c.dirs).map(|d| DirState::load(&d.state));
        !states.into_iter().any(|state| {
            matches!(state, DirState::Assemble | DirState::Put | DirState::Out | DirState::Finish)
        })
    }

    /// Comes back only where it cannot: true then, since the keeper can fork a worker of its image.
    fn become_next(&mut self, now: u64) -> bool {
        if self.hands.ensure(Operation::Fetch, Slot::IMAGE, "").is_err() {
            // A keeper that was lost meanwhile; what goes on is said in the block.
            return false;
        }
        let Some(image) = self.hands.take(Slot::IMAGE) else { return false };
        self.begin_anew(image.as_fd(), now, None);
        true
    }

    /// Begins anew without safe mode once that is over. To end and let the keeper fork another would leave everything to the
    /// keeper alone for a moment, of which nobody is to blame. True where it cannot: then that is what is left.
    pub(super) fn tend_mode(&mut self, now: u64) -> bool {
        let tables = self.block.tables();
        // Each turn of the loop comes by here, so what costs a look at /proc is asked last.
        let is_over = self.mode != Mode::Normal && Mode::load(&tables.care.mode) == Mode::Normal;
        if !is_over {
            return false;
        }
        // A stand-in makes way for a worker by itself, and an upgrade brings the mode along.
        let otherwise = self.stands_in
            || matches!(Upgrade::load(&tables.upgrade), Upgrade::Asked | Upgrade::KeeperDone)
            || self.is_link_in_the_kernel();
        if otherwise {
            return false;
        }
        if let Ok(own) = image::own() {
            self.begin_anew(own.as_fd(), now, Some((ENV_AGAIN, "1")));
        }
        true
    }

    /// Comes back only where it cannot; that this worker makes way for another is written down then.
    fn begin_anew(&self, image: BorrowedFd<'_>, now: u64, more: Option<(&str, &str)>) {
        let tables = self.block.tables();
        let mut slots = String::new();
        let mut keep: Vec<BorrowedFd<'_>> = vec![self.block.memfd(), self.hands.pair()];
        for (slot, held) in self.hands.belongings() {
            let comma = if slots.is_empty() { "" } else { "," };
            let _ = write!(slots, "{comma}{}:{}", slot.number(), held.as_raw_fd());
            keep.push(held);
        }
        let mut env = vec![
            (ENV_BLOCK.to_owned(), self.block.memfd().as_raw_fd().to_string()),
            (ENV_PAIR.to_owned(), self.hands.pair().as_raw_fd().to_string()),
            (ENV_SLOTS.to_owned(), slots),
            (ENV_SINCE.to_owned(), now.to_string()),
        ];
        env.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let who = &tables.identity;
        let argv = args::ours(VERB, &who.namespace.get(), &who.id.get());
        // A worker in a test's process would take the test along.
        if !cfg!(any(test, fuzzing)) {
            let _refused = image::become_it(image, &argv, &env, &keep);
        }
        tables.care.announce(Reason::Replaced);
    }
}

/// The life of a process that was a worker already, of another image. Returns its exit status.
pub fn main_of_image() -> i32 {
    process::ignore_signals();
    match inherit() {
        Ok(inheritance) => super::main(inheritance),
        Err(errno) => errno as i32,
    }
}

fn inherit() -> Kernel<Inheritance> {
    let block = Block::open(inherited(ENV_BLOCK).ok_or(Errno::EBADF)?)?;
    let pair = inherited(ENV_PAIR).ok_or(Errno::EBADF)?;
    let slots = adopt_slots(&env::var(ENV_SLOTS).unwrap_or_default());
    let tables = block.tables();
    tables.generation.fetch_add(1, Ordering::AcqRel);
    let since = env::var(ENV_SINCE).ok().and_then(|ns| ns.parse().ok()).unwrap_or_else(monotonic_ns);
    let cause = Cause { reason: Reason::Replaced, signal: 0, exit_status: 0 };
    tables.care.note_death(Pid::this(), cause, since, unix_ns());
    if env::var_os(ENV_AGAIN).is_none() {
        Upgrade::Done.store(&tables.upgrade);
    }
    let mode = Mode::load(&tables.care.mode);
    Ok(Inheritance { block, slots, pair, ready: None, mode, stands_in: false })
}

/// Each number once: two owners of one descriptor would close it twice.
fn adopt_slots(list: &str) -> BTreeMap<Slot, OwnedFd> {
    let mut numbers = BTreeMap::new();
    for entry in list.split(',') {
        let Some((slot, number)) = entry.split_once(':') else { continue };
        let (Ok(slot), Ok(number)) = (slot.parse::<u32>(), number.parse::<i32>()) else { continue };
        if let Some(slot) = Slot::from_number(slot).filter(|_| number > 2 && fd::is_open(number)) {
            numbers.insert(number, slot);
        }
    }
    let adopt = |(number, slot)| {
        let held = fd::adopt(number);
        let _ = fd::set_cloexec(held.as_fd(), true);
        (slot, held)
    };
    numbers.into_iter().map(adopt).collect()
}
