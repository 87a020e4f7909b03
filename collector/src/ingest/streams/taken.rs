//! What a wrapper's messages make of a stream: records, counted and packed on their way to the journal.

use std::sync::{Arc, atomic::Ordering};

use shimtap_proto::link;
use tokio::time::Instant;
use tracing::warn;

use super::{NOBODY, Refused, Slot, State};
use crate::{
    event::{Batch, Body, Ending, Flags, Hole, HoleReason, Receipt, Record, StreamName},
    ingest::data::Data,
    limited::Limited,
    process::Times,
    time::now_ns,
};

static SLOW: Limited = Limited::new();

impl Slot {
    /// Takes bytes, of which at most `records` records are made. The caller has taken room for those.
    pub(in crate::ingest) fn data(
        &self,
        owner: u64,
        data: Data,
        records: usize,
    ) -> Result<Option<Batch>, Refused> {
        let mut state = self.owned(owner)?;
        let mut records = Vec::with_capacity(records);
        let times = Times { offsets: &data.time_offset, ns: &data.time_ns, otherwise: now_ns() };
        let State { tape, clock, .. } = &mut *state;
        let taken = tape.data(data.offset, data.bytes, times, clock, &mut records).map_err(Refused::Fault)?;
        let stream = self.origin.name.stream;
        self.totals.log_repeated.add(stream, taken.repeated);
        Ok(self.batch(&mut state, records, None, false))
    }

    /// Takes the claim of a gap.
    pub(in crate::ingest) fn gap(&self, owner: u64, gap: &link::Gap) -> Result<Option<Batch>, Refused> {
        let reason = match gap.reason.enum_value() {
            Ok(link::GapReason::GAP_REASON_OVERFLOW) => HoleReason::Overflow,
            Ok(link::GapReason::GAP_REASON_TAP_FULL) => HoleReason::TapFull,
            Ok(link::GapReason::GAP_REASON_SAFE_MODE) => HoleReason::SafeMode,
            Ok(link::GapReason::GAP_REASON_READER_GONE_AFTER_KILL) => HoleReason::DrainedAfterKill,
            Ok(link::GapReason::GAP_REASON_CAPTURE_OFF) => HoleReason::CaptureOff,
            Ok(link::GapReason::GAP_REASON_SPOOL_LOST) => HoleReason::SpoolLost,
            _ => HoleReason::Unknown,
        };
        let mut state = self.owned(owner)?;
        let mut records = Vec::new();
        let State { tape, clock, .. } = &mut *state;
        tape.gap(gap.from, gap.to, reason, now_ns(), clock, &mut records).map_err(Refused::Fault)?;
        Ok(self.batch(&mut state, records, None, false))
    }

    /// Takes the stream's end.
    pub(in crate::ingest) fn close(&self, owner: u64, close: &link::Close) -> Result<Option<Batch>, Refused> {
        let mut state = self.owned(owner)?;
        let mut records = Vec::new();
        let State { tape, clock, .. } = &mut *state;
        tape.close(close.end, now_ns(), clock, &mut records).map_err(Refused::Fault)?;
        let ending = if close.exact { Ending::Exact } else { Ending::Inexact };
        self.counts.close(ending);
        Ok(self.batch(&mut state, records, Some(ending), true))
    }

    /// Gives what is there of the unfinished line, as a piece of it; `urgent` where the wrapper may be waiting for just
    /// this acknowledgement.
    pub(in crate::ingest) fn fragment(&self, owner: u64, urgent: bool) -> Result<Option<Batch>, Refused> {
        let mut state = self.owned(owner)?;
        let mut records = Vec::new();
        let State { tape, clock, .. } = &mut *state;
        tape.fragment(clock, &mut records);
        Ok(self.batch(&mut state, records, None, urgent))
    }

    /// Nobody will send the rest: gives the unfinished line, unless a connection carries the stream after all.
    pub(in crate::ingest) fn abandon(&self) -> Result<Option<Batch>, Refused> {
        let mut state = self.owned(NOBODY)?;
        let mut records = Vec::new();
        state.detached = None;
        let State { tape, clock, .. } = &mut *state;
        tape.abandon(clock, &mut records);
        let ending = tape.end().is_none().then_some(Ending::WrapperLost);
        if let Some(ending) = ending {
            self.counts.close(ending);
        }
        Ok(self.batch(&mut state, records, ending, true))
    }

    /// Does what rules say, counts what goes out, and packs it.
    fn batch(
        &self,
        state: &mut State,
        mut records: Vec<Record>,
        ending: Option<Ending>,
        last: bool,
    ) -> Option<Batch> {
        let may_move = !state.within && self.is_durable();
        let taken = state.censor.apply(&mut records, &state.budget, Instant::now());
        self.totals.redactions.add(taken.secrets);
        self.totals.redacted_unsearched.add(taken.unsearched);
        if let Some(pattern) = taken.slow {
            self.say_slow(&pattern);
        }
        self.count(state, &records, ending.is_some());
        if records.is_empty() && ending.is_none() {
            return None;
        }
        if let Some(first) = records.first() {
            let (at, time_ns) = (first.from, first.time_ns.saturating_sub(1));
            let store = state.home.next(may_move);
            if let Some(from) = state.home.go(store, at) {
                let body = Body::hole(HoleReason::Moved);
                records.insert(0, Record { from, to: at, time_ns, flags: Flags::NONE, body });
            }
        }
        let end = records.last().map_or(self.submitted.load(Ordering::Relaxed), |record| record.to);
        self.submitted.store(end, Ordering::Relaxed);
        Some(Batch {
            origin: Arc::clone(&self.origin),
            records,
            end,
            ending,
            receipt: Arc::clone(&self.progress) as Arc<dyn Receipt>,
            received: Instant::now(),
            last,
        })
    }

    fn say_slow(&self, pattern: &str) {
        let StreamName { namespace, container, .. } = &self.origin.name;
        SLOW.say(|hidden| {
            warn!(
                namespace, container, pattern, hidden,
                "redact: the end of a line was taken out unsearched: the pattern finds much in it and looks far ahead each time, which may \
                 take no more than a quarter of a second of a core per line. One without such a look ahead takes less"
            );
        });
    }

    /// Counts what goes out, and keeps whether it ends within a line.
    fn count(&self, state: &mut State, records: &[Record], is_end: bool) {
        let stream = self.origin.name.stream;
        let mut lines = 0;
        for record in records {
            let bytes = record.to.saturating_sub(record.from);
            match &record.body {
                Body::Line(_) => {
                    self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
                    self.totals.log_bytes.add(stream, bytes);
                    state.within = record.flags.has(Flags::FRAGMENT);
                    if !record.flags.has(Flags::PARTIAL) && !state.within {
                        lines += 1;
                    }
                }
                Body::Hole(Hole { reason, lines }) => {
                    state.within = false;
                    self.counts.gap_bytes.add(*reason, bytes);
                    self.totals.gap_bytes.of(stream).add(*reason, bytes);
                    self.totals.holes.of(stream).add(*reason, 1);
                    self.totals.limited(*reason, *lines);
                }
            }
        }
        // A line that nobody finishes is one all the same, as the journal's table has it.
        if is_end && std::mem::take(&mut state.within) {
            lines += 1;
        }
        self.counts.lines.fetch_add(lines, Ordering::Relaxed);
        self.totals.log_lines.add(stream, lines);
    }
}
