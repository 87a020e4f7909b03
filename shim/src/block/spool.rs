//! The part of the block about spooling: how far it came, where to, how much of it, and for whom it still counts.
//!
//! Words marked "spool:" are written by the child that writes the files. It may be stuck in a disk for minutes while a
//! collector comes, reads what there is, and removes the file; what it completes after that must not free a byte. So
//! what it says carries the generation it began in ([`Marker`]), and each attachment begins the next one.

use std::sync::atomic::Ordering;

use super::{
    ID, Stream, Tables,
    states::{StreamState, states},
    text::Text,
};
use crate::sys::{
    atomic::{AtomicU32, AtomicU64},
    shared::shared_layout,
};

/// Bits of a mark that hold the offset: 256 TiB, as in the ring.
const OFFSET_BITS: u32 = 48;
const TAGS: u64 = 1 << (u64::BITS - OFFSET_BITS);

states! {
    /// Where the collector's rules let a stream be spooled.
    pub enum Verdict {
        /// No collector has said: memory.
        Unknown,
        Disk,
        Memory,
    }
}

/// Which of the two directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Disk,
    Memory,
}

shared_layout! {
    /// Spooling as a whole.
    pub struct Spool {
        /// link: attachments so far.
        pub generation: AtomicU64,
        /// The generation for which a writer was last asked: one that begins later finds that it is not needed.
        pub asked_in: AtomicU64,
        /// Bytes that this wrapper's files may hold together, by shim.toml (0: none are written), and (link) by the
        /// collector's budget, 0 = it has not said.
        pub limit_bytes: AtomicU64,
        pub share_bytes: AtomicU64,
        /// What a disk keeps free.
        pub free_bytes: AtomicU64,
        pub free_percent: AtomicU32,
        /// spool: files made so far.
        pub files: AtomicU32,
        /// Requests that everything be written, because the pod is over; (spool:) the last one that was done.
        pub asked: AtomicU32,
        pub done: AtomicU32,
        /// keeper: its child that writes, until it was reaped; 0 = none.
        pub writer_pid: AtomicU32,
        _reserved: AtomicU32,
        /// spool: a mark: position in the event ring up to which a completed write has it.
        pub events: AtomicU64,
        /// spool: CLOCK_MONOTONIC ns before which it is of no use to try again; its lowest bits say where ([`Kind::bit`]; to a
        /// release that does not know of them they are three nanoseconds).
        pub again_ns: AtomicU64,
        /// Where: see `spool::place`.
        pub disk_dir: Text<ID>,
        pub memory_dir: Text<ID>,
    }
}

/// An offset, and for whom it was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    tag: u64,
    /// The offset, whoever it was for: so far a file has it, or had it.
    pub offset: u64,
}

/// Makes a writer's marks: they count until a collector is attached or the entry becomes another stream's, whenever it is
/// that they are made.
#[derive(Debug, Clone, Copy)]
pub struct Marker {
    tag: u64,
}

// === impl Kind ===

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Disk, Self::Memory];
    const BITS: u64 = 0b11;

    /// What the collector's rules allow; memory where it has not said.
    pub fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Disk => Self::Disk,
            Verdict::Memory | Verdict::Unknown => Self::Memory,
        }
    }

    /// Where this stream is written.
    pub fn of_stream(stream: &Stream) -> Self {
        Self::of(Verdict::load(&stream.spool_to))
    }

    fn bit(self) -> u64 {
        match self {
            Self::Disk => 0b01,
            Self::Memory => 0b10,
        }
    }
}

// === impl Mark ===

impl Mark {
    /// As stored.
    pub fn load(word: &AtomicU64) -> Self {
        let word = word.load(Ordering::Acquire);
        Self { tag: word >> OFFSET_BITS, offset: word % (1 << OFFSET_BITS) }
    }
}

// === impl Marker ===

impl Marker {
    /// Either figure only goes up, so their sum is another one after each change of either.
    fn new(generation: u64, epoch: u64) -> Self {
        Self { tag: generation.wrapping_add(epoch) % TAGS }
    }

    /// spool: for a writer that began in `generation` and writes the stream of that handle. `None`: it is not there.
    pub fn of(generation: u64, stream: &Stream, handle: u32) -> Option<Self> {
        // In this order: an epoch that is a later stream's is seen with an entry that is free, or of another handle.
        let epoch = u64::from(stream.epoch.load(Ordering::Acquire));
        let is_there = StreamState::load(&stream.state) != StreamState::Free
            && stream.handle.load(Ordering::Acquire) == handle;
        is_there.then_some(Self::new(generation, epoch))
    }

    /// spool: for its events.
    pub fn of_events(generation: u64) -> Self {
        Self::new(generation, 0)
    }

