//! A captured stream, as it must be: what the container wrote is what containerd reads, each byte once and in order, and
//! the copy in the ring is those bytes, from the first that was neither acknowledged nor given up for room.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use crate::{
    block::{Block, CHUNK, Phase, STREAM_CHUNKS, Stream, StreamState, words::wide},
    sys::{epoll, fd},
    tee::ring::RingView,
};

/// So many unacknowledged bytes always have room; the move at hand and two part-filled chunks have the rest.
const ROOM: u64 = wide_const((STREAM_CHUNKS - 3) * CHUNK);
/// The same for all streams together: 64 chunks less what four streams may part-fill.
pub const ROOM_OF_ALL: u64 = wide_const(48 * CHUNK);

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
    /// More was unacknowledged at some time than the ring is sure to hold.
    overflowed: bool,
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
            overflowed: false,
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

    /// The collector has it up to there: part `part` of 255 of what it has not.
    pub fn acknowledge(&self, block: &'static Block, part: u8) {
        if let Some(stream) = self.entry(block) {
            let (acked, pos) = (stream.acked.load(Ordering::Acquire), stream.pos.load(Ordering::Acquire));
            let to = acked + (pos - acked) * u64::from(part) / 255;
            stream.acked.fetch_max(to.min(pos), Ordering::AcqRel);
        }
    }

    /// Between two rounds of the worker: are figures and ring what they must be? `crowded`: all streams together have more
    /// than is sure to find room.
    pub fn check(&mut self, block: &'static Block, crowded: bool) {
        self.overflowed |= crowded || self.unacked(block) > ROOM;
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
            start <= acked || self.overflowed,
            "{start} is the oldest byte there, {acked} the oldest wanted"
        );
        let ring = RingView::new(block);
        let mut at = start.max(acked);
        let mut last_time = 0;
        while at < pos {
            let got = ring.read(stream, at, 50_000).expect("all from start on is there");
            let from = usize::try_from(at).unwrap();
            assert!(!got.is_empty() && got == self.written[from..from + got.len()], "the copy at {at}");
            let times = RingView::times(stream, at, got.len());
            assert!(times.iter().all(|(_, time)| *time >= last_time), "time runs on: {times:?}");
            last_time = times.last().map_or(last_time, |(_, time)| *time);
            at += wide(got.len());
        }
    }
}
