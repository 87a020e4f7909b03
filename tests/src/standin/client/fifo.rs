//! FIFOs as containerd makes and reads them: readers open first and block until a writer comes.
//!
//! The blocking open is the point: a writer that opens and vanishes without a byte ends the log for good, as it
//! does in containerd, so a wrapper that loses a descriptor between open and use is found out here.

use std::{
    fs::OpenOptions,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

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
        Ok(Self::attach(path, allowance))
    }

    /// Opens an existing FIFO again, as containerd does after its restart.
    #[must_use]
    pub fn attach(path: &Path, allowance: Option<usize>) -> Self {
        let shared = Arc::new((Mutex::new(Shared { allowance, ..Shared::default() }), Condvar::new()));
        let (theirs, name) = (Arc::clone(&shared), path.to_owned());
        thread::spawn(move || {
            let end = read_all(&name, &theirs).map_err(|e| format!("{e:#}"));
            lock(&theirs.0).ended = Some(end);
            theirs.1.notify_all();
        });
        Self { path: path.to_owned(), shared }
    }

    /// Closes the reading end, as a containerd that stops; gives what was read until then.
    ///
    /// # Errors
    /// The reader does not come back because nothing is written any more.
    pub fn stop(&self, patience: Duration) -> Result<Vec<u8>> {
        lock(&self.shared.0).given_up = true;
        self.shared.1.notify_all();
        self.to_end(patience)
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
    /// Releases a reader whose open still blocks, as Go's fifo library does: by opening the other side briefly.
    fn drop(&mut self) {
        lock(&self.shared.0).given_up = true;
        self.shared.1.notify_all();
        let _nobody_blocks =
            OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&self.path);
    }
}

fn read_all(path: &Path, shared: &(Mutex<Shared>, Condvar)) -> Result<()> {
    let mut file = OpenOptions::new().read(true).open(path).context("opening")?;
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
        let n = file.read(buffer.get_mut(..room).unwrap_or_default()).context("reading")?;
        if n == 0 {
            return Ok(());
        }
        lock(&shared.0).bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
        shared.1.notify_all();
    }
}
