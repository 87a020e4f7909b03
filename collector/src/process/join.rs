//! Lines from fragments: what the splitter gave away unfinished becomes one record again.
//!
//! A line that was cut by time or size alone comes out as if it had never been. Memory is bounded: where unfinished
//! lines together are more than [`HELD_MAX`], a line leaves in pieces, each but the last flagged as partial. Nothing is
//! ever dropped here.

use std::collections::HashMap;

use bytes::Bytes;

use crate::event::{Body, Ending, Flags, Record};

/// Most bytes of unfinished lines. A line is 256 KiB at most, so it takes sixteen such lines at a time to get there.
const HELD_MAX: usize = 4 << 20;

/// Unfinished lines of many streams.
#[derive(Debug, Default)]
pub struct Joiner {
    pending: HashMap<u32, Pending>,
    bytes: usize,
}

/// What a batch became.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Its records, and those that were waiting for it.
    pub records: Vec<Record>,
    /// A part of the batch stays here until its line is finished.
    pub waits: bool,
    /// Batches (by the number that was given with them) of which nothing stays here any more.
    pub finished: Vec<u64>,
}

#[derive(Debug)]
struct Pending {
    from: u64,
    to: u64,
    time_ns: u64,
    flags: Flags,
    bytes: Vec<u8>,
    batches: Vec<u64>,
}

// === impl Joiner ===

impl Joiner {
    /// Takes batch number `batch` of `stream`, the next one of it.
    pub fn take(&mut self, stream: u32, batch: u64, records: Vec<Record>, ending: Option<Ending>) -> Joined {
        let is_fragment = |record: &Record| record.flags.has(Flags::FRAGMENT);
        if !self.pending.contains_key(&stream) && !records.iter().any(is_fragment) {
            return Joined { records, ..Joined::default() };
        }
        let mut joined = Joined::default();
        for record in records {
            let waiting = self.remove(stream);
            match record.body {
                Body::Line(bytes) if waiting.as_ref().is_none_or(|waiting| waiting.to == record.from) => {
                    let piece = Record { body: Body::Line(bytes), ..record };
                    self.line(stream, batch, waiting, piece, &mut joined);
                }
                _ => {
                    if let Some(waiting) = waiting {
                        waiting.leave(Flags::CUT, &mut joined);
                    }
                    joined.records.push(record);
                }
            }
        }
        if let Some(ending) = ending
            && let Some(waiting) = self.remove(stream)
        {
            waiting.leave(if ending.is_orderly() { Flags::UNTERMINATED } else { Flags::CUT }, &mut joined);
        }
        joined.waits = self.pending.get(&stream).is_some_and(|waiting| waiting.batches.contains(&batch));
        joined.finished.retain(|finished| *finished != batch);
        joined.finished.dedup();
        joined
    }

    /// Is a line of `stream` unfinished here?
    pub fn has(&self, stream: u32) -> bool {
        self.pending.contains_key(&stream)
    }

    /// A line, or a piece of one, that goes on where `waiting` stopped.
    fn line(
        &mut self,
        stream: u32,
        batch: u64,
        waiting: Option<Pending>,
        piece: Record,
        joined: &mut Joined,
    ) {
        let Body::Line(bytes) = &piece.body else { return };
        let unfinished = piece.flags.has(Flags::FRAGMENT);
        let Some(mut line) = waiting.or_else(|| unfinished.then(|| Pending::new(&piece))) else {
            joined.records.push(piece);
            return;
        };
        line.bytes.extend_from_slice(bytes);
        line.to = piece.to;
        let flags = piece.flags.without(Flags::FRAGMENT);
        if !unfinished {
            line.leave(flags, joined);
        } else if self.bytes.saturating_add(line.bytes.len()) > HELD_MAX {
            line.leave(flags.with(Flags::PARTIAL), joined);
        } else {
            if line.batches.last() != Some(&batch) {
                line.batches.push(batch);
            }
            self.bytes = self.bytes.saturating_add(line.bytes.len());
            self.pending.insert(stream, line);
        }
    }

    fn remove(&mut self, stream: u32) -> Option<Pending> {
        let pending = self.pending.remove(&stream)?;
        self.bytes = self.bytes.saturating_sub(pending.bytes.len());
        Some(pending)
    }
}

// === impl Pending ===

