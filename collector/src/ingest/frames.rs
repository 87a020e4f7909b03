//! Bytes to frames and back, with every limit checked before memory is taken.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    mem,
    pin::pin,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use shimtap_proto::{
    link::DATA_MAX,
    ttrpc::{FLAG_REMOTE_CLOSED, HEADER_LEN, Header, HeaderFault, Kind},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::fault::IngestFault;

/// What stands around a message's bytes, and more.
const AROUND: usize = 8 << 10;
/// How much is read at once by a connection whose messages are small. Where all have much to say there are as many buffers as
/// connections, each full and waiting for room in the queue.
const READ_LEAST: usize = 16 << 10;
/// By one whose messages are large: a whole message of the usual largest size.
const READ_MOST: usize = DATA_MAX + AROUND;

thread_local! {
    /// What the next connection of this thread reads into: one that waits with nothing read holds no memory.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// One frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) body: Bytes,
}

/// The reading half of a connection.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    /// As large as frames have been lately, the one that is being read included.
    usual: usize,
    body_max: usize,
    /// From the first to the last byte of a frame.
    frame_time: Duration,
}

// === impl Frame ===

impl Frame {
    /// True where the peer says that this is the last one.
    pub(super) const fn is_last(&self) -> bool {
        self.header.flags & FLAG_REMOTE_CLOSED != 0
    }
}

// === impl FrameReader ===

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(from: R, body_max: usize, frame_time: Duration) -> Self {
        Self { from, buffer: BytesMut::new(), usual: 0, body_max, frame_time }
    }

    /// The next frame; `None` at the end of the connection between two frames. Cancel-safe: what was read stays.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, IngestFault> {
        if let Some(frame) = self.whole()? {
            return Ok(Some(frame));
        }
        // Before its first byte a frame has all the time there is.
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Ok(None);
        }
        if let Some(frame) = self.whole()? {
            return Ok(Some(frame));
        }
        let limit = self.frame_time;
        // In memory of its own: seldom, and every connection would have room for it.
        Box::pin(timeout(limit, self.rest())).await.map_err(|_| IngestFault::MessageTimeout(limit))?
    }

    async fn rest(&mut self) -> Result<Option<Frame>, IngestFault> {
        loop {
            if let Some(frame) = self.whole()? {
                return Ok(Some(frame));
            }
            if self.fill().await? == 0 {
                let source = std::io::ErrorKind::UnexpectedEof.into();
                return Err(IngestFault::Io { doing: "reading a frame to its end from", source });
            }
        }
    }

    async fn fill(&mut self) -> Result<usize, IngestFault> {
        let read = poll_fn(|context| {
            if self.buffer.capacity() == 0 {
                self.buffer = SPARE.take();
            }
            let wanted = self.usual.saturating_add(AROUND).clamp(READ_LEAST, READ_MOST);
            // What is left of the last read is a part of it, so that the same memory serves for the next; a frame larger than any
            // buffer comes in pieces.
            self.buffer.reserve(wanted.saturating_sub(self.buffer.len()).max(READ_LEAST / 2));
            // Keeps nothing between two polls.
            let read = pin!(self.from.read_buf(&mut self.buffer)).poll(context);
            if read.is_pending() && self.buffer.is_empty() {
                SPARE.set(mem::take(&mut self.buffer));
            }
            read
        });
        read.await.map_err(|source| IngestFault::Io { doing: "reading", source })
    }

    /// Takes a frame off the buffer, if one is whole.
    fn whole(&mut self) -> Result<Option<Frame>, IngestFault> {
        let header = match Header::decode(&self.buffer) {
            Ok(header) => header,
            Err(HeaderFault::Incomplete) => return Ok(None),
            Err(fault) => return Err(IngestFault::Framing(fault)),
        };
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > self.body_max {
            return Err(IngestFault::Oversize { bytes: header.length, limit: self.body_max });
        }
        let whole = HEADER_LEN.saturating_add(length);
        self.usual = whole.max(self.usual - self.usual / 8);
        if self.buffer.len() < whole {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(whole).freeze();
        let body = frame.split_off(HEADER_LEN);
        Ok(Some(Frame { header, body }))
    }
}

/// Writes one message of a stream, waiting no longer than `limit` for the peer to take it.
pub(super) async fn write_data(
    to: &mut (impl AsyncWrite + Unpin),
    stream_id: u32,
    body: &[u8],
    limit: Duration,
) -> Result<(), IngestFault> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let header = Header { length, stream_id, kind: Kind::Data, flags: 0 };
    let mut frame = Vec::with_capacity(HEADER_LEN.saturating_add(body.len()));
    frame.extend_from_slice(&header.encode());
    frame.extend_from_slice(body);
    write(to, &frame, limit).await
}

/// Writes bytes, waiting no longer than `limit` for the peer to take them.
pub(super) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    limit: Duration,
) -> Result<(), IngestFault> {
    match timeout(limit, to.write_all(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(IngestFault::Io { doing: "writing", source }),
        Err(_) => Err(IngestFault::WriteTimeout(limit)),
    }
}

#[cfg(test)]
mod tests;
