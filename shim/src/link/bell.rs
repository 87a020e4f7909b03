//! A wake-up for the link thread: a pipe, which tokio can wait on. Ringing never waits: a full pipe has woken it already.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use tokio::net::unix::pipe;

use crate::{
    keeper::FD_FLOOR,
    sys::{Kernel, fd, process},
};

/// Both ends.
pub struct Bell {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// The link thread's way to wait for it.
pub struct Ear(pipe::Receiver);

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

    /// On the runtime that is to wait.
    pub fn listen(&self) -> io::Result<Ear> {
        pipe::Receiver::from_owned_fd(process::duplicate(self.reader.as_fd())?).map(Ear)
    }

    /// Readable while it was rung and nobody has heard.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

// === impl Ear ===

impl Ear {
    /// Waits until it is rung, and forgets that it was. Cancel-safe: nothing is forgotten before it returns.
    pub async fn rung(&self) -> io::Result<()> {
        self.0.readable().await?;
        let _ = self.0.try_read(&mut [0u8; 64]);
        Ok(())
    }
}
