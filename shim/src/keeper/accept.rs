//! Accepting: the keeper does it itself, since a connection accepted by a worker would die with it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use nix::sys::socket::{SockFlag, accept4, getsockopt, sockopt::PeerCredentials};

use super::{BREATH_MS, Keeper};
use crate::{
    block::{CONNS, Conn, ConnState, Slot},
    sys::{Errno, fd, monotonic_ns},
};

impl Keeper {
    /// Is there room, and is it time?
    pub(super) fn may_accept(&self) -> bool {
        monotonic_ns() >= self.accept_again_ns && self.free_conn().is_some()
    }

    /// Takes what waits on the listener.
    pub(super) fn accept_all(&mut self) {
        self.accept_again_ns = 0;
        while let Some(conn) = self.free_conn() {
            let Some(listener) = self.slots.get(&Slot::LISTENER) else { return };
            match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
                Ok(raw) => {
                    let socket = fd::adopt(raw);
                    if !same_user(&socket) {
                        continue;
                    }
                    if self.hold(Slot::outer(conn), socket).is_ok() {
                        self.unannounced.push_back(conn);
                    }
                }
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
                    // The backlog keeps the connection; descriptors may come back.
                    self.accept_again_ns = monotonic_ns().saturating_add(u64::from(BREATH_MS) * 1_000_000);
                    return;
                }
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    fn free_conn(&self) -> Option<usize> {
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
