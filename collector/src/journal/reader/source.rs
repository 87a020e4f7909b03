//! A reader as sinks have it: the next batch, or a wait for one.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::Reader;
use crate::sinks::{Settle, Source, Waiting};

/// A reader that is this far behind does not wait for more. It is below what a wrapper sends ahead.
const ENOUGH: u64 = 128 << 10;

impl Source for Reader {
    /// Where the journal is in memory, no place of a sink outlives a power cut: then there is nothing to be done.
    fn settle_first(&mut self, settle: Arc<dyn Settle>) -> bool {
        let outlives = !self.journal.is_in_memory();
        if outlives {
            self.cursor.settle_first(settle);
        }
        outlives
    }

    async fn recv(&mut self) -> Option<Waiting> {
        loop {
            // Before looking: what comes meanwhile is looked for again.
            self.look();
            match self.try_next() {
                Ok(batch) => return Some(Waiting::without_room(batch)),
                Err(true) => return None,
                Err(false) => {}
            }
            self.grown().await;
        }
    }

    fn try_recv(&mut self) -> Option<Waiting> {
        self.try_next().ok().map(Waiting::without_room)
    }

    async fn gather(&mut self, limit: Duration) {
        let enough = async {
            loop {
                self.grown.borrow_and_update();
                let (output, closed) = {
                    let state = self.journal.state();
                    (state.output, state.closed)
                };
                if closed || output.saturating_sub(self.output) >= ENOUGH {
                    return;
                }
                if self.grown.changed().await.is_err() {
                    return;
                }
            }
        };
        // Out of time or not: what is there is taken.
        let _ = timeout(limit, enough).await;
    }
}
