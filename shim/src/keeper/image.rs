//! The keeper's part of an upgrade: it becomes the new image, in place, and for a while could become the old one again
//! (docs/adr/0011).
//!
//! The process stays, and with it every descriptor: there is no moment with two keepers, nor one with none. The worker, of
//! the old image still, sees a keeper that answers a moment later. It does the same next. What fails before the exec
//! leaves everything as it was; what fails after it is a death of the keeper, from which the worker recovers with the
//! old image.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use super::{ENV_BECAME, ENV_BLOCK, ENV_PAIR, Keeper, VERB, protocol::Notice};
use crate::{
    args,
    block::{
        Slot, Upgrade,
        care::{Mode, Reason},
    },
    sys::{Errno, Kernel, image, monotonic_ns, pair},
};

/// So long the old image stays within reach.
const TRIAL_NS: u64 = 30_000_000_000;
/// So many workers may die by their own fault in that time; then the new image is given up.
const FAULTS_MAX: u32 = 3;

/// A new image on trial.
pub(super) struct Trial {
    until_ns: u64,
    faults: u32,
}

impl Keeper {
    /// The worker was asked for an upgrade and has sent the image along.
    pub(super) fn take_image(&mut self, image: OwnedFd) -> Kernel<()> {
        if Upgrade::load(&self.block.tables().upgrade) != Upgrade::Asked {
            // Told again after the keeper that was asked first had died.
            return Err(Errno::ECANCELED);
        }
        self.hold(Slot::IMAGE, image)?;
        self.to_become = true;
        Ok(())
    }

    /// Does so, once the worker knows of all connections: the new image could not tell it.
    pub(super) fn tend_image(&mut self) {
        if !self.to_become {
            return;
        }
        if Upgrade::load(&self.block.tables().upgrade) != Upgrade::Asked {
            // The worker has given up.
            self.to_become = false;
            return self.release(Slot::IMAGE);
        }
        let served = self.unannounced.is_empty() && self.worker.as_ref().is_some_and(|w| !w.doomed);
        if served {
            self.to_become = false;
            let refused = self.become_next();
            self.forget_images();
            self.give_up(Upgrade::Refused, refused);
        }
    }

    fn become_next(&mut self) -> Errno {
        if let Err(errno) = image::own().and_then(|own| self.hold(Slot::FALLBACK, own)) {
            return errno;
        }
        let pair = self.worker.as_ref().map(|w| w.pair.as_fd());
        self.become_it(Slot::IMAGE, pair)
    }

    fn become_it(&self, image: Slot, pair: Option<BorrowedFd<'_>>) -> Errno {
        let Some(image) = self.slots.get(&image) else { return Errno::EBADF };
        let who = &self.block.tables().identity;
        let mut env = vec![
            (ENV_BLOCK.to_owned(), self.block.memfd().as_raw_fd().to_string()),
            (ENV_BECAME.to_owned(), "1".to_owned()),
        ];
        env.extend(pair.map(|pair| (ENV_PAIR.to_owned(), pair.as_raw_fd().to_string())));
        let mut keep: Vec<BorrowedFd<'_>> = self.slots.values().map(OwnedFd::as_fd).collect();
        keep.push(self.block.memfd());
        keep.extend(pair);
        let argv = args::ours(VERB, &who.namespace.get(), &who.id.get());
        image::become_it(image.as_fd(), &argv, &env, &keep)
    }

    /// First of all in a keeper that was another image a moment ago.
    pub(super) fn has_become(&mut self) {
        let tables = self.block.tables();
        if Upgrade::load(&tables.upgrade) == Upgrade::FellBack {
            self.forget_images();
            return;
        }
        // Also where the worker has given up in this moment: it comes along then, since the two must be of one image.
        if Mode::load(&tables.care.mode) != Mode::Normal {
            tables.care.entries.store(0, Ordering::Release);
            Mode::Normal.store(&tables.care.mode);
        }
        tables.care.since_ns.store(monotonic_ns(), Ordering::Release);
        if self.slots.contains_key(&Slot::FALLBACK) {
            self.trial = Some(Trial { until_ns: monotonic_ns().saturating_add(TRIAL_NS), faults: 0 });
        }
        Upgrade::KeeperDone.store(&tables.upgrade);
        self.wake_worker();
    }

    /// A worker is about to be forked: where the keeper is of the new image, so will it be.
    pub(super) fn note_next_worker(&self) {
        let word = &self.block.tables().upgrade;
        if Upgrade::load(word) == Upgrade::KeeperDone {
            Upgrade::Done.store(word);
        }
    }

    /// A worker has died. Too many of a new image by their own fault: back to the old one.
    pub(super) fn judge_image(&mut self, reason: Reason) {
        let Some(trial) = &mut self.trial else { return };
        if matches!(reason, Reason::Crashed | Reason::Failed | Reason::Hung) {
            trial.faults = trial.faults.saturating_add(1);
        }
        if trial.faults < FAULTS_MAX {
            return;
        }
        let care = &self.block.tables().care;
        Mode::Normal.store(&care.mode);
        care.since_ns.store(monotonic_ns(), Ordering::Release);
        Upgrade::FellBack.store(&self.block.tables().upgrade);
        let refused = self.become_it(Slot::FALLBACK, None);
        // Then the new image goes on, and safe mode is what is left.
        self.forget_images();
        self.give_up(Upgrade::Done, refused);
    }

    /// The new image has stood its trial.
    pub(super) fn tend_trial(&mut self) {
        if self.trial.as_ref().is_some_and(|trial| monotonic_ns() >= trial.until_ns) {
            self.forget_images();
        }
    }

    /// When that is.
    pub(super) fn trial_due_ns(&self) -> Option<u64> {
        self.trial.as_ref().map(|trial| trial.until_ns)
    }

    fn forget_images(&mut self) {
        self.trial = None;
        self.release(Slot::IMAGE);
        self.release(Slot::FALLBACK);
    }

    fn give_up(&self, step: Upgrade, errno: Errno) {
        let tables = self.block.tables();
        tables.upgrade_errno.store(u32::try_from(errno as i32).unwrap_or(0), Ordering::Release);
        step.store(&tables.upgrade);
        self.wake_worker();
    }

    /// Something in the block concerns it.
    pub(super) fn wake_worker(&self) {
        if let Some(worker) = &self.worker {
            // One that cannot be told now looks by itself before long.
            let _ = pair::send(worker.pair.as_fd(), &Notice::look(), &[]);
        }
    }
}
