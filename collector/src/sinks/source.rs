//! Where a sink takes its batches from: in order, several in flight at a time, each told when it is done with.
//!
//! A sink knows this trait and nothing of what stands before it (a queue, the journal). It must never be handed a
//! batch whose loss could go unnoticed: a batch that is dropped without [`Batch::done`](crate::event::Batch::done)
//! stays unacknowledged, and comes again after a restart.

use std::{future::Future, time::Duration};

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
}
