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

/// The places of the bytes that containerd keeps: it leaves out a CR at a line's end, of any release, with us and without.
pub fn without_cr(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let followed = bytes.iter().skip(1).chain([&0]);
    let kept = bytes.iter().zip(followed).map(|two| two != (&b'\r', &b'\n'));
    kept.enumerate().filter_map(|(at, is_kept)| is_kept.then_some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cr_before_an_lf_is_left_out_and_no_other() {
        let kept = |bytes: &[u8]| without_cr(bytes).collect::<Vec<_>>();
        assert_eq!(kept(b"a\r\n\rb\r\r\n\r"), [0, 2, 3, 4, 5, 7, 8]);
        assert_eq!(kept(b""), [0; 0]);
    }
}
