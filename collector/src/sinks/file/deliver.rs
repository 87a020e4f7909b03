//! The sink's thread: takes batches, encodes, writes, says what is durable, and waits out a failing disk.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use tracing::{info, warn};

use super::{
    encode::Encoder,
    output::{FileFault, Output, Pending},
};
use crate::{
    metrics::Totals,
    sinks::{Source, Waiting, errno_name},
};

/// Bytes after which lines are written without looking for more. One write of this size costs little more than
/// one of a page, and a stall holds no more than this in the air.
const WRITE_BYTES: usize = 256 << 10;
/// How long lines are gathered for one write while few come. Each wake-up and each write then serves several
/// containers, and an acknowledgement that nobody waits for is not due for ten times as long.
const GATHER: Duration = Duration::from_millis(25);
/// First pause after a failure; doubled each time up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// A disk that has room again is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Ends a pause, for good.
#[derive(Debug, Default)]
pub struct Stop {
    set: Mutex<bool>,
    changed: Condvar,
}

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Deliver<S> {
    output: Output,
    source: S,
    totals: Arc<Totals>,
    stop: Arc<Stop>,
    encoder: Encoder,
    pending: Pending,
    /// Encoded, not yet durable.
    waiting: Vec<Waiting>,
}

// === impl Stop ===

impl Stop {
    /// Ends this pause and all later ones.
    pub(super) fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for `time`; true where it was told to give up.
    fn pause(&self, time: Duration) -> bool {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(set, time, |set| !*set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

// === impl Deliver ===

impl<S: Source> Deliver<S> {
    pub(super) fn new(output: Output, source: S, totals: Arc<Totals>, stop: Arc<Stop>) -> Self {
        Self {
            output,
            source,
            totals,
            stop,
            encoder: Encoder::default(),
            pending: Pending::default(),
            waiting: Vec::new(),
        }
    }

    /// Runs until no more can come, or until it is told to give up. Blocks its thread while it writes.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.source.recv().await {
            self.source.gather(GATHER).await;
            self.take(first);
            while self.pending.len() < WRITE_BYTES {
                let Some(next) = self.source.try_recv() else { break };
                self.take(next);
            }
            if !self.write_all() {
                warn!(bytes = self.pending.len(), "giving up unwritten lines; they stay unacknowledged");
                return;
            }
            for waiting in self.waiting.drain(..) {
                waiting.batch.done();
                self.totals.ack_delay.observe(waiting.batch.received.elapsed());
            }
        }
    }

    fn take(&mut self, waiting: Waiting) {
        let batch = &waiting.batch;
        for record in &batch.records {
            self.encoder.record(self.pending.text(), &batch.origin, record);
        }
        let records = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
        self.totals.sink_records.add(records);
        self.waiting.push(waiting);
    }

    /// Writes what is pending, however long the disk refuses it; false where it was told to give up.
    fn write_all(&mut self) -> bool {
        let mut backoff = BACKOFF_MIN;
        let mut failing = false;
        loop {
            let before = self.pending.len();
            let result = self.output.write(&mut self.pending);
            let written = before.saturating_sub(self.pending.len());
            self.totals.sink_bytes.add(u64::try_from(written).unwrap_or(u64::MAX));
            match result {
                Ok(writes) => {
                    self.totals.sink_writes.add(writes);
                    if failing {
                        self.totals.sink_stalled.set(0);
                        info!("log file is writable again");
                    }
                    return true;
                }
                Err(fault) => {
                    self.refused(&fault, failing);
                    failing = true;
                    if written > 0 {
                        backoff = BACKOFF_MIN;
                    }
                    if self.stop.pause(backoff) {
                        return false;
                    }
                    backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
                    if let Err(fault) = self.output.reopen() {
                        self.totals.sink_error(&errno_name(fault.source()));
                    }
                }
            }
        }
    }

    /// Counts a failure, and says it once per stall.
    fn refused(&self, fault: &FileFault, failing: bool) {
        self.totals.sink_error(&errno_name(fault.source()));
        self.totals.sink_stalled.set(1);
        if !failing {
            warn!(error = %fault, "log file cannot be written; holding back acknowledgements");
        }
    }
}
