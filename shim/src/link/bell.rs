//! A wake-up for the link thread: a pipe, which poll(2) can wait on. Ringing never waits: a full pipe has woken it already.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{
    keeper::FD_FLOOR,
    sys::{Kernel, fd},
};

/// Both ends.
pub struct Bell {
    reader: OwnedFd,
    writer: OwnedFd,
}

// === impl Bell ===

impl Bell {
    /// Not rung yet.
    pub fn new() -> Kernel<Self> {
        let (reader, writer) = fd::pipe()?;
        Ok(Self { reader: fd::raise(reader, FD_FLOOR)?, writer: fd::raise(writer, FD_FLOOR)? })
    }

    /// Any thread: wakes whoever listens, now or later.
    pub fn ring(&self) {
        let _ = nix::unistd::write(&self.writer, b"1");
    }

    /// The link thread, which has heard it: forgets that it was rung.
    pub fn hear(&self) {
        let _ = nix::unistd::read(&self.reader, &mut [0u8; 64]);
    }

    /// Readable while it was rung and nobody has heard.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
