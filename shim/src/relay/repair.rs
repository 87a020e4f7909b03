//! Stats answers that leave mended, where shim.toml wants it (docs/adr/0024): a choice per container, taken once and for all,
//! and a count that a death leaves exact.
//!
//! An answer that cannot be mended exactly leaves as it came. The collector always gets what the shim said.

use std::sync::atomic::Ordering;

use shimtap_proto::ttrpc::{
    Code, ResponseView, WireFault,
    repair::{Sender, repair, sender},
    task::StatsAnswer,
};

use crate::{
    block::{Pending, PendingState, Tables, counters::Counter},
    worker::Worker,
};

/// What a Stats answer may be counted as.
const KINDS: [Counter; 2] = [Counter::StatsRepaired, Counter::StatsUnrepaired];

/// What was decided of a task, in the low bits of its word; the handle stands above, so that an entry's next task has none.
mod choice {
    pub(super) const NONE: u64 = 0;
    pub(super) const LEAVE: u64 = 1;
    pub(super) const REPAIR: u64 = 2;
}

impl Worker {
    /// The changed frame of a Stats answer; `None` where it leaves as it came.
    pub(super) fn repaired_stats(
        &self,
        index: usize,
        view: &ResponseView<'_>,
        frame: &[u8],
    ) -> Option<Vec<u8>> {
        let tables = self.block.tables();
        let task = self.task_of(self.pending(index))?;
        if tables.identity.repairs_stats.load(Ordering::Relaxed) == 0 || view.code != Code::OK {
            return None;
        }
        let mended = match self.choice(task, view) {
            Ok(choice::REPAIR) => repair(frame),
            Ok(_) => Ok(None),
            Err(fault) => Err(fault),
        };
        if mended.is_err() {
            self.count_stats(index, Counter::StatsUnrepaired);
        }
        mended.ok().flatten()
    }

    /// Taken at the first answer that shows who filled it in. A figure of one container then never changes its meaning.
    fn choice(&self, task: usize, view: &ResponseView<'_>) -> Result<u64, WireFault> {
        let handle = u64::from(self.task(task).handle.load(Ordering::Relaxed)) << 32;
        let Some(word) = self.block.tables().repairs.get(task) else { return Ok(choice::LEAVE) };
        let known = word.load(Ordering::Acquire);
        if known & !u64::from(u32::MAX) == handle && known != handle {
            return Ok(known ^ handle);
        }
        let choice = match sender(&StatsAnswer::decode(view.payload)?)? {
            Sender::Unclear => return Ok(choice::NONE),
            Sender::Whole => choice::LEAVE,
            Sender::Flat => choice::REPAIR,
        };
        word.store(handle | choice, Ordering::Release);
        Ok(choice)
    }

    /// Counts an answer once, however often it is decided.
    pub(super) fn count_stats(&self, index: usize, counter: Counter) {
        count(self.block.tables(), self.pending(index), counter);
    }

    /// What a predecessor was counting when it died. Done before anything moves, so that no other answer was counted since.
    pub(crate) fn finish_count(&self) {
        finish(self.block.tables());
    }
}

/// What the request will have been counted as is written down first.
fn count(tables: &Tables, pending: &Pending, counter: Counter) {
    if pending.tally.load(Ordering::Acquire) != 0 {
        return;
    }
    let next = tables.counters.get(counter).saturating_add(1);
    pending.tally.store(tally(counter, next), Ordering::Release);
    tables.counters.reach(counter, next);
}

fn finish(tables: &Tables) {
    let begun = |pending: &&Pending| PendingState::load(&pending.state) != PendingState::Free;
    for pending in tables.pendings().iter().filter(begun) {
        for counter in KINDS {
            let next = tables.counters.get(counter).saturating_add(1);
            if pending.tally.load(Ordering::Acquire) == tally(counter, next) {
                tables.counters.reach(counter, next);
            }
        }
    }
}

/// Never 0. Long before a count comes round its request has been answered.
fn tally(counter: Counter, n: u64) -> u32 {
    let [a, b, c, ..] = n.to_le_bytes();
    let which = u8::try_from((counter as usize).saturating_add(1)).unwrap_or(u8::MAX);
    u32::from_le_bytes([which, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, note_used};

    #[test]
    fn an_answer_is_counted_once_whoever_dies_where() {
        let block = Block::create().expect("a block");
        let tables = block.tables();
        let [first, second, free] = [0, 1, 2].map(|n| {
            note_used(&tables.pendings_used, n);
            &tables.pendings[n]
        });
        for pending in [first, second] {
            PendingState::Open.store(&pending.state);
        }
        let counted = || KINDS.map(|counter| tables.counters.get(counter));
        count(tables, first, Counter::StatsRepaired);
        count(tables, first, Counter::StatsRepaired);
        assert_eq!(counted(), [1, 0], "decided twice");
        finish(tables);
        assert_eq!(counted(), [1, 0], "all was counted");
        // Died after it was written down, and before it was counted.
        second.tally.store(tally(Counter::StatsUnrepaired, 1), Ordering::Release);
        free.tally.store(tally(Counter::StatsRepaired, 2), Ordering::Release);
        finish(tables);
        finish(tables);
        count(tables, second, Counter::StatsUnrepaired);
        assert_eq!(counted(), [1, 1], "and what a request of long ago was counted as says nothing");
    }

    #[test]
    fn no_count_is_written_down_as_none() {
        for n in [0, 1, 0xff, 1 << 24, u64::MAX] {
            assert!(KINDS.iter().all(|counter| tally(*counter, n) != 0), "{n}");
        }
        assert_ne!(tally(KINDS[0], 5), tally(KINDS[1], 5));
    }
}
