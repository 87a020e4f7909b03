//! What ends a connection. Each is counted under a closed name; most are the peer's fault, and say so.

use std::{io, time::Duration};

use shimtap_proto::ttrpc::{HeaderFault, WireFault};

use crate::{closed::closed, process::TapeFault};

closed! {
    /// A fault as a label value.
    pub enum FaultKind {
        /// The peer runs as somebody else.
        PeerUid => "peer_uid",
        /// There are as many connections as allowed.
        Connections => "connections",
        /// accept(2) failed.
        Accept => "accept",
        /// Not ttrpc.
        Framing => "framing",
        /// A message larger than allowed.
        Oversize => "oversize",
        /// Another service or method, or a second stream.
        Request => "request",
        /// A message that does not decode.
        Decode => "decode",
        /// No Hello in time.
        HelloTimeout => "hello_timeout",
        /// A message whose bytes came too slowly.
        MessageTimeout => "message_timeout",
        /// A message that may not come now.
        Order => "order",
        /// More tasks or streams than allowed.
        Tasks => "tasks",
        /// A task or handle that was never announced.
        Handle => "handle",
        /// A position in a stream that cannot be true.
        Position => "position",
        /// The stream goes on over a newer connection.
        Superseded => "superseded",
        /// The peer does not read.
        WriteTimeout => "write_timeout",
        /// The connection broke.
        Io => "io",
    }
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum IngestFault {
    /// Bytes that are no ttrpc frame. The wrapper's fault.
    #[error("reading a frame: {0}; the peer does not speak ttrpc")]
    Framing(#[source] HeaderFault),
    /// The wrapper's fault.
    #[error("reading a frame: the wrapper announced {bytes} bytes, more than the {limit} allowed")]
    Oversize {
        /// What it announced.
        bytes: u32,
        /// What is allowed.
        limit: usize,
    },
    /// The peer's fault.
    #[error("reading the request: {0}")]
    Envelope(#[source] WireFault),
    /// The peer asked for something that is not here.
    #[error("serving {service}/{method}: this socket serves shimtap.v1.Collector/Attach only")]
    Service {
        /// What it asked for, shortened.
        service: String,
        /// What it asked for, shortened.
        method: String,
    },
    /// The peer's fault.
    #[error("reading a frame: {0}; one connection carries one stream")]
    Frame(&'static str),
    /// The wrapper's fault.
    #[error("decoding a message of the wrapper: {0}")]
    Decode(#[source] protobuf::Error),
    /// The wrapper's fault.
    #[error("waiting for the wrapper's hello: it did not come within {0:?}")]
    HelloTimeout(Duration),
    /// The wrapper's fault.
    #[error("reading a message: its bytes did not come within {0:?}")]
    MessageTimeout(Duration),
    /// The wrapper's fault.
    #[error("taking a message: {0}; see docs/protocol.md, Order")]
    Order(&'static str),
    /// The wrapper's fault, or ingest.tasks_per_connection is too small.
    #[error("taking an open: more than {0} tasks on one connection")]
    Tasks(usize),
    /// The wrapper's fault.
    #[error("taking a message: task or stream {0} was never announced on this connection")]
    Handle(u32),
    /// The wrapper's fault.
    #[error("stream {handle} of container {container}: {source}")]
    Position {
        /// The stream.
        handle: u32,
        /// Whose it is.
        container: String,
        /// What cannot be true.
        source: TapeFault,
    },
    /// Nobody's fault: the wrapper has connected again and this is the old connection.
    #[error("stream {0}: it goes on over a newer connection")]
    Superseded(u32),
    /// The wrapper's fault.
    #[error("writing to the wrapper: it took nothing for {0:?}")]
    WriteTimeout(Duration),
    /// The wrapper died, or the system is at fault.
    #[error("{doing} the wrapper's connection: {source}")]
    Io {
        /// Reading or writing.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

// === impl IngestFault ===

impl IngestFault {
    /// Under which name it is counted.
    #[must_use]
    pub const fn kind(&self) -> FaultKind {
        match self {
            Self::Framing(_) => FaultKind::Framing,
            Self::Oversize { .. } => FaultKind::Oversize,
            Self::Envelope(_) | Self::Decode(_) => FaultKind::Decode,
            Self::Service { .. } | Self::Frame(_) => FaultKind::Request,
            Self::HelloTimeout(_) => FaultKind::HelloTimeout,
            Self::MessageTimeout(_) => FaultKind::MessageTimeout,
            Self::Order(_) => FaultKind::Order,
            Self::Tasks(_) => FaultKind::Tasks,
            Self::Handle(_) => FaultKind::Handle,
            Self::Position { .. } => FaultKind::Position,
            Self::Superseded(_) => FaultKind::Superseded,
            Self::WriteTimeout(_) => FaultKind::WriteTimeout,
            Self::Io { .. } => FaultKind::Io,
        }
    }
}
