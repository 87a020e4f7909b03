//! A journal of two heads, read as docs/journal.md says: each by itself, and what `moved` holes stand for is with the other.
//!
//! Shares no code with the collector. That a byte lies in both heads is an error at once: the journal holds nothing twice.

use std::collections::btree_map::Entry;

use anyhow::{Context, Result, ensure};

use super::journal::{Journal, Kept, Sums};

impl Journal {
    /// Adds another head of the same journal; the first that this is done to has its `moved` holes until then.
    ///
    /// # Errors
    /// Both have the same byte of a stream.
    pub fn with(mut self, other: Self) -> Result<Self> {
        for (key, theirs) in other.streams {
            match self.streams.entry(key) {
                Entry::Vacant(free) => drop(free.insert(theirs)),
                Entry::Occupied(mut known) => {
                    let name = format!("{:?}", known.key());
                    known.get_mut().join(theirs).with_context(|| format!("in both heads, {name}"))?;
                }
            }
        }
        for kept in self.streams.values_mut() {
            kept.records.retain(|record| !record.is_moved());
        }
        for (output, sums) in other.forgotten {
            self.forgotten.entry(output).or_default().add(&sums);
        }
        self.damaged.extend(other.damaged);
        self.aside.extend(other.aside);
        self.parts.extend(other.parts);
        self.unlike.extend(other.unlike);
        self.moves += other.moves;
        self.clean &= other.clean;
        Ok(self)
    }
}

impl Kept {
    /// Adds what another head has of it.
    fn join(&mut self, other: Self) -> Result<()> {
        let place = |kept: &Self| (kept.end, kept.ending.is_some());
        if place(&other) > place(self) {
            (self.end, self.ending) = (other.end, other.ending);
        }
        self.sums.add(&other.sums);
        self.records.extend(other.records);
        self.records.retain(|record| !record.is_moved());
        self.records.sort_by_key(|record| record.from);
        for (one, next) in self.records.iter().zip(self.records.iter().skip(1)) {
            ensure!(one.to <= next.from, "[{}, {}) and [{}, {})", one.from, one.to, next.from, next.to);
        }
        Ok(())
    }
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.lines += other.lines;
        for (reason, (bytes, number)) in &other.holes {
            let mine = self.holes.entry(reason.clone()).or_default();
            *mine = (mine.0 + bytes, mine.1 + number);
        }
        for (reason, lines) in &other.lines_in_holes {
            *self.lines_in_holes.entry(reason.clone()).or_default() += lines;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Piece, Record, StreamKey};

    fn head(records: &[(u64, u64, &str)], ending: Option<&str>) -> Journal {
        let mut kept = Kept { ending: ending.map(str::to_owned), ..Kept::default() };
        for (from, to, what) in records {
            let piece =
                if *what == "line" { Piece::Line(Vec::new()) } else { Piece::Gap((*what).to_owned()) };
            kept.records.push(Record { from: *from, to: *to, time_ns: *to, piece, lines: None });
            kept.end = *to;
        }
        Journal { streams: [(StreamKey::default(), kept)].into(), clean: true, ..Journal::default() }
    }

    #[test]
    fn what_one_head_lacks_the_other_has_and_nothing_is_in_both() {
        let memory = head(&[(0, 10, "line"), (10, 30, "moved"), (30, 40, "line")], None);
        let disk =
            head(&[(0, 10, "moved"), (10, 30, "line"), (30, 40, "moved"), (40, 50, "line")], Some("exact"));
        let both = memory.clone().with(disk).expect("they tile");
        let kept = &both.streams[&StreamKey::default()];
        let ranges: Vec<_> = kept.records.iter().map(|record| (record.from, record.to)).collect();
        assert_eq!(ranges, [(0, 10), (10, 30), (30, 40), (40, 50)]);
        assert_eq!((kept.end, kept.ending.as_deref(), kept.missing()), (50, Some("exact"), 0));
        let doubled = head(&[(0, 5, "moved"), (5, 10, "line"), (10, 50, "line")], None);
        assert!(memory.with(doubled).is_err(), "five bytes are in both");
    }
}
