//! A keeper in the test's own process: serves a worker on a thread, and leaves its successor what a fork would. Nothing is
//! forked, killed or executed.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use nix::{
    sys::socket::{AddressFamily, SockFlag, SockType, socketpair},
    unistd::Pid,
};

use super::{Keeper, WorkerEnd};
use crate::{
    block::{Block, Slot},
    sys::{epoll, pair, process},
};

/// The keeper, and the thread that serves its worker of now.
pub struct InProcess {
    keeper: Arc<Mutex<Keeper>>,
    server: Option<JoinHandle<()>>,
}

/// What a worker has from birth.
pub struct Heirloom {
    /// Its end of the pair.
    pub pair: OwnedFd,
    /// Duplicates of all that is held.
    pub slots: BTreeMap<Slot, OwnedFd>,
}

// === impl InProcess ===

impl InProcess {
    /// With a block of nobody else's, and nothing in its hands.
    pub fn new(block: Block) -> Self {
        Self::with(block)
    }

    /// The same over a block that may be damaged, also where it would be refused.
    pub fn over(memfd: OwnedFd) -> Self {
        Self::with(Block::map(memfd).unwrap())
    }

    fn with(block: Block) -> Self {
        Self { keeper: Arc::new(Mutex::new(Keeper::idle(block))), server: None }
    }

    /// containerd's end of a connection that was accepted just now.
    pub fn accept(&self) -> OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (theirs, ours) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags).unwrap();
        let mut keeper = self.keeper.lock().unwrap();
        let conn = keeper.free_conn().unwrap();
        keeper.hold(Slot::outer(conn), ours).unwrap();
        keeper.unannounced.push_back(conn);
        keeper.announce();
        theirs
    }

    /// This as well.
    pub fn hold(&self, slot: Slot, fd: OwnedFd) {
        self.keeper.lock().unwrap().hold(slot, fd).unwrap();
    }

    /// All that is held.
    pub fn held(&self) -> Vec<Slot> {
        self.keeper.lock().unwrap().slots.keys().copied().collect()
    }

    /// After a worker's end: does all that it had asked for, then is there for the next.
    pub fn next_worker(&mut self) -> Heirloom {
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
        let (ours, theirs) = pair::pair().unwrap();
        let watched = process::duplicate(ours.as_fd()).unwrap();
        let mut keeper = self.keeper.lock().unwrap();
        // As in `next_worker`: it finds them in the table.
        keeper.unannounced.clear();
        let pid = Pid::this();
        keeper.worker = Some(WorkerEnd::new(ours, process::pidfd(pid).unwrap(), pid));
        let slots = keeper.slots.iter().map(|(slot, fd)| (*slot, process::duplicate(fd.as_fd()).unwrap()));
        let slots = slots.collect();
        let shared = Arc::clone(&self.keeper);
        self.server = Some(thread::spawn(move || {
            loop {
                let _ = epoll::readable_within(watched.as_fd(), 1000);
                let mut keeper = shared.lock().unwrap();
                keeper.serve();
                if keeper.worker.as_ref().is_none_or(|w| w.closed) {
                    return;
                }
            }
        }));
        Heirloom { pair: theirs, slots }
    }
}
