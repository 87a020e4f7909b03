//! The body of an answer: a text that is there, or one that is still being written by another thread.
//!
//! Where that thread goes away before it has said that this was all, the connection is cut: half an answer must never look whole.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// What is answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// All of it.
    Whole(Option<Bytes>),
    /// Pieces as they come, up to [`Piece::End`]. Whoever sends waits for the client.
    Pieces(mpsc::Receiver<Piece>),
}

/// A piece of an answer.
#[derive(Debug)]
pub(super) enum Piece {
    /// So much of it.
    Some(Bytes),
    /// That was all.
    End,
}

/// Whoever wrote the answer is gone, and it is not all there.
#[derive(Debug, thiserror::Error)]
#[error("the thread that wrote the answer ended in the middle of it")]
pub(super) struct BrokenOff;

impl From<Bytes> for Answer {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => {
                let piece = match pieces.poll_recv(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Piece::Some(bytes))) => Some(Ok(Frame::data(bytes))),
                    Poll::Ready(Some(Piece::End)) => {
                        *self = Self::Whole(None);
                        None
                    }
                    Poll::Ready(None) => Some(Err(BrokenOff)),
                };
                if piece.is_none() {
                    // hyper from 1.10 on looks for the next piece twice in a turn, and where the second look finds the end of an answer
                    // that ends with its connection (HTTP/1.0) it takes no notice before its next turn, which nothing else need bring
                    // about (seen with 1.12.0; of its kin is hyperium/hyper#4143).
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(piece)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::{Wake, Waker},
    };

    use super::*;

    #[derive(Default)]
    struct Turns(AtomicU32);

    impl Wake for Turns {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_end_of_pieces_asks_for_another_turn() {
        let turns = Arc::new(Turns::default());
        let waker = Waker::from(Arc::clone(&turns));
        let mut cx = Context::from_waker(&waker);
        let (sender, pieces) = mpsc::channel(2);
        let mut answer = Answer::Pieces(pieces);
        sender.try_send(Piece::Some(Bytes::from_static(b"piece"))).expect("there is room");
        assert!(matches!(Pin::new(&mut answer).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
        assert_eq!(turns.0.load(Ordering::Relaxed), 0);
        sender.try_send(Piece::End).expect("there is room");
        assert!(matches!(Pin::new(&mut answer).poll_frame(&mut cx), Poll::Ready(None)));
        assert_eq!(turns.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn pieces_that_nobody_ended_are_no_whole_answer() {
        let mut cx = Context::from_waker(Waker::noop());
        let (sender, pieces) = mpsc::channel(1);
        let mut answer = Answer::Pieces(pieces);
        sender.try_send(Piece::Some(Bytes::from_static(b"piece"))).expect("there is room");
        drop(sender);
        assert!(matches!(Pin::new(&mut answer).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(Pin::new(&mut answer).poll_frame(&mut cx), Poll::Ready(Some(Err(BrokenOff)))));
    }
}
