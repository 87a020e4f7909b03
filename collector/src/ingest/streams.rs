//! How far each stream is, over all connections that ever carried it.
//!
//! The table is keyed by the stream's durable name, so that a wrapper which comes back, or a worker's successor,
//! goes on exactly where its predecessor stopped. Ended streams are remembered up to a bound, oldest forgotten
//! first: the worst that can follow is that bytes are delivered twice, under the same record ids.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shimtap_proto::link;
use tokio::time::Instant;

use super::data::Data;
use crate::{
    event::{Batch, Body, Flags, HoleReason, Origin, Progress, Record, StreamName},
    metrics::{StreamCounts, Totals},
    process::{Clock, Tape, TapeFault, Times},
    time::now_ns,
};

/// All streams.
#[derive(Debug)]
pub struct Streams {
    table: Mutex<Table>,
    totals: Arc<Totals>,
    remembered: usize,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<StreamName, Arc<Slot>>,
    ended: VecDeque<StreamName>,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Slot {
    /// Whose it is.
    pub(super) origin: Arc<Origin>,
    /// What of it is durable.
    pub(super) progress: Arc<Progress>,
    counts: Arc<StreamCounts>,
    clock: Arc<Clock>,
    totals: Arc<Totals>,
    /// Raw offset behind the last record that went to the sink.
    submitted: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tape: Tape,
    /// The connection that carries it now.
    owner: u64,
    /// Since when none does.
    detached: Option<Instant>,
}

/// The owner of a stream that no connection carries; connections are numbered from 1.
const NOBODY: u64 = 0;

/// Why a stream did not take a message.
#[derive(Debug)]
pub(super) enum Refused {
    /// Another connection carries it now.
    Superseded,
    /// The message cannot be true.
    Fault(TapeFault),
}

// === impl Streams ===

impl Streams {
    /// An empty table that remembers `remembered` ended streams.
    #[must_use]
    pub fn new(totals: Arc<Totals>, remembered: usize) -> Self {
        Self { table: Mutex::default(), totals, remembered }
    }

    /// The stream of that name, known or new; connection `owner` carries it from here on.
    pub(super) fn attach(
        &self,
        origin: &Arc<Origin>,
        counts: &Arc<StreamCounts>,
        clock: &Arc<Clock>,
        owner: u64,
    ) -> Arc<Slot> {
        let mut table = self.table();
        let slot = table.slots.entry(origin.name.clone()).or_insert_with(|| {
            Arc::new(Slot {
                origin: Arc::clone(origin),
                progress: Arc::default(),
                counts: Arc::clone(counts),
                clock: Arc::clone(clock),
                totals: Arc::clone(&self.totals),
                submitted: AtomicU64::new(0),
                state: Mutex::default(),
            })
        });
        let slot = Arc::clone(slot);
        // It was taken for ended, and is not.
        table.ended.retain(|name| *name != origin.name);
        drop(table);
        let mut state = slot.state();
        state.owner = owner;
        state.detached = None;
        drop(state);
        slot
    }

    /// The stream will not go on. It is forgotten when enough others have ended after it.
    pub(super) fn ended(&self, name: &StreamName) {
        let mut table = self.table();
        table.ended.push_back(name.clone());
        while table.ended.len() > self.remembered {
            let Some(oldest) = table.ended.pop_front() else { break };
            table.slots.remove(&oldest);
        }
    }

    /// Streams that no connection has carried for `patience`: what is left of them can be had by
    /// [`Slot::abandon`], once.
    pub(super) fn orphans(&self, patience: Duration) -> Vec<Arc<Slot>> {
        let slots: Vec<_> = self.table().slots.values().cloned().collect();
        slots.into_iter().filter(|slot| slot.is_orphan(patience)).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Slot ===

impl Slot {
    /// The next byte that is wanted.
    pub(super) fn next(&self) -> Option<u64> {
        self.state().tape.next()
    }

    /// Raw offset behind the last record that went to the sink.
    pub(super) fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Relaxed)
    }

    /// Where the stream ends, once that is known.
    pub(super) fn end(&self) -> Option<u64> {
        self.state().tape.end()
    }

    /// Bytes of the unfinished line: they join the next batch.
    pub(super) fn held(&self) -> usize {
        self.state().tape.held()
    }

    /// An earlier collector has acknowledged every byte below `offset`, so that they are durable and nobody has them any
    /// more. One that has no memory of it goes on there, also where a spool file that is older than that told it of less.
    pub(super) fn acknowledged(&self, offset: u64) {
        if self.state().tape.acknowledged(offset) {
            self.progress.advance(offset, false);
        }
    }

