//! Repairing a Stats answer for containerd: what a shim put where containerd does not look.
//!
//! Only the first version's message has faults of that kind. A shim that copies a cgroup-v2 guest into it (Kata's) leaves
//! out every row that counts a whole hierarchy, among them `total_inactive_file`, which containerd takes from the usage to
//! have the working set; and it puts numbers of reads and writes among their bytes. Both are mended from the very same message.
//! It must never guess: a figure that is not in the message is not made up, and what protobuf cannot express (absence of a
//! number) is left as it came. Every byte that is not mended stays, and a message that could be read in two ways is refused.

use super::{
    header::Kind,
    rewrite::{header_of, map_fields, open},
    task::StatsAnswer,
    wire::{Field, Value, WireFault, fields, put_len, put_number, text},
};

/// The message's type, without the host that some put in front.
const TYPE: &str = "io.containerd.cgroups.v1.Metrics";

/// Numbers of the fields that are looked at (`github.com/containerd/cgroups`, `stats/v1/metrics.proto`).
mod number {
    /// `ttrpc.Response.payload`.
    pub(super) const PAYLOAD: u32 = 2;
    /// `StatsResponse.stats`.
    pub(super) const STATS: u32 = 1;
    /// `google.protobuf.Any.value`.
    pub(super) const VALUE: u32 = 2;
    /// `Metrics.memory`.
    pub(super) const MEMORY: u32 = 4;
    /// `Metrics.blkio`.
    pub(super) const BLKIO: u32 = 5;
    /// `MemoryStat.inactive_file`.
    pub(super) const INACTIVE_FILE: u32 = 13;
    /// `MemoryStat.total_inactive_file`.
    pub(super) const TOTAL_INACTIVE_FILE: u32 = 30;
    /// `BlkIOStat.io_service_bytes_recursive`.
    pub(super) const BYTES: u32 = 1;
    /// `BlkIOStat.io_serviced_recursive`.
    pub(super) const COUNTS: u32 = 2;
    /// `BlkIOEntry.op`.
    pub(super) const OPERATION: u32 = 1;
}

/// Rows of `MemoryStat` that count a hierarchy, `total_cache` to `total_unevictable`.
const TOTALS: std::ops::RangeInclusive<u32> = 18..=32;
/// Rows whose names only cgroup v1 has: `cache`, `rss`, `mapped_file`.
const OF_V1: [u32; 3] = [1, 2, 4];
/// The lists of pages, whose names both versions share: `inactive_anon` to `unevictable`.
const LISTS: std::ops::RangeInclusive<u32> = 11..=15;
/// What stands among the bytes and is a number, with the name it has among the numbers.
const MISPLACED: [(&str, &str); 3] = [("rios", "read"), ("wios", "write"), ("dios", "discard")];

/// What an answer shows of who filled it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Nothing yet: as it came and repaired it says the same.
    Unclear,
    /// It is no message of the first version, or has rows that only one of a cgroup-v1 hierarchy has: nothing to repair, ever.
    Whole,
    /// A cgroup-v2 guest's figures under names of the first version: to be repaired.
    Flat,
}

/// Says what a Stats answer shows. An answer of the same container says the same or is [`Sender::Unclear`].
///
/// # Errors
/// [`WireFault`] where the statistics cannot be walked, or could be read in two ways.
pub fn sender(answer: &StatsAnswer<'_>) -> Result<Sender, WireFault> {
    if !is_v1(answer.type_url) {
        return Ok(if answer.type_url.is_empty() { Sender::Unclear } else { Sender::Whole });
    }
    let mut flat = false;
    if let Some(memory) = only(answer.value, number::MEMORY)? {
        for field in fields(memory) {
            let field = field?;
            let Value::Varint(1..) = field.value else { continue };
            if TOTALS.contains(&field.number) || OF_V1.contains(&field.number) {
                return Ok(Sender::Whole);
            }
            flat |= LISTS.contains(&field.number);
        }
    }
    if let Some(blkio) = only(answer.value, number::BLKIO)? {
        flat |= has_misplaced(blkio)?;
    }
    Ok(if flat { Sender::Flat } else { Sender::Unclear })
}

/// The frame (header and body) of a Stats answer with what can be mended in it mended; `None` where there is nothing. Only for
/// containers whose [`sender`] is [`Sender::Flat`].
///
/// # Errors
/// [`WireFault`] where `frame` is not one whole response with statistics that can be walked in one way only, or would
/// grow beyond [`BODY_MAX`](super::BODY_MAX); the frame is then to be forwarded as it came.
pub fn repair(frame: &[u8]) -> Result<Option<Vec<u8>>, WireFault> {
    let (header, body) = open(frame)?;
    if header.kind != Kind::Response {
        return Err(WireFault::NotAFrame { len: frame.len() });
    }
    let body = change(body, number::PAYLOAD, |payload| change(payload, number::STATS, any))?;
    let Some(body) = body else { return Ok(None) };
    let header = header_of(header, body.len())?;
    Ok(Some([&header.encode()[..], &body].concat()))
}

