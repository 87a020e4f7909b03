//! The front of every file: which format, since when, and the table of streams as it was when the file began.
//!
//! The version stands before everything else and is never moved: a release that does not know it must be able to say so,
//! and to leave the file alone.

use std::ops::{Range, RangeInclusive};

use lz4_flex::block::{compress, decompress};
use shimtap_proto::ttrpc::wire::{Value, fields, put_len, put_number};

use super::{Damage, Row};

/// The version that this release writes. It differs from version 1 in holes that say how many lines begin in them: what has
/// none of those is the same in both.
pub const VERSION: u32 = 2;
/// The versions that it reads.
pub const READS: RangeInclusive<u32> = 1..=VERSION;
/// Where the version stands in a file, of any release.
pub const VERSION_AT: Range<usize> = 8..12;
/// Bytes before the body: magic, version, checksum, length of the body, and of the body before it was packed.
pub const PREFIX: usize = 24;
const MAGIC: [u8; 8] = *b"shimtapj";
/// Far more than a table has: a row is some hundred bytes, and there are as many as the node has streams.
const BODY_MAX: usize = 256 << 20;

/// What a header says.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The kernel's id of the boot in which the file was begun.
    pub boot: String,
    /// Number of the first entry.
    pub first: u64,
    /// Raw bytes of all output that was appended before.
    pub output: u64,
    /// The number that the next new stream gets.
    pub next_stream: u32,
    /// Every stream known when the file was begun.
    pub rows: Vec<Row>,
    /// What streams that are no longer known had, one sum per output.
    pub retired: Vec<Row>,
}

/// The fixed part of a header.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    /// The file's version.
    pub version: u32,
    /// Bytes of the body.
    pub length: usize,
    raw: usize,
    checksum: u32,
}

mod field {
    pub(super) const BOOT: u32 = 1;
    pub(super) const FIRST: u32 = 2;
    pub(super) const OUTPUT: u32 = 3;
    pub(super) const NEXT_STREAM: u32 = 4;
    pub(super) const ROW: u32 = 5;
    pub(super) const RETIRED: u32 = 6;
}

// === impl Header ===

impl Header {
    /// The header's bytes. A body larger than [`BODY_MAX`] would not be read back.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_len(&mut body, field::BOOT, self.boot.as_bytes());
        put_number(&mut body, field::FIRST, self.first);
        put_number(&mut body, field::OUTPUT, self.output);
        put_number(&mut body, field::NEXT_STREAM, u64::from(self.next_stream));
        let mut row = Vec::new();
        let rows = self.rows.iter().map(|row| (field::ROW, row));
        for (number, of) in rows.chain(self.retired.iter().map(|row| (field::RETIRED, row))) {
            row.clear();
            of.put(&mut row);
            put_len(&mut body, number, &row);
        }
        let packed = compress(&body);
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = Vec::with_capacity(PREFIX.saturating_add(packed.len()));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&checksum(number(packed.len()), number(body.len()), &packed).to_le_bytes());
        out.extend_from_slice(&number(packed.len()));
        out.extend_from_slice(&number(body.len()));
        out.extend_from_slice(&packed);
        out
    }

    /// Reads the body that `prefix` announced.
    pub fn decode(prefix: &Prefix, packed: &[u8]) -> Result<Self, Damage> {
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        let sum = checksum(number(prefix.length), number(prefix.raw), packed);
        if packed.len() != prefix.length || sum != prefix.checksum {
            return Err(Damage::Checksum);
        }
        let body = decompress(packed, prefix.raw).map_err(|_| Damage::Payload)?;
        let mut header = Self::default();
        for field in fields(&body) {
            let field = field.map_err(|_| Damage::Payload)?;
            match (field.number, field.value) {
                (field::BOOT, Value::Len(text)) => header.boot = String::from_utf8_lossy(text).into_owned(),
                (field::FIRST, Value::Varint(first)) => header.first = first,
                (field::OUTPUT, Value::Varint(output)) => header.output = output,
                (field::NEXT_STREAM, Value::Varint(next)) => {
                    header.next_stream = u32::try_from(next).map_err(|_| Damage::Payload)?;
                }
                (field::ROW, Value::Len(row)) => header.rows.push(Row::take(row)?),
                (field::RETIRED, Value::Len(row)) => header.retired.push(Row::take(row)?),
                _ => {}
            }
        }
        Ok(header)
    }
}

// === impl Prefix ===

impl Prefix {
    /// Reads the fixed part. A version that this release does not know is given, not judged.
    pub fn decode(bytes: &[u8; PREFIX]) -> Result<Self, Damage> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Damage::NotAFrame);
        }
        let word = |at: usize| {
            let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
            four.map_or(0, |four| u32::from_le_bytes(*four))
        };
        let length = |at| usize::try_from(word(at)).ok().filter(|length| *length <= BODY_MAX);
        let version = word(VERSION_AT.start);
        if !READS.contains(&version) {
            return Ok(Self { version, length: 0, raw: 0, checksum: 0 });
        }
        let (Some(packed), Some(raw)) = (length(16), length(20)) else { return Err(Damage::Checksum) };
        Ok(Self { version, length: packed, raw, checksum: word(12) })
    }
}

fn checksum(packed: [u8; 4], raw: [u8; 4], body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&packed);
    sum.update(&raw);
    sum.update(body);
    sum.finalize()
}
