//! What a reader does not find any more: dropped by retention, or lost with a file. It is said with a hole, and counted, for
//! each byte that was promised.

use std::sync::Arc;

use tokio::time::Instant;

use super::Reader;
use crate::event::{Body, Flags, HoleReason, Record};

impl Reader {
    /// What this reader does not get any more.
    fn hole(&self, from: u64, to: u64, time_ns: u64) -> Record {
        let reason = if self.damaged { HoleReason::JournalDamaged } else { HoleReason::Retention };
        self.cursor.lost.add(reason, to.saturating_sub(from));
        Record { from, to, time_ns, flags: Flags::NONE, body: Body::hole(reason) }
    }

    /// The same, of a range in which may be what the journal's other head has: that is not lost, and stays to be told apart.
    pub(super) fn missing(&self, stream: u32, from: u64, to: u64, time_ns: u64) -> Vec<Record> {
        let moved = self.journal.state().table.get(stream).map(|row| row.moved.clone()).unwrap_or_default();
        let mut records = Vec::new();
        let mut at = from;
        for (begin, end) in moved {
            let (begin, end) = (begin.max(at), end.min(to));
            if begin >= end {
                continue;
            }
            if at < begin {
                records.push(self.hole(at, begin, time_ns));
            }
            let body = Body::hole(HoleReason::Moved);
            records.push(Record { from: begin, to: end, time_ns, flags: Flags::NONE, body });
            at = end;
        }
        if at < to {
            records.push(self.hole(at, to, time_ns));
        }
        records
    }

    /// What was given to an earlier process, was not acknowledged, and is not here any more.
    pub(super) fn give_up_wanted(&mut self) {
        let behind = self.wanted.split_off(&self.position);
        for (seq, open) in std::mem::replace(&mut self.wanted, behind) {
            // A gap that was not acknowledged may be in it, with what the other head has.
            let missing = self.missing(open.stream, open.from, open.to, open.time_ns);
            let origin = self.journal.state().table.get(open.stream).map(|row| Arc::clone(&row.origin));
            // Of a stream that damage took out of the table it is counted, and nobody can be told whose it was.
            let Some(origin) = origin.filter(|_| !missing.is_empty()) else {
                self.cursor.acknowledge(&[seq]);
                continue;
            };
            let batch = self.delivery(origin, missing, None, Instant::now(), vec![seq], None);
            self.ready.push_back((open.time_ns, batch));
        }
    }

    /// At the end everything that was appended was read: what is not there was dropped.
    pub(super) fn look_for_missed(&mut self) {
        let (mut missed, mut ended) = (Vec::new(), Vec::new());
        {
            let state = self.journal.state();
            if state.drops == self.drops || self.position < state.next {
                return;
            }
            self.drops = state.drops;
            for row in state.table.rows() {
                let promised = self.ends.get(&row.id).copied();
                let promised = promised.or_else(|| (row.id >= self.born).then_some(0));
                if let Some(from) = promised.filter(|from| *from < row.end) {
                    // At once: what is in hand is not forgotten, and not counted twice.
                    self.cursor.miss(row.id, from, row.end);
                    missed.push((row.id, Arc::clone(&row.origin), from, row.end, row.last_ns));
                } else if let Some(ending) = row.ending.filter(|_| self.joiner.has(row.id)) {
                    ended.push((row.id, Arc::clone(&row.origin), ending));
                }
            }
            self.ends.retain(|stream, _| state.table.get(*stream).is_some());
        }
        for (stream, origin, from, to, time_ns) in missed {
            self.ends.insert(stream, to);
            let missing = self.missing(stream, from, to, time_ns);
            // A line that went on there does not any more.
            let joined = self.joiner.take(stream, self.position, missing, None);
            let told = Some((stream, to));
            let batch = self.delivery(origin, joined.records, None, Instant::now(), joined.finished, told);
            self.ready.push_back((0, batch));
        }
        // Of these all is here but the entry that says so: their last line would wait for ever.
        for (stream, origin, ending) in ended {
            let joined = self.joiner.take(stream, self.position, Vec::new(), Some(ending));
            let last = Some(ending);
            let batch = self.delivery(origin, joined.records, last, Instant::now(), joined.finished, None);
            self.ready.push_back((0, batch));
        }
        self.damaged = false;
    }
}
