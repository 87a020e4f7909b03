//! What a wrapper says of output: bytes, gaps, ends; and lines that wait for theirs.
//!
//! Each waits for room on the way to the journal before anything of its stream moves.

use std::time::Duration;

use shimtap_proto::link;
use tokio::time::Instant;

use super::Session;
use crate::{
    event::{Batch, URGENT_BYTES},
    ingest::{
        data::Data,
        fault::IngestFault,
        streams::{Refused, Slot},
    },
    process::{FRAGMENT_MAX, LINE_MAX},
};

/// How long an unfinished line waits for its end before what is there of it is made durable.
const FRAGMENT_DELAY: Duration = Duration::from_millis(200);
/// A line of which something is to be taken out is not made durable in pieces, unless its wrapper's window is filling. Whether
/// rules still want that of it is looked at this often.
const WHOLE_DELAY: Duration = Duration::from_millis(800);
/// More of a wrapper's unfinished lines together fills its window: one of the longest that are kept in one piece, and beside it
/// what any other may hold. Three eighths of the window are free at any time.
const WHOLE_BYTES: usize = LINE_MAX + FRAGMENT_MAX;

impl Session {
    /// When unfinished lines have waited long enough; `None` where there are none.
    pub(in crate::ingest) fn fragments_due(&self) -> Option<Instant> {
        self.unfinished.values().min().map(|since| *since + FRAGMENT_DELAY)
    }

    /// Sends on what is there of lines that have waited long enough. Cancel-safe as `take` is.
    pub(in crate::ingest) async fn fragments(&mut self) -> Result<(), IngestFault> {
        // The wrapper's window may be full of such lines; what it waits for is then the acknowledgement of these bytes.
        let urgent = u64::try_from(self.held).is_ok_and(|held| held >= URGENT_BYTES);
        let now = Instant::now();
        let due = self.unfinished.iter().filter(|(_, since)| **since + FRAGMENT_DELAY <= now);
        for handle in due.map(|(handle, _)| *handle).collect::<Vec<_>>() {
            let slot = self.slot(handle)?;
            if slot.wants_whole_lines() {
                self.unfinished.entry(handle).and_modify(|since| *since = now + WHOLE_DELAY);
                continue;
            }
            self.fragment(handle, &slot, urgent).await?;
            // A CR that may be half of a line's end stays, and waits anew.
            self.unfinished.entry(handle).and_modify(|since| *since = now);
        }
        Ok(())
    }

    /// Sends on what is there of lines of which nothing is to be taken out: who says the rest may never come. Cancel-safe as `take` is.
    pub(in crate::ingest) async fn pieces(&mut self) -> Result<(), IngestFault> {
        for handle in self.unfinished.keys().copied().collect::<Vec<_>>() {
            let slot = self.slot(handle)?;
            if !slot.wants_whole_lines() {
                self.fragment(handle, &slot, true).await?;
            }
        }
        Ok(())
    }

    /// The wrapper's window is filling: sends on what is there of unfinished lines until there is room again, of those first that may
    /// be cut anywhere, of the longest first. Cancel-safe as `take` is.
    async fn relieve(&mut self) -> Result<(), IngestFault> {
        while self.held > WHOLE_BYTES {
            let of = |handle: &u32| {
                let slot = &self.streams.get(handle)?.slot;
                Some((!slot.wants_whole_lines(), slot.held(), *handle))
            };
            // A single byte may be a CR that stays.
            let longest = self.unfinished.keys().filter_map(of).filter(|(_, held, _)| *held > 1).max();
            let Some((_, _, handle)) = longest else { break };
            let slot = self.slot(handle)?;
            self.fragment(handle, &slot, true).await?;
        }
        Ok(())
    }

    /// Hands on what is there of a stream's unfinished line, as [`Slot::fragment`] gives it.
    async fn fragment(&mut self, handle: u32, slot: &Slot, urgent: bool) -> Result<(), IngestFault> {
        self.pass_on(handle, slot, 1, 0, |id| slot.fragment(id, urgent)).await
    }

    /// Hands on what `taken`, given the number of this connection, makes of stream `handle`: at most `records`, of so many `bytes`
    /// besides those that it holds of an unfinished line. Cancel-safe: nothing is taken before the head of the journal that it
    /// goes to has room.
    async fn pass_on(
        &mut self,
        handle: u32,
        slot: &Slot,
        records: usize,
        bytes: usize,
        taken: impl FnOnce(u64) -> Result<Option<Batch>, Refused>,
    ) -> Result<(), IngestFault> {
        let before = slot.held();
        slot.settled().await;
        let head = self.ingest.outlets.of(slot.next_home());
        let room = head.room(records, bytes.saturating_add(before)).await;
        let batch = taken(self.id).map_err(|refused| refusal(handle, slot, refused))?;
        let held = slot.held();
        self.held = self.held.saturating_sub(before).saturating_add(held);
        if held == 0 {
            self.unfinished.remove(&handle);
        } else if batch.is_some() || before == 0 {
            self.unfinished.insert(handle, Instant::now());
        }
        if let Some(batch) = batch {
            self.ingest.outlets.of(slot.home()).submit(batch, room);
            self.acks.expect();
        }
        Ok(())
    }

    /// Takes bytes, as `take` does.
    pub(in crate::ingest) async fn data(&mut self, data: Data) -> Result<(), IngestFault> {
        let Data { handle, ref bytes, .. } = data;
        let slot = self.slot(handle)?;
        if bytes.len() > link::DATA_MAX {
            return Err(IngestFault::Order("a Data of more than 64 KiB"));
        }
        // A line per newline, a hole of two reasons and what it cuts, and the pieces of a long line.
        let records = memchr::memchr_iter(b'\n', bytes).count().saturating_add(5);
        let size = bytes.len();
        self.pass_on(handle, &slot, records, size, |id| slot.data(id, data, records)).await?;
        self.relieve().await
    }

    pub(super) async fn gap(&mut self, gap: &link::Gap) -> Result<(), IngestFault> {
        let slot = self.slot(gap.handle)?;
        self.pass_on(gap.handle, &slot, 4, 0, |id| slot.gap(id, gap)).await
    }

    pub(super) async fn close(&mut self, close: &link::Close) -> Result<(), IngestFault> {
        let slot = self.slot(close.handle)?;
        self.pass_on(close.handle, &slot, 4, 0, |id| slot.close(id, close)).await?;
        self.acks.closed(close.handle);
        Ok(())
    }
}

fn refusal(handle: u32, slot: &Slot, refused: Refused) -> IngestFault {
    match refused {
        Refused::Superseded => IngestFault::Superseded(handle),
        Refused::Fault(source) => {
            IngestFault::Position { handle, container: slot.origin.name.container.clone(), source }
        }
    }
}
