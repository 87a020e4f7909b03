//! The next worker: a fork, or where forking is refused the keeper itself.
//!
//! Nothing that may be short is needed at that moment: no path, no loader, and the descriptors it takes are kept in
//! reserve.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::Pid,
};

use super::{FD_FLOOR, GRACE_NS, Inheritance, Keeper, WorkerEnd};
use crate::{
    block::{Slot, care::Mode},
    sys::{Errno, Kernel, fd, monotonic_ns, pair, process, timer},
    worker,
};

/// A worker that lives shorter than this was stillborn; the next one waits so much longer for each in a row.
const STILLBORN_NS: u64 = 3_000_000;
const STILLBORN_PAUSE_NS: u64 = 10_000_000;

/// Descriptors kept in reserve: a pair, a pidfd, and what a worker makes for itself.
const SPARES: usize = 11;

impl Keeper {
    /// The next worker begins at once, unless several in a row have died at once: a fault that kills every worker must not
    /// cost the machine a core.
    pub(super) fn may_fork(&self) -> bool {
        monotonic_ns() >= self.next_worker_ns()
    }

    /// When it does (CLOCK_MONOTONIC ns).
    pub(super) fn next_worker_ns(&self) -> u64 {
        let pause_ns = self.stillborn.min(10).saturating_mul(STILLBORN_PAUSE_NS);
        self.worker_began_ns.saturating_add(pause_ns)
    }

    /// Takes note of how long the dead one lived.
    pub(super) fn note_life(&mut self) {
        let lived = monotonic_ns().saturating_sub(self.worker_began_ns);
        self.stillborn = if lived < STILLBORN_NS { self.stillborn.saturating_add(1) } else { 0 };
    }

    /// Fills the reserve, as far as it goes.
    pub(super) fn keep_spares(&mut self) {
        while self.spares.len() < SPARES {
            match process::duplicate(self.block.memfd()) {
                Ok(spare) => self.spares.push(spare),
                Err(_) => return,
            }
        }
    }

    /// Forks a worker. In the parent: self, with or (for want of descriptors) without it. In the child, and in a keeper
    /// that had to stand in: the worker's exit status, when it is over.
    pub(super) fn next_worker(mut self) -> Result<Self, i32> {
        self.spares.clear();
        let ends = pair::pair().and_then(|(ours, theirs)| {
            // Room for the pidfd is made sure of before there is a child that would need it.
            let room = process::duplicate(ours.as_fd())?;
            Ok((fd::raise(ours, FD_FLOOR)?, fd::raise(theirs, FD_FLOOR)?, room))
        });
        let Ok((ours, theirs, room)) = ends else { return Ok(self) };
        self.mind_damage();
        // Whatever a dead worker was not told of is in the table for the next one to find.
        self.unannounced.clear();
        self.worker_began_ns = monotonic_ns();
        self.block.tables().generation.fetch_add(1, Ordering::AcqRel);
        self.arm(GRACE_NS);
        self.note_next_worker();
        match process::fork_worker() {
            Ok(Some(pid)) => {
                self.block
                    .tables()
                    .worker_pid
                    .store(u32::try_from(pid.as_raw()).unwrap_or(0), Ordering::Release);
                drop(room);
                match process::pidfd(pid) {
                    Ok(pidfd) => self.worker = Some(WorkerEnd::new(ours, pidfd, pid)),
                    // Never one that cannot be watched: it would be a second one beside the next, which begins when it is gone.
                    Err(_) => end_child(pid),
                }
                self.keep_spares();
                Ok(self)
            }
            Ok(None) => {
                let mode = Mode::load(&self.block.tables().care.mode);
                drop((ours, room));
                Err(self.become_worker(theirs, mode, false))
            }
            Err(_) => {
                // A pod without a worker is a pod without RPCs: this process does the work, and makes a keeper when it can.
                drop((ours, room));
                self.block.tables().keeper_pid.store(0, Ordering::Release);
                self.block.tables().care.stand_in.store(1, Ordering::Release);
                Err(self.become_worker(theirs, Mode::Safe, true))
            }
        }
    }

    fn become_worker(mut self, pair: OwnedFd, mode: Mode, stands_in: bool) -> i32 {
        // The images of an upgrade are the keeper's alone: a worker asks for the one that it is to become.
        for image in [Slot::IMAGE, Slot::FALLBACK] {
            self.slots.remove(&image);
        }
        drop((self.worker, self.unannounced, self.asked, self.spooler));
        let ready = self.ready;
        worker::main(Inheritance { block: self.block, slots: self.slots, pair, ready, mode, stands_in })
    }

    /// Sets the dead man's switch.
    pub(super) fn arm(&self, ns: u64) {
        if let Some(switch) = self.slots.get(&Slot::SWITCH) {
            let _ = timer::set(switch.as_fd(), ns);
        }
    }

    /// Makes the switch where this is the first keeper.
    pub(super) fn make_switch(&mut self) -> Kernel<()> {
        if self.slots.contains_key(&Slot::SWITCH) {
            return Ok(());
        }
        timer::countdown().and_then(|switch| self.hold(Slot::SWITCH, switch)).map_err(|_| Errno::EMFILE)
    }
}

/// Kills a child that was forked just now, and waits for its end.
fn end_child(pid: Pid) {
    let _ = kill(pid, Signal::SIGKILL);
    while waitpid(pid, None) == Err(Errno::EINTR) {}
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::block::Block;

    /// A keeper whose worker began so long before now, and has died since.
    fn buried(keeper: &mut Keeper, lived_ns: u64) {
        keeper.worker_began_ns = monotonic_ns().saturating_sub(lived_ns);
        keeper.note_life();
    }

    #[test]
    fn whoever_dies_at_once_again_and_again_is_replaced_later_and_later() {
        const LONG: u64 = 1_000_000_000;
        let mut keeper = Keeper::idle(Block::create().unwrap());
        for _ in 0..3 {
            buried(&mut keeper, LONG);
            assert!(keeper.may_fork(), "one that has lived has its successor at once");
        }
        for times in 1..=20u64 {
            // It is to begin only now: nothing here depends on how fast the machine is.
            let now = u64::MAX / 2;
            keeper.worker_began_ns = now;
            keeper.note_life();
            let waits = times.min(10) * STILLBORN_PAUSE_NS;
            assert_eq!(keeper.next_worker_ns(), now + waits, "{times} died at once");
            let sleeps = u64::from(keeper.patience(now).as_millis().expect("not for ever"));
            assert_eq!(sleeps * 1_000_000, waits, "it wakes for the next one");
            keeper.worker_began_ns = monotonic_ns().saturating_sub(waits);
            assert!(keeper.may_fork(), "after {waits} ns");
        }
        buried(&mut keeper, LONG);
        assert!(keeper.stillborn == 0 && keeper.may_fork(), "the next one has lived");
    }

    #[test]
    fn a_child_that_cannot_be_watched_is_gone_before_another_one_comes() {
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        end_child(pid);
        assert_eq!(kill(pid, None), Err(Errno::ESRCH), "neither there nor a zombie");
        assert!(child.wait().is_err(), "nobody is left to be waited for");
    }
}
