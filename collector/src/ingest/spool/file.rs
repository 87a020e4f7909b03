//! One spool file: opened only where nobody but root could have made it, and read through the decoder.
//!
//! What may hang runs where its directory's requests run.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag, open, openat},
    sys::stat::{Mode, SFlag, fstat},
};
use shimtap_proto::spool::{Decoder, Header, SpoolFault};

use super::dir::{Found, OpenFault, PATIENCE, is_trusted};

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// An open file on its way through the decoder.
#[derive(Debug)]
pub(super) struct SpoolFile {
    file: FileLock,
    decoder: Decoder,
    ended: bool,
}

/// Locked where its writer has ended.
#[derive(Debug)]
pub(super) enum FileLock {
    Ours(Flock<OwnedFd>),
    Writers(OwnedFd),
}

/// Why nothing more is read of a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFault {
    /// The disk does not answer.
    #[error("its disk did not answer within {PATIENCE:?}")]
    Stuck,
    /// The system's answer.
    #[error("reading it: {0}")]
    System(#[from] io::Error),
    /// It is not as it was written.
    #[error("{0}")]
    Format(#[from] SpoolFault),
}

/// Opens a file of that name, and locks it where nobody writes it.
pub(super) fn open_file(dir: &Path, name: &str) -> Result<FileLock, OpenFault> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = open(dir, flags, Mode::empty())?;
    // A FIFO must not hold us, and a terminal is not ours to take.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match openat(&dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Err(OpenFault::Gone),
        // A link, or a socket.
        Err(Errno::ELOOP | Errno::ENXIO) => return Err(OpenFault::Unsafe),
        Err(errno) => return Err(errno.into()),
    };
    let stat = fstat(&file)?;
    let is_file = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    let others = Mode::S_IRWXG | Mode::S_IRWXO;
    let is_private = !Mode::from_bits_truncate(stat.st_mode).intersects(others);
    if !is_file || stat.st_nlink != 1 || !is_trusted(stat.st_uid) || !is_private {
        return Err(OpenFault::Unsafe);
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(FileLock::Ours(lock)),
        Err((file, Errno::EWOULDBLOCK)) => Ok(FileLock::Writers(file)),
        Err((_, errno)) => Err(errno.into()),
    }
}

// === impl SpoolFile ===

impl SpoolFile {
    /// From its beginning.
    pub(super) fn new(file: FileLock) -> Self {
        Self { file, decoder: Decoder::default(), ended: false }
    }

    /// Does its writer still have it? Then it may grow, and is not to be touched.
    pub(super) fn is_being_written(&self) -> bool {
        matches!(self.file, FileLock::Writers(_))
    }

    /// Is its lock ours, now at the latest? Then nobody writes it, and it may go.
    pub(super) fn is_ours(&mut self) -> bool {
        if let FileLock::Writers(file) = &self.file
            && let Ok(again) = file.try_clone()
            && let Ok(lock) = Flock::lock(again, FlockArg::LockExclusiveNonblock)
        {
            self.file = FileLock::Ours(lock);
        }
        !self.is_being_written()
    }

    /// The messages of its next piece; none when it has ended. What came before a fault has been given by then.
    pub(super) async fn read(&mut self, found: &Found) -> Result<Vec<Vec<u8>>, ReadFault> {
        loop {
            let messages = self.decoded()?;
            if !messages.is_empty() {
                return Ok(messages);
            }
            if self.ended {
                // One that is being written ends anywhere.
                return if self.is_being_written() {
                    Ok(Vec::new())
                } else {
                    Ok(self.decoder.finish().map(|()| Vec::new())?)
                };
            }
            let file = File::from(self.handle()?);
            let read = found.ask(move || read_piece(file)).await.ok_or(ReadFault::Stuck)??;
            self.ended = read.is_empty();
            self.decoder.push(&read);
        }
    }

    /// What its header says, once a record was read.
    pub(super) fn header(&mut self) -> Option<Header> {
        self.decoder.header().ok().flatten()
    }

    /// What is whole of what was read; a fault only where nothing is.
    fn decoded(&mut self) -> Result<Vec<Vec<u8>>, SpoolFault> {
        let mut messages = Vec::new();
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => return Ok(messages),
                Err(fault) if messages.is_empty() => return Err(fault),
                Err(_) => return Ok(messages),
            }
        }
    }

    /// A duplicate that shares the place in the file: the thread that uses it may never come back.
    fn handle(&self) -> io::Result<OwnedFd> {
        match &self.file {
            FileLock::Ours(lock) => lock.try_clone(),
            FileLock::Writers(file) => file.try_clone(),
        }
    }
}

fn read_piece(mut file: File) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(n) => {
                piece.truncate(n);
                return Ok(piece);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
