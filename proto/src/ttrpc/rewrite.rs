//! Replacing a field of a frame's payload, and nothing else.
//!
//! The two things shimtap changes in a relayed frame are paths: the FIFOs in Create (and Exec), and those in a
//! State answer. Both are length-delimited fields of the message that is the payload of the envelope. Decoding
//! and encoding would lose what the sender knows and we do not; so the bytes around the field are copied, and
//! only the lengths of what encloses it are written anew, and those only where they differ.

use super::header::{BODY_MAX, HEADER_LEN, Header, Kind};
use super::wire::{Value, WireFault, fields, put_varint};

/// Longest path, in bytes, that Linux opens (`PATH_MAX` without its NUL).
const PATH_LEN_MAX: usize = 4095;

/// A change: the value of every occurrence of the length-delimited field `field` becomes `new`.
///
/// An occurrence with another wire type is an unknown field and stays; an absent field stays absent. Of two
/// edits of one field the first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit<'a> {
    /// Number of the field in the payload message.
    pub field: u32,
    /// Its new value.
    pub new: &'a [u8],
}

/// The frame (header and body) with `edits` made in the payload of its request (field 3) or response (field 2).
///
/// Every byte that is not a replaced value or a length that had to follow stays as it is, overlong varints,
/// order and unknown fields included. Where nothing changes the result is the frame.
///
/// # Errors
/// [`WireFault`] where `frame` is not one whole request or response with a payload that can be walked, or where
/// it would grow beyond [`BODY_MAX`]; the frame is then to be forwarded as it came.
pub fn replace(frame: &[u8], edits: &[Edit<'_>]) -> Result<Vec<u8>, WireFault> {
    let (header, body) = open(frame)?;
    let payload_field = match header.kind {
        Kind::Request => 3,
        Kind::Response => 2,
        Kind::Data => return Err(WireFault::NotAFrame { len: frame.len() }),
    };

    let growth: usize = edits.iter().map(|edit| edit.new.len()).sum();
    let mut out = Vec::with_capacity(frame.len() + growth + 16);
    out.extend_from_slice(&header.encode());
    map_fields(&mut out, body, |number, value| {
        if number != payload_field {
            return Ok(None);
        }
        let mut payload = Vec::with_capacity(value.len() + growth);
        edit_message(&mut payload, value, edits)?;
        Ok(Some(payload))
    })?;

    let header = header_of(header, out.len() - HEADER_LEN)?;
    if let Some(room) = out.first_chunk_mut::<HEADER_LEN>() {
        *room = header.encode();
    }
    Ok(out)
}

/// `path` lengthened to exactly `len` bytes without naming another file: extra slashes go behind its last slash.
///
/// A replaced path of the same length changes no length around it. `None` where that cannot be had, and the path
/// is to be used as it is: it is relative or longer than `len`, `len` is beyond what Linux opens, or its only
/// slash is the first byte (URL readers take what stands behind a leading `//` for a host name).
#[must_use]
pub fn pad_path(path: &str, len: usize) -> Option<String> {
    if !path.starts_with('/') || len > PATH_LEN_MAX {
        return None;
    }
    let missing = len.checked_sub(path.len())?;
    if missing == 0 {
        return Some(path.to_owned());
    }
    let (directory, file) = path.rsplit_once('/').filter(|(directory, _)| !directory.is_empty())?;
    let mut padded = String::with_capacity(len);
    padded.push_str(directory);
    padded.extend(std::iter::repeat_n('/', missing + 1));
    padded.push_str(file);
    Some(padded)
}

/// The header and the body of one whole frame.
pub(super) fn open(frame: &[u8]) -> Result<(Header, &[u8]), WireFault> {
    let not_a_frame = WireFault::NotAFrame { len: frame.len() };
    let header = Header::decode(frame).map_err(|_| not_a_frame)?;
    let body = frame.get(HEADER_LEN..).ok_or(not_a_frame)?;
    if usize::try_from(header.length) != Ok(body.len()) {
        return Err(not_a_frame);
    }
    Ok((header, body))
}

/// The header of a frame whose body has `len` bytes by now.
pub(super) fn header_of(old: Header, len: usize) -> Result<Header, WireFault> {
    let length = u32::try_from(len)
        .ok()
        .filter(|&length| length <= BODY_MAX.max(old.length))
        .ok_or(WireFault::TooLarge { len })?;
    Ok(Header { length, ..old })
}

/// Appends `message` with `edits` made in it.
pub(crate) fn edit_message(out: &mut Vec<u8>, message: &[u8], edits: &[Edit<'_>]) -> Result<(), WireFault> {
    map_fields(out, message, |number, _| {
        Ok(edits.iter().find(|edit| edit.field == number).map(|edit| edit.new))
    })
}

/// Appends `message`; where `new` has a value for a length-delimited field, with that value.
pub(super) fn map_fields<T: AsRef<[u8]>>(
    out: &mut Vec<u8>,
    message: &[u8],
    mut new: impl FnMut(u32, &[u8]) -> Result<Option<T>, WireFault>,
) -> Result<(), WireFault> {
    for field in fields(message) {
        let field = field?;
        let whole = message.get(field.range.clone()).unwrap_or_default();
        let Value::Len(old) = field.value else {
            out.extend_from_slice(whole);
            continue;
        };
        match new(field.number, old)? {
            None => out.extend_from_slice(whole),
            Some(value) => {
                let value = value.as_ref();
                // The length as it was written holds for a value of the same length, overlong or not.
                let keep = if value.len() == old.len() { field.range.end - old.len() } else { field.tag_end };
                out.extend_from_slice(message.get(field.range.start..keep).unwrap_or_default());
                if value.len() != old.len() {
                    put_varint(out, value.len().try_into().unwrap_or(u64::MAX));
                }
                out.extend_from_slice(value);
            }
        }
    }
    Ok(())
}
