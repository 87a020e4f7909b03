//! What keeper and worker say to each other; descriptors travel beside it.
//!
//! Requests name a slot and are idempotent: what is already there is handed out again, so that a successor may
//! repeat what its predecessor had asked. In an upgrade the two are of neighbouring releases for a moment: numbers are never
//! given another meaning, and what is added must be answered for by the side that knows it.

use crate::{
    block::Slot,
    sys::{Errno, Kernel},
};

/// What the worker may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The worker is at work.
    Ready,
    /// Close `count` slots.
    Drop,
    /// Make (where missing) and open our FIFO at `path` for reading.
    InnerFifo,
    /// Open containerd's FIFO at `path` for reading, which keeps it alive and disturbs nobody.
    OuterReader,
    /// Open containerd's FIFO at `path` for writing; the slot before it holds its reader.
    OuterWriter,
    /// Connect to the inner shim.
    Connect,
    /// A pipe.
    Pipe,
    /// A slot that the keeper filled by itself: a connection whose announcement came without its socket.
    Fetch,
    /// Nothing but an answer: is the keeper there?
    Ping,
    /// Become the image that comes along (docs/adr/0011).
    Become,
    /// Make the child that writes spool files; EALREADY where there is one.
    Spool,
    /// Hold the descriptor that comes along: somebody else's, given to the worker.
    Hold,
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Which request an answer belongs to.
    pub serial: u32,
    /// What to do.
    pub operation: Operation,
    /// First slot it is about.
    pub slot: Slot,
    /// How many slots (Drop).
    pub count: u32,
    /// Path, where the operation has one.
    pub path: &'a [u8],
}

/// The answer to one request; its descriptors are those of the request's slots.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's.
    pub serial: u32,
    /// 0 = done.
    pub errno: i32,
}

/// What the keeper says unasked.
pub struct Notice;

/// A message to the worker.
#[derive(Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// See [`Answer`].
    Answer(Answer),
    /// Connection `.0` was accepted; its socket comes along.
    Accepted(usize),
    /// Something in the block has changed.
    Look,
}

const ANSWER: u32 = 0x100;
const ACCEPTED: u32 = 0x101;
const LOOK: u32 = 0x102;

fn word(bytes: &[u8], n: usize) -> Option<u32> {
    let at = n.checked_mul(4)?;
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

// === impl Operation ===

impl Operation {
    const ALL: [Self; 12] = [
        Self::Ready,
        Self::Drop,
        Self::InnerFifo,
        Self::OuterReader,
        Self::OuterWriter,
        Self::Connect,
        Self::Pipe,
        Self::Fetch,
        Self::Ping,
        Self::Become,
        Self::Spool,
        Self::Hold,
    ];

    /// How many descriptors its answer brings.
    pub fn makes(self) -> u32 {
        match self {
            Self::Ready | Self::Drop | Self::Ping | Self::Become | Self::Spool | Self::Hold => 0,
            Self::InnerFifo | Self::OuterReader | Self::OuterWriter | Self::Connect | Self::Fetch => 1,
            Self::Pipe => 2,
        }
    }
}

// === impl Request ===

impl<'a> Request<'a> {
    /// Bytes of one message.
    pub fn encode(&self) -> Vec<u8> {
        let operation = self.operation as u32;
        let mut bytes = Vec::with_capacity(16 + self.path.len());
        for word in [operation, self.serial, self.slot.number(), self.count] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(self.path);
        bytes
    }

    /// `None` where it is no request.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let operation = word(bytes, 0)?;
        Some(Self {
            operation: Operation::ALL.into_iter().find(|o| *o as u32 == operation)?,
            serial: word(bytes, 1)?,
            slot: Slot::from_number(word(bytes, 2)?)?,
            count: word(bytes, 3)?,
            path: bytes.get(16..)?,
        })
    }

    /// The path as text.
    pub fn path(&self) -> Kernel<&'a str> {
        std::str::from_utf8(self.path).map_err(|_| Errno::EINVAL)
    }
}

// === impl Answer ===

impl Answer {
    /// Bytes of one message.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = ANSWER.to_ne_bytes().to_vec();
        bytes.extend(self.serial.to_ne_bytes());
        bytes.extend(self.errno.to_ne_bytes());
        bytes
    }
}

// === impl Notice ===

impl Notice {
    /// Bytes that announce a connection.
    pub fn accepted(conn: usize) -> Vec<u8> {
        let mut bytes = ACCEPTED.to_ne_bytes().to_vec();
        bytes.extend(u32::try_from(conn).unwrap_or(u32::MAX).to_ne_bytes());
        bytes
    }

    /// Bytes of [`ToWorker::Look`].
    pub fn look() -> [u8; 4] {
        LOOK.to_ne_bytes()
    }
}

// === impl ToWorker ===

impl ToWorker {
    /// `None` where it is neither.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match word(bytes, 0)? {
            ANSWER => {
                let errno = i32::try_from(word(bytes, 2)?).unwrap_or(Errno::EPROTO as i32);
                Some(Self::Answer(Answer { serial: word(bytes, 1)?, errno }))
            }
            ACCEPTED => Some(Self::Accepted(usize::try_from(word(bytes, 1)?).ok()?)),
            LOOK => Some(Self::Look),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_went() {
        let request = Request {
            serial: 7,
            operation: Operation::OuterWriter,
            slot: Slot::stream(3),
            count: 0,
            path: b"/run/x",
        };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let answer = Answer { serial: 9, errno: Errno::ENXIO as i32 };
        assert_eq!(ToWorker::decode(&answer.encode()), Some(ToWorker::Answer(answer)));
        assert_eq!(ToWorker::decode(&Notice::accepted(5)), Some(ToWorker::Accepted(5)));
        assert_eq!(ToWorker::decode(&Notice::look()), Some(ToWorker::Look));
    }

    #[test]
    fn nonsense_is_no_message() {
        for bytes in [&b""[..], b"abc", &[0xff; 16], &[0; 15]] {
            assert_eq!(Request::decode(bytes), None, "{bytes:?}");
        }
        let beyond = [1u32, 0, u32::MAX, 1].map(u32::to_ne_bytes).concat();
        assert_eq!(Request::decode(&beyond), None, "a slot beyond the table");
        assert_eq!(ToWorker::decode(&[1, 2, 3]), None);
    }
}
