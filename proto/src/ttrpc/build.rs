//! Whole frames of our own: calls on our own connections, and the one answer we may have to give ourselves.
//!
//! What is relayed is never built here (see [`rewrite`](super::rewrite)). Fields with their default value are
//! left out, as every protobuf encoder does, so that what we send is what containerd would have sent.

use super::header::{HEADER_LEN, Header, Kind};
use super::wire::{put_len, put_number};

/// A request frame. `timeout_nano` is the time the call may take, in nanoseconds; 0 = no limit.
///
/// The caller keeps the body below [`BODY_MAX`](super::BODY_MAX), or the peer refuses it.
#[must_use]
pub fn request_frame(
    stream_id: u32,
    service: &str,
    method: &str,
    payload: &[u8],
    timeout_nano: i64,
) -> Vec<u8> {
    // Tags, lengths and number take at most 32 bytes.
    let mut frame = start(service.len() + method.len() + payload.len() + 32);
    put_present(&mut frame, 1, service.as_bytes());
    put_present(&mut frame, 2, method.as_bytes());
    put_present(&mut frame, 3, payload);
    if timeout_nano != 0 {
        put_number(&mut frame, 4, timeout_nano.cast_unsigned());
    }
    finish(frame, stream_id, Kind::Request)
}

/// A response frame that carries a `google.rpc.Status` and nothing else. `code` is a
/// [`Code`](super::Code), `message` what a person reads.
#[must_use]
pub fn status_frame(stream_id: u32, code: u32, message: &str) -> Vec<u8> {
    let mut status = Vec::with_capacity(message.len() + 16);
    if code != 0 {
        put_number(&mut status, 1, u64::from(code));
    }
    put_present(&mut status, 2, message.as_bytes());
    let mut frame = start(status.len() + 8);
    put_len(&mut frame, 1, &status);
    finish(frame, stream_id, Kind::Response)
}

/// Appends a length-delimited field unless it is empty.
pub(super) fn put_present(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        put_len(out, field, value);
    }
}

/// Room for a header, to be filled in by [`finish`].
fn start(body_capacity: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + body_capacity);
    frame.extend_from_slice(&[0; HEADER_LEN]);
    frame
}

fn finish(mut frame: Vec<u8>, stream_id: u32, kind: Kind) -> Vec<u8> {
    let length = u32::try_from(frame.len().saturating_sub(HEADER_LEN)).unwrap_or(u32::MAX);
    let header = Header { length, stream_id, kind, flags: 0 }.encode();
    if let Some(room) = frame.first_chunk_mut::<HEADER_LEN>() {
        *room = header;
    }
    frame
}
