//! The spool file: what would have gone over the link, kept in a file until a collector comes.
//!
//! A header, then records of `[length, CRC-32, bytes]` whose bytes are one encoded [`FromWrapper`] each, in the order
//! in which a wrapper says them on a connection: Hello, Open, then Events, Data, Gap, Close and Gone. So a collector
//! replays a file as if it had come over the link. All numbers are little-endian. docs/spool.md has the layout.
//!
//! A file may end anywhere (its writer was killed, the power went), and any bit of it may be wrong: what comes out of
//! [`Decoder`] is every whole record before the first fault, and nothing behind it.
//!
//! [`FromWrapper`]: crate::link::FromWrapper

use thiserror::Error;

use crate::link::MESSAGE_MAX;

/// First bytes of every spool file.
pub const MAGIC: [u8; 8] = *b"shimtapS";
/// Version of the format that this release writes and reads.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER: usize = 64;
/// Bytes before a record's own: its length and its checksum.
pub const PREFIX: usize = 8;
/// Ending of a spool file's name.
pub const SUFFIX: &str = ".spool";

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The wrapper's random id, as in its Hello.
    pub wrapper: u64,
    /// Its how manieth file; a wrapper's files are read in this order.
    pub number: u32,
    /// The kernel's boot id: what was written in another boot has no writer any more.
    pub boot: [u8; 16],
    /// Unix ns when it was made.
    pub created_ns: u64,
}

/// Why a file (or the rest of it) cannot be read. Never a reason to read on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpoolFault {
    /// Somebody else's file in our directory.
    #[error("reading a spool file: it does not begin as one; whoever put it there should take it away")]
    Foreign,
    /// A wrapper of a later release wrote it.
    #[error(
        "reading a spool file: it is of version {0}, this release reads version {VERSION}; update the collector, which takes it, or \
         remove the file to give up what is in it"
    )]
    Version(u32),
    /// Bits of the header are not as they were written: the disk's fault.
    #[error("reading a spool file: its header does not match its checksum")]
    Header,
    /// A length that no record has: the disk's fault.
    #[error("reading a spool file: a record of {0} bytes at byte {1}")]
    Length(u32, u64),
    /// Bits of a record are not as they were written: the disk's fault.
    #[error("reading a spool file: the record at byte {0} does not match its checksum")]
    Checksum(u64),
    /// The file ends inside its header or a record: its writer was ended in the middle, or the power was cut.
    #[error("reading a spool file: it ends {0} bytes behind its last whole record")]
    Truncated(u64),
}

/// Takes a file in pieces and gives its records.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    /// Where in `pending` the next record begins.
    at: usize,
    /// Where in the file that is.
    position: u64,
    header: Option<Header>,
}

/// The name of a wrapper's file: its id and number, so that names sort in the order of writing.
#[must_use]
pub fn file_name(wrapper: u64, number: u32) -> String {
    format!("{wrapper:016x}-{number:08x}{SUFFIX}")
}

