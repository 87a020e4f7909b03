//! What the journal counts. Its sizes it is asked for when somebody looks.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::totals::{Counter, Histogram};
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
    /// Whether it can be written.
    pub stalled: Stall,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// Whether the journal can be written: the system refuses it, or does not come back to say.
#[derive(Debug, Default)]
pub struct Stall {
    refused: AtomicBool,
    /// Since when the writer is at it, while it is.
    since: Mutex<Option<Instant>>,
}

/// The writer is at it as long as this is there.
#[derive(Debug)]
pub struct AtIt<'a>(&'a Stall);

/// A frame whose write has not come back for so long hangs: a disk with a full queue of its own takes a second or two.
const HANGS: Duration = Duration::from_secs(5);

// === impl Stall ===

impl Stall {
    /// The writer begins: a disk that hangs says nothing, so that others have to see it by the time that passes.
    pub fn begin(&self) -> AtIt<'_> {
        *self.since() = Some(Instant::now());
        AtIt(self)
    }

    /// The system has refused a write, or has taken one.
    pub fn refused(&self, refused: bool) {
        self.refused.store(refused, Ordering::Relaxed);
    }

    /// 1 while it cannot be written.
    #[must_use]
    pub fn get(&self) -> u64 {
        u64::from(self.is_refused() || self.hangs().is_some())
    }

    /// Since when a write hangs that nobody has refused, if one does.
    #[must_use]
    pub fn hangs(&self) -> Option<Instant> {
        self.since().filter(|since| since.elapsed() >= HANGS && !self.is_refused())
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AtIt<'_> {
    fn drop(&mut self) {
        *self.0.since() = None;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_does_not_come_back_stalls_as_one_that_is_refused() {
        let stall = Stall::default();
        let at_it = stall.begin();
        tokio::time::advance(HANGS - Duration::from_millis(1)).await;
        assert_eq!(stall.get(), 0, "a busy disk");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(stall.get(), 1);
        assert!(stall.hangs().is_some());
        drop(at_it);
        assert_eq!(stall.get(), 0, "it came back");
        assert!(stall.hangs().is_none());
        stall.refused(true);
        let _again = stall.begin();
        tokio::time::advance(HANGS).await;
        assert_eq!(stall.get(), 1);
        assert!(stall.hangs().is_none(), "whoever tries again and again comes back each time");
    }
}
