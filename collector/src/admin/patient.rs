//! A connection whose other end must take what it asked for: one that takes nothing for too long is closed, and so is one that
//! takes an answer in crumbs.
//!
//! Without it a scraper that hangs keeps its place, and its copy of an exposition, for good. Answers are handed over whole:
//! one that is made while it is taken must not go this way, as its length in time is no fault of who reads it.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long it may take nothing; scrapers give up after 10 s by themselves.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take over what was written for it, from the first moment that it does not keep up. No scraper waits for as
/// long.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

/// A stream with that patience.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    /// Runs while the other end is behind with an answer.
    lags: Option<Pin<Box<Sleep>>>,
    /// Runs while the other end takes nothing.
    waits: Option<Pin<Box<Sleep>>>,
}

// === impl Patient ===

impl<S> Patient<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, lags: None, waits: None }
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>, taken: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let late = self.lags.as_mut().is_some_and(|lags| lags.as_mut().poll(cx).is_ready());
        if taken.is_ready() && !late {
            self.waits = None;
            return taken;
        }
        if !late {
            let lags = self.lags.get_or_insert_with(|| Box::pin(sleep(ANSWER_PATIENCE)));
            let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
            // Both are polled, so that either wakes.
            let (lags, waits) = (lags.as_mut().poll(cx), waits.as_mut().poll(cx));
            if lags.is_pending() && waits.is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wait(cx, taken)
    }

    /// With it an answer goes out as it lies in memory; without, each connection's HTTP would copy it first.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wait(cx, taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// HTTP flushes when all that it had of an answer is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let taken = Pin::new(&mut self.stream).poll_flush(cx);
        let taken = self.wait(cx, taken);
        if matches!(taken, Poll::Ready(Ok(()))) {
            self.lags = None;
        }
        taken
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_is_slow_is_not() {
        let (near, mut far) = duplex(4);
        let mut near = Patient::new(near);
        let slow = async {
            let mut byte = [0; 1];
            for _ in 0..40 {
                sleep(ANSWER_PATIENCE / 50).await;
                far.read_exact(&mut byte).await.expect("a byte");
            }
        };
        let (written, ()) = tokio::join!(near.write_all(&[7; 40]), slow);
        written.expect("somebody reads, if slowly");
        near.flush().await.expect("all is taken");
        let since = Instant::now();
        let error = near.write_all(&[7; 40]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), since.elapsed().as_secs()), (io::ErrorKind::TimedOut, PATIENCE.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_crumbs_has_a_while_for_each_answer() {
        let (near, mut far) = duplex(4);
        let mut near = Patient::new(near);
        let crumbs = async {
            let mut byte = [0; 1];
            while far.read_exact(&mut byte).await.is_ok() {
                sleep(PATIENCE / 2).await;
            }
        };
        let answers = async {
            // Two that take most of the time each, and one that takes too long.
            for _ in 0..2 {
                near.write_all(&[7; 7]).await.expect("a short one");
                near.flush().await.expect("all is taken");
            }
            let since = Instant::now();
            let error = near.write_all(&[7; 40]).await.expect_err("in crumbs");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(since.elapsed() < ANSWER_PATIENCE + PATIENCE, "{:?}", since.elapsed());
            drop(near);
        };
        tokio::join!(answers, crumbs);
    }

    #[tokio::test]
    async fn an_answer_is_written_from_where_it_lies() {
        let (near, _far) = tokio::net::UnixStream::pair().expect("a pair");
        assert!(near.is_write_vectored() && Patient::new(near).is_write_vectored());
    }
}
