//! Both heads of the journal, read as one: each stream in order, whatever head its records lie in.
//!
//! Where both have something the older frame comes first. Where one has nothing at the moment the other is not held up by
//! it, but for one case: a batch with a hole of reason `moved` goes on where the other head ends, and comes behind all that
//! this had by then. That was appended before the batch was made, so it is never waited for, only looked for. The holes
//! themselves are taken out: what they stand for has come from the other head.

use std::{sync::Arc, time::Duration};

use super::{Journal, reader::Reader};
use crate::{
    event::{Batch, Body, HoleReason, Store},
    sinks::{Settle, Source, Waiting},
};

/// A reader of both, or of the only one.
#[derive(Debug)]
pub struct Merged {
    memory: Reader,
    disk: Option<Reader>,
}

// === impl Merged ===

impl Merged {
    pub(super) const fn new(memory: Reader, disk: Option<Reader>) -> Self {
        Self { memory, disk }
    }

    /// The next batch; where there is none, whether there will be none.
    fn try_next(&mut self) -> Result<Batch, bool> {
        let Some(disk) = &mut self.disk else { return self.memory.try_next() };
        loop {
            let (from, other) = match next_of(&mut self.memory, disk)? {
                Store::Memory => (&mut self.memory, &*disk),
                Store::Disk => (&mut *disk, &self.memory),
            };
            let mut batch = from.try_next()?;
            from.lost(HoleReason::JournalLost, take_out_moved(&mut batch, other.journal()));
            if !batch.records.is_empty() {
                return Ok(batch);
            }
            batch.done();
        }
    }
}

/// The head whose batch is the next.
fn next_of(memory: &mut Reader, disk: &mut Reader) -> Result<Store, bool> {
    loop {
        let on_disk = disk.front();
        match (memory.front(), on_disk) {
            (Err(closed), Err(also)) => return Err(closed && also),
            (Ok(here), Ok(there)) => {
                return Ok(if here.time_ns < there.time_ns { Store::Memory } else { Store::Disk });
            }
            // Seen before the memory was found to have nothing.
            (Err(_), Ok(_)) => return Ok(Store::Disk),
            (Ok(here), Err(_)) if !here.has_moved => return Ok(Store::Memory),
            // The disk was looked at before this was seen.
            (Ok(_), Err(_)) if disk.front().is_err() => return Ok(Store::Memory),
            (Ok(_), Err(_)) => {}
        }
    }
}

/// Takes out what the `other` head has. What it does not have any more, though it was moved away from there, is said to be
/// lost; gives how many bytes that are.
fn take_out_moved(batch: &mut Batch, other: &Journal) -> u64 {
    if !batch.records.iter().any(|record| record.is_moved()) {
        return 0;
    }
    let there = other.stream(&batch.origin.name).map_or(0, |row| row.end);
    let mut lost = 0u64;
    batch.records.retain_mut(|record| {
        if !record.is_moved() {
            return true;
        }
        record.from = record.from.max(there);
        record.body = Body::hole(HoleReason::JournalLost);
        lost = lost.saturating_add(record.to.saturating_sub(record.from));
        record.from < record.to
    });
    lost
}

impl Source for Merged {
    async fn recv(&mut self) -> Option<Waiting> {
        loop {
            // Before looking: what comes meanwhile is looked for again.
            self.memory.look();
            if let Some(disk) = &mut self.disk {
                disk.look();
            }
            match self.try_next() {
                Ok(batch) => return Some(Waiting::without_room(batch)),
                Err(true) => return None,
                Err(false) => {}
            }
            match &mut self.disk {
                None => self.memory.grown().await,
                // Cancel-safe: each only says that it is time to look again.
                Some(disk) => tokio::select! {
                    () = self.memory.grown() => {}
                    () = disk.grown() => {}
                },
            }
        }
    }

    fn try_recv(&mut self) -> Option<Waiting> {
        self.try_next().ok().map(Waiting::without_room)
    }

    async fn gather(&mut self, limit: Duration) {
        match &mut self.disk {
            None => self.memory.gather(limit).await,
            // Enough of either is enough.
            Some(disk) => tokio::select! {
                () = self.memory.gather(limit) => {}
                () = disk.gather(limit) => {}
            },
        }
    }

    /// Each head has its own place of the sink, and only the one on a disk has something to wait for.
    fn settle_first(&mut self, settle: Arc<dyn Settle>) -> bool {
        let on_disk = self.disk.as_mut().is_some_and(|disk| disk.settle_first(Arc::clone(&settle)));
        self.memory.settle_first(settle) || on_disk
    }
}
