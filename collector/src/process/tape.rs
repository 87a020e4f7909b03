//! A stream as a tape of raw offsets: what was taken, what comes again, what is missing.
//!
//! The records that leave a tape tile it from 0 without overlap. Bytes that were taken before are dropped
//! silently, an offset beyond the expected one is a hole that we count ourselves, and a `Gap` is a claim of which
//! only the part beyond the tiled prefix counts. What cannot be true is a [`TapeFault`]; then nothing was changed.

use bytes::Bytes;

use super::{
    Clock,
    lines::{Splitter, Times, len64},
};
use crate::event::{Body, Flags, HoleReason, Record};

/// The state of one stream.
#[derive(Debug, Default)]
pub struct Tape {
    /// Raw offset behind the last byte taken.
    next: u64,
    /// Where the stream ends, once that is known.
    end: Option<u64>,
    splitter: Splitter,
    /// Some collector has acknowledged everything below this, one before us perhaps.
    acknowledged: u64,
    /// Why bytes are missing where nobody says so; `None` = nobody knows.
    loss: Option<HoleReason>,
}

/// What a stream's last record says of its next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edge {
    /// A line begins.
    #[default]
    Line,
    /// A line goes on that began at this raw offset.
    Within(u64),
    /// A hole was the last: where the line began is not known.
    Cut,
}

/// No stream is longer: at 10 GB/s it takes fourteen years to get there, and sums of a few of them fit 64 bits.
const OFFSET_MAX: u64 = 1 << 62;

/// What a call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// New bytes.
    pub bytes: u64,
    /// Bytes that had been taken before.
    pub repeated: u64,
}

/// The wrapper said something about a stream that cannot be true. Its fault; nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapeFault {
    /// The range ends before it begins, or behind any offset that a stream reaches.
    #[error("taking bytes of a stream: the wrapper sent the range from {from} to {to}")]
    Range {
        /// Start of the range.
        from: u64,
        /// Its end.
        to: u64,
    },
    /// Bytes behind the end that an earlier message gave.
    #[error("taking bytes of a stream: the wrapper went on to {to} after it closed the stream at {end}")]
    BehindEnd {
        /// Where the new bytes end.
        to: u64,
        /// Where the stream ends.
        end: u64,
    },
    /// A close below what was already taken, or unlike an earlier close.
    #[error("closing a stream: the wrapper gave {end} as its end, but {taken} bytes were taken")]
    EndMoved {
        /// The end it gave.
        end: u64,
        /// What was taken, or the end given before.
        taken: u64,
    },
}

// === impl Tape ===

impl Tape {
    /// A stream of which everything below `next` was taken.
    #[must_use]
    pub fn resumed(next: u64, edge: Edge, end: Option<u64>) -> Self {
        let given = match edge {
            Edge::Within(from) => usize::try_from(next.saturating_sub(from)).unwrap_or(usize::MAX),
            Edge::Line | Edge::Cut => 0,
        };
        Self { next, end, splitter: Splitter::resumed(next, given, edge == Edge::Cut), ..Self::default() }
    }

    /// Raw offset of the next byte that is wanted.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Where the stream ends, once it was closed.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// A collector has acknowledged everything below `offset`: what of that turns out to be missing it had, and we do not.
    pub fn acknowledged(&mut self, offset: u64) {
        self.acknowledged = self.acknowledged.max(offset);
    }

    /// What turns out to be missing from here on is missing for this reason.
    pub fn expect_loss(&mut self, reason: HoleReason) {
        self.loss = Some(reason);
    }

    /// Lines that we keep in one piece are not given in several from here on, or may be, but for [`Tape::fragment`].
    pub fn keep_whole(&mut self, whole: bool) {
        self.splitter.keep_whole(whole);
    }

    /// Bytes of the unfinished line, in memory only.
    #[must_use]
    pub fn held(&self) -> usize {
        self.splitter.held()
    }

