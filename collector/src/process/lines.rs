//! Lines from bytes. Any way of cutting a stream into chunks gives the same records, once fragments are joined
//! (`join.rs`).
//!
//! A line ends with LF; a CR directly before it belongs to the end. A line of up to [`LINE_MAX`] raw bytes, its
//! end included, stays in one piece; a longer one is split there and every piece but the last is flagged. Bytes
//! are never decoded or repaired here.

use bytes::Bytes;

use super::Clock;
use crate::event::{Body, Flags, Record};

/// Most raw bytes of one record, the line's end included. Half of the link's window: a wrapper sends no more than a
/// window ahead of acknowledgements, and one line must not take up more of it.
pub const LINE_MAX: usize = 256 << 10;

/// Most bytes of an unfinished line that wait in memory: they are not durable, so not acknowledged. A line that is to stay whole
/// waits until it is as long as we keep in one piece ([`LINE_MAX`]).
pub const FRAGMENT_MAX: usize = 64 << 10;

/// When the bytes of one message were read: `(raw offset, Unix ns)`, ascending, the first at or below its start.
#[derive(Clone, Copy, Debug)]
pub struct Times<'a> {
    /// `offsets[i]` is where `ns[i]` begins to hold.
    pub offsets: &'a [u64],
    /// Unix nanoseconds.
    pub ns: &'a [u64],
    /// Used where the message says nothing.
    pub otherwise: u64,
}

/// The unfinished line of a stream.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    held: Vec<u8>,
    /// Raw offset of the first byte that is held.
    from: u64,
    /// Bytes of the unfinished line that have left as fragments.
    given: usize,
    /// When its first byte was read.
    read_ns: u64,
    /// The next record begins behind a hole, in the middle of a line as far as we know.
    cut_head: bool,
    /// What is to be found in a line would not be found in pieces of it.
    whole: bool,
}

// === impl Times ===

impl Times<'_> {
    /// When the byte at `offset` was read.
    fn at(&self, offset: u64) -> u64 {
        let behind = self.offsets.partition_point(|from| *from <= offset);
        let ns = behind.checked_sub(1).or(Some(0)).and_then(|i| self.ns.get(i)).copied();
        ns.filter(|ns| *ns != 0).unwrap_or(self.otherwise)
    }
}

// === impl Splitter ===

impl Splitter {
    /// Bytes of the unfinished line.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// True where a line was begun and not finished, be it held or given away.
    pub(super) fn is_within_line(&self) -> bool {
        !self.held.is_empty() || self.given > 0
    }

    /// Lines up to [`LINE_MAX`] leave in one piece from here on, or may do so in several.
    pub(super) fn keep_whole(&mut self, whole: bool) {
        self.whole = whole;
    }

    /// Goes on behind `from`, in the middle of a line of which `given` bytes have left, or behind a hole.
    pub(super) fn resumed(from: u64, given: usize, cut_head: bool) -> Self {
        Self { from, given, cut_head, ..Self::default() }
    }

    /// Takes `bytes`, the next ones of the stream, which begin at raw `offset`.
    pub(super) fn push(
        &mut self,
        mut offset: u64,
        mut bytes: Bytes,
        times: Times<'_>,
        clock: &Clock,
        out: &mut Vec<Record>,
    ) {
        while !bytes.is_empty() {
            if self.held.is_empty() {
                self.from = offset;
                self.read_ns = times.at(offset);
            }
            let line = self.given.saturating_add(self.held.len());
            let room = LINE_MAX.saturating_sub(line).min(bytes.len());
            let newline = memchr::memchr(b'\n', bytes.get(..room).unwrap_or_default());
            let taken = bytes.split_to(newline.map_or(room, |at| at.saturating_add(1)));
            offset = offset.saturating_add(len64(&taken));
            if newline.is_some() {
                self.finish(taken, offset, clock, out);
            } else {
                self.held.extend_from_slice(&taken);
                if line.saturating_add(taken.len()) >= LINE_MAX {
                    self.split(Flags::PARTIAL, clock, out);
                } else if !self.whole && self.held.len() >= FRAGMENT_MAX {
                    self.split(Flags::FRAGMENT, clock, out);
                }
            }
        }
    }

    /// Delivers the unfinished line, if there is one, with `flag`.
    pub(super) fn flush(&mut self, flag: Flags, clock: &Clock, out: &mut Vec<Record>) {
        if !self.held.is_empty() {
            let message = std::mem::take(&mut self.held);
            let to = self.from.saturating_add(len64(&message));
            self.emit(Bytes::from(message), to, flag, clock, out);
        }
        self.given = 0;
    }

    /// Gives what is there of the unfinished line as a piece of it.
    pub(super) fn fragment(&mut self, clock: &Clock, out: &mut Vec<Record>) {
        // A CR alone may be part of the line's end.
        if self.held.as_slice() != b"\r" && !self.held.is_empty() {
            self.split(Flags::FRAGMENT, clock, out);
        }
    }

    /// What comes next stands behind a hole.
    pub(super) fn cut(&mut self) {
        self.cut_head = true;
    }

    /// A newline came: `tail` is the line's last bytes with it, `to` the raw offset behind it.
    fn finish(&mut self, tail: Bytes, to: u64, clock: &Clock, out: &mut Vec<Record>) {
        let mut line = if self.held.is_empty() {
            tail
        } else {
            let mut line = std::mem::take(&mut self.held);
            line.extend_from_slice(&tail);
            Bytes::from(line)
        };
        let message = line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")).unwrap_or(&line).len();
        line.truncate(message);
        self.given = 0;
        self.emit(line, to, Flags::NONE, clock, out);
    }

    /// The unfinished line is as long as we keep in one piece. A CR at its end stays: a LF may follow, and then it is no
    /// text.
    fn split(&mut self, flag: Flags, clock: &Clock, out: &mut Vec<Record>) {
        let mut piece = std::mem::take(&mut self.held);
        if piece.last() == Some(&b'\r') {
            piece.pop();
            self.held.push(b'\r');
        }
        let to = self.from.saturating_add(len64(&piece));
        self.given = if flag == Flags::FRAGMENT { self.given.saturating_add(piece.len()) } else { 0 };
        self.emit(Bytes::from(piece), to, flag, clock, out);
        self.from = to;
    }

    fn emit(&mut self, message: Bytes, to: u64, flags: Flags, clock: &Clock, out: &mut Vec<Record>) {
        let flags = if std::mem::take(&mut self.cut_head) { flags.with(Flags::CUT_HEAD) } else { flags };
        let time_ns = clock.stamp(self.read_ns);
        out.push(Record { from: self.from, to, time_ns, flags, body: Body::Line(message) });
    }
}

/// A length as an offset.
pub(super) fn len64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
