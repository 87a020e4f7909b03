//! The collector, and of the link thread what stands between it and the ring: the real cursors, a message at a time. What it is
//! told must be the container's bytes or a Gap for them, without a hole and without a repeat, over deaths and over its own absences.
//!
//! A session ends with the worker that it was with. Nothing here knows whether bytes had to be missing: that is `output`'s.

use std::sync::atomic::Ordering;

use shimtap_proto::link::{GapReason, StreamPosition, from_wrapper::Body};

use super::output::Output;
use crate::{
    block::{Block, TaskState, linked, words::wide},
    link::{Cursors, Next, Switchboard, Towards},
};

pub struct Collector {
    block: &'static Block,
    board: &'static Switchboard,
    /// By how many workers had died when it began.
    session: Option<(u32, Cursors)>,
    was_attached: bool,
}

/// What it has of a stream.
#[derive(Default)]
pub struct Copied {
    /// Every byte below it has, or has been told that it is missing.
    pub have: u64,
    /// The same, for good; so much was acknowledged at most.
    durable: u64,
    /// It knows the end.
    pub closed: bool,
    /// The same, for good.
    is_end_durable: bool,
}

// === impl Copied ===

impl Copied {
    /// It was killed, and has what it had acknowledged.
    pub fn forget(&mut self) {
        (self.have, self.closed) = (self.durable, self.is_end_durable);
    }

    /// It will never be told more of it: has it all for good, and knows that this is all?
    fn is_whole(&self) -> bool {
        self.have == self.durable && self.is_end_durable
    }
}

// === impl Collector ===

impl Collector {
    pub fn new(block: &'static Block, board: &'static Switchboard) -> Self {
        Self { block, board, session: None, was_attached: false }
    }

    /// To the worker of now.
    pub fn attach(&mut self, deaths: u32) {
        let mut cursors = Cursors::new(self.block, Towards::Link);
        // Nothing waits for company: there is no clock here.
        cursors.gather(0);
        self.session = Some((deaths, cursors));
        self.was_attached = true;
        self.board.set_attached(true);
    }

    pub fn detach(&mut self) {
        self.session = None;
        self.board.set_attached(false);
    }

    pub fn is_attached(&mut self, deaths: u32) -> bool {
        self.session(deaths).is_some()
    }

    /// Was it ever?
    pub fn was_attached(&self) -> bool {
        self.was_attached
    }

    fn session(&mut self, deaths: u32) -> Option<&mut Cursors> {
        self.session.as_mut().filter(|(began, _)| *began == deaths).map(|(_, cursors)| cursors)
    }

    /// At most so many messages of a stream.
    pub fn take(&mut self, deaths: u32, output: &mut Output, most: usize) {
        let block = self.block;
        let Some(cursors) = self.session(deaths) else { return };
        let Some(stream) = output.entry(block) else { return };
        let handle = stream.handle.load(Ordering::Acquire);
        if cursors.at(handle).is_none() {
            let next = Some(output.copy.have);
            cursors.begin(&StreamPosition { handle, capture: true, next, ..Default::default() });
        }
        for _ in 0..most {
            let Some(Next::Body(body)) = cursors.next_body(handle) else { return };
            match *body {
                Body::Data(data) => {
                    assert_eq!(data.offset, output.copy.have, "output goes on where it was");
                    output.is_told(&data.bytes);
                    output.copy.have += wide(data.bytes.len());
                }
                Body::Gap(gap) => {
                    assert_eq!(gap.reason, GapReason::GAP_REASON_OVERFLOW.into());
                    assert_eq!(gap.from, output.copy.have, "a Gap begins where it was");
                    output.is_missing(block, gap.from, gap.to);
                    output.copy.have = gap.to;
                }
                Body::Close(close) => {
                    assert!(close.exact && close.end == output.copy.have, "the end is where it was");
                    output.copy.closed = true;
                }
                _ => panic!("nothing else comes from a cursor"),
            }
        }
    }

    /// Part `part` of 255 of what it has not acknowledged yet is durable; `end`: the end as well, where it has that with all before it.
    pub fn acknowledge(&mut self, deaths: u32, output: &mut Output, part: u8, end: bool) {
        let block = self.block;
        let Some(cursors) = self.session(deaths) else { return };
        let Some(stream) = output.entry(block) else { return };
        let copy = &mut output.copy;
        copy.durable += (copy.have - copy.durable) * u64::from(part) / 255;
        copy.is_end_durable |= end && copy.closed && copy.have == copy.durable;
        cursors.acknowledged(stream.handle.load(Ordering::Acquire), copy.durable, copy.is_end_durable);
    }

    /// As the link thread does with deleted tasks of which everything is acknowledged.
    pub fn finish_tasks<'a>(&mut self, deaths: u32, outputs: impl Iterator<Item = &'a Output>) {
        let block = self.block;
        let Some(cursors) = self.session(deaths) else { return };
        let cut: Vec<_> = outputs.filter(|o| !o.copy.is_whole()).filter_map(|o| o.entry(block)).collect();
        let tasks = block.tables().tasks().iter().enumerate();
        for (index, task) in tasks.filter(|(_, t)| TaskState::load(&t.state) == TaskState::Deleted) {
            if cursors.is_task_finished(index, task) {
                let is_cut = cut.iter().any(|stream| linked(&stream.task) == Some(index));
                assert!(!is_cut, "a task is done with whose output, or its end, may still be lost");
                cursors.forget_task(task);
                task.link_done.store(1, Ordering::Release);
            }
        }
    }
}
