//! What wakes a keeper. A quiet one is woken by nobody: the switch runs out only where the worker is hung.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{BREATH_MS, Keeper};
use crate::{
    block::Slot,
    sys::{Errno, Kernel, monotonic_ns},
};

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Woken {
    /// Somebody connects.
    pub listener: bool,
    /// The worker asks.
    pub worker: bool,
    /// It has ended.
    pub death: bool,
    /// It gives no sign.
    pub switch: bool,
    /// A signal.
    pub asked: bool,
    /// The child that writes spool files has ended.
    pub spooler: bool,
}

/// Which member of [`Woken`] a descriptor stands for.
type Kind = fn(&mut Woken) -> &mut bool;

impl Keeper {
    /// Waits for any of it.
    pub(super) fn wait(&self) -> Kernel<Woken> {
        let mut fds: Vec<(PollFd<'_>, Kind)> = Vec::with_capacity(6);
        let accepting = self.slots.get(&Slot::LISTENER).filter(|_| self.may_accept());
        if let Some(listener) = accepting {
            fds.push((PollFd::new(listener.as_fd(), PollFlags::POLLIN), |w| &mut w.listener));
        }
        if let Some(asked) = &self.asked {
            fds.push((PollFd::new(asked.as_fd(), PollFlags::POLLIN), |w| &mut w.asked));
        }
        if let Some(spooler) = &self.spooler {
            fds.push((PollFd::new(spooler.end(), PollFlags::POLLIN), |w| &mut w.spooler));
        }
        if let Some(worker) = &self.worker {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, !self.unannounced.is_empty());
            if !worker.closed {
                fds.push((PollFd::new(worker.pair.as_fd(), events), |w| &mut w.worker));
            }
            fds.push((PollFd::new(worker.pidfd.as_fd(), PollFlags::POLLIN), |w| &mut w.death));
            if let Some(switch) = self.slots.get(&Slot::SWITCH).filter(|_| !worker.doomed) {
                fds.push((PollFd::new(switch.as_fd(), PollFlags::POLLIN), |w| &mut w.switch));
            }
        }
        let (mut polled, kinds): (Vec<_>, Vec<Kind>) = fds.into_iter().unzip();
        match poll(&mut polled, self.patience(monotonic_ns())) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
        let mut woken = Woken::default();
        for (fd, kind) in polled.iter().zip(kinds) {
            *kind(&mut woken) = fd.revents().is_some_and(|r| !r.is_empty());
        }
        Ok(woken)
    }

    /// How long from `now` on: for ever, unless something is due by time.
    pub(super) fn patience(&self, now: u64) -> PollTimeout {
        let ms_until =
            |due: u64| u16::try_from(due.saturating_sub(now).div_ceil(1_000_000)).unwrap_or(u16::MAX);
        if self.worker.is_none() || self.accept_again_ns != 0 {
            // A worker that may begin and has not could not be made.
            let next = self.worker.is_none().then(|| ms_until(self.next_worker_ns())).filter(|ms| *ms > 0);
            return PollTimeout::from(next.map_or(BREATH_MS, |ms| ms.min(BREATH_MS)));
        }
        let due = [self.mode_due_ns(), self.trial_due_ns()].into_iter().flatten().min();
        due.map_or(PollTimeout::NONE, |due| PollTimeout::from(ms_until(due)))
    }
}
