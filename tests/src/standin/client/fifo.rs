//! FIFOs as containerd makes and reads them: readers are there first and wait until a writer comes.
//!
//! How the end is seen is the point: a writer that opens and vanishes without a byte ends the log for good, as it
//! does in containerd, so a wrapper that loses a descriptor between open and use is found out here. The reader is
//! open when the constructor returns (containerd opens it long before the shim exists), and hang-up is told by poll,
//! which knows a writer that came and went from one that never came.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, PipeReader, PipeWriter, Read, pipe},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
    unistd::mkfifo,
};

/// What the reading thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    bytes: Vec<u8>,
    ended: Option<Result<(), String>>,
    /// Up to how many bytes may be read; none means all.
    allowance: Option<usize>,
    given_up: bool,
}

/// A FIFO and the thread that reads it as containerd's log copier would.
#[derive(Debug)]
pub struct FifoReader {
    path: PathBuf,
    shared: Arc<(Mutex<Shared>, Condvar)>,
    /// Its end wakes the thread out of its poll.
    stop: Mutex<Option<PipeWriter>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FifoReader {
    /// Makes the FIFO and starts to read it.
    ///
    /// # Errors
    /// The FIFO cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        Self::new(path, None)
    }

    /// Makes the FIFO and opens it, but reads nothing until [`FifoReader::resume`].
    ///
    /// # Errors
    /// The FIFO cannot be made.
    pub fn create_stalled(path: &Path) -> Result<Self> {
        Self::new(path, Some(0))
    }

    fn new(path: &Path, allowance: Option<usize>) -> Result<Self> {
        mkfifo(path, Mode::S_IRWXU).with_context(|| format!("making FIFO {}", path.display()))?;
        Self::attach(path, allowance)
    }

    /// Opens an existing FIFO again, as containerd does after its restart.
    ///
    /// # Errors
    /// The FIFO is not there.
    pub fn attach(path: &Path, allowance: Option<usize>) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(path).with_context(|| format!("opening FIFO {}", path.display()))?;
        let (end, ended) = pipe().context("pipe")?;
        let shared = Arc::new((Mutex::new(Shared { allowance, ..Shared::default() }), Condvar::new()));
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            let end = read_all(file, &end, &theirs).map_err(|e| format!("{e:#}"));
            lock(&theirs.0).ended = Some(end);
            theirs.1.notify_all();
        });
        Ok(Self { path: path.to_owned(), shared, stop: Mutex::new(Some(ended)) })
    }

    /// Closes the reading end, as a containerd that stops; gives what was read until then.
    ///
    /// # Errors
    /// The reader does not come back because nothing is written any more.
    pub fn stop(&self, patience: Duration) -> Result<Vec<u8>> {
        self.give_up();
        self.to_end(patience)
    }

    fn give_up(&self) {
        lock(&self.shared.0).given_up = true;
        self.shared.1.notify_all();
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the reader go on without limit.
    pub fn resume(&self) {
        lock(&self.shared.0).allowance = None;
        self.shared.1.notify_all();
    }

    /// What has been read so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<u8> {
        lock(&self.shared.0).bytes.clone()
    }

    /// How much has been read so far.
    #[must_use]
    pub fn len_so_far(&self) -> usize {
        lock(&self.shared.0).bytes.len()
    }

    /// Whether the end of file has been seen.
    #[must_use]
    pub fn at_end(&self) -> bool {
        lock(&self.shared.0).ended.is_some()
    }

    /// Waits for the end of file; gives everything that was read.
    ///
    /// # Errors
    /// It did not come in time, or reading failed.
    pub fn to_end(&self, patience: Duration) -> Result<Vec<u8>> {
        let shared = self.wait(patience, |s| s.ended.is_some()).context("waiting for the end of file")?;
        match &shared.ended {
            Some(Err(why)) => anyhow::bail!("reading {}: {why}", self.path.display()),
            _ => Ok(shared.bytes.clone()),
        }
    }

    /// Waits until at least `n` bytes have been read.
    ///
    /// # Errors
    /// They did not come in time.
    pub fn wait_len(&self, n: usize, patience: Duration) -> Result<()> {
        self.wait(patience, |s| s.bytes.len() >= n || s.ended.is_some()).map(drop)?;
        ensure!(self.len_so_far() >= n, "{}: {} bytes of {n}", self.path.display(), self.len_so_far());
        Ok(())
    }

    fn wait(&self, patience: Duration, done: impl Fn(&Shared) -> bool) -> Result<MutexGuard<'_, Shared>> {
        let until = Instant::now() + patience;
        let mut shared = lock(&self.shared.0);
        while !done(&shared) {
            let left = until.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "{}: not within {patience:?}; {} bytes have come",
                self.path.display(),
                shared.bytes.len()
            );
            shared = self.shared.1.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(shared)
    }
}

impl Drop for FifoReader {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn read_all(mut file: File, stop: &PipeReader, shared: &(Mutex<Shared>, Condvar)) -> Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let mut room = buffer.len();
        let mut guard = lock(&shared.0);
        while !guard.given_up && guard.allowance.is_some_and(|a| a <= guard.bytes.len()) {
            guard = shared.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        if guard.given_up {
            return Ok(());
        }
        if let Some(allowance) = guard.allowance {
            room = room.min(allowance - guard.bytes.len());
        }
        drop(guard);
        // Without a writer read gives 0 whether one was there or not; only poll knows.
        let mut fds =
            [PollFd::new(file.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).context("poll")?;
        let [fifo, _stop] = fds;
        if fifo.revents().is_none_or(|r| r.is_empty()) {
            continue;
        }
        // Under the lock, so that what has left the FIFO is always told: it never blocks.
        let mut guard = lock(&shared.0);
        match file.read(buffer.get_mut(..room).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                guard.bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
                shared.1.notify_all();
            }
            // Another reader of the same FIFO was faster.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("reading"),
        }
    }
}
