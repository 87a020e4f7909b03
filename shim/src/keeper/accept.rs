//! Accepting: the keeper does it itself, since a connection accepted by a worker would die with it.
//!
//! And it does not do it alone: see [`beside`].

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::Ordering,
};

use nix::sys::socket::{SockFlag, accept4, getsockopt, sockopt::PeerCredentials};

use super::{BREATH_MS, GRACE_NS, Keeper, beside, protocol::Notice};
use crate::{
    block::{CONNS, Conn, ConnState, Slot, counters::Counter},
    sys::{Errno, Kernel, epoll, fd, monotonic_ns, pair, timer},
};

impl Keeper {
    /// Is there room, and is it time?
    pub(super) fn may_accept(&self) -> bool {
        monotonic_ns() >= self.accept_again_ns && self.free_conn().is_some()
    }

    /// Takes what waits on the listener.
    pub(super) fn accept_all(&mut self) {
        self.accept_again_ns = 0;
        while let Some(conn) = self.free_conn().filter(|_| self.somebody_waits()) {
            match self.accept_one(conn) {
                Ok(()) => {}
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
                    // The backlog keeps the connection; descriptors may come back.
                    self.block.tables().counters.add(Counter::AcceptsDelayed);
                    self.accept_again_ns = monotonic_ns().saturating_add(u64::from(BREATH_MS) * 1_000_000);
                    return;
                }
                Err(Errno::EINTR | Errno::ECONNABORTED | Errno::EPERM) => {}
                Err(_) => return,
            }
        }
    }

    /// One connection into the entry `conn`. EPERM: it was another user's, and is closed.
    fn accept_one(&mut self, conn: usize) -> Kernel<()> {
        let listener = self.slots.get(&Slot::LISTENER).ok_or(Errno::EBADF)?;
        let worker = self.worker.as_ref().map(|w| w.pair.as_fd());
        let notice = Notice::accepted(conn);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accept = || accept4(listener.as_raw_fd(), flags).map(fd::adopt);
        let (socket, told) = beside::make(listener, accept, |socket| {
            // A worker that cannot be told now finds it in the table.
            worker.filter(|_| same_user(socket)).is_some_and(|worker| {
                self.expect_sign();
                pair::send(worker, &notice, &[socket.as_fd()]).is_ok()
            })
        })?;
        if !same_user(&socket) {
            return Err(Errno::EPERM);
        }
        self.hold(Slot::outer(conn), socket)?;
        if !told {
            self.unannounced.push_back(conn);
        }
        Ok(())
    }

    /// Asked before each, since an attempt costs a process.
    fn somebody_waits(&self) -> bool {
        self.slots.get(&Slot::LISTENER).is_some_and(|l| epoll::readable_within(l.as_fd(), 0) == Ok(true))
    }

    /// Whoever connects waits for the worker from now on. Before it is told, not after: being told, it sets the switch anew.
    /// Never later than it was to run out: those who connect one after the other would keep a hung worker from being found out.
    pub(super) fn expect_sign(&self) {
        if let Some(switch) = self.slots.get(&Slot::SWITCH) {
            let _ = timer::set_sooner(switch.as_fd(), GRACE_NS);
        }
    }

    pub(super) fn free_conn(&self) -> Option<usize> {
        let tables = self.block.tables();
        let free = |(n, conn): &(usize, &Conn)| {
            let held =
                |slot: Slot| tables.held.get(slot.index()).is_some_and(|h| h.load(Ordering::Acquire) != 0);
            ConnState::load(&conn.state) == ConnState::Free
                && !held(Slot::outer(*n))
                && !held(Slot::inner(*n))
        };
        tables.conns.iter().enumerate().take(CONNS).find(free).map(|(n, _)| n)
    }
}

/// Go shims serve with UnixSocketRequireSameUser; so do we.
fn same_user(socket: &OwnedFd) -> bool {
    getsockopt(&socket.as_fd(), PeerCredentials).is_ok_and(|peer| {
        peer.uid() == nix::unistd::geteuid().as_raw() && peer.gid() == nix::unistd::getegid().as_raw()
    })
}
