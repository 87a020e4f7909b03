//! The newest frames as they came, for readers that keep up: they need not read and unpack what was just written.
//!
//! Bounded in bytes, and empty while nobody reads. A reader that falls behind it reads the files.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

use super::format::frame::Head;
use crate::event::{Batch, Ending, Origin, Record};

/// Most bytes of frames in memory, records included. A reader that is further behind than this has a file to read.
const TAIL_MAX: usize = 4 << 20;

/// The newest frames.
#[derive(Debug, Default)]
pub(super) struct Tail {
    frames: VecDeque<Arc<Fresh>>,
    bytes: usize,
}

/// A frame as it was before it was packed.
#[derive(Debug)]
pub(super) struct Fresh {
    /// Number of its first batch.
    pub(super) first: u64,
    /// Number behind its last.
    pub(super) next: u64,
    /// When it was appended, Unix ns.
    pub(super) time_ns: u64,
    /// Raw bytes of all output up to its end.
    pub(super) output: u64,
    /// Its batches.
    pub(super) batches: Vec<FreshBatch>,
    /// What it takes in memory.
    pub(super) bytes: usize,
}

/// A batch as it came.
#[derive(Debug)]
pub(super) struct FreshBatch {
    pub(super) seq: u64,
    pub(super) stream: u32,
    pub(super) origin: Arc<Origin>,
    pub(super) records: Vec<Record>,
    pub(super) ending: Option<Ending>,
    pub(super) received: Instant,
}

// === impl Fresh ===

impl Fresh {
    /// A frame that was appended with this head.
    pub(super) fn new(head: &Head, batches: Vec<FreshBatch>) -> Self {
        let bytes = batches.iter().fold(0usize, |sum, batch| {
            let lines = usize::try_from(batch.output()).unwrap_or(usize::MAX);
            let records = batch.records.capacity().saturating_mul(size_of::<Record>());
            sum.saturating_add(lines).saturating_add(records).saturating_add(size_of::<FreshBatch>())
        });
        let Head { first, next, time_ns, output, .. } = *head;
        Self { first, next, time_ns, output, batches, bytes }
    }
}

// === impl FreshBatch ===

impl FreshBatch {
    /// Raw bytes of output that it stands for.
    pub(super) fn output(&self) -> u64 {
        let from = Batch::own_from(&self.records);
        self.records.last().map_or(0, |record| record.to).saturating_sub(from)
    }
}

// === impl Tail ===

impl Tail {
    pub(super) fn push(&mut self, frame: Fresh) {
        self.bytes = self.bytes.saturating_add(frame.bytes);
        self.frames.push_back(Arc::new(frame));
        while self.bytes > TAIL_MAX {
            self.pop();
        }
    }

    /// Lets go of what every reader has: everything below `seq`.
    pub(super) fn release(&mut self, seq: u64) {
        while self.frames.front().is_some_and(|frame| frame.next <= seq) {
            self.pop();
        }
    }

    /// The frame that has entry `seq`, if it is here.
    pub(super) fn get(&self, seq: u64) -> Option<Arc<Fresh>> {
        let at = self.frames.partition_point(|frame| frame.next <= seq);
        self.frames.get(at).filter(|frame| frame.first <= seq).cloned()
    }

    /// Whose batches are here, some of them more than once.
    pub(super) fn streams(&self) -> impl Iterator<Item = u32> {
        self.frames.iter().flat_map(|frame| frame.batches.iter().map(|batch| batch.stream))
    }

    fn pop(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.bytes = self.bytes.saturating_sub(frame.bytes);
        }
    }
}
