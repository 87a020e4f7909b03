//! The next keeper, made from this side: exec'ed from our own image, it takes over our descriptors and this worker.
//!
//! Never two of them: the one before is gone, or ended, by then. A machine that refuses processes must not be asked in a loop;
//! while the next one waits, this worker is alone.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use super::Hands;
use crate::{
    args,
    block::{Upgrade, care::Reason},
    keeper::{self, FD_FLOOR},
    sys::{Errno, Kernel, atomic::AtomicU32, fd, monotonic_ns, pair, process},
    worker::watched::{Replaced, Watched},
};

/// A keeper was made in vain if it could not be made, or is gone this soon after the next one may be: what that had to wait is no
/// part of its life.
const YOUNG_NS: u64 = 50_000_000;
/// For each in a row, ten at most, the next but one waits so much longer.
const PAUSE_NS: u64 = 20_000_000;

/// When keepers are made.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// None before then (CLOCK_MONOTONIC ns); 0 = there was none.
    again_ns: u64,
    /// How many in a row were made in vain.
    in_vain: u64,
}

// === impl Attempts ===

impl Attempts {
    /// Is it time for one? If so, that was one.
    fn begin(&mut self, now: u64) -> bool {
        if now < self.again_ns {
            return false;
        }
        let young = self.again_ns != 0 && now.saturating_sub(self.again_ns) < YOUNG_NS;
        self.in_vain = if young { self.in_vain.saturating_add(1).min(10) } else { 0 };
        self.again_ns = now.saturating_add(PAUSE_NS.saturating_mul(self.in_vain));
        true
    }
}

// === impl Hands ===

impl Hands {
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
        self.orphaned.then_some(self.attempts.again_ns)
    }

    /// Execs a keeper from our own image; it takes over our descriptors and this worker.
    pub(super) fn replace_keeper(&mut self) -> Kernel<()> {
        if !self.attempts.begin(monotonic_ns()) {
            return Err(Errno::EOWNERDEAD);
        }
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
            let _ = tables.note_held(*slot, held.as_fd());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepers_that_are_made_in_vain_are_made_later_and_later() {
        const BEGIN: u64 = 1_000_000_000;
        let mut attempts = Attempts::default();
        let mut now = BEGIN;
        assert!(attempts.begin(now), "the first that is lost");
        for times in 0..=30 {
            // It was lost at once, and the next one is made as soon as it may be.
            let next = now + PAUSE_NS * times.min(10);
            assert!(next == now || !attempts.begin(next - 1), "{times} were in vain");
            assert!(attempts.begin(next), "{times} were in vain");
            now = next;
        }
        now += 10 * PAUSE_NS + YOUNG_NS;
        assert!(attempts.begin(now), "this one had lived");
        assert!(attempts.begin(now), "and the next has its successor at once");
    }
}
