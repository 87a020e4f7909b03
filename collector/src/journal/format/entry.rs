//! The entries of a frame's payload: streams that are new, and batches of their records.
//!
//! A line costs three or four bytes beside its own. What is not in a batch (names, sums) stands in the table.

use bytes::Bytes;
use shimtap_proto::ttrpc::wire::put_varint;

use super::{Bites, Damage, Row};
use crate::{
    closed::Closed,
    event::{Body, Ending, Flags, Hole, HoleReason, Record},
};

const STREAM: u8 = 1;
const BATCH: u8 = 2;
/// A batch behind whose records its stream ends.
const LAST_BATCH: u8 = 3;

/// In a record's first byte, above its flags: how many bytes of the line's end are not in the message.
const END_SHIFT: u8 = 5;
const END_MASK: u8 = 3;
/// The message is not the line (it was changed on the way): its raw length is said.
const END_SAID: u8 = 3;
/// In a record's first byte: a hole.
const HOLE: u8 = 0x80;
/// In a hole's first byte: how many lines begin in it is said behind the reason.
const LINES_SAID: u8 = 0x20;

/// One entry.
#[derive(Debug)]
pub enum Entry {
    /// From here on batches name this stream by its number.
    Stream(Box<Row>),
    /// Records of one stream.
    Batch(StoredBatch),
}

/// Records of one stream as they are stored.
#[derive(Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// The entry's number.
    pub seq: u64,
    /// The stream's number.
    pub stream: u32,
    /// In order, without a gap.
    pub records: Vec<Record>,
    /// The stream ended behind them.
    pub ending: Option<Ending>,
}

/// Reads a payload entry by entry.
#[derive(Debug)]
pub struct Entries {
    payload: Bytes,
    at: usize,
    seq: u64,
}

/// Appends the announcement of a stream.
pub fn put_stream(payload: &mut Vec<u8>, row: &Row) {
    payload.push(STREAM);
    let mut body = Vec::new();
    row.put(&mut body);
    put_varint(payload, len64(body.len()));
    payload.extend_from_slice(&body);
}

/// Appends a batch; `skipped` is how many entry numbers lie between it and the entry before (or the frame's first).
pub fn put_batch(
    payload: &mut Vec<u8>,
    skipped: u64,
    stream: u32,
    records: &[Record],
    ending: Option<Ending>,
) {
    payload.push(if ending.is_some() { LAST_BATCH } else { BATCH });
    put_varint(payload, skipped);
    put_varint(payload, u64::from(stream));
    if let Some(ending) = ending {
        put_text(payload, ending.label());
    }
    put_varint(payload, len64(records.len()));
    let Some(first) = records.first() else { return };
    put_varint(payload, first.from);
    put_varint(payload, first.time_ns);
    let mut before = first.time_ns;
    for record in records {
        let raw = record.to.saturating_sub(record.from);
        let elapsed = record.time_ns.saturating_sub(before);
        before = record.time_ns;
        match &record.body {
            Body::Line(message) => {
                let end = raw.checked_sub(len64(message.len())).filter(|end| *end < u64::from(END_SAID));
                let said = end.and_then(|end| u8::try_from(end).ok()).unwrap_or(END_SAID);
                payload.push(record.flags.bits() | said << END_SHIFT);
                put_varint(payload, elapsed);
                put_varint(payload, len64(message.len()));
                if end.is_none() {
                    put_varint(payload, raw);
                }
                payload.extend_from_slice(message);
            }
            Body::Hole(hole) => {
                let said = if hole.lines.is_some() { LINES_SAID } else { 0 };
                payload.push(record.flags.bits() | HOLE | said);
                put_varint(payload, elapsed);
                put_varint(payload, raw);
                put_text(payload, hole.reason.label());
                if let Some(lines) = hole.lines {
                    put_varint(payload, lines);
                }
            }
        }
    }
}

// === impl Entries ===

impl Entries {
    /// Of the frame whose first entry has the number `first`.
    #[must_use]
    pub fn new(payload: Bytes, first: u64) -> Self {
        Self { payload, at: 0, seq: first }
    }

    /// The next entry; `None` at the end. After damage there is no use in asking again.
    pub fn next(&mut self) -> Result<Option<Entry>, Damage> {
        let payload = self.payload.clone();
        let rest = payload.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let mut bites = Bites(rest);
        let entry = match bites.byte()? {
            STREAM => {
                let length = bites.length()?;
                Entry::Stream(Box::new(Row::take(bites.bytes(length)?)?))
            }
            tag @ (BATCH | LAST_BATCH) => Entry::Batch(self.batch(&mut bites, tag == LAST_BATCH)?),
            _ => return Err(Damage::Payload),
        };
        self.at = self.payload.len().saturating_sub(bites.0.len());
        Ok(Some(entry))
    }

    fn batch(&mut self, bites: &mut Bites<'_>, is_last: bool) -> Result<StoredBatch, Damage> {
        let seq = self.seq.checked_add(bites.varint()?).ok_or(Damage::Payload)?;
        self.seq = seq.saturating_add(1);
        let stream = u32::try_from(bites.varint()?).map_err(|_| Damage::Payload)?;
        let ending = if is_last { Some(named(bites)?.unwrap_or(Ending::Unknown)) } else { None };
        let count = bites.length()?;
        // Each record has three bytes at least.
        let mut records = Vec::with_capacity(count.min(bites.0.len() / 3));
        let (mut from, mut time_ns) = if count == 0 { (0, 0) } else { (bites.varint()?, bites.varint()?) };
        for _ in 0..count {
            let record = self.record(bites, from, time_ns)?;
            (from, time_ns) = (record.to, record.time_ns);
            records.push(record);
        }
        Ok(StoredBatch { seq, stream, records, ending })
    }

    fn record(&self, bites: &mut Bites<'_>, from: u64, before: u64) -> Result<Record, Damage> {
        let first = bites.byte()?;
        let flags = Flags::of_bits(first);
        let time_ns = before.checked_add(bites.varint()?).ok_or(Damage::Payload)?;
        let (raw, body) = if first & HOLE == 0 {
            let length = bites.length()?;
            let raw = match first >> END_SHIFT & END_MASK {
                END_SAID => bites.varint()?,
                end => len64(length).saturating_add(u64::from(end)),
            };
            (raw, Body::Line(self.payload.slice_ref(bites.bytes(length)?)))
        } else {
            let raw = bites.varint()?;
            let reason = named(bites)?.unwrap_or(HoleReason::Unknown);
            let lines = if first & LINES_SAID == 0 { None } else { Some(bites.varint()?) };
            (raw, Body::Hole(Hole { reason, lines }))
        };
        let to = from.checked_add(raw).ok_or(Damage::Payload)?;
        Ok(Record { from, to, time_ns, flags, body })
    }
}

/// A label of a closed list; `None` where this release does not know it.
fn named<L: Closed>(bites: &mut Bites<'_>) -> Result<Option<L>, Damage> {
    let length = bites.length()?;
    let label = bites.bytes(length)?;
    Ok(L::ALL.iter().copied().find(|known| known.name().as_bytes() == label))
}

fn put_text(payload: &mut Vec<u8>, text: &str) {
    put_varint(payload, len64(text.len()));
    payload.extend_from_slice(text.as_bytes());
}

fn len64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
