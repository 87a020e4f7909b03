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

/// A keeper that died sooner than this was made in vain, or could not be made; the next but one waits so much longer for each
/// in a row, ten at most.
const YOUNG_NS: u64 = 50_000_000;
const PAUSE_NS: u64 = 20_000_000;

/// When keepers are made.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// None before then (CLOCK_MONOTONIC ns).
    again_ns: u64,
    /// When the last one was (to be) made, and how many in a row in vain.
    began_ns: u64,
    in_vain: u64,
}

// === impl Attempts ===

impl Attempts {
    /// Is it time for one? If so, that was one.
    fn begin(&mut self, now: u64) -> bool {
        if now < self.again_ns {
            return false;
        }
        let young = self.began_ns != 0 && now.saturating_sub(self.began_ns) < YOUNG_NS;
        self.in_vain = if young { self.in_vain.saturating_add(1).min(10) } else { 0 };
        self.began_ns = now;
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
