//! The table of streams: how far each is, and what of it is not here.
//!
//! It is the sum of every record that was ever appended, so that it outlives the records: a stream's position is known
//! when retention has taken all of its lines. It never goes back, and no row is forgotten while its stream may go on.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::format::{HoleSum, Row, header::Header};
use crate::{
    event::{Body, Ending, Flags, Hole, Origin, Record, StreamKind, StreamName},
    metrics::Totals,
    process::Edge,
};

/// Every stream of this journal.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<u32, Row>,
    by_name: HashMap<StreamName, u32>,
    last_stream: u32,
    /// Sums of rows that were forgotten, one per output.
    retired: Vec<Row>,
}

// === impl Table ===

impl Table {
    /// As a header has it.
    pub(super) fn restored(header: &Header) -> Self {
        let mut table = Self {
            last_stream: header.next_stream.saturating_sub(1),
            retired: header.retired.clone(),
            ..Self::default()
        };
        for row in &header.rows {
            table.announced(row.clone());
        }
        table
    }

    /// The header of a file that begins now.
    pub(super) fn header(&self, boot: &str, first: u64, output: u64) -> Header {
        Header {
            boot: boot.to_owned(),
            first,
            output,
            next_stream: self.last_stream.saturating_add(1),
            rows: self.rows.values().cloned().collect(),
            retired: self.retired.clone(),
        }
    }

    /// The row of a stream, known or new; true where it is new, and so has to be announced.
    pub(super) fn row_of(&mut self, origin: &Arc<Origin>) -> (&mut Row, bool) {
        let known = self.by_name.get(&origin.name).copied();
        let id = known.unwrap_or_else(|| {
            self.last_stream = self.last_stream.saturating_add(1);
            self.by_name.insert(origin.name.clone(), self.last_stream);
            self.last_stream
        });
        let row = self.rows.entry(id).or_insert_with(|| Row::new(id, Arc::clone(origin)));
        (row, known.is_none())
    }

    /// No new stream gets a number up to `number`.
    pub(super) fn number_above(&mut self, number: u32) {
        self.last_stream = self.last_stream.max(number);
    }

    /// Takes a stream that a file announces.
    pub(super) fn announced(&mut self, row: Row) {
        self.last_stream = self.last_stream.max(row.id);
        self.by_name.insert(row.origin.name.clone(), row.id);
        self.rows.insert(row.id, row);
    }

    /// The row of that number.
    pub(super) fn get(&self, id: u32) -> Option<&Row> {
        self.rows.get(&id)
    }

    /// The row of that number, to be changed.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Row> {
        self.rows.get_mut(&id)
    }

    /// The row of that name.
    pub(super) fn find(&self, name: &StreamName) -> Option<&Row> {
        self.by_name.get(name).and_then(|id| self.rows.get(id))
    }

    /// Every row.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// The number that the next new stream gets.
    pub(super) fn next_stream(&self) -> u32 {
        self.last_stream.saturating_add(1)
    }

    /// Forgets ended streams, the longest ended first, as long as there are more than `remembered`; none that `is_held`
    /// says are still wanted. Their sums stay. Gives what was forgotten.
    pub(super) fn forget(&mut self, remembered: usize, is_held: impl Fn(&Row) -> bool) -> Vec<Row> {
        let ended = self.rows.values().filter(|row| row.ending.is_some()).count();
        if ended <= remembered {
            return Vec::new();
        }
        let mut old: Vec<_> = self
            .rows
            .values()
            .filter(|row| row.ending.is_some() && !is_held(row))
            .map(|row| (row.next_seq, row.id))
            .collect();
        old.sort_unstable();
        let mut gone = Vec::new();
        for (_, id) in old.into_iter().take(ended.saturating_sub(remembered)) {
            if let Some(row) = self.rows.remove(&id) {
                self.by_name.remove(&row.origin.name);
                self.retire(&row);
                gone.push(row);
            }
        }
        gone
    }

    /// Gives the process's counters what earlier processes counted.
    pub(super) fn count(&self, totals: &Totals) {
        for row in self.rows.values().chain(&self.retired) {
            let stream = row.origin.name.stream;
            totals.log_bytes.add(stream, row.bytes);
            totals.log_lines.add(stream, row.lines);
            for hole in &row.holes {
                totals.gap_bytes.of(stream).add(hole.reason, hole.bytes);
                totals.holes.of(stream).add(hole.reason, hole.number);
                totals.limited(hole.reason, hole.lines);
            }
        }
    }

    fn retire(&mut self, row: &Row) {
        let stream = row.origin.name.stream;
        let known = self.retired.iter_mut().position(|sum| sum.origin.name.stream == stream);
        let at = known.unwrap_or_else(|| {
            self.retired.push(sum_of(stream));
            self.retired.len().saturating_sub(1)
        });
        if let Some(sum) = self.retired.get_mut(at) {
            sum.lines = sum.lines.saturating_add(row.lines);
            sum.bytes = sum.bytes.saturating_add(row.bytes);
            for hole in &row.holes {
                sum.hole(*hole);
            }
        }
    }
}