/// Wrapper and number of a file of that name; `None` where it is none of ours.
#[must_use]
pub fn parse_name(name: &str) -> Option<(u64, u32)> {
    let (wrapper, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let parsed = (u64::from_str_radix(wrapper, 16).ok()?, u32::from_str_radix(number, 16).ok()?);
    // One name for each: neither signs nor capitals nor missing zeros.
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// A record as it stands in the file; `None` where no message may be that long, or empty.
#[must_use]
pub fn record(message: &[u8]) -> Option<Vec<u8>> {
    if message.is_empty() || message.len() > MESSAGE_MAX {
        return None;
    }
    let len = u32::try_from(message.len()).ok()?.to_le_bytes();
    let mut record = Vec::with_capacity(PREFIX.saturating_add(message.len()));
    record.extend(len);
    record.extend(checksum(len, message).to_le_bytes());
    record.extend(message);
    Some(record)
}

/// Over the length too: one that is wrong must not make the next bytes look like a record.
fn checksum(len: [u8; 4], message: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&len);
    sum.update(message);
    sum.finalize()
}

// === impl Header ===

impl Header {
    /// As it stands in the file.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.wrapper.to_le_bytes());
        bytes.extend(self.boot);
        bytes.extend(self.created_ns.to_le_bytes());
        // Room for what a later version may want to say here.
        bytes.resize(HEADER - 4, 0);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let mut header = [0; HEADER];
        header.copy_from_slice(&bytes);
        header
    }

    /// # Errors
    /// It is none, or of another version, or damaged.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, SpoolFault> {
        if bytes.get(..MAGIC.len()) != Some(&MAGIC[..]) {
            return Err(SpoolFault::Foreign);
        }
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        let wide = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let body = bytes.get(..HEADER - 4).ok_or(SpoolFault::Header)?;
        if word(HEADER - 4) != Some(crc32fast::hash(body)) {
            return Err(SpoolFault::Header);
        }
        // Checked first, a version is not a flipped bit.
        let version = word(8).ok_or(SpoolFault::Header)?;
        if version != VERSION {
            return Err(SpoolFault::Version(version));
        }
        let boot = bytes.get(24..40).and_then(|b| b.try_into().ok()).ok_or(SpoolFault::Header)?;
        let header = (word(12), wide(16), wide(40));
        let (Some(number), Some(wrapper), Some(created_ns)) = header else { return Err(SpoolFault::Header) };
        Ok(Self { wrapper, number, boot, created_ns })
    }
}

// === impl Decoder ===

impl Decoder {
    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.at.min(self.pending.len()));
        self.at = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// The file's header, once so many bytes were pushed.
    ///
    /// # Errors
    /// It is no spool file that this release can read.
    pub fn header(&mut self) -> Result<Option<Header>, SpoolFault> {
        if self.header.is_none() {
            let rest = self.rest();
            // A foreign file may be shorter than our header.
            let begun = rest.len().min(MAGIC.len());
            if rest.get(..begun) != MAGIC.get(..begun) {
                return Err(SpoolFault::Foreign);
            }
            let Some(bytes) = rest.first_chunk::<HEADER>() else { return Ok(None) };
            self.header = Some(Header::decode(bytes)?);
            self.advance(HEADER);
        }
        Ok(self.header)
    }

    /// The next whole record's message; `None` where more bytes are needed.
    ///
    /// # Errors
    /// What follows is no record: nothing behind it can be told from noise.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, SpoolFault> {
        if self.header()?.is_none() {
            return Ok(None);
        }
        let Some(prefix) = self.rest().first_chunk::<PREFIX>() else { return Ok(None) };
        let [a, b, c, d, e, f, g, h] = *prefix;
        let (len, sum) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        if bytes == 0 || bytes > MESSAGE_MAX {
            return Err(SpoolFault::Length(len, self.position));
        }
        let whole = PREFIX.saturating_add(bytes);
        let Some(message) = self.rest().get(PREFIX..whole) else { return Ok(None) };
        if checksum([a, b, c, d], message) != sum {
            return Err(SpoolFault::Checksum(self.position));
        }
        let from = self.at.saturating_add(PREFIX);
        self.advance(whole);
        Ok(self.pending.get(from..self.at))
    }

    /// The file has ended.
    ///
    /// # Errors
    /// Not behind a whole record.
    pub fn finish(&self) -> Result<(), SpoolFault> {
        let left = u64::try_from(self.rest().len()).unwrap_or(u64::MAX);
        if left > 0 || self.header.is_none() { Err(SpoolFault::Truncated(left)) } else { Ok(()) }
    }

    /// Bytes of the file up to the last whole record.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    fn rest(&self) -> &[u8] {
        self.pending.get(self.at..).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
        self.position = self.position.saturating_add(u64::try_from(bytes).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests;
