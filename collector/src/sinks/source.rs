//! Where a sink takes its batches from: in order, several in flight at a time, each told when it is done with.
//!
//! A sink knows this trait and nothing of what stands before it (a queue, the journal). It must never be handed a
//! batch whose loss could go unnoticed: a batch that is dropped without [`Batch::done`](crate::event::Batch::done)
//! stays unacknowledged, and comes again after a restart.

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use super::Waiting;

/// A sink's supply of batches.
pub trait Source: Send {
    /// The next batch; waits for it. `None` when no more will ever come. Cancel-safe.
    fn recv(&mut self) -> impl Future<Output = Option<Waiting>> + Send;

    /// The next batch, if it is there now.
    fn try_recv(&mut self) -> Option<Waiting>;

    /// Waits for more batches to come: for `limit`, and less where there is enough already, where somebody waits for a
    /// batch, or where no more can come. Cancel-safe.
    fn gather(&mut self, limit: Duration) -> impl Future<Output = ()> + Send;

    /// What has to be done before the source writes down how far this sink is. False where it never will be done, since the
    /// source remembers nothing, or nothing longer than a power cut leaves.
    fn settle_first(&mut self, settle: Arc<dyn Settle>) -> bool;
}

/// A sink whose acknowledgement does not outlive a power cut by itself: what it took may still be in the kernel's memory.
pub trait Settle: Debug + Send + Sync {
    /// Brings everything that was acknowledged by now to where it stays. May wait for a disk, and is called by a thread that
    /// does nothing else. False where that is not sure: why is the sink's own to count and to say.
    fn settle(&self) -> bool;
}
