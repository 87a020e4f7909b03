//! The file itself: opened without trusting what a crash left, written in whole lines, renamed at its size.
//!
//! Somebody may move, remove or empty it at any time. Nothing is called written that was seen to go into a file which is
//! gone, and no such file is held open; a line is never torn between two files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::unsynced::Unsynced;
use crate::{config, metrics::SinkTotals, sinks::lines::Pending};

/// Why the file sink cannot do its work. The configuration, the disk or its permissions are at fault.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// The file cannot be opened.
    #[error("opening the log file {path}: {source}; check file.path and its directory")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An old file cannot be renamed.
    #[error("rotating the log file {path}: {source}; check the rights on its directory")]
    Rotate {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes cannot be written.
    #[error("writing the log file {path}: {source}; check that its disk has room")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("starting the file sink's thread: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// The open file, and what of the request that is under way is in it.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    rotate_bytes: u64,
    keep: u32,
    /// None once it is gone and as long as there is no other: who holds it open keeps its disk full.
    file: Option<Arc<File>>,
    /// Its device and number.
    place: (u64, u64),
    unsynced: Arc<Unsynced>,
    sink: Arc<SinkTotals>,
    /// None for a device or a pipe, which has none and is never renamed.
    size: Option<u64>,
    /// Bytes of a line whose beginning is already in the file; nothing else may be written there before its rest.
    torn: usize,
    /// Bytes of the request that were taken since the last rotation, those included: none of them is acknowledged.
    taken: usize,
}

/// What has become of the open file.
enum Fate {
    /// The path names it.
    InPlace,
    /// The path names another one, or none.
    Moved,
    /// It has no name any more, or somebody emptied it: what we wrote is nowhere.
    Gone,
}

// === impl FileFault ===

impl FileFault {
    /// What the system said.
    pub(super) fn source(&self) -> &io::Error {
        match self {
            Self::Open { source, .. }
            | Self::Rotate { source, .. }
            | Self::Write { source, .. }
            | Self::Thread { source } => source,
        }
    }
}

// === impl Output ===

impl Output {
    /// Opens the file for appending, made with mode 0600 where it is missing. What stands behind the last newline
    /// is a line that a crash tore; it was never acknowledged and is cut off.
    pub(super) fn open(config: &config::File, sink: Arc<SinkTotals>) -> Result<Self, FileFault> {
        let (file, place, size) = open_whole(&config.path)
            .map_err(|source| FileFault::Open { path: config.path.clone(), source })?;
        let (rotate_bytes, keep) = (config.rotate_bytes, config.keep);
        let (file, unsynced, path) = (Some(Arc::new(file)), Arc::default(), config.path.clone());
        Ok(Self { path, rotate_bytes, keep, file, place, unsynced, sink, size, torn: 0, taken: 0 })
    }

    /// What is written and not brought to the disk, for whoever does that.
    pub(super) fn unsynced(&self) -> Arc<Unsynced> {
        Arc::clone(&self.unsynced)
    }

    /// Opens the path anew: after a failure it may be another file.
    pub(super) fn reopen(&mut self, lines: &mut Pending) -> Result<(), FileFault> {
        // A full disk may be waiting for those that were removed.
        self.unsynced.let_go();
        self.follow(lines)?;
        // The rest of a line belongs into the same file.
        if self.torn > 0 { Ok(()) } else { self.open_path() }
    }

    /// Writes whole lines from the front of `lines` and removes what was written, which may be a part even when it
    /// fails. What a file had that is gone is put back, so that there may be more than before.
    pub(super) fn write(&mut self, lines: &mut Pending) -> Result<(), FileFault> {
        self.follow(lines)?;
        while !lines.is_empty() {
            let rest = lines.rest();
            let fits = whole_lines(rest, self.room());
            if fits == 0 && self.size > Some(0) && self.torn == 0 {
                self.rotate()?;
                continue;
            }
            // A line longer than a whole file has one to itself.
            let length = if fits == 0 { first_line(rest) } else { fits };
            self.put(lines, length)?;
        }
        Ok(())
    }

    /// Sees to it that the open file is the one that the path names: lines written to a file without a name are lost
    /// without a sign, and its disk does not get its room back.
    fn follow(&mut self, lines: &mut Pending) -> Result<(), FileFault> {
        match self.fate() {
            Fate::InPlace => return Ok(()),
            Fate::Moved => self.end_line(lines),
            // All that is not acknowledged goes into the next one, not the torn line alone: whoever removed the file
            // meant what he had seen of it. Of what was acknowledged we do not have the text any more.
            Fate::Gone => {
                self.take_back(lines, self.taken);
                self.file = None;
            }
        }
        self.open_path()
    }

