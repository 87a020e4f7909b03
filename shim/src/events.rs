//! The event ring: encoded `Event`s from the relay thread to the link thread, in the block.
//!
//! A record is a length (u32) and that many bytes, positions run on for ever and wrap by modulo. The relay thread
//! moves `events_head`, the link thread moves `events_tail` once the collector has taken what lies before it; so
//! events survive a worker. What a spool file has counts as taken. A full ring drops the new event and counts it.

use std::{iter::successors, sync::atomic::Ordering};

use protobuf::Message;
use shimtap_proto::link::{Event, EventKind};

use crate::{
    block::{Block, EVENTS, Places, counters::Counter, words::wide},
    sys::{Kernel, shared::Mapping},
};

const PREFIX: usize = 4;

/// Both ends' view of the ring.
pub struct EventRing {
    block: &'static Block,
    area: Mapping,
}

// === impl EventRing ===

impl EventRing {
    /// Maps the ring.
    pub fn new(block: &'static Block) -> Kernel<Self> {
        Ok(Self { block, area: block.map_place(Places::events())? })
    }

    /// Relay thread: numbers and appends an event; drops and counts it where there is no room.
    pub fn push(&self, mut event: Event) {
        let tables = self.block.tables();
        let seq = tables.events_seq.load(Ordering::Relaxed).wrapping_add(1);
        event.seq = seq;
        let head = tables.events_head.load(Ordering::Relaxed);
        let appended = event.write_to_bytes().ok().filter(|bytes| {
            self.has_room(head, bytes.len().saturating_add(PREFIX)) && self.append(head, bytes)
        });
        match appended {
            Some(bytes) => {
                tables.events_seq.store(seq, Ordering::Relaxed);
                let end = head.wrapping_add(wide(bytes.len().saturating_add(PREFIX)));
                tables.events_head.store(end, Ordering::Release);
            }
            None => tables.counters.add(Counter::EventsDropped),
        }
    }

    /// Is there room for so many bytes? Those that a file has may be written over; before they are, the tail moves behind them, since
    /// whoever reads begins there, also after a death.
    fn has_room(&self, head: u64, len: usize) -> bool {
        let tables = self.block.tables();
        let fits = |tail: u64| {
            let used = usize::try_from(head.wrapping_sub(tail)).unwrap_or(usize::MAX);
            len <= EVENTS.saturating_sub(used)
        };
        if fits(self.tail()) {
            return true;
        }
        let kept = tables.events_kept_elsewhere();
        let fits = fits(kept);
        if fits {
            tables.events_tail.fetch_max(kept, Ordering::AcqRel);
        }
        fits
    }

    /// Relay thread, before its first push: a predecessor that died between taking a number and moving the head had its
    /// record whole by then. That number is taken again, since a missing one would be counted as a lost event.
    pub fn finish(&self) {
        let tables = self.block.tables();
        let taken = tables.events_seq.load(Ordering::Acquire);
        let unseen = self.record(tables.events_head.load(Ordering::Acquire));
        // What lies there from an earlier round of the ring has a lower number.
        if taken != 0 && unseen.is_some_and(|(event, _)| event.seq == taken) {
            tables.events_seq.store(taken.saturating_sub(1), Ordering::Release);
        }
    }

    /// Link thread: the event at `position` and the position behind it; `None` at the end.
    pub fn at(&self, position: u64) -> Option<(Event, u64)> {
        if position == self.block.tables().events_head.load(Ordering::Acquire) {
            return None;
        }
        self.record(position)
    }

    fn record(&self, position: u64) -> Option<(Event, u64)> {
        let prefix = self.get(position, PREFIX)?;
        let len = usize::try_from(u32::from_ne_bytes(prefix.try_into().ok()?)).ok()?;
        let bytes = self.get(position.wrapping_add(wide(PREFIX)), len)?;
        let event = Event::parse_from_bytes(&bytes).ok()?;
        Some((event, position.wrapping_add(wide(PREFIX.saturating_add(len)))))
    }

    /// Link thread: does what is not yet taken, and has a higher number than `known`, tell of the end of this task's init process?
    pub fn tells_of_exit(&self, task: u32, known: u64) -> bool {
        let its = |event: &Event| {
            event.kind == EventKind::EVENT_KIND_EXIT.into()
                && (event.task, event.process.as_str()) == (task, "")
                && event.seq > known
        };
        successors(self.at(self.tail()), |(_, behind)| self.at(*behind)).any(|(event, _)| its(&event))
    }

    /// Link thread: oldest position not yet taken.
    pub fn tail(&self) -> u64 {
        self.block.tables().events_tail.load(Ordering::Acquire)
    }

    /// Is so much of it taken that waiting longer for a collector may cost events, and is there a file that may have them?
    pub fn is_pressed(block: &Block, now: u64) -> bool {
        let tables = block.tables();
        let used = tables.events_head.load(Ordering::Acquire).wrapping_sub(tables.events_kept_elsewhere());
        used > wide(EVENTS / 2) && Self::may_be_written(block, now)
    }

    /// Has the place of their file not refused a short time ago?
    pub fn may_be_written(block: &Block, now: u64) -> bool {
        let tables = block.tables();
        !tables.spool.refuses(tables.events_go_to(), now)
    }

    /// Link thread: everything before `position` was taken.
    pub fn taken(&self, position: u64) {
        self.block.tables().events_tail.fetch_max(position, Ordering::AcqRel);
    }