/// Repairs the statistics in an `Any` of the first version.
fn any(message: &[u8]) -> Result<Option<Vec<u8>>, WireFault> {
    let mut type_url = "";
    for field in fields(message) {
        if let Field { number: 1, value: Value::Len(value), .. } = field? {
            type_url = text(1, value)?;
        }
    }
    if !is_v1(type_url) {
        return Ok(None);
    }
    change(message, number::VALUE, |metrics| {
        let mended = change(metrics, number::MEMORY, memory)?;
        let rest = change(mended.as_deref().unwrap_or(metrics), number::BLKIO, blkio)?;
        Ok(rest.or(mended))
    })
}

/// `MemoryStat` with the hierarchy's inactive file cache, where only the other is there: a guest of cgroup v2 counts no
/// other than the hierarchy's.
fn memory(message: &[u8]) -> Result<Option<Vec<u8>>, WireFault> {
    let (mut inactive, mut total) = (0, 0);
    // Behind the last field with a smaller number: where an encoder would have put it.
    let mut place = 0;
    for field in fields(message) {
        let field = field?;
        match (field.number, field.value) {
            (number::INACTIVE_FILE, Value::Varint(value)) => inactive = value,
            (number::TOTAL_INACTIVE_FILE, Value::Varint(value)) => total = value,
            _ => {}
        }
        if field.number < number::TOTAL_INACTIVE_FILE {
            place = field.range.end;
        }
    }
    if inactive == 0 || total != 0 {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(message.len() + 12);
    for field in fields(message) {
        let field = field?;
        // One that says 0 says what its absence does.
        if field.number != number::TOTAL_INACTIVE_FILE {
            out.extend_from_slice(message.get(field.range.clone()).unwrap_or_default());
        }
        if field.range.end == place {
            put_number(&mut out, number::TOTAL_INACTIVE_FILE, inactive);
        }
    }
    Ok(Some(out))
}

/// `BlkIOStat` with the numbers of reads and writes where they belong.
fn blkio(message: &[u8]) -> Result<Option<Vec<u8>>, WireFault> {
    if !has_misplaced(message)? {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(message.len() + 16);
    for field in fields(message) {
        let field = field?;
        let whole = message.get(field.range.clone()).unwrap_or_default();
        match (field.number, field.value) {
            (number::BYTES, Value::Len(row)) => match misplaced(row)? {
                Some(name) => {
                    let row = change(row, number::OPERATION, |_| Ok(Some(name.as_bytes().to_vec())))?;
                    put_len(&mut out, number::COUNTS, &row.unwrap_or_default());
                }
                None => out.extend_from_slice(whole),
            },
            _ => out.extend_from_slice(whole),
        }
    }
    Ok(Some(out))
}

/// Are there numbers among the bytes, and none where they belong?
fn has_misplaced(message: &[u8]) -> Result<bool, WireFault> {
    let mut found = false;
    for field in fields(message) {
        let field = field?;
        match (field.number, field.value) {
            (number::COUNTS, Value::Len(_)) => return Ok(false),
            (number::BYTES, Value::Len(row)) => found |= misplaced(row)?.is_some(),
            _ => {}
        }
    }
    Ok(found)
}

/// What a row of `io_service_bytes_recursive` is called among the numbers; `None` where it is one of bytes.
fn misplaced(row: &[u8]) -> Result<Option<&'static str>, WireFault> {
    let Some(operation) = only(row, number::OPERATION)? else { return Ok(None) };
    let of = |(name, _): &&(&str, &str)| operation.eq_ignore_ascii_case(name.as_bytes());
    Ok(MISPLACED.iter().find(of).map(|(_, name)| *name))
}

fn is_v1(type_url: &str) -> bool {
    type_url.rsplit('/').next() == Some(TYPE)
}

/// The one length-delimited field of that number; several would be merged by their reader, and none of them says it all.
fn only(message: &[u8], number: u32) -> Result<Option<&[u8]>, WireFault> {
    let mut found = None;
    for field in fields(message) {
        let field = field?;
        if let (true, Value::Len(value)) = (field.number == number, field.value)
            && found.replace(value).is_some()
        {
            return Err(WireFault::Twice { field: number });
        }
    }
    Ok(found)
}

/// `message` with its one field of that number as `change` makes it; `None` where it changes nothing, or there is no such field.
fn change(
    message: &[u8],
    number: u32,
    change: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, WireFault>,
) -> Result<Option<Vec<u8>>, WireFault> {
    let Some(old) = only(message, number)? else { return Ok(None) };
    let Some(new) = change(old)? else { return Ok(None) };
    let mut out = Vec::with_capacity(message.len() + new.len().saturating_sub(old.len()) + 8);
    map_fields(&mut out, message, |field, _| Ok((field == number).then_some(&new)))?;
    Ok(Some(out))
}
