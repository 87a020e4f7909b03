//! A worker that begins with a block in which any word may hold anything: it ends or goes on, and never panics.
//!
//! The words by which it would reach for files or processes are made harmless first: what a worker does to the paths it
//! finds is not for a machine that somebody needs.

use std::{os::fd::OwnedFd, path::Path, sync::atomic::Ordering};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::{Hands, Worker};
use crate::{
    block::{Block, Slot, care::Mode},
    keeper::InProcess,
    link::Switchboard,
    sys::{fd, process},
};

/// Connections, streams and pipes that are held at the beginning; what the block says of others is about nothing.
const HELD: usize = 3;

/// No path outside of `dir`, no process.
pub fn disarm(block: &Block, dir: &Path) {
    let tables = block.tables();
    tables.keeper_pid.store(0, Ordering::Relaxed);
    let who = &tables.identity;
    who.run_dir.set(&dir.to_string_lossy());
    who.inner_path.set(&dir.join("no-such-socket").to_string_lossy());
    for text in [&who.key, &who.namespace, &who.id] {
        text.set("x");
    }
    for task in &tables.tasks {
        if !task.id.is_empty() {
            task.id.set("x");
        }
    }
    for (n, stream) in tables.streams.iter().enumerate().filter(|(_, s)| !s.inner_path.is_empty()) {
        stream.inner_path.set(&dir.join(format!("inner-{n}")).to_string_lossy());
    }
    for (n, stream) in tables.streams.iter().enumerate().filter(|(_, s)| !s.outer_path.is_empty()) {
        stream.outer_path.set(&dir.join(format!("outer-{n}")).to_string_lossy());
    }
}

/// The first rounds of a worker's loop, with something to read on everything that is held.
pub fn begin_with(block: &'static Block, board: &'static Switchboard, mode: Mode) {
    let memfd = process::duplicate(block.memfd()).expect("descriptors are there");
    let mut keeper = InProcess::over(memfd);
    let others = hold_some(&keeper);
    let heirloom = keeper.next_worker();
    let hands = Hands::new(block, heirloom.pair, heirloom.slots);
    if let Ok(mut worker) = Worker::on(block, board, hands, mode, false) {
        worker.begin();
        for _ in 0..6 {
            // Either end is one: the loop's, or the worker's by its own decision.
            if worker.tend().unwrap_or(true) || worker.is_over() || worker.turn(Some(0)).is_err() {
                break;
            }
        }
    }
    drop(others);
}

/// Real descriptors in some slots; the other ends of them.
fn hold_some(keeper: &InProcess) -> Vec<OwnedFd> {
    let mut others = Vec::new();
    for n in 0..HELD {
        for slot in [Slot::outer(n), Slot::inner(n)] {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
                .expect("descriptors are there");
            keeper.hold(slot, ours);
            let _ = nix::unistd::write(&theirs, b"\0\0\0\x08\0\0\0\x01\x02\0somebody");
            others.push(theirs);
        }
        let (reader, writer) = fd::pipe().expect("descriptors are there");
        let _ = nix::unistd::write(&writer, b"in a pipe of the pool");
        keeper.hold(Slot::pipe(n), reader);
        keeper.hold(Slot::pipe(n).plus(1), writer);
        let (reader, writer) = fd::pipe().expect("descriptors are there");
        let _ = nix::unistd::write(&writer, &[b'o'; 100]);
        keeper.hold(Slot::stream(n), reader);
        others.push(writer);
    }
    others
}
