//! How far a stream is durable, told to whoever acknowledges it. Nothing here says so before it is.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::Notify;

use super::{Batch, Ending, Receipt};

/// How far a stream is durable. Shared by the stage that makes it so and the connection that acknowledges it.
#[derive(Debug, Default)]
pub struct Progress {
    durable: AtomicU64,
    /// Its wrapper's word on where it ends is durable as well.
    ended: AtomicBool,
    due: Mutex<Option<Arc<Due>>>,
}

/// What of a connection's streams has become durable since somebody last looked, and the call to look at once.
#[derive(Debug, Default)]
pub struct Due {
    bytes: AtomicU64,
    at_once: AtomicBool,
    called: Notify,
}

/// Durable bytes of a wrapper after which an acknowledgement does not wait for its time. Where a session
/// holds as much of unfinished lines their pieces are called for at once, so that most of the window is free at any time; lines of which
/// something is to be taken out may hold more (`ingest::session`).
pub const URGENT_BYTES: u64 = shimtap_proto::link::WINDOW / 8;

// === impl Progress ===

impl Receipt for Progress {
    fn done(&self, batch: &Batch) {
        // Not where its wrapper was given up: that may come back, and then its word on the end is still to be made durable.
        if batch.ending.is_some_and(Ending::is_orderly) {
            self.ended.store(true, Ordering::Release);
        }
        self.advance(batch.end, batch.last);
    }
}

impl Progress {
    /// Every byte below this is durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Says that every byte below `offset` is durable; `urgent` calls whoever acknowledges at once.
    pub fn advance(&self, offset: u64, urgent: bool) {
        let before = self.durable.fetch_max(offset, Ordering::SeqCst);
        if offset <= before && !urgent {
            return;
        }
        let due = self.due().clone();
        if let Some(due) = due {
            due.add(offset.saturating_sub(before));
            if urgent {
                due.call();
            }
        }
    }

    /// Of a stream that an earlier process kept: every byte below `durable` is.
    #[must_use]
    pub fn resumed(durable: u64, ended: bool) -> Self {
        Self { durable: AtomicU64::new(durable), ended: AtomicBool::new(ended), due: Default::default() }
    }

    /// True once its wrapper's word on where the stream ends is durable.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// From here on `due` is told of progress (a stream changes connections when its wrapper comes back).
    pub fn report_to(&self, due: Arc<Due>) {
        *self.due() = Some(due);
    }

    fn due(&self) -> MutexGuard<'_, Option<Arc<Due>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Due ===

impl Due {
    /// Waits until something is to be looked at. Cancel-safe.
    pub async fn called(&self) {
        self.called.notified().await;
    }

    /// Wakes whoever waits, who need not acknowledge yet.
    pub fn wake(&self) {
        self.called.notify_one();
    }

    /// True where an acknowledgement is due whatever its time. It is taken to be on its way from here on.
    pub fn take_call(&self) -> bool {
        self.at_once.swap(false, Ordering::AcqRel)
    }

    /// All that is durable is being acknowledged.
    pub fn begin(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < URGENT_BYTES && before.saturating_add(bytes) >= URGENT_BYTES {
            self.call();
        }
    }

    /// Calls for an acknowledgement at once.
    pub fn call(&self) {
        self.at_once.store(true, Ordering::Release);
        self.called.notify_one();
    }
}