    /// Bytes that turn out to be missing from here on are missing for this reason, as far as we know.
    pub(super) fn expect_loss(&self, reason: HoleReason) {
        self.state().tape.expect_loss(reason);
    }

    /// Connection `owner` ended.
    pub(super) fn detach(&self, owner: u64) {
        let mut state = self.state();
        if state.owner == owner {
            state.owner = NOBODY;
            state.detached = Some(Instant::now());
        }
    }

    /// Takes bytes, of which at most `records` records are made. The caller has taken room for those.
    pub(super) fn data(&self, owner: u64, data: Data, records: usize) -> Result<Option<Batch>, Refused> {
        let mut state = self.owned(owner)?;
        let mut records = Vec::with_capacity(records);
        let times = Times { offsets: &data.time_offset, ns: &data.time_ns, otherwise: now_ns() };
        let taken = state
            .tape
            .data(data.offset, data.bytes, times, &self.clock, &mut records)
            .map_err(Refused::Fault)?;
        drop(state);
        let stream = self.origin.name.stream;
        self.counts.bytes.fetch_add(taken.bytes, Ordering::Relaxed);
        self.totals.log_bytes.add(stream, taken.bytes);
        self.totals.log_repeated.add(stream, taken.repeated);
        Ok(self.batch(records, false))
    }

    /// Takes the claim of a gap.
    pub(super) fn gap(&self, owner: u64, gap: &link::Gap) -> Result<Option<Batch>, Refused> {
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
        let taken = state.tape.gap(gap.from, gap.to, reason, now_ns(), &self.clock, &mut records);
        taken.map_err(Refused::Fault)?;
        drop(state);
        Ok(self.batch(records, false))
    }

    /// Takes the stream's end.
    pub(super) fn close(&self, owner: u64, close: &link::Close) -> Result<Option<Batch>, Refused> {
        let mut state = self.owned(owner)?;
        let mut records = Vec::new();
        state.tape.close(close.end, now_ns(), &self.clock, &mut records).map_err(Refused::Fault)?;
        drop(state);
        self.counts.close(close.exact);
        Ok(self.batch(records, true))
    }

    /// Gives what is there of the unfinished line, as a piece of it.
    pub(super) fn fragment(&self, owner: u64) -> Result<Option<Batch>, Refused> {
        let mut state = self.owned(owner)?;
        let mut records = Vec::new();
        state.tape.fragment(&self.clock, &mut records);
        drop(state);
        // The wrapper may be waiting for just this acknowledgement.
        Ok(self.batch(records, true))
    }

    /// Nobody will send the rest: gives the unfinished line, unless a connection carries the stream after all.
    pub(super) fn abandon(&self) -> Result<Option<Batch>, Refused> {
        let mut state = self.owned(NOBODY)?;
        let mut records = Vec::new();
        state.detached = None;
        state.tape.abandon(&self.clock, &mut records);
        if state.tape.end().is_none() {
            self.counts.close(false);
        }
        drop(state);
        Ok(self.batch(records, true))
    }

    fn is_orphan(&self, patience: Duration) -> bool {
        self.state().detached.is_some_and(|since| since.elapsed() >= patience)
    }

    /// Counts what goes out, and packs it.
    fn batch(&self, records: Vec<Record>, last: bool) -> Option<Batch> {
        let stream = self.origin.name.stream;
        let mut lines = 0;
        for record in &records {
            let bytes = record.to.saturating_sub(record.from);
            match &record.body {
                Body::Line(_) => {
                    if !record.flags.has(Flags::PARTIAL) {
                        lines += 1;
                    }
                }
                Body::Hole(reason) => {
                    self.counts.gap_bytes.add(*reason, bytes);
                    self.totals.gap_bytes.of(stream).add(*reason, bytes);
                    self.totals.holes.of(stream).add(*reason, 1);
                }
            }
        }
        let end = records.last()?.to;
        self.counts.lines.fetch_add(lines, Ordering::Relaxed);
        self.totals.log_lines.add(stream, lines);
        self.submitted.store(end, Ordering::Relaxed);
        Some(Batch {
            origin: Arc::clone(&self.origin),
            records,
            progress: Arc::clone(&self.progress),
            received: Instant::now(),
            last,
        })
    }

    fn owned(&self, owner: u64) -> Result<MutexGuard<'_, State>, Refused> {
        let state = self.state();
        if state.owner == owner { Ok(state) } else { Err(Refused::Superseded) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
