//! A request's body in pieces, as they were encoded: one piece of several megabytes would be copied together, and glibc, once it has
//! given such a piece back, keeps as much of every heap for good.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};

/// Pieces that are smaller go together: a write(2) takes only so many.
const SMALL: usize = 8 << 10;
/// What goes together is no larger than this.
const TOGETHER: usize = 32 << 10;

/// The bytes of a body, what was sent of this copy left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    pieces: Arc<[Bytes]>,
    next: usize,
    left: usize,
}

/// A body in the making.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pieces: Vec<Bytes>,
    small: Vec<u8>,
}

// === impl Builder ===

impl Builder {
    /// Appends bytes.
    pub(super) fn put(&mut self, bytes: Vec<u8>) {
        let is_small = bytes.len() < SMALL;
        if !is_small || self.small.len().saturating_add(bytes.len()) > TOGETHER {
            self.close();
        }
        if is_small {
            self.small.extend_from_slice(&bytes);
        } else {
            self.pieces.push(bytes.into());
        }
    }

    /// The whole.
    pub(super) fn body(mut self) -> Body {
        self.close();
        self.pieces.into()
    }

    fn close(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(std::mem::take(&mut self.small).into());
        }
    }
}

// === impl Body ===

impl Body {
    /// Bytes that are not sent.
    pub(super) fn len(&self) -> usize {
        self.left
    }

    /// What is not sent.
    pub(super) fn pieces(&self) -> &[Bytes] {
        self.pieces.get(self.next..).unwrap_or_default()
    }
}

impl From<Vec<Bytes>> for Body {
    fn from(pieces: Vec<Bytes>) -> Self {
        let left = pieces.iter().map(Buf::remaining).sum();
        Self { pieces: pieces.into(), next: 0, left }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces().first().cloned();
        if let Some(piece) = &piece {
            self.next = self.next.saturating_add(1);
            self.left = self.left.saturating_sub(piece.len());
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    // Exact, so that the request says how long it is.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_is_what_was_put_in_and_every_copy_is_sent_whole() {
        let sizes =
            [0, 1, SMALL - 1, SMALL, 5, TOGETHER - 2, 2, SMALL - 1, SMALL - 1, SMALL - 1, SMALL - 1, 7];
        let parts: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(n, size)| vec![u8::try_from(n).expect("few"); *size]).collect();
        let mut builder = Builder::default();
        parts.iter().for_each(|part| builder.put(part.clone()));
        let body = builder.body();
        let whole = parts.concat();
        assert!(body.pieces().len() < sizes.len(), "small ones go together");
        for _ in 0..2 {
            let copy = body.clone();
            assert_eq!(hyper::body::Body::size_hint(&copy).exact(), Some(whole.len() as u64));
            assert_eq!(copy.collect().await.expect("cannot fail").to_bytes(), whole);
        }
        let empty = Builder::default().body();
        assert!(empty.pieces().is_empty() && hyper::body::Body::is_end_stream(&empty));
    }
}