impl Pending {
    /// Begins with the line's first piece, whose bytes are still to be added.
    fn new(piece: &Record) -> Self {
        let (from, to, time_ns) = (piece.from, piece.to, piece.time_ns);
        let flags = piece.flags.without(Flags::FRAGMENT);
        Self { from, to, time_ns, flags, bytes: Vec::new(), batches: Vec::new() }
    }

    fn leave(mut self, flags: Flags, joined: &mut Joined) {
        joined.records.push(Record {
            from: self.from,
            to: self.to,
            time_ns: self.time_ns,
            flags: self.flags.with(flags),
            body: Body::Line(Bytes::from(self.bytes)),
        });
        joined.finished.append(&mut self.batches);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::HoleReason;

    fn piece(from: u64, text: &str, end: u64, flags: Flags) -> Record {
        let to = from + text.len() as u64 + end;
        Record { from, to, time_ns: from + 1, flags, body: Body::Line(Bytes::from(text.to_owned())) }
    }

    fn texts(joined: &Joined) -> Vec<(String, u64, Flags)> {
        let text = |record: &Record| match &record.body {
            Body::Line(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Body::Hole(hole) => hole.reason.label().to_owned(),
        };
        joined.records.iter().map(|record| (text(record), record.from, record.flags)).collect()
    }

    #[test]
    fn pieces_become_the_line_they_were() {
        let mut joiner = Joiner::default();
        let first =
            joiner.take(1, 10, vec![piece(0, "a", 1, Flags::NONE), piece(2, "bc", 0, Flags::FRAGMENT)], None);
        assert_eq!((texts(&first), first.waits), (vec![("a".into(), 0, Flags::NONE)], true));
        // Another stream is not in its way.
        assert_eq!(joiner.take(2, 11, vec![piece(0, "x", 1, Flags::NONE)], None).records.len(), 1);
        let second = joiner.take(1, 12, vec![piece(4, "de", 0, Flags::FRAGMENT)], None);
        assert_eq!((second.records.len(), second.waits), (0, true));
        let last =
            joiner.take(1, 13, vec![piece(6, "f", 2, Flags::NONE), piece(9, "g", 1, Flags::NONE)], None);
        assert_eq!(texts(&last), [("bcdef".into(), 2, Flags::NONE), ("g".into(), 9, Flags::NONE)]);
        assert_eq!((last.records[0].to, last.records[0].time_ns), (9, 3));
        assert_eq!((last.waits, last.finished), (false, vec![10, 12]));
        assert_eq!(joiner.bytes, 0);
    }

    #[test]
    fn a_hole_and_an_end_let_go_of_what_waits() {
        let mut joiner = Joiner::default();
        joiner.take(1, 1, vec![piece(0, "a", 0, Flags::FRAGMENT.with(Flags::CUT_HEAD))], None);
        let body = Body::hole(HoleReason::Overflow);
        let hole = Record { from: 1, to: 5, time_ns: 7, flags: Flags::NONE, body };
        let cut = joiner.take(1, 2, vec![hole], None);
        assert_eq!(texts(&cut)[0], ("a".into(), 0, Flags::CUT.with(Flags::CUT_HEAD)));
        assert_eq!((texts(&cut)[1].0.as_str(), cut.finished), ("overflow", vec![1]));
        for (ending, flag) in [(Ending::Exact, Flags::UNTERMINATED), (Ending::PowerCut, Flags::CUT)] {
            joiner.take(1, 3, vec![piece(5, "tail", 0, Flags::FRAGMENT)], None);
            let ended = joiner.take(1, 4, Vec::new(), Some(ending));
            assert_eq!((texts(&ended), ended.finished), (vec![("tail".into(), 5, flag)], vec![3]));
        }
    }

    #[test]
    fn more_than_there_is_room_for_leaves_in_pieces() {
        let mut joiner = Joiner::default();
        let long = "x".repeat(HELD_MAX / 4);
        for stream in 0..4 {
            assert!(joiner.take(stream, 1, vec![piece(0, &long, 0, Flags::FRAGMENT)], None).waits);
        }
        let over = joiner.take(9, 2, vec![piece(0, "y", 0, Flags::FRAGMENT)], None);
        assert_eq!((texts(&over), over.waits), (vec![("y".into(), 0, Flags::PARTIAL)], false));
    }
}
