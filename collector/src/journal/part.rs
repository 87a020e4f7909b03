//! One file of the journal: a header, then frames. It only ever grows at its end, and only as long as it is the newest.
//!
//! Names are the number of the first entry in hexadecimal, so that names in order are files in order.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    JournalFault,
    format::{
        Damage,
        frame::{self, Sealed},
        header::{self, Header, Prefix},
    },
};

/// What names of files end with.
const SUFFIX: &str = ".sj";
/// What a file that cannot be read at all is renamed to.
const DAMAGED: &str = ".damaged";

/// A file, and what it holds.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// The version of its format.
    pub(super) version: u32,
    /// Number of its first entry; fits its name.
    pub(super) first: u64,
    /// Number behind its last entry.
    pub(super) next: u64,
    /// Where its frames begin.
    pub(super) body: u64,
    /// Bytes of whole frames and header: as far as anybody may read.
    pub(super) size: u64,
    /// When its oldest and newest frames were appended, Unix ns; 0 where there are none.
    pub(super) oldest_ns: u64,
    pub(super) newest_ns: u64,
    /// Numbers of first entries with the time of their frames, one a second at most.
    pub(super) times: Vec<(u64, u64)>,
    /// Raw bytes of output per stream.
    pub(super) streams: HashMap<u32, u64>,
    /// Frames of it were lost.
    pub(super) damaged: bool,
}

/// Reads frames of a file one after the other.
#[derive(Clone, Debug)]
pub(super) struct Frames {
    file: Arc<File>,
    at: u64,
    limit: u64,
    stored: Vec<u8>,
}

/// A frame's head, to be skipped or opened.
#[derive(Debug)]
pub(super) struct Found {
    /// What it says.
    pub(super) sealed: Sealed,
    /// The head itself.
    pub(super) head: [u8; frame::HEAD],
    at: u64,
}

// === impl Part ===

