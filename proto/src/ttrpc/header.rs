//! The ten bytes in front of every frame.
//!
//! Big-endian: length of the body (u32), stream id (u32), type (u8), flags (u8). A header is judged by itself:
//! whether a body is too large to be looked at is the caller's decision ([`BODY_MAX`]), whether the framing
//! still makes sense is ours ([`LENGTH_SANE`]).

/// Bytes in a frame's header.
pub const HEADER_LEN: usize = 10;

/// Largest body, in bytes, that ttrpc's receivers accept (containerd/ttrpc `messageLengthMax`). A larger one is
/// legal on the wire and answered with an error by its receiver, so a relay passes it unseen.
pub const BODY_MAX: u32 = 4 << 20;

/// Largest length, in bytes, that is taken for a length at all. No ttrpc sender makes a body of more than
/// [`BODY_MAX`] except by mistake; sixteen times that is not a mistake but another protocol.
pub const LENGTH_SANE: u32 = 64 << 20;

/// Flag: the sender will send no more on this stream.
pub const FLAG_REMOTE_CLOSED: u8 = 0x01;
/// Flag: more data frames follow on this stream.
pub const FLAG_REMOTE_OPEN: u8 = 0x02;
/// Flag: the frame carries no data; a body, if there is one, means nothing.
pub const FLAG_NO_DATA: u8 = 0x04;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Opens a stream; the body is a `ttrpc.Request`.
    Request = 1,
    /// Ends a stream; the body is a `ttrpc.Response`.
    Response = 2,
    /// A message on an open stream; the body is that message.
    Data = 3,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Bytes in the body that follows.
    pub length: u32,
    /// Odd and strictly increasing where a client opened the stream.
    pub stream_id: u32,
    /// What the frame is.
    pub kind: Kind,
    /// `FLAG_*`, and whatever other bits the peer set.
    pub flags: u8,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Fewer than [`HEADER_LEN`] bytes are there; nothing is wrong yet.
    #[error("decoding a ttrpc header: fewer than 10 bytes are there yet")]
    Incomplete,
    /// The type byte is none that ttrpc defines.
    #[error("decoding a ttrpc header: the peer sent frame type {0}, which is none of 1, 2, 3")]
    UnknownKind(u8),
    /// The length, in bytes, is above [`LENGTH_SANE`].
    #[error("decoding a ttrpc header: the peer announced a body of {0} bytes, which no ttrpc peer sends")]
    Insane(u32),
}

// === impl Kind ===

impl Kind {
    /// The kind that this byte stands for.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Data),
            _ => None,
        }
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn to_u8(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
        }
    }
}

// === impl Header ===

impl Header {
    /// Reads the header at the start of `bytes`; what follows its ten bytes is not looked at.
    ///
    /// # Errors
    /// [`HeaderFault::Incomplete`] asks for more bytes; the others mean that this is not ttrpc's framing (any
    /// more), and that no later byte of the connection can be trusted to be a header either.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let Some(&[l0, l1, l2, l3, s0, s1, s2, s3, kind, flags]) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(HeaderFault::Incomplete);
        };
        let kind = Kind::from_u8(kind).ok_or(HeaderFault::UnknownKind(kind))?;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if length > LENGTH_SANE {
            return Err(HeaderFault::Insane(length));
        }
        Ok(Self { length, stream_id: u32::from_be_bytes([s0, s1, s2, s3]), kind, flags })
    }

    /// The ten bytes on the wire.
    #[must_use]
    pub const fn encode(&self) -> [u8; HEADER_LEN] {
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream_id.to_be_bytes();
        [l0, l1, l2, l3, s0, s1, s2, s3, self.kind.to_u8(), self.flags]
    }
}
