//! Protobuf's wire format, field by field.
//!
//! [`fields`] walks a message without a schema and tells where each field lies, so that a caller can change one
//! and keep the rest. It is strict where a lenient reader and containerd's could disagree about where a field
//! ends (truncation, overlong varints, groups); it says nothing about meaning. It must never allocate.

use std::ops::Range;

/// Most bytes of a varint: 64 bits in groups of seven.
pub const VARINT_MAX: usize = 10;

/// Largest field number that protobuf allows.
pub const FIELD_MAX: u32 = (1 << 29) - 1;

/// Why bytes are not the message they should be. Always the sender's fault; the frame is forwarded as it came.
///
/// `at` is an offset in bytes into the message being read (the innermost one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    /// A field goes on beyond the end of the message.
    #[error("reading protobuf: the field at byte {at} goes on beyond the end of its message")]
    Truncated {
        /// Where the field starts.
        at: usize,
    },
    /// A varint has more than ten bytes or more than 64 bits.
    #[error("reading protobuf: the number at byte {at} does not fit 64 bits")]
    VarintOverflow {
        /// Where the varint starts.
        at: usize,
    },
    /// A field number of 0 or above [`FIELD_MAX`].
    #[error("reading protobuf: byte {at} names field {number}, which is not a field number")]
    FieldNumber {
        /// Where the tag starts.
        at: usize,
        /// The number as sent.
        number: u64,
    },
    /// A group (3, 4) or a wire type that does not exist (6, 7). No message of containerd's has groups.
    #[error("reading protobuf: byte {at} has wire type {wire_type}, which nothing in this protocol uses")]
    WireType {
        /// Where the tag starts.
        at: usize,
        /// The three bits as sent.
        wire_type: u8,
    },
    /// A string field is not UTF-8.
    #[error("reading protobuf: the string in field {field} is not UTF-8")]
    NotUtf8 {
        /// The field's number.
        field: u32,
    },
    /// What should be one whole request or response frame is not.
    #[error("rewriting a frame: {len} bytes are not one whole ttrpc request or response")]
    NotAFrame {
        /// Bytes given.
        len: usize,
    },
    /// A field that can be there once is there several times. A reader merges them; changing one would not be exact.
    #[error("rewriting a message: field {field} is there more than once, and its reader merges them")]
    Twice {
        /// The field's number.
        field: u32,
    },
    /// A change would make the body larger than its receiver takes ([`BODY_MAX`](super::BODY_MAX)).
    #[error("rewriting a frame: its body would grow to {len} bytes, which its receiver would refuse")]
    TooLarge {
        /// Bytes that the body would have.
        len: usize,
    },
}

/// How a field's value is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WireType {
    /// A varint.
    Varint = 0,
    /// Eight bytes.
    Fixed64 = 1,
    /// A length and as many bytes.
    Len = 2,
    /// Four bytes.
    Fixed32 = 5,
}

/// A field's value, uninterpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint: any of protobuf's integers, bool, enum.
    Varint(u64),
    /// Eight bytes, little-endian.
    Fixed64(u64),
    /// A string, bytes, or a message.
    Len(&'a [u8]),
    /// Four bytes, little-endian.
    Fixed32(u32),
}

/// One field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number, 1 to [`FIELD_MAX`].
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Where it lies in the message, tag included.
    pub range: Range<usize>,
    /// Where its tag ends: the start of its value, or of a [`Value::Len`]'s length.
    pub tag_end: usize,
}

/// The fields of a message in their order; ends after the first fault. See [`fields`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

/// Walks the fields of `message`.
#[must_use]
pub const fn fields(message: &[u8]) -> Fields<'_> {
    Fields { message, at: 0 }
}

/// Reads a varint at the start of `bytes`: its value, and how many bytes it took.
///
/// # Errors
/// [`WireFault::Truncated`] where `bytes` ends first, [`WireFault::VarintOverflow`] as soon as it cannot fit; both
/// with `at` 0.
pub fn varint(bytes: &[u8]) -> Result<(u64, usize), WireFault> {
    let mut value: u64 = 0;
    for (index, &byte) in bytes.iter().take(VARINT_MAX).enumerate() {
        // Nine groups of seven leave one bit for the tenth byte.
        if index + 1 == VARINT_MAX && byte > 1 {
            return Err(WireFault::VarintOverflow { at: 0 });
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(WireFault::Truncated { at: 0 })
}

/// Appends `value` as a varint of as few bytes as it needs.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a length-delimited field.
pub fn put_len(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, value.len().try_into().unwrap_or(u64::MAX));
    out.extend_from_slice(value);
}

/// Appends a varint field.
pub fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field) << 3);
    put_varint(out, value);
}

