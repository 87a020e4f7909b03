//! A captured stream, as it must be: what the container wrote is what containerd reads, each byte once and in order, and
//! the copy in the ring is those bytes, from the first that was neither acknowledged nor given up for room. What the collector is told
//! that is missing must not have had room, and must not be there.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use super::collector::Copied;
use crate::{
    block::{Block, CHUNK, CHUNKS, Phase, STREAM_CHUNKS, Stream, StreamState, words::wide},
    sys::{epoll, fd},
    tee::ring::RingView,
};

/// So many unacknowledged bytes always have room; the move at hand and two part-filled chunks have the rest.
const ROOM: u64 = wide_const((STREAM_CHUNKS - 3) * CHUNK);

/// The same for all of so many streams together, each of which may part-fill four chunks.
pub fn room_of(streams: usize) -> u64 {
    wide(CHUNKS.saturating_sub(4 * streams) * CHUNK)
}

/// Is what its ring has left to the collector, and what comes meanwhile passed on without a copy (docs/adr/0027)?
pub fn is_left(stream: &Stream) -> bool {
    let (acked, pos) = (stream.acked.load(Ordering::Acquire), stream.pos.load(Ordering::Acquire));
    pos > 0 && RingView::ends_before(stream, pos - 1) && !RingView::ends_before(stream, acked)
}

#[expect(clippy::as_conversions, reason = "a constant below 2^32")]
const fn wide_const(n: usize) -> u64 {
    n as u64
}

/// One stream of one container.
pub struct Output {
    pub outer: PathBuf,
    /// containerd's end.
    reader: File,
    /// The container's end, while it has one.
    writer: Option<File>,
    pub written: Vec<u8>,
    pub delivered: usize,
    /// The container has closed it, or never opened it and never will.
    pub closed: bool,
    /// What the collector has of it.
    pub copy: Copied,
    /// Ranges of which some may be missing: more was unacknowledged then than the ring is sure to hold, or was passed on behind a
    /// ring that was left to the collector for that.
    spared: Vec<(u64, u64)>,
    overflows: bool,
    /// What was acknowledged when it was last looked at.
    acked: u64,
    salt: u8,
}

// === impl Output ===

impl Output {
    /// containerd makes the FIFO and begins to read.
    pub fn new(outer: PathBuf, salt: u8) -> Self {
        nix::unistd::mkfifo(&outer, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&outer).unwrap();
        Self {
            outer,
            reader,
            writer: None,
            written: Vec::new(),
            delivered: 0,
            closed: false,
            copy: Copied::default(),
            spared: Vec::new(),
            overflows: false,
            acked: 0,
            salt,
        }
    }

    /// The inner shim opens what Create names.
    pub fn open(&mut self, inner: &Path) {
        assert_ne!(inner, self.outer, "a stream was not captured");
        let writer = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(inner);
        self.writer = Some(writer.expect("a reader is there before Create leaves"));
    }

    /// The container writes; what does not fit now it does not write.
    pub fn write(&mut self, len: usize) {
        let Some(writer) = &mut self.writer else { return };
        let from = self.written.len();
        let byte = |n: usize| u8::try_from((n * 7 + n / 251 + usize::from(self.salt) * 31) % 251).unwrap();
        let bytes: Vec<u8> = (from..from + len).map(byte).collect();
        match writer.write(&bytes) {
            Ok(n) => self.written.extend(&bytes[..n]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock, "the container's end broke: {e}"),
        }
    }

    /// The container ends.
    pub fn close(&mut self) {
        self.writer = None;
        self.closed = true;
    }

    /// containerd reads; how much.
    pub fn read(&mut self, most: usize) -> usize {
        let mut bytes = vec![0; most];
        let n = match self.reader.read(&mut bytes) {
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
            Err(e) => panic!("containerd's end broke: {e}"),
        };
        let want = self.written.get(self.delivered..self.delivered + n);
        assert!(
            want == Some(&bytes[..n]),
            "at {}: {n} bytes that are not the container's next",
            self.delivered
        );
        self.delivered += n;
        n
    }

    pub fn is_delivered(&self) -> bool {
        self.delivered == self.written.len()
    }

    /// containerd sees the end.
    pub fn has_ended(&self) -> bool {
        epoll::has_hung_up(self.reader.as_fd()) && fd::unread(self.reader.as_fd()) == Ok(0)
    }

