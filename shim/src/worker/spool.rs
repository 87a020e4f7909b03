//! When a spool writer is needed: nobody has listened for a while and memory or the table of tasks runs short, or the pod is over and
//! nobody has taken what it said last. Looks at words and asks the keeper; never waits for the writer.

use std::sync::atomic::Ordering;

use super::{LINGER_NS, Worker};
use crate::{
    block::{Slot, TASKS, Task, TaskState},
    events::EventRing,
    keeper::protocol::Operation,
    sys::unix_ns,
    tee::pressure,
};

/// A link that only breaks is back within this time (the link thread's first pause is half of it).
const PATIENCE_NS: u64 = 200_000_000;
/// While nobody listens, it is looked this often whether memory runs short; and whether an asked-for writer is at work.
const LOOK_NS: u64 = 20_000_000;
const AGAIN_NS: u64 = 500_000_000;
/// A writer writes the last of a pod in this time, or its disk does not answer.
const LAST_NS: u64 = 3_000_000_000;

/// What this worker knows of it. Losing it costs a second.
#[derive(Debug, Default)]
pub(super) struct Spooling {
    /// Since when nobody listens (CLOCK_MONOTONIC ns).
    alone_ns: Option<u64>,
    /// When it is looked at again.
    look_ns: u64,
    /// The request for the last of the pod, and when it was made.
    last: Option<(u32, u64)>,
}

impl Worker {
    /// Asks for a writer where output or events would be lost for want of one.
    pub(super) fn tend_spool(&mut self, now: u64) {
        let generation = self.block.tables().spool.generation();
        if self.board.is_attached() {
            self.spooling.alone_ns = None;
            return;
        }
        let since = *self.spooling.alone_ns.get_or_insert(now);
        if now.saturating_sub(since) < PATIENCE_NS || now < self.spooling.look_ns || !self.may_spool() {
            return;
        }
        self.spooling.look_ns = now.saturating_add(LOOK_NS);
        let is_pressed = pressure::is_pressed(self.block, now) || EventRing::is_pressed(self.block, now);
        if is_pressed || self.is_table_pressed(now) {
            self.ask_for_writer(now, generation);
        }
    }

    /// Are so many tasks over of which nobody was told that the next ones would take their places, and is there a file that may have
    /// what happened to them? Containers that say nothing take no other memory.
    fn is_table_pressed(&self, now: u64) -> bool {
        let told_ns = self.told_ns();
        let tasks = self.block.tables().tasks().iter();
        EventRing::may_be_written(self.block, now)
            && tasks.filter(|task| is_over_since(task, told_ns)).count() > TASKS / 2
    }

    /// Was nobody told that this task is over?
    pub(crate) fn is_untold(&self, task: &Task) -> bool {
        is_over_since(task, self.told_ns())
    }

    /// What happened before this (Unix ns) was told: the time of the oldest event that nobody has taken and no file has.
    fn told_ns(&self) -> u64 {
        let oldest = self.events.at(self.block.tables().events_kept_elsewhere());
        oldest.map_or_else(unix_ns, |(event, _)| event.time_ns)
    }

    fn may_spool(&self) -> bool {
        self.block.tables().spool.limit_bytes.load(Ordering::Relaxed) > 0 && !self.is_safe()
    }

    /// `generation` was read before it was seen that nobody is attached: who attaches now raises it, and a writer that begins
    /// after that must not free what the collector did not find in its files.
    fn ask_for_writer(&mut self, now: u64, generation: u64) {
        self.spooling.look_ns = now.saturating_add(AGAIN_NS);
        self.block.tables().spool.asked_in.store(generation, Ordering::Release);
        // Refused where one is at work already, or where processes are short: asked again then.
        let _ = self.hands.tell(Operation::Spool, Slot::LISTENER);
    }

    /// The pod is over, and the collector has not taken all it said. Is it in a file by now, as far as it ever will be?
    /// `None`: no file can be had, or a collector is there and may still take it.
    pub(super) fn is_spooled(&mut self, now: u64, over_ns: u64) -> Option<bool> {
        let spool = &self.block.tables().spool;
        let generation = spool.generation();
        if self.board.is_attached() && now.saturating_sub(over_ns) < LINGER_NS {
            return None;
        }
        let (number, since) = match self.spooling.last {
            Some(last) => last,
            None => {
                // An earlier refusal counts no longer: for last words there is room in files that are full.
                spool.try_again();
                if !self.may_spool() {
                    return None;
                }
                let number = spool.asked.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
                self.spooling.look_ns = 0;
                *self.spooling.last.insert((number, now))
            }
        };
        if spool.done.load(Ordering::Acquire) == number || now.saturating_sub(since) >= LAST_NS {
            return Some(true);
        }
        if !self.may_spool() || spool.has_refused(now) {
            // Refused: what is left of the time is the collector's.
            return None;
        }
        if now >= self.spooling.look_ns {
            self.ask_for_writer(now, generation);
        }
        Some(false)
    }
}

/// Was it deleted at that time (Unix ns) or later, and is its last word still to be said?
fn is_over_since(task: &Task, time_ns: u64) -> bool {
    TaskState::load(&task.state) == TaskState::Deleted
        && task.link_done.load(Ordering::Acquire) == 0
        && task.deleted_ns.load(Ordering::Relaxed) >= time_ns
}
