//! What the journal's files hold, byte by byte (docs/journal.md), without any input or output.
//!
//! Everything here is read as if an enemy had written it: no number is trusted before the checksum over it was, and no
//! length afterwards. What this release writes it reads back; what it does not know it says.

pub mod entry;
pub mod frame;
pub mod header;
mod row;

pub use row::{HoleSum, Row};

/// Why bytes of a journal cannot be used. The disk, a power cut or another program is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends before a frame does.
    #[error("it ends within a frame")]
    Torn,
    /// No head of a frame where one should be.
    #[error("what should be a frame is none")]
    NotAFrame,
    /// The bytes are not those that were written.
    #[error("a checksum does not match")]
    Checksum,
    /// The checksum matches, and the payload makes no sense: a fault of whoever wrote it.
    #[error("a frame's payload makes no sense")]
    Payload,
}

/// Bytes from the front of a slice.
#[derive(Clone, Copy, Debug)]
struct Bites<'a>(&'a [u8]);

// === impl Bites ===

impl<'a> Bites<'a> {
    fn varint(&mut self) -> Result<u64, Damage> {
        let (value, length) = shimtap_proto::ttrpc::wire::varint(self.0).map_err(|_| Damage::Payload)?;
        self.0 = self.0.get(length..).ok_or(Damage::Payload)?;
        Ok(value)
    }

    fn length(&mut self) -> Result<usize, Damage> {
        usize::try_from(self.varint()?).map_err(|_| Damage::Payload)
    }

    fn byte(&mut self) -> Result<u8, Damage> {
        let (first, rest) = self.0.split_first().ok_or(Damage::Payload)?;
        self.0 = rest;
        Ok(*first)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Damage> {
        let (front, rest) = self.0.split_at_checked(length).ok_or(Damage::Payload)?;
        self.0 = rest;
        Ok(front)
    }
}