    /// The entry that is this stream's.
    pub fn entry(&self, block: &'static Block) -> Option<&'static Stream> {
        let path = self.outer.to_str().unwrap();
        let ours = |s: &&Stream| StreamState::load(&s.state) != StreamState::Free && s.outer_path.is(path);
        block.tables().streams().iter().find(ours)
    }

    /// Bytes for which no acknowledgement came.
    pub fn unacked(&self, block: &'static Block) -> u64 {
        let Some(stream) = self.entry(block) else { return 0 };
        let acked = stream.acked.load(Ordering::Relaxed);
        wide(self.written.len()).saturating_sub(acked)
    }

    /// The collector was told these bytes, from where it was on.
    pub fn is_told(&self, bytes: &[u8]) {
        let from = usize::try_from(self.copy.have).unwrap();
        assert!(self.written.get(from..from + bytes.len()) == Some(bytes), "its copy at {from}");
    }

    /// The collector was told that these are missing.
    pub fn is_missing(&self, block: &'static Block, from: u64, to: u64) {
        assert!(from < to && to <= wide(self.written.len()), "{from} to {to} of {}", self.written.len());
        assert!(self.may_miss(from, to), "{from} to {to} had room, {:?} had not", self.spared);
        let stream = self.entry(block).expect("it is spoken of");
        let start = stream.start.load(Ordering::Acquire);
        for at in [from, start, to - 1].into_iter().filter(|at| (from..to).contains(at)) {
            assert!(
                RingView::new(block).read(stream, at, 1).is_none(),
                "{at} is there, and said to be missing"
            );
        }
    }

    fn may_miss(&self, from: u64, to: u64) -> bool {
        self.spared.iter().any(|(begin, end)| *begin <= from && to <= *end)
    }

    /// The collector has all of it, and its end where it has one. Of a refused Create nothing is left to be taken.
    pub fn is_taken(&self, block: &'static Block) -> bool {
        let Some(stream) = self.entry(block) else { return true };
        let ended = StreamState::load(&stream.state) == StreamState::Ended;
        self.copy.have == stream.pos.load(Ordering::Acquire) && (self.copy.closed || !ended)
    }

    /// Before and after each thing that happens: what may be missing by now? `crowded`: all streams together have more than is
    /// sure to find room; `attached`: there was a collector at some time.
    pub fn account(&mut self, block: &'static Block, crowded: bool, attached: bool) {
        let Some(stream) = self.entry(block) else { return };
        let (acked, pos) = (stream.acked.load(Ordering::Acquire), stream.pos.load(Ordering::Acquire));
        let left = is_left(stream);
        // What is on its way without a copy was decided so when there was no room, however long containerd takes nothing and the
        // collector takes all.
        let teed = stream.teed.load(Ordering::Acquire);
        let leaves = Phase::load(&stream.phase) == Phase::Pass && teed == 0;
        let overflows = crowded || self.unacked(block) > ROOM || (self.overflows && (left || leaves));
        assert!(!left || (overflows && attached), "its ring was left at {pos} without being full");
        if overflows || self.overflows {
            // What is on its way goes without a copy where it was decided so, however long containerd takes nothing.
            let decided = matches!(Phase::load(&stream.phase), Phase::Drain | Phase::Pass);
            let to = pos + if decided { u64::from(stream.filled.load(Ordering::Acquire)) } else { 0 };
            match self.spared.last_mut().filter(|(_, end)| *end >= self.acked) {
                Some((_, end)) => *end = to.max(*end),
                None => self.spared.push((self.acked, to)),
            }
        }
        (self.overflows, self.acked) = (overflows, acked);
    }

    /// Between two rounds of the worker: are figures and ring what they must be? `thorough`: all of the ring, else its ends.
    pub fn check(&self, block: &'static Block, thorough: bool) {
        assert!(self.closed || !epoll::has_hung_up(self.reader.as_fd()), "ended before its time");
        let Some(stream) = self.entry(block) else { return };
        let word = |w: &crate::sys::atomic::AtomicU64| w.load(Ordering::Acquire);
        let (pos, start, acked) = (word(&stream.pos), word(&stream.start), word(&stream.acked));
        let passed = wide(self.delivered + fd::unread(self.reader.as_fd()).unwrap());
        assert!(acked <= pos && start <= pos, "acked {acked}, start {start}, pos {pos}");
        assert!(pos <= passed, "said to be passed on {pos}, passed on {passed}");
        if Phase::load(&stream.phase) == Phase::Fill {
            assert_eq!(pos, passed, "all that was moved was passed on");
        }
        assert!(
            start <= acked || self.may_miss(acked, start),
            "{start} is the oldest byte there, {acked} the oldest wanted, {:?} may be missing",
            self.spared
        );
        assert!(acked <= self.copy.have, "more is acknowledged than was taken");
        let ring = RingView::new(block);
        let mut at = start.max(acked);
        let mut last_time = 0;
        while at < pos {
            if RingView::ends_before(stream, at) {
                assert!(self.may_miss(at, pos), "{at} to {pos} have no copy, {:?} may", self.spared);
                return;
            }
            let got = ring.read(stream, at, 50_000).expect("all from start on is there");
            let from = usize::try_from(at).unwrap();
            assert!(!got.is_empty() && got == self.written[from..from + got.len()], "the copy at {at}");
            let times = RingView::times(stream, at, got.len());
            assert!(times.iter().all(|(_, time)| *time >= last_time), "time runs on: {times:?}");
            last_time = times.last().map_or(last_time, |(_, time)| *time);
            at += wide(got.len());
            if !thorough {
                at = at.max(pos.saturating_sub(wide(CHUNK)));
            }
        }
    }
}
