//! Frames as bytes: header by hand, bodies by upstream's messages.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::protobuf::Message;
use ttrpc::{Request, Response, Status};

/// Bytes before the body.
pub const HEADER: usize = 10;
/// The largest body that ttrpc lets pass.
pub const LARGEST: usize = 4 << 20;

/// Type byte of a frame.
pub mod kind {
    /// A request, client to server.
    pub const REQUEST: u8 = 1;
    /// An answer, server to client.
    pub const RESPONSE: u8 = 2;
    /// A message of a stream, either way.
    pub const DATA: u8 = 3;
}

/// Flag bits of a frame.
pub mod flag {
    /// The sender will send no more on this stream.
    pub const REMOTE_CLOSED: u8 = 1;
    /// More frames of this stream follow.
    pub const REMOTE_OPEN: u8 = 2;
    /// There is no body.
    pub const NO_DATA: u8 = 4;
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Stream id.
    pub stream: u32,
    /// One of [`kind`], or anything else for a test.
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Frame {
    /// A unary request.
    ///
    /// # Errors
    /// The request does not encode.
    pub fn request(stream: u32, service: &str, method: &str, payload: Vec<u8>) -> Result<Self> {
        let body =
            Request { service: service.to_owned(), method: method.to_owned(), payload, ..Default::default() };
        Ok(Self { stream, kind: kind::REQUEST, flags: 0, body: body.write_to_bytes().context("request")? })
    }

    /// A data frame of a ttrpc stream.
    #[must_use]
    pub fn data(stream: u32, flags: u8, body: Vec<u8>) -> Self {
        Self { stream, kind: kind::DATA, flags, body }
    }

    /// What goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out =
            header(u32::try_from(self.body.len()).unwrap_or(u32::MAX), self.stream, self.kind, self.flags);
        out.extend_from_slice(&self.body);
        out
    }

    /// The answer in a response frame: its payload, or the status that came instead.
    ///
    /// # Errors
    /// The frame is no response, or its body does not decode.
    pub fn answer(&self) -> Result<Answer> {
        ensure!(self.kind == kind::RESPONSE, "frame of type {} where an answer was due", self.kind);
        let response = Response::parse_from_bytes(&self.body).context("answer does not decode")?;
        Ok(match response.status.into_option() {
            Some(status) if status.code.value() != 0 => Answer::Status(status),
            _ => Answer::Payload(response.payload),
        })
    }
}

/// How a request was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// With the encoded message of the method.
    Payload(Vec<u8>),
    /// With an error.
    Status(Status),
}

impl Answer {
    /// The message, where there is one.
    ///
    /// # Errors
    /// The answer is an error status, or the message does not decode.
    pub fn message<M: Message>(&self) -> Result<M> {
        match self {
            Self::Payload(bytes) => M::parse_from_bytes(bytes).context("payload of the answer"),
            Self::Status(s) => anyhow::bail!("answered with code {}: {}", s.code.value(), s.message),
        }
    }

    /// The gRPC code; 0 for a payload.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Payload(_) => 0,
            Self::Status(s) => s.code.value(),
        }
    }
}

/// A header, whatever it claims.
#[must_use]
pub fn header(length: u32, stream: u32, kind: u8, flags: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, flags]);
    out
}

/// Length, stream, type and flags out of ten bytes.
#[must_use]
pub fn parse_header(bytes: [u8; HEADER]) -> (u32, u32, u8, u8) {
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = bytes;
    (u32::from_be_bytes([l0, l1, l2, l3]), u32::from_be_bytes([s0, s1, s2, s3]), kind, flags)
}
