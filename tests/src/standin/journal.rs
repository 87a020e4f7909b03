//! The stand-in's books: one JSON line per frame received, verb run and process ended.
//!
//! Each line is one write(2) on an `O_APPEND` descriptor, so that several stand-ins may share a file and a line
//! is there as a whole or not at all. The books are the judge's only source: a request that was delivered twice
//! or never shows here and nowhere else.

use std::{
    fs::{File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Name of the file of frames under the stand-in's directory.
pub const REQUESTS: &str = "requests.jsonl";
/// Name of the file of verbs (`start`, `delete`, `-info`) under the stand-in's directory.
pub const VERBS: &str = "verbs.jsonl";

/// What a line of [`REQUESTS`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A connection was accepted.
    Open,
    /// A connection has ended.
    Close,
    /// A request frame.
    Request,
    /// A data frame of a ttrpc stream.
    Data,
    /// A frame larger than ttrpc allows; its body was discarded.
    Oversize,
    /// A frame of another type, or one whose body does not decode.
    Odd,
    /// A scripted process has written its last byte.
    Wrote,
    /// Something came to a socket that is nobody's but the shim's own: its name is in `service`, the request in `method`.
    Touched,
}

/// One line of [`REQUESTS`]. Fields that do not apply are empty or zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The stand-in's process id.
    pub shim: u32,
    /// When, in Unix ns.
    pub at_ns: u64,
    /// What happened.
    pub kind: Kind,
    /// Number of the connection, in order of acceptance, from 1.
    pub connection: u64,
    /// ttrpc stream id.
    pub stream: u32,
    /// Flags of the frame.
    pub flags: u8,
    /// Service of a request.
    pub service: String,
    /// Method of a request.
    pub method: String,
    /// Task id of a request to the task service.
    pub id: String,
    /// Exec id; empty for init.
    pub exec_id: String,
    /// Length of the body as it arrived.
    pub bytes: u64,
    /// [`hash`] of the body as it arrived.
    pub hash: String,
    /// Create and Exec: the path asked for. Wrote: how many bytes went out.
    pub stdout: String,
    /// As `stdout`.
    pub stderr: String,
    /// Wrote: the longest time without a byte, from before one write to behind the next, in microseconds.
    pub pause_us: u64,
}

impl Entry {
    /// An entry of this process about nothing yet.
    #[must_use]
    pub fn new(kind: Kind, connection: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            shim: process::id(),
            at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            kind,
            connection,
            stream: 0,
            flags: 0,
            service: String::new(),
            method: String::new(),
            id: String::new(),
            exec_id: String::new(),
            bytes: 0,
            hash: String::new(),
            stdout: String::new(),
            stderr: String::new(),
            pause_us: 0,
        }
    }
}

/// One line of [`VERBS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verb {
    /// The process that ran it.
    pub pid: u32,
    /// Everything after the program's name.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// How many bytes were on stdin.
    pub stdin_bytes: u64,
    /// [`hash`] of stdin.
    pub stdin_hash: String,
    /// The environment it saw.
    pub env: Vec<(String, String)>,
}

/// A fingerprint by which sender and receiver compare bodies; not for anything an adversary sends.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    let mut h = DefaultHasher::new();
    bytes.hash(&mut h);
    format!("{:016x}", h.finish())
}

/// An open book.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens `dir/name` for appending, making it if need be.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .with_context(|| format!("opening journal {}", path.display()))?;
        Ok(Self { file, path })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// The write failed or was short: the books are then worth nothing, and the caller must not go on.
    pub fn append(&self, entry: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(entry).context("journal entry")?;
        line.push(b'\n');
        let n = (&self.file).write(&line).with_context(|| format!("writing {}", self.path.display()))?;
        anyhow::ensure!(n == line.len(), "short write to {}", self.path.display());
        Ok(())
    }
}

/// Every whole line of `dir/name`; none where the file does not exist yet.
///
/// # Errors
/// A line that is not an entry.
pub fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Vec<T>> {
    let path = dir.join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    };
    text.lines()
        .map(|l| serde_json::from_str(l).with_context(|| format!("line in {}: {l}", path.display())))
        .collect()
}