    /// spool: a write up to `offset` was completed.
    pub fn store(self, word: &AtomicU64, offset: u64) {
        // Beyond 256 TiB nothing is freed for it: the ring has the same bound.
        if offset < 1 << OFFSET_BITS {
            word.store(self.tag << OFFSET_BITS | offset, Ordering::Release);
        }
    }
}

// === impl Spool ===

impl Spool {
    /// The generation now.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// link: a collector is attached. What a file has by now it will find there; what is completed later counts for
    /// nobody. The generation before.
    pub fn begin_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::SeqCst)
    }

    /// spool: what goes there was refused; nobody need try again before `until_ns`.
    pub fn refuse(&self, kind: Kind, now: u64, until_ns: u64) {
        let others = self.refused(now);
        self.again_ns.store(until_ns & !Kind::BITS | others | kind.bit(), Ordering::Release);
    }

    /// Is it of no use to try there now?
    pub fn refuses(&self, kind: Kind, now: u64) -> bool {
        self.refused(now) & kind.bit() != 0
    }

    /// Was anything refused lately?
    pub fn has_refused(&self, now: u64) -> bool {
        self.refused(now) != 0
    }

    /// Who refuses, by their bits.
    fn refused(&self, now: u64) -> u64 {
        let word = self.again_ns.load(Ordering::Acquire);
        if word & !Kind::BITS > now { word & Kind::BITS } else { 0 }
    }

    /// Whoever refused may not do so again.
    pub fn try_again(&self) {
        self.again_ns.store(0, Ordering::Release);
    }

    /// The offset in `word`, where it was written since the last attachment: a file has everything below, and no collector
    /// has looked into that file yet.
    fn current(&self, word: &AtomicU64, epoch: u64) -> Option<u64> {
        let mark = Mark::load(word);
        // Asked after the mark was read: so the write was completed before an attachment that comes now.
        (mark.tag == Marker::new(self.generation(), epoch).tag).then_some(mark.offset)
    }

    /// Most bytes that this wrapper's files may hold on a disk.
    pub fn allowance(&self) -> u64 {
        let limit = self.limit_bytes.load(Ordering::Relaxed);
        match self.share_bytes.load(Ordering::Relaxed) {
            0 => limit,
            share => limit.min(share),
        }
    }
}

// === impl Tables ===

impl Tables {
    /// Raw offset of a stream below which its bytes are not ours to keep: acknowledged by the collector, or in a
    /// spool file that no collector has opened yet, or nobody's, where no rule wants the stream. (One that wants it again asks for
    /// what is there: docs/protocol.md.)
    pub fn kept_elsewhere(&self, stream: &Stream) -> u64 {
        if stream.unwanted.load(Ordering::Acquire) != 0 {
            return stream.pos.load(Ordering::Acquire);
        }
        let epoch = u64::from(stream.epoch.load(Ordering::Acquire));
        let spooled = self.spool.current(&stream.spooled, epoch).unwrap_or(0);
        spooled.max(stream.acked.load(Ordering::Acquire)).min(stream.pos.load(Ordering::Acquire))
    }

    /// The same of the event ring.
    pub fn events_kept_elsewhere(&self) -> u64 {
        let tail = self.events_tail.load(Ordering::Acquire);
        self.spool.current(&self.spool.events, 0).map_or(tail, |spooled| spooled.max(tail))
    }

    /// Where events are written: their numbers run through all tasks, so they cannot be split, and an exec's arguments may be what
    /// must not reach a disk.
    pub fn events_go_to(&self) -> Kind {
        let taken = |s: &&Stream| StreamState::load(&s.state) != StreamState::Free;
        let mut known = self.streams().iter().filter(taken).map(Kind::of_stream).peekable();
        let is_known = known.peek().is_some();
        if is_known && known.all(|kind| kind == Kind::Disk) { Kind::Disk } else { Kind::Memory }
    }

    /// link: a collector is attached ([`Spool::begin_generation`]). Of events that a file has the relay thread may have written over
    /// the memory, so the tail moves behind them; behind those as well that a writer completed when this was half done.
    pub fn begin_generation(&self) {
        self.begin_generation_while(|| ());
    }