    fn append(&self, head: u64, bytes: &[u8]) -> bool {
        let len = u32::try_from(bytes.len()).unwrap_or(0).to_ne_bytes();
        self.put(head, &len) && self.put(head.wrapping_add(wide(PREFIX)), bytes)
    }

    fn put(&self, position: u64, bytes: &[u8]) -> bool {
        let at = index(position);
        let (first, second) = bytes.split_at(bytes.len().min(EVENTS.saturating_sub(at)));
        let Some(area) = self.area.area(0, EVENTS) else { return false };
        area.put(at, first) && area.put(0, second)
    }

    fn get(&self, position: u64, len: usize) -> Option<Vec<u8>> {
        let at = index(position);
        let first = len.min(EVENTS.saturating_sub(at));
        let area = self.area.area(0, EVENTS)?;
        let mut bytes = area.get(at, first)?;
        bytes.extend(area.get(0, len.checked_sub(first)?)?);
        Some(bytes)
    }
}

fn index(position: u64) -> usize {
    usize::try_from(position % wide(EVENTS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::spool::Marker;

    fn ring() -> EventRing {
        EventRing::new(Box::leak(Box::new(Block::create().unwrap()))).unwrap()
    }

    #[test]
    fn events_come_out_in_order_and_numbered_over_many_wraps() {
        let ring = ring();
        for n in 0..5000u32 {
            ring.push(Event { pid: n, process_spec: vec![7; 300], ..Default::default() });
            let (event, behind) = ring.at(ring.tail()).unwrap();
            assert_eq!((event.pid, event.seq), (n, u64::from(n) + 1));
            ring.taken(behind);
            assert!(ring.at(behind).is_none());
        }
    }

    #[test]
    fn an_exit_is_told_of_as_long_as_its_event_is_to_come() {
        let ring = ring();
        let exit = |task, process: &str| Event {
            kind: EventKind::EVENT_KIND_EXIT.into(),
            task,
            process: process.to_owned(),
            ..Default::default()
        };
        let told = |task| ring.tells_of_exit(task, 0);
        assert!(!told(1), "there is no event");
        for event in [Event { task: 1, ..Default::default() }, exit(1, "exec"), exit(2, ""), exit(1, "")] {
            ring.push(event);
        }
        assert!(told(1) && told(2) && !told(3));
        assert!(
            !ring.tells_of_exit(1, 4) && ring.tells_of_exit(1, 3),
            "the collector has those up to a number"
        );
        (0..3).for_each(|_| ring.taken(ring.at(ring.tail()).unwrap().1));
        assert!(told(1) && !told(2));
        ring.taken(ring.at(ring.tail()).unwrap().1);
        assert!(!told(1));
    }

    #[test]
    fn a_number_that_was_taken_for_an_event_that_nobody_saw_is_taken_again() {
        let ring = ring();
        ring.push(Event::default());
        let before = ring.block.tables().events_head.load(Ordering::Relaxed);
        ring.push(Event { pid: 2, ..Default::default() });
        // Death between the two words.
        ring.block.tables().events_head.store(before, Ordering::Relaxed);
        (0..2).for_each(|_| ring.finish());
        ring.push(Event { pid: 3, ..Default::default() });
        assert_eq!(ring.at(before).map(|(event, _)| (event.pid, event.seq)), Some((3, 2)));
        ring.finish();
        ring.push(Event::default());
        assert_eq!(ring.block.tables().events_seq.load(Ordering::Relaxed), 3, "nothing was left to finish");
    }

    /// Pushes so many events that the ring has none of the first ones any more; a file has what it was told of half way.
    fn pushed_over(ring: &EventRing) -> u64 {
        let event = || Event { process_spec: vec![1; 1000], ..Default::default() };
        let tables = ring.block.tables();
        while tables.events_head.load(Ordering::Relaxed) < wide(EVENTS * 3 / 4) {
            ring.push(event());
        }
        let written = tables.events_head.load(Ordering::Relaxed);
        Marker::of_events(tables.spool.generation()).store(&tables.spool.events, written);
        (0..40).for_each(|_| ring.push(event()));
        assert!(tables.events_head.load(Ordering::Relaxed) > wide(EVENTS), "nothing was written over");
        written
    }

    /// Whoever begins to read begins with an event, whenever it was that a collector came: the one of before had died, or a writer
    /// had gone on, between its look at what a file has and the end of the time for which that counts.
    #[test]
    fn what_is_written_over_is_not_read_again() {
        let ring = ring();
        let written = pushed_over(&ring);
        ring.block.tables().spool.begin_generation();
        assert_eq!(ring.tail(), written);
        let (first, _) = ring.at(ring.tail()).unwrap();
        assert!(first.seq > 1 && !first.process_spec.is_empty(), "{}", first.seq);
    }

    #[test]
    fn a_full_ring_drops_the_new_event_and_counts_it() {
        let ring = ring();
        for _ in 0..1000 {
            ring.push(Event { process_spec: vec![1; 1000], ..Default::default() });
        }
        let dropped = ring.block.tables().counters.get(Counter::EventsDropped);
        let mut position = ring.tail();
        let mut kept = 0;
        while let Some((event, behind)) = ring.at(position) {
            kept += 1;
            assert_eq!(event.seq, kept, "sequence numbers have no holes");
            position = behind;
        }
        assert_eq!(kept + dropped, 1000);
        assert!(dropped > 0);
    }
}
