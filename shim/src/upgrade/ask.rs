//! The asking side of `shimtap_proto::control`: one connection to one wrapper, every wait with an end.

use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use shimtap_proto::control::{Answer, Ask};
use thiserror::Error;

use crate::sys::{
    Errno, epoll, monotonic_ns,
    pair::{self, Received},
};

/// A hung worker is replaced within six seconds (docs/adr/0006); its successor answers.
const PATIENCE_NS: u64 = 10_000_000_000;
/// An answer is a few hundred bytes.
const ANSWER_MAX: usize = 4096;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum NoAnswer {
    #[error("connecting to it; is its keeper stopped, or its queue of connections full?")]
    Connect(#[source] Errno),
    #[error("it did not answer in time; is one of its processes stopped?")]
    Mute,
    #[error("it hung up; its release does not know this request, or its pod has just ended")]
    HungUp,
    #[error("talking to it")]
    Talk(#[source] Errno),
    #[error("its answer cannot be read; is it more than one release away?")]
    Answer(#[source] serde_json::Error),
}

/// A wrapper that can be asked.
pub struct Wrapper(OwnedFd);

// === impl NoAnswer ===

impl NoAnswer {
    /// Is nobody there to answer?
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Connect(Errno::ECONNREFUSED | Errno::ENOENT))
    }
}

// === impl Wrapper ===

impl Wrapper {
    /// Dials its socket. A full queue is a refusal, not a wait.
    pub fn connect(path: &Path) -> Result<Self, NoAnswer> {
        let dial = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
            connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
            Ok(socket)
        };
        dial().map(Self).map_err(NoAnswer::Connect)
    }

    /// Asks, and waits for the answer and what comes along with it.
    pub fn ask(
        &self,
        ask: Ask,
        image: Option<BorrowedFd<'_>>,
    ) -> Result<(Answer, Option<OwnedFd>), NoAnswer> {
        let (answer, along) = self.ask_within(ask, image.as_slice(), PATIENCE_NS)?;
        Ok((answer, along.into_iter().next()))
    }

    /// The same with any descriptors, and for so long.
    pub fn ask_within(
        &self,
        ask: Ask,
        with: &[BorrowedFd<'_>],
        patience_ns: u64,
    ) -> Result<(Answer, Vec<OwnedFd>), NoAnswer> {
        pair::send(self.0.as_fd(), &ask.encode(), with).map_err(NoAnswer::Talk)?;
        let deadline = monotonic_ns().saturating_add(patience_ns);
        let (mut line, mut along) = (Vec::new(), Vec::new());
        while !line.ends_with(b"\n") {
            match pair::receive_up_to(self.0.as_fd(), ANSWER_MAX).map_err(NoAnswer::Talk)? {
                Received::Message(bytes, fds) => {
                    line.extend(bytes);
                    if !fds.is_empty() {
                        along = fds;
                    }
                }
                Received::Closed => return Err(NoAnswer::HungUp),
                Received::Nothing if monotonic_ns() >= deadline => return Err(NoAnswer::Mute),
                Received::Nothing => {
                    epoll::readable_within(self.0.as_fd(), 100).map_err(NoAnswer::Talk)?;
                }
            }
        }
        // Asked again after a death, both may answer: the newest counts.
        let newest = line.split(|b| *b == b'\n').rfind(|l| !l.is_empty()).unwrap_or_default();
        serde_json::from_slice(newest).map(|answer| (answer, along)).map_err(NoAnswer::Answer)
    }
}

/// Do keeper and worker of this answer run the image that runs here? `None`: it cannot be seen.
pub fn runs_this_image(answer: &Answer) -> Option<bool> {
    let image = |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).ok().map(|m| (m.dev(), m.ino()));
    let own = image("self")?;
    let theirs = [answer.keeper_pid, answer.worker_pid].map(|pid| image(&pid.to_string()));
    let [keeper, worker] = theirs;
    Some(keeper? == own && worker? == own)
}