/// Reads a tag at the start of `bytes`: field number, the three bits of wire type (unjudged), and its bytes.
pub(crate) fn tag(bytes: &[u8]) -> Result<(u32, u8, usize), WireFault> {
    let (tag, taken) = varint(bytes)?;
    let number = tag >> 3;
    match u32::try_from(number) {
        Ok(field @ 1..=FIELD_MAX) => {
            let [low, ..] = tag.to_le_bytes();
            Ok((field, low & 7, taken))
        }
        _ => Err(WireFault::FieldNumber { at: 0, number }),
    }
}

/// `value` as UTF-8, for field `field`.
pub(crate) fn text(field: u32, value: &[u8]) -> Result<&str, WireFault> {
    std::str::from_utf8(value).map_err(|_| WireFault::NotUtf8 { field })
}

/// What a uint32, int32 or enum field holds: as protobuf has it, the low 32 bits.
pub(crate) fn low_u32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

// === impl WireFault ===

impl WireFault {
    /// The same fault, seen from where the bytes that it is about start at `base`.
    fn shifted(self, base: usize) -> Self {
        match self {
            Self::Truncated { at } => Self::Truncated { at: at.saturating_add(base) },
            Self::VarintOverflow { at } => Self::VarintOverflow { at: at.saturating_add(base) },
            Self::FieldNumber { at, number } => Self::FieldNumber { at: at.saturating_add(base), number },
            Self::WireType { at, wire_type } => Self::WireType { at: at.saturating_add(base), wire_type },
            other => other,
        }
    }
}

// === impl Value ===

impl Value<'_> {
    /// How it is laid out.
    #[must_use]
    pub const fn wire_type(&self) -> WireType {
        match self {
            Self::Varint(_) => WireType::Varint,
            Self::Fixed64(_) => WireType::Fixed64,
            Self::Len(_) => WireType::Len,
            Self::Fixed32(_) => WireType::Fixed32,
        }
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// The field at the start of `rest`, with ranges relative to it.
    fn field(rest: &'a [u8]) -> Result<Field<'a>, WireFault> {
        let truncated = WireFault::Truncated { at: 0 };
        let (number, wire_type, tag_end) = tag(rest)?;
        let body = rest.get(tag_end..).ok_or(truncated)?;
        let (value, taken) = match wire_type {
            0 => {
                let (value, taken) = varint(body).map_err(|fault| match fault {
                    WireFault::Truncated { .. } => truncated,
                    other => other.shifted(tag_end),
                })?;
                (Value::Varint(value), taken)
            }
            1 => (Value::Fixed64(u64::from_le_bytes(*body.first_chunk().ok_or(truncated)?)), 8),
            2 => {
                let (len, taken) = varint(body).map_err(|fault| match fault {
                    WireFault::Truncated { .. } => truncated,
                    other => other.shifted(tag_end),
                })?;
                let len = usize::try_from(len).map_err(|_| truncated)?;
                let end = taken.checked_add(len).ok_or(truncated)?;
                (Value::Len(body.get(taken..end).ok_or(truncated)?), end)
            }
            5 => (Value::Fixed32(u32::from_le_bytes(*body.first_chunk().ok_or(truncated)?)), 4),
            _ => return Err(WireFault::WireType { at: 0, wire_type }),
        };
        Ok(Field { number, value, range: 0..tag_end + taken, tag_end })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let base = self.at;
        let rest = self.message.get(base..).filter(|rest| !rest.is_empty())?;
        match Self::field(rest) {
            Ok(field) => {
                self.at = base + field.range.end;
                let range = base..self.at;
                Some(Ok(Field { range, tag_end: base + field.tag_end, ..field }))
            }
            Err(fault) => {
                self.at = self.message.len();
                Some(Err(fault.shifted(base)))
            }
        }
    }
}

impl std::iter::FusedIterator for Fields<'_> {}