/// A row for the sums of forgotten streams of one output.
fn sum_of(stream: StreamKind) -> Row {
    let unknown = Origin::unknown();
    let name = StreamName { stream, ..unknown.name };
    Row::new(u32::MAX, Arc::new(Origin::new(name, unknown.identity)))
}

// === impl Row ===

impl Row {
    /// Takes records and an ending that were appended as entry `seq`.
    pub(super) fn apply(&mut self, records: &[Record], ending: Option<Ending>, seq: u64) {
        for record in records {
            let raw = record.to.saturating_sub(record.from);
            match &record.body {
                Body::Line(_) => {
                    self.bytes = self.bytes.saturating_add(raw);
                    let unfinished = record.flags.has(Flags::FRAGMENT);
                    if !unfinished && !record.flags.has(Flags::PARTIAL) {
                        self.lines = self.lines.saturating_add(1);
                    }
                    self.edge = match self.edge {
                        Edge::Within(from) if unfinished => Edge::Within(from),
                        _ if unfinished => Edge::Within(record.from),
                        _ => Edge::Line,
                    };
                }
                // It is in the sums of the other head.
                Body::Hole(_) if record.is_moved() => {
                    self.moved.push((record.from, record.to));
                    self.edge = Edge::Cut;
                }
                Body::Hole(Hole { reason, lines }) => {
                    self.hole(HoleSum { reason: *reason, bytes: raw, number: 1, lines: *lines });
                    self.edge = Edge::Cut;
                }
            }
            self.end = record.to;
            self.last_ns = record.time_ns;
        }
        // Records of a stream that was taken for ended: it is not.
        if !records.is_empty() || ending.is_some() {
            self.ending = ending;
        }
        if ending.is_some() && matches!(self.edge, Edge::Within(_)) {
            self.lines = self.lines.saturating_add(1);
            self.edge = Edge::Cut;
        }
        self.next_seq = seq.saturating_add(1);
    }

    /// How many bytes behind `from` are this head's, and not the other one's.
    pub(super) fn own_behind(&self, from: u64) -> u64 {
        let moved = self.moved.iter().map(|(begin, end)| end.saturating_sub(from.max(*begin)));
        moved.fold(self.end.saturating_sub(from), u64::saturating_sub)
    }

    /// The same row, with the sums of one of another head.
    pub(super) fn with(mut self, other: Self) -> Self {
        self.lines = self.lines.saturating_add(other.lines);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.last_ns = self.last_ns.max(other.last_ns);
        for hole in other.holes {
            self.hole(hole);
        }
        self
    }

    fn hole(&mut self, hole: HoleSum) {
        match self.holes.iter_mut().find(|known| known.reason == hole.reason) {
            Some(sum) => {
                sum.bytes = sum.bytes.saturating_add(hole.bytes);
                sum.number = sum.number.saturating_add(hole.number);
                let known = [sum.lines, hole.lines].into_iter().flatten();
                sum.lines = known.reduce(u64::saturating_add);
            }
            None => self.holes.push(hole),
        }
    }
}
