//! What the journal counts. Its sizes it is asked for when somebody looks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::totals::{Counter, Gauge, Histogram};
use crate::closed::{Counts, closed};

closed! {
    /// Why the journal dropped output that was not too old to be wanted, or was.
    pub enum DropReason {
        /// Its files had reached their size.
        Size => "size",
        /// It was older than it may become.
        Age => "age",
        /// The disk's reserve had to be kept free.
        DiskReserve => "disk_reserve",
    }
}

/// Counters of the journal's thread.
#[derive(Debug, Default)]
pub struct JournalTotals {
    /// Frames appended.
    pub frames: Counter,
    /// Bytes of them, packed.
    pub bytes: Counter,
    /// Raw bytes of output that were dropped, whether or not a sink had them.
    pub dropped: Counts<DropReason>,
    /// Time that fdatasync(2) took.
    pub fsync: Histogram,
    /// 1 while it cannot be written.
    pub stalled: Gauge,
    errors: Mutex<BTreeMap<String, u64>>,
}

// === impl JournalTotals ===

impl JournalTotals {
    /// Counts a failure by its errno's name.
    pub fn error(&self, errno: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let count = errors.entry(errno.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    /// Failures by errno name.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