    /// Takes bytes that begin at raw `offset`.
    pub fn data(
        &mut self,
        offset: u64,
        mut bytes: Bytes,
        times: Times<'_>,
        clock: &Clock,
        out: &mut Vec<Record>,
    ) -> Result<Taken, TapeFault> {
        let to = self.check(offset, offset.checked_add(len64(&bytes)))?;
        let next = self.next;
        let repeated = next.min(to).saturating_sub(offset);
        if to > next {
            self.hole(next, offset, self.missing(), times.otherwise, clock, out);
            // Fits: it is at most the length of `bytes`.
            let skip = usize::try_from(repeated).unwrap_or(bytes.len()).min(bytes.len());
            let fresh = bytes.split_off(skip);
            self.splitter.push(offset.saturating_add(repeated), fresh, times, clock, out);
            self.next = to;
        }
        Ok(Taken { bytes: to.saturating_sub(offset).saturating_sub(repeated), repeated })
    }

    /// Takes the wrapper's claim that it does not have `[from, to)`. `now_ns` is the time of the record.
    pub fn gap(
        &mut self,
        from: u64,
        to: u64,
        reason: HoleReason,
        now_ns: u64,
        clock: &Clock,
        out: &mut Vec<Record>,
    ) -> Result<(), TapeFault> {
        let to = self.check(from, Some(to))?;
        let next = self.next;
        self.hole(next, from, self.missing(), now_ns, clock, out);
        // The wrapper only knows that a file had it; we may know what became of that.
        let reason = if reason == HoleReason::SpoolLost { self.loss.unwrap_or(reason) } else { reason };
        self.hole(next.max(from), to, reason, now_ns, clock, out);
        self.next = next.max(from).max(to);
        Ok(())
    }

    /// The stream ends at `end`; a line without its newline is delivered now.
    pub fn close(
        &mut self,
        end: u64,
        now_ns: u64,
        clock: &Clock,
        out: &mut Vec<Record>,
    ) -> Result<(), TapeFault> {
        let next = self.next;
        let known = self.end.unwrap_or(end);
        if end < next || known != end || end > OFFSET_MAX {
            return Err(TapeFault::EndMoved { end, taken: next.max(known) });
        }
        self.hole(next, end, self.missing(), now_ns, clock, out);
        self.splitter.flush(Flags::UNTERMINATED, clock, out);
        self.next = end;
        self.end = Some(end);
        Ok(())
    }

    /// Gives what is there of the unfinished line as a piece of it: it must not be held any longer.
    pub fn fragment(&mut self, clock: &Clock, out: &mut Vec<Record>) {
        self.splitter.fragment(clock, out);
    }

    /// Nobody will send the rest: the unfinished line is delivered as what is left of it.
    pub fn abandon(&mut self, clock: &Clock, out: &mut Vec<Record>) {
        if self.splitter.is_within_line() {
            self.splitter.flush(Flags::CUT, clock, out);
            self.splitter.cut();
        }
    }

    /// The end of a range, if it can be true.
    fn check(&self, from: u64, to: Option<u64>) -> Result<u64, TapeFault> {
        let to = to
            .filter(|to| *to >= from && *to <= OFFSET_MAX)
            .ok_or(TapeFault::Range { from, to: to.unwrap_or(u64::MAX) })?;
        match self.end {
            Some(end) if to > end => Err(TapeFault::BehindEnd { to, end }),
            _ => Ok(to),
        }
    }

    fn missing(&self) -> HoleReason {
        self.loss.unwrap_or(HoleReason::Missing)
    }

    /// Records that `[from, to)` is missing, where that is not empty.
    fn hole(
        &mut self,
        from: u64,
        to: u64,
        reason: HoleReason,
        now_ns: u64,
        clock: &Clock,
        out: &mut Vec<Record>,
    ) {
        if to <= from {
            return;
        }
        self.splitter.flush(Flags::CUT, clock, out);
        let mut push = |from: u64, to: u64, reason: HoleReason| {
            if to > from {
                let time_ns = clock.stamp(now_ns);
                out.push(Record { from, to, time_ns, flags: Flags::NONE, body: Body::hole(reason) });
            }
        };
        let had = self.acknowledged.clamp(from, to);
        push(from, had, HoleReason::JournalLost);
        push(had, to, reason);
        if to > had {
            // What was expected to show has shown.
            self.loss = self.loss.filter(|loss| *loss != reason);
        }
        self.splitter.cut();
    }
}
