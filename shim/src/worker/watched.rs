//! The keeper as its worker sees it from outside: by a pidfd from when it certainly was the keeper's.
//!
//! With it the worker ends a mute one, and never a process that took over its number, and asks the kernel afterwards what it
//! died of. Nothing of this is needed to replace it: where no descriptor is to be had, its end is not known.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::Pid;

use crate::{
    block::care::Reason,
    keeper::FD_FLOOR,
    sys::{
        ends::{self, End},
        epoll, fd, process,
    },
};

/// How long one that was sent SIGKILL may take to be gone.
const END_MS: u16 = 1000;

/// A keeper.
#[derive(Debug)]
pub struct Watched {
    pid: Option<Pid>,
    pidfd: Option<OwnedFd>,
}

/// One that was replaced.
#[derive(Debug)]
pub struct Replaced {
    /// Why.
    pub reason: Reason,
    /// What it was.
    pub keeper: Watched,
}

// === impl Watched ===

impl Watched {
    /// The process of this number, which the block names, at the other end of this pair.
    pub fn new(pid: u32, pair: BorrowedFd<'_>) -> Self {
        let mut watched = Self::unopened(pid);
        watched.pidfd = watched.open(pair);
        watched
    }

    fn unopened(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw);
        Self { pid, pidfd: None }
    }

    fn open(&self, pair: BorrowedFd<'_>) -> Option<OwnedFd> {
        let pidfd = process::pidfd(self.pid?).and_then(|pidfd| fd::raise(pidfd, FD_FLOOR)).ok();
        // A pair that has not hung up now proves that the number was still the keeper's when it was opened.
        pidfd.filter(|_| !epoll::has_hung_up(pair))
    }

    /// Its number; 0 = it has none.
    pub fn number(&self) -> u32 {
        self.pid.and_then(|pid| u32::try_from(pid.as_raw()).ok()).unwrap_or(0)
    }

    /// Never two keepers: the mute one ends before the next begins.
    pub fn fence(&mut self, pair: BorrowedFd<'_>) {
        if epoll::has_hung_up(pair) {
            return;
        }
        self.pidfd = self.pidfd.take().or_else(|| self.open(pair));
        if let Some(pidfd) = &self.pidfd {
            let _ = process::kill(pidfd.as_fd());
            let _ = epoll::readable_within(pidfd.as_fd(), END_MS);
            // A child that makes a descriptor beside it (`keeper::beside`) has its end of the pair too, and tells of what it made: it
            // is to be heard before the pair goes.
            let _ = epoll::hangs_up_within(pair, END_MS);
        }
    }

    /// How it ended, where that is known by now.
    pub fn end(&self) -> Option<End> {
        ends::of(self.pidfd.as_ref()?.as_fd(), self.pid?)
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread};

    use super::*;
    use crate::sys::pair::{self, Received};

    /// A child that makes a descriptor for it lives on for a moment, and is heard.
    #[test]
    fn a_fence_waits_for_whoever_speaks_for_the_dead_one() {
        let mut keeper = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let (ours, theirs) = pair::pair().unwrap();
        let mut watched = Watched::new(keeper.id(), ours.as_fd());
        let beside = thread::spawn(move || {
            keeper.wait().unwrap();
            pair::send(theirs.as_fd(), b"made", &[]).unwrap();
        });
        watched.fence(ours.as_fd());
        assert!(matches!(pair::receive(ours.as_fd()), Ok(Received::Message(bytes, _)) if bytes == b"made"));
        assert!(matches!(pair::receive(ours.as_fd()), Ok(Received::Closed)), "all of it");
        assert_ne!(watched.end(), Some(End::Exit(0)));
        beside.join().unwrap();
    }
}