impl Part {
    /// Makes a new file, whole from its first moment, behind the one `before`: that is on the disk to its end by then, so that
    /// a power cut takes the end of the newest file only. Its table would say more than there is, and nothing else ever brings
    /// a file to the disk that does not grow any more.
    pub(super) fn create(dir: &Path, header: &Header, before: Option<&File>) -> Result<Self, JournalFault> {
        let path = dir.join(format!("{:016x}{SUFFIX}", header.first));
        let fresh = dir.join("new");
        let fault = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| JournalFault::Io { doing, path, source }
        };
        if let Some(before) = before {
            before.sync_data().map_err(fault("syncing what is in", dir))?;
        }
        let _ = fs::remove_file(&fresh);
        let bytes = header.encode();
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&fresh);
        let file = file.map_err(fault("making", &fresh))?;
        io::Write::write_all(&mut &file, &bytes).map_err(fault("writing the header of", &fresh))?;
        // A header that is torn by a power cut would take the table along.
        file.sync_data().map_err(fault("syncing", &fresh))?;
        fs::rename(&fresh, &path).map_err(fault("putting in place", &path))?;
        Ok(Self {
            path,
            file: Arc::new(file),
            version: header::VERSION,
            first: header.first,
            next: header.first,
            body: length(bytes.len()),
            size: length(bytes.len()),
            oldest_ns: 0,
            newest_ns: 0,
            times: Vec::new(),
            streams: HashMap::new(),
            damaged: false,
        })
    }

    /// The journal's files in a folder, in order.
    pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, JournalFault> {
        let fault = |source| JournalFault::Io { doing: "listing", path: dir.to_owned(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_suffix(SUFFIX).filter(|number| number.len() == 16);
            if number.is_some_and(|number| u64::from_str_radix(number, 16).is_ok()) {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        Ok(paths)
    }

    /// Opens a file and reads its header; `None` where that is damaged.
    pub(super) fn open(path: &Path) -> Result<Option<(Self, Header)>, JournalFault> {
        let fault = |source| JournalFault::Io { doing: "opening", path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).append(true).open(path).map_err(fault)?;
        let size = file.metadata().map_err(fault)?.len();
        let mut prefix = [0; header::PREFIX];
        match file.read_exact_at(&mut prefix, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(fault)?,
        }
        let Ok(prefix) = Prefix::decode(&prefix) else { return Ok(None) };
        if !header::READS.contains(&prefix.version) {
            return Err(JournalFault::Version { path: path.to_owned(), version: prefix.version });
        }
        let body = length(header::PREFIX).saturating_add(length(prefix.length));
        if body > size {
            return Ok(None);
        }
        let mut packed = vec![0; prefix.length];
        file.read_exact_at(&mut packed, length(header::PREFIX)).map_err(fault)?;
        let Ok(header) = Header::decode(&prefix, &packed) else { return Ok(None) };
        let part = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            version: prefix.version,
            first: header.first,
            next: header.first,
            body,
            size,
            oldest_ns: 0,
            newest_ns: 0,
            times: Vec::new(),
            streams: HashMap::new(),
            damaged: false,
        };
        Ok(Some((part, header)))
    }

    /// Puts a file aside that cannot be read, so that nothing is written over it. Gives its new path.
    pub(super) fn put_aside(path: &Path) -> Result<PathBuf, JournalFault> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(DAMAGED);
        let aside = PathBuf::from(aside);
        let moved = fs::rename(path, &aside);
        moved.map_err(|source| JournalFault::Io { doing: "putting aside", path: path.to_owned(), source })?;
        Ok(aside)
    }

    /// Removes a file.
    pub(super) fn remove(path: PathBuf) -> Result<(), JournalFault> {
        fs::remove_file(&path).map_err(|source| JournalFault::Io { doing: "removing", path, source })
    }

    /// Its frames, from the first.
    pub(super) fn frames(&self) -> Frames {
        Frames { file: Arc::clone(&self.file), at: self.body, limit: self.size, stored: Vec::new() }
    }

    /// Counts a frame that was appended, or found.
    pub(super) fn grow(&mut self, sealed: &frame::Head, end: u64) {
        self.next = self.next.max(sealed.next);
        self.size = end;
        if sealed.kind == frame::Kind::Clean {
            return;
        }
        if self.oldest_ns == 0 {
            self.oldest_ns = sealed.time_ns;
        }
        self.newest_ns = self.newest_ns.max(sealed.time_ns);
        if self.times.last().is_none_or(|(_, last)| sealed.time_ns.saturating_sub(*last) >= 1_000_000_000) {
            self.times.push((sealed.first, sealed.time_ns));
        }
    }

    /// When entry `seq` was appended, Unix ns, to a second; `None` where there is no entry.
    pub(super) fn time_of(&self, seq: u64) -> Option<u64> {
        let behind = self.times.partition_point(|(first, _)| *first <= seq);
        self.times.get(behind.saturating_sub(1)).map(|(_, time_ns)| *time_ns)
    }

    /// Counts output of a stream that is in it.
    pub(super) fn holds(&mut self, stream: u32, bytes: u64) {
        let sum = self.streams.entry(stream).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// True where it has entries. The file behind one without any would have its name.
    pub(super) fn has_entries(&self) -> bool {
        self.oldest_ns > 0
    }
}

// === impl Frames ===

impl Frames {
    /// True where both are of the same file.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }

    /// The file has grown.
    pub(super) fn extend(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Where the next frame begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next frame; `None` at the end. After damage there is no use in asking again.
    pub(super) fn next(&mut self) -> Result<Option<Found>, Damage> {
        if self.at >= self.limit {
            return Ok(None);
        }
        let mut head = [0; frame::HEAD];
        let behind = self.at.saturating_add(length(frame::HEAD));
        if behind > self.limit || self.file.read_exact_at(&mut head, self.at).is_err() {
            return Err(Damage::Torn);
        }
        let sealed = Sealed::decode(&head)?;
        let end = behind.saturating_add(length(sealed.stored));
        if end > self.limit {
            return Err(Damage::Torn);
        }
        self.at = end;
        Ok(Some(Found { sealed, head, at: behind }))
    }

    /// What stands behind the head of the frame that was opened last.
    pub(super) fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// The payload of a frame that was found here.
    pub(super) fn open(&mut self, found: &Found) -> Result<Bytes, Damage> {
        self.stored.resize(found.sealed.stored, 0);
        self.file.read_exact_at(&mut self.stored, found.at).map_err(|_| Damage::Torn)?;
        found.sealed.payload(&found.head, &self.stored)
    }
}

/// A length as a place in a file.
pub(super) fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
