//! The file itself: opened without trusting what a crash left, written in whole lines, renamed at its size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::unsynced::Unsynced;
use crate::{config, sinks::lines::Pending};

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

/// The open file.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    rotate_bytes: u64,
    keep: u32,
    file: Arc<File>,
    /// Its device and number.
    place: (u64, u64),
    unsynced: Arc<Unsynced>,
    size: u64,
    /// Bytes of a line whose beginning is already in the file; nothing else may be written before its rest.
    torn: bool,
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
    pub(super) fn open(config: &config::File) -> Result<Self, FileFault> {
        let (file, place, size) = open_whole(&config.path)
            .map_err(|source| FileFault::Open { path: config.path.clone(), source })?;
        let (rotate_bytes, keep) = (config.rotate_bytes, config.keep);
        let (file, unsynced, path) = (Arc::new(file), Arc::default(), config.path.clone());
        Ok(Self { path, rotate_bytes, keep, file, place, unsynced, size, torn: false })
    }

    /// What is written and not brought to the disk, for whoever does that.
    pub(super) fn unsynced(&self) -> Arc<Unsynced> {
        Arc::clone(&self.unsynced)
    }

    /// Opens the path anew: after a failure it may be another file.
    pub(super) fn reopen(&mut self) -> Result<(), FileFault> {
        if self.torn {
            // The rest of the line belongs into the same file.
            return Ok(());
        }
        let opened = open_whole(&self.path);
        let (file, place, size) =
            opened.map_err(|source| FileFault::Open { path: self.path.clone(), source })?;
        (self.file, self.place, self.size) = (Arc::new(file), place, size);
        Ok(())
    }

    /// Writes whole lines from the front of `lines` and removes what was written, which may be a part even when it
    /// fails. Gives the number of write(2) that came back.
    pub(super) fn write(&mut self, lines: &mut Pending) -> Result<u64, FileFault> {
        if !self.torn && !self.is_in_place() {
            self.reopen()?;
        }
        let mut writes = 0;
        while !lines.is_empty() {
            let rest = lines.rest();
            let room = usize::try_from(self.rotate_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let fits = whole_lines(rest, room);
            if fits == 0 && self.size > 0 && !self.torn {
                self.rotate()?;
                continue;
            }
            // A line longer than a whole file has one to itself.
            let piece = if fits == 0 { first_line(rest) } else { rest.get(..fits).unwrap_or(rest) };
            let written = match (&*self.file).write(piece) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other,
            };
            let written = written.map_err(|source| FileFault::Write { path: self.path.clone(), source })?;
            // Before it is acknowledged: whoever writes down how far we are has it on the disk first.
            self.unsynced.note(&self.file);
            writes += 1;
            self.torn = piece.get(..written).is_some_and(|done| done.last() != Some(&b'\n'));
            self.size = self.size.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
            lines.advance(written);
        }
        Ok(writes)
    }

    /// True while the path still names the file that we write: somebody may have moved or removed it, and lines
    /// written to a file without a name are lost without a sign. A path that cannot be looked at is left alone.
    fn is_in_place(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == self.place,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// `path` becomes `path.1`, that `path.2`, and so on; the oldest is removed.
    fn rotate(&mut self) -> Result<(), FileFault> {
        let fault = |source| FileFault::Rotate { path: self.path.clone(), source };
        // Where the last rotation renamed and then could not open, there is nothing to rename.
        let oldest = if self.path.exists() { self.keep } else { return self.reopen() };
        for n in (0..=oldest).rev() {
            let from = numbered(&self.path, n);
            let moved = if n == self.keep {
                fs::remove_file(&from)
            } else {
                fs::rename(&from, numbered(&self.path, n.saturating_add(1)))
            };
            match moved {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
                _ => {}
            }
        }
        self.reopen()
    }
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

fn first_line(bytes: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at.saturating_add(1));
    bytes.get(..end).unwrap_or(bytes)
}

/// Opens for appending and cuts a torn last line off. Gives its device and number, and its size.
fn open_whole(path: &Path) -> io::Result<(File, (u64, u64), u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let meta = file.metadata()?;
    let place = (meta.dev(), meta.ino());
    if !meta.is_file() {
        return Ok((file, place, 0));
    }
    let mut end = meta.len();
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
    if end < meta.len() {
        file.set_len(end)?;
    }
    Ok((file, place, end))
}
