//! The way from the connections to the journal, bounded in bytes.
//!
//! Room is taken before a stream's position moves, so that giving up while waiting for it loses nothing. When
//! there is none, the connection that wants it is read no further, and its wrapper keeps the bytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use super::{Settle, Source};
use crate::event::{Batch, Record};

/// A queue's entrance: where connections put batches.
#[derive(Clone, Debug)]
pub struct Outlet {
    room: Arc<Semaphore>,
    capacity: usize,
    waiting: Arc<AtomicUsize>,
    batches: mpsc::UnboundedSender<Waiting>,
    gathered: Arc<Gathered>,
}

/// A queue's exit.
#[derive(Debug)]
pub struct Exit {
    batches: mpsc::UnboundedReceiver<Waiting>,
    gathered: Arc<Gathered>,
}

/// Ends a sink's wait for more.
#[derive(Debug, Default)]
struct Gathered {
    enough: AtomicBool,
    changed: Notify,
}

/// A queue that holds this much is not waited for. It is below what a wrapper whose window is full has in the queue: of
/// its 512 KiB less than 64 KiB wait for an acknowledgement, and mostly less than 64 KiB for the end of a line (320 KiB at most,
/// where rules take something out of several long ones).
const ENOUGH: usize = 128 << 10;

/// How much is in a queue.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Arc<AtomicUsize>);

/// Room taken in a queue, given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    /// Held for its drop.
    _permit: Option<OwnedSemaphorePermit>,
    size: usize,
    waiting: Option<Arc<AtomicUsize>>,
}

/// A batch in the queue, with the room it takes.
#[derive(Debug)]
pub struct Waiting {
    /// The batch.
    pub batch: Batch,
    /// Given back with the batch, so kept until that is durable.
    _room: Room,
}

// === impl Outlet ===

impl Outlet {
    /// A queue for `capacity` bytes, and its exit.
    #[must_use]
    pub fn queue(capacity: usize) -> (Self, Exit) {
        let capacity = capacity.min(Semaphore::MAX_PERMITS);
        let (batches, exit) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(capacity));
        let gathered: Arc<Gathered> = Arc::default();
        let exit = Exit { batches: exit, gathered: Arc::clone(&gathered) };
        (Self { room, capacity, waiting: Arc::default(), batches, gathered }, exit)
    }

    /// Waits for room for `records` records that together hold `bytes` bytes of output. Cancel-safe.
    pub async fn room(&self, records: usize, bytes: usize) -> Room {
        let cost = records.saturating_mul(size_of::<Record>()).saturating_add(bytes).saturating_add(256);
        let size = cost.min(self.capacity);
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        // The semaphore is never closed; a closed one would mean that nobody counts any more.
        let permit = Arc::clone(&self.room).acquire_many_owned(permits).await.ok();
        self.waiting.fetch_add(size, Ordering::Relaxed);
        Room { _permit: permit, size, waiting: Some(Arc::clone(&self.waiting)) }
    }

    /// Hands a batch over, in the room that was taken for it.
    pub fn submit(&self, batch: Batch, room: Room) {
        let enough = batch.last || self.waiting.load(Ordering::Relaxed) >= ENOUGH.min(self.capacity / 2);
        // Refused only when the journal's thread is gone: then the process ends, and the wrapper, which was not told
        // that these bytes are durable, sends them to the next one.
        drop(self.batches.send(Waiting { batch, _room: room }));
        if enough {
            self.gathered.set();
        }
    }

    /// A look at how much is in the queue, which does not keep its entrance open.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        Backlog(Arc::clone(&self.waiting))
    }
}

// === impl Waiting ===

impl Waiting {
    /// A batch that takes no room of a queue.
    #[must_use]
    pub fn without_room(batch: Batch) -> Self {
        Self { batch, _room: Room { _permit: None, size: 0, waiting: None } }
    }
}

// === impl Exit ===

impl Source for Exit {
    async fn recv(&mut self) -> Option<Waiting> {
        self.batches.recv().await
    }

    fn try_recv(&mut self) -> Option<Waiting> {
        self.batches.try_recv().ok()
    }

    async fn gather(&mut self, limit: Duration) {
        if !self.batches.is_closed() {
            self.gathered.wait(limit).await;
        }
    }

    // Nothing of it outlives this process.
    fn settle_first(&mut self, _: Arc<dyn Settle>) -> bool {
        false
    }
}

// === impl Gathered ===

impl Gathered {
    fn set(&self) {
        if !self.enough.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }

    /// What was set before the batches are taken is done with by taking them.
    async fn wait(&self, limit: Duration) {
        // A permit that an earlier wait did not use may be there: what counts is the flag.
        let enough = async {
            while !self.enough.load(Ordering::Acquire) {
                self.changed.notified().await;
            }
        };
        // Out of time or not: what is there is taken.
        let _ = timeout(limit, enough).await;
        self.enough.store(false, Ordering::Release);
    }
}

// === impl Backlog ===

impl Backlog {
    /// Bytes between connections and sink, memory of their records included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Room ===

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            waiting.fetch_sub(self.size, Ordering::Relaxed);
        }
    }
}
