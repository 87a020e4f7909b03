//! A level-triggered epoll whose registrations always equal what the caller last asked for.
//!
//! `want` is the only way in: it adds, changes or removes. A descriptor nobody waits for is not registered at
//! all, since the kernel reports EPOLLHUP for any registered one and a loop would spin on it.

use std::{
    collections::HashMap,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Errno, Kernel};

/// Registrations by token.
pub struct Poller {
    epoll: Epoll,
    registered: HashMap<u64, (RawFd, EpollFlags)>,
}

// === impl Poller ===

impl Poller {
    /// epoll_create1(2).
    pub fn new() -> Kernel<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, registered: HashMap::new() })
    }

    /// Makes the registration of `token` equal to `flags` on this descriptor; `None` removes it. HUP and ERR are
    /// reported while anything is registered, also with empty flags. A descriptor must be unregistered before it is
    /// closed: a duplicate elsewhere would keep the registration alive.
    pub fn want(&mut self, token: u64, fd: BorrowedFd<'_>, flags: Option<EpollFlags>) -> Kernel<()> {
        let raw = fd.as_raw_fd();
        let have = self.registered.get(&token).filter(|(number, _)| *number == raw).map(|(_, flags)| *flags);
        match (have, flags) {
            (None, None) => Ok(()),
            (Some(_), None) => {
                self.registered.remove(&token);
                self.epoll.delete(fd)
            }
            (Some(have), Some(want)) if have == want => Ok(()),
            (Some(_), Some(want)) => {
                self.epoll.modify(fd, &mut EpollEvent::new(want, token))?;
                self.registered.insert(token, (raw, want));
                Ok(())
            }
            // New, or another descriptor than before: the keeper's pair after a change of keeper.
            (None, Some(want)) => {
                self.epoll.add(fd, EpollEvent::new(want, token))?;
                self.registered.insert(token, (raw, want));
                Ok(())
            }
        }
    }

    /// The descriptor of this token was closed, and its registration went with it.
    pub fn forget(&mut self, token: u64) {
        self.registered.remove(&token);
    }

    /// Waits for events; `None` = until one comes. An interrupted wait is an empty answer.
    pub fn wait(&self, events: &mut [EpollEvent], timeout_ms: Option<u16>) -> Kernel<usize> {
        let timeout = timeout_ms.map_or(EpollTimeout::NONE, EpollTimeout::from);
        match self.epoll.wait(events, timeout) {
            Err(Errno::EINTR) => Ok(0),
            other => other,
        }
    }
}

/// One poll(2): is the other end gone? For a FIFO: there was a writer and there is none (the description remembers).
pub fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    hangs_up_within(fd, 0)
}

/// The same, with time for it.
pub fn hangs_up_within(fd: BorrowedFd<'_>, timeout_ms: u16) -> bool {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut fds, timeout_ms).is_ok_and(|n| n > 0)
        && fds.iter().any(|f| f.revents().is_some_and(|r| r.contains(PollFlags::POLLHUP)))
}

/// One poll(2): has it room for a message within the time?
pub fn writable_within(fd: BorrowedFd<'_>, timeout_ms: u16) -> bool {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    poll(&mut fds, timeout_ms).is_ok_and(|n| n > 0)
}

/// One poll(2) on one descriptor; true when it is readable, hung up or broken within the time.
pub fn readable_within(fd: BorrowedFd<'_>, timeout_ms: u16) -> Kernel<bool> {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    match poll(&mut fds, timeout_ms) {
        Ok(n) => Ok(n > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(e) => Err(e),
    }
}
