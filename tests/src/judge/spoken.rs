//! What a container has written, computed, and where containerd's log of it is.
//!
//! Nothing here was read out of the container: that is what everything else is held against.

use std::path::PathBuf;

use anyhow::Result;

use crate::oracle::cri_log;

/// What a wrapper's ring holds of one stream.
const RING: usize = 1 << 20;

/// What a container has written.
#[derive(Clone, Debug)]
pub struct Spoken {
    /// Its id.
    pub container: String,
    /// What it was.
    pub what: String,
    /// containerd's log.
    pub log: PathBuf,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: Vec<u8>,
    /// It wrote so many lines a second, or few; else as fast as it could.
    pub paced: bool,
}

impl Spoken {
    /// Its streams that have any bytes.
    pub fn streams(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let both = [("stdout", self.stdout.as_slice()), ("stderr", self.stderr.as_slice())];
        both.into_iter().filter(|(_, bytes)| !bytes.is_empty())
    }

    /// What containerd's log holds of a stream.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn logged(&self, stream: &str) -> Result<Vec<u8>> {
        let log = cri_log(&self.log)?;
        Ok(if stream == "stdout" { log.stdout } else { log.stderr })
    }

    /// Whether a stream with these bytes may be faster than a collector takes it, so that its ring is full whatever happens:
    /// nobody waits for a collector.
    #[must_use]
    pub fn may_overflow(&self, written: &[u8]) -> bool {
        !self.paced && written.len() > RING
    }
}