    /// Somebody may have moved or removed it. A path that cannot be looked at is left alone.
    fn fate(&self) -> Fate {
        let Some(file) = &self.file else { return Fate::Gone };
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == self.place => {
                if Some(there.len()) < self.size {
                    Fate::Gone
                } else {
                    Fate::InPlace
                }
            }
            _ if file.metadata().is_ok_and(|ours| ours.nlink() == 0) => Fate::Gone,
            Err(error) if error.kind() != io::ErrorKind::NotFound => Fate::InPlace,
            _ => Fate::Moved,
        }
    }

    /// The rest of a torn line goes to its beginning. A file that does not take it is not waited for, for its disk may
    /// never have room again: the beginning is cut off, and all of the line goes into the next file.
    fn end_line(&mut self, lines: &mut Pending) {
        while self.torn > 0 {
            if self.put(lines, first_line(lines.rest())).is_err() {
                // Where that fails too, a beginning stays behind of a line that is whole elsewhere.
                let _ = self.file.as_deref().map(cut_torn);
                self.take_back(lines, self.torn);
            }
        }
    }

    /// The last `length` bytes that the file took are to be written again, from the beginning of a line.
    fn take_back(&mut self, lines: &mut Pending, length: usize) {
        lines.take_back(length);
        (self.taken, self.torn) = (self.taken.saturating_sub(length), 0);
    }

    fn open_path(&mut self) -> Result<(), FileFault> {
        let opened = open_whole(&self.path);
        let (file, place, size) =
            opened.map_err(|source| FileFault::Open { path: self.path.clone(), source })?;
        (self.file, self.place, self.size) = (Some(Arc::new(file)), place, size);
        Ok(())
    }

    /// How much more the file may have.
    fn room(&self) -> usize {
        let room = self.size.map(|size| self.rotate_bytes.saturating_sub(size));
        room.and_then(|room| usize::try_from(room).ok()).unwrap_or(usize::MAX)
    }

    /// One write(2) of the first `length` bytes of `lines`; what it took is removed from them.
    fn put(&mut self, lines: &mut Pending, length: usize) -> Result<(), FileFault> {
        let piece = lines.rest().get(..length).unwrap_or_default();
        // There is one wherever it was followed.
        let Some(file) = &self.file else { return self.open_path() };
        let written = match (&**file).write(piece) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other,
        };
        let written = written.map_err(|source| FileFault::Write { path: self.path.clone(), source })?;
        // Before it is acknowledged: whoever writes down how far we are has it on the disk first.
        self.unsynced.note(file);
        let done = piece.get(..written).unwrap_or(piece);
        self.torn = match memchr::memrchr(b'\n', done) {
            Some(at) => done.len().saturating_sub(at).saturating_sub(1),
            None => self.torn.saturating_add(written),
        };
        let wide = u64::try_from(written).unwrap_or(u64::MAX);
        self.sink.writes.add(1);
        self.sink.bytes.add(wide);
        self.size = self.size.map(|size| size.saturating_add(wide));
        lines.advance(written);
        // All of a request is in the file once nothing is left of it.
        self.taken = if lines.is_empty() { 0 } else { self.taken.saturating_add(written) };
        Ok(())
    }

    /// `path` becomes `path.1`, and what was that `path.2`, and so on; the oldest is removed where all are there.
    fn rotate(&mut self) -> Result<(), FileFault> {
        shift(&self.path, self.keep)
            .map_err(|source| FileFault::Rotate { path: self.path.clone(), source })?;
        // Where none is kept it is gone, and was to be.
        self.taken = 0;
        self.open_path()
    }
}

/// Up to the first number that is free, and no further: where `path` itself cannot be renamed, what made room for it
/// is not done again at each try, which would cost an old file each.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let mut free = 1;
    while free <= keep && numbered(path, free).try_exists()? {
        free = free.saturating_add(1);
    }
    if free > keep {
        free = keep;
        there(fs::remove_file(numbered(path, keep)))?;
    }
    for n in (0..free).rev() {
        there(fs::rename(numbered(path, n), numbered(path, n.saturating_add(1))))?;
    }
    Ok(())
}

/// Somebody may have removed the file meanwhile.
fn there(moved: io::Result<()>) -> io::Result<()> {
    moved.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// `path` for 0, else `path.n`.
fn numbered(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

/// Length of the whole lines at the front of `bytes` that fit into `room`.
fn whole_lines(bytes: &[u8], room: usize) -> usize {
    if bytes.len() <= room {
        return bytes.len();
    }
    let head = bytes.get(..room).unwrap_or(bytes);
    memchr::memrchr(b'\n', head).map_or(0, |at| at.saturating_add(1))
}

fn first_line(bytes: &[u8]) -> usize {
    memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at.saturating_add(1))
}

/// Opens for appending and cuts a torn last line off. Gives its device and number, and its size.
fn open_whole(path: &Path) -> io::Result<(File, (u64, u64), Option<u64>)> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let meta = file.metadata()?;
    let size = if meta.is_file() { Some(cut_torn(&file)?) } else { None };
    Ok((file, (meta.dev(), meta.ino()), size))
}

/// Cuts off what stands behind the last newline of a file. Gives its size.
fn cut_torn(mut file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = size;
    let mut block = [0u8; 4096];
    while end > 0 {
        let from = end.saturating_sub(4096);
        file.seek(SeekFrom::Start(from))?;
        // At most 4096, the block's size.
        let len = usize::try_from(end.saturating_sub(from)).unwrap_or(block.len()).min(block.len());
        let Some(part) = block.get_mut(..len) else { break };
        file.read_exact(part)?;
        if let Some(at) = memchr::memrchr(b'\n', part) {
            end = from.saturating_add(u64::try_from(at).unwrap_or(0)).saturating_add(1);
            break;
        }
        end = from;
    }
    if end < size {
        file.set_len(end)?;
    }
    Ok(end)
}