    /// `meanwhile`: what a writer does just then.
    fn begin_generation_while(&self, meanwhile: impl FnOnce()) {
        self.events_tail.fetch_max(self.events_kept_elsewhere(), Ordering::AcqRel);
        meanwhile();
        let before = Marker::of_events(self.spool.begin_generation());
        let mark = Mark::load(&self.spool.events);
        if mark.tag == before.tag {
            self.events_tail.fetch_max(mark.offset, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;

    fn stream(tables: &Tables) -> &Stream {
        let stream = &tables.streams[0];
        StreamState::Live.store(&stream.state);
        stream.handle.store(7, Ordering::Relaxed);
        stream.pos.store(100, Ordering::Relaxed);
        stream.acked.store(10, Ordering::Relaxed);
        stream
    }

    #[test]
    fn what_is_completed_after_an_attachment_counts_for_nobody() {
        let block = Block::create().unwrap();
        let tables = block.tables();
        let stream = stream(tables);
        let marker = Marker::of(tables.spool.generation(), stream, 7).unwrap();
        marker.store(&stream.spooled, 70);
        assert_eq!(tables.kept_elsewhere(stream), 70);
        tables.spool.begin_generation();
        assert_eq!(tables.kept_elsewhere(stream), 10);
        marker.store(&stream.spooled, 90);
        assert_eq!(tables.kept_elsewhere(stream), 10, "it was stuck in the disk");
        assert_eq!(Mark::load(&stream.spooled).offset, 90, "and yet a file had it");
    }

    /// A writer completes a record between the look at what it has completed and the end of its generation; the relay thread may
    /// have written over it by then.
    #[test]
    fn events_that_were_completed_just_before_an_attachment_are_behind_the_tail() {
        let block = Block::create().unwrap();
        let tables = block.tables();
        let tail = || tables.events_tail.load(Ordering::Relaxed);
        let marker = Marker::of_events(tables.spool.generation());
        marker.store(&tables.spool.events, 70);
        tables.begin_generation_while(|| marker.store(&tables.spool.events, 80));
        assert_eq!(tail(), 80);
        marker.store(&tables.spool.events, 90);
        tables.begin_generation();
        assert_eq!(tail(), 80, "it was stuck in the disk");
    }

    #[test]
    fn what_is_refused_in_one_place_may_be_tried_in_the_other() {
        let block = Block::create().unwrap();
        let spool = &block.tables().spool;
        let refused = |now| Kind::ALL.map(|kind| spool.refuses(kind, now));
        assert_eq!(refused(0), [false, false]);
        spool.refuse(Kind::Disk, 100, 1000);
        assert_eq!(refused(100), [true, false]);
        assert!(spool.has_refused(999) && !spool.has_refused(1000));
        assert_eq!(refused(1000), [false, false]);
        spool.refuse(Kind::Memory, 500, 2000);
        assert_eq!(refused(600), [true, true], "the first lasts as long as the last");
        spool.refuse(Kind::Memory, 3000, 4000);
        assert_eq!(refused(3000), [false, true], "that is over");
        spool.try_again();
        assert_eq!(refused(3000), [false, false]);
    }

    #[test]
    fn of_a_stream_that_nobody_wants_nothing_is_ours_to_keep() {
        let block = Block::create().unwrap();
        let tables = block.tables();
        let stream = stream(tables);
        stream.unwanted.store(1, Ordering::Relaxed);
        assert_eq!(tables.kept_elsewhere(stream), 100);
        stream.unwanted.store(0, Ordering::Relaxed);
        assert_eq!(tables.kept_elsewhere(stream), 10, "what is still there is wanted again");
    }

    #[test]
    fn what_was_written_of_one_stream_frees_nothing_of_the_next_in_its_entry() {
        let block = Block::create().unwrap();
        let tables = block.tables();
        let stream = stream(tables);
        let marker = Marker::of(tables.spool.generation(), stream, 7).unwrap();
        StreamState::Free.store(&stream.state);
        assert!(Marker::of(tables.spool.generation(), stream, 7).is_none(), "it is gone");
        stream.epoch.fetch_add(1, Ordering::Relaxed);
        stream.handle.store(8, Ordering::Relaxed);
        StreamState::Live.store(&stream.state);
        marker.store(&stream.spooled, 90);
        assert_eq!(tables.kept_elsewhere(stream), 10);
        assert!(Marker::of(tables.spool.generation(), stream, 7).is_none(), "another is there");
    }

    #[test]
    fn a_mark_never_comes_true_again() {
        let block = Block::create().unwrap();
        let tables = block.tables();
        let stream = stream(tables);
        let marker = Marker::of(tables.spool.generation(), stream, 7).unwrap();
        for n in 0..1000 {
            match n % 3 {
                0 => drop(tables.spool.begin_generation()),
                _ => drop(stream.epoch.fetch_add(1, Ordering::Relaxed)),
            }
            marker.store(&stream.spooled, 90);
            assert_eq!(tables.kept_elsewhere(stream), 10, "after {n} changes");
        }
        marker.store(&stream.spooled, 1 << 60);
        assert_eq!(Mark::load(&stream.spooled).offset, 90, "no offset spills into the tag");
    }

    #[test]
    fn the_smaller_of_limit_and_share_holds() {
        let block = Block::create().unwrap();
        let spool = &block.tables().spool;
        spool.limit_bytes.store(100, Ordering::Relaxed);
        assert_eq!(spool.allowance(), 100, "no collector has said anything yet");
        for (share, allowance) in [(40, 40), (400, 100)] {
            spool.share_bytes.store(share, Ordering::Relaxed);
            assert_eq!(spool.allowance(), allowance);
        }
    }
}
