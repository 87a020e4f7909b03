//! A frame: what one write(2) appends. Its head says how long it is and what its bytes must sum to.

use bytes::Bytes;
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::Damage;

/// Bytes of a frame's head.
pub const HEAD: usize = 56;
/// Most bytes of a frame's payload, packed or not. One batch (a `Data` of 64 KiB and as much of an unfinished line)
/// stays below it even where every byte is a line of its own.
pub const PAYLOAD_MAX: usize = 1 << 20;
const MAGIC: [u8; 4] = *b"sjf1";

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entries.
    Entries,
    /// The collector ended in order here: whatever was appended before is all that it had taken.
    Clean,
}

/// A frame's head, without its checksum and lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// The only container's stream that has entries here, 0 where there are several. (Streams are numbered from 1.)
    pub sole: u32,
    /// Number of the first entry.
    pub first: u64,
    /// Number behind the last entry.
    pub next: u64,
    /// When it was appended, Unix ns.
    pub time_ns: u64,
    /// Raw bytes of all output ever appended, up to this frame's end.
    pub output: u64,
}

/// A head as it was read, with what it says of the bytes behind it.
#[derive(Clone, Copy, Debug)]
pub struct Sealed {
    /// What it says.
    pub head: Head,
    /// Bytes behind it.
    pub stored: usize,
    /// Bytes of its payload; as many as are stored where that is not packed.
    raw: usize,
    checksum: u32,
}

/// Makes frames, in memory that it keeps.
pub struct Packer {
    table: CompressTable,
    frame: Vec<u8>,
}

// === impl Packer ===

impl Default for Packer {
    fn default() -> Self {
        Self { table: CompressTable::large(), frame: Vec::new() }
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("room", &self.frame.len()).finish()
    }
}

impl Packer {
    /// The frame of a head and its payload. A payload of more than [`PAYLOAD_MAX`] bytes would not be read back.
    pub fn frame(&mut self, head: &Head, payload: &[u8]) -> &[u8] {
        let room = HEAD.saturating_add(get_maximum_output_size(payload.len()));
        if self.frame.len() < room {
            self.frame.resize(room, 0);
        }
        let behind = self.frame.get_mut(HEAD..).unwrap_or_default();
        let packed = compress_into_with_table(payload, behind, &mut self.table);
        let stored = match packed {
            Ok(stored) if stored < payload.len() => stored,
            // What does not become smaller stays as it is.
            _ => {
                if let Some(place) = behind.get_mut(..payload.len()) {
                    place.copy_from_slice(payload);
                }
                payload.len()
            }
        };
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        let kind = match head.kind {
            Kind::Entries => 1u8,
            Kind::Clean => 2,
        };
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&number(stored));
        bytes.extend_from_slice(&number(payload.len()));
        bytes.extend_from_slice(&[kind, 0, 0, 0]);
        bytes.extend_from_slice(&head.sole.to_le_bytes());
        for word in [head.first, head.next, head.time_ns, head.output] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        if let Some(place) = self.frame.get_mut(..HEAD) {
            place.copy_from_slice(&bytes);
        }
        let end = HEAD.saturating_add(stored);
        let sum = crc32fast::hash(self.frame.get(8..end).unwrap_or_default());
        if let Some(place) = self.frame.get_mut(4..8) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        self.frame.get(..end).unwrap_or_default()
    }
}

// === impl Sealed ===

impl Sealed {
    /// Reads a head. Whether it is true is known when the bytes behind it are there ([`Sealed::payload`]).
    pub fn decode(bytes: &[u8; HEAD]) -> Result<Self, Damage> {
        let word = |at: usize| {
            let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
            four.map_or(0, |four| u32::from_le_bytes(*four))
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at.saturating_add(4))) << 32;
        if !bytes.starts_with(&MAGIC) {
            return Err(Damage::NotAFrame);
        }
        let length = |at| usize::try_from(word(at)).ok().filter(|length| *length <= PAYLOAD_MAX);
        let (Some(stored), Some(raw)) = (length(8), length(12)) else { return Err(Damage::NotAFrame) };
        let kind = match bytes.get(16) {
            Some(1) => Kind::Entries,
            Some(2) => Kind::Clean,
            _ => return Err(Damage::NotAFrame),
        };
        let head = Head {
            kind,
            sole: word(20),
            first: long(24),
            next: long(32),
            time_ns: long(40),
            output: long(48),
        };
        Ok(Self { head, stored, raw, checksum: word(4) })
    }

    /// The payload of the bytes behind the head, `bytes`, which are `stored` many.
    pub fn payload(&self, head: &[u8; HEAD], bytes: &[u8]) -> Result<Bytes, Damage> {
        let mut sum = crc32fast::Hasher::new();
        sum.update(head.get(8..).unwrap_or_default());
        sum.update(bytes);
        if bytes.len() != self.stored || sum.finalize() != self.checksum {
            return Err(Damage::Checksum);
        }
        if self.raw == self.stored {
            return Ok(Bytes::copy_from_slice(bytes));
        }
        let mut payload = vec![0; self.raw];
        match decompress_into(bytes, &mut payload) {
            Ok(length) if length == self.raw => Ok(Bytes::from(payload)),
            _ => Err(Damage::Payload),
        }
    }
}
