//! Does the link thread still turn? It counts its turns; where it has taken none for long, it is prodded and has to.
//!
//! The relay thread only reads a number and writes to a pipe: whatever the link thread holds or waits for, it cannot
//! hold this.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
};

use tokio::net::unix::pipe;

use crate::{
    keeper::FD_FLOOR,
    sys::{Kernel, fd, process},
};

/// The count, and the pipe for prodding.
pub struct Pulse {
    pipe: (OwnedFd, OwnedFd),
    turns: AtomicU64,
    thread: AtomicI32,
}

// === impl Pulse ===

impl Pulse {
    /// No turn yet.
    pub fn new() -> Kernel<Self> {
        let (reader, writer) = fd::pipe()?;
        let pipe = (fd::raise(reader, FD_FLOOR)?, fd::raise(writer, FD_FLOOR)?);
        Ok(Self { pipe, turns: AtomicU64::new(0), thread: AtomicI32::new(0) })
    }

    /// Link thread: it is the calling one.
    pub fn begin(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::Release);
        self.beat();
    }

    /// Link thread: a turn of whatever it does.
    pub fn beat(&self) {
        self.turns.fetch_add(1, Ordering::AcqRel);
    }

    /// Link thread: answers whoever prods, beside whatever else waits (a collector that takes nothing, a mute shim).
    pub async fn answer(&'static self) {
        let reader = process::duplicate(self.pipe.0.as_fd()).map_err(std::io::Error::from);
        let Ok(reader) = reader.and_then(pipe::Receiver::from_owned_fd) else { return };
        // Cancel-safe: readable() changes nothing.
        while reader.readable().await.is_ok() {
            let _ = reader.try_read(&mut [0u8; 64]);
            self.beat();
        }
    }

    /// Relay thread: turns so far.
    pub fn count(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// Relay thread: take one.
    pub fn prod(&self) {
        let _ = nix::unistd::write(&self.pipe.1, b"1");
    }

    /// Its number in /proc/self/task; 0 = it never began.
    pub fn thread(&self) -> i32 {
        self.thread.load(Ordering::Acquire)
    }
}
