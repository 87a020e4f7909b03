//! The way out: batches in the journal's order, from memory where they are still there and from the files where not.
//!
//! A reader holds nobody: what retention drops before it came to it, it finds missing, and says so with a hole of its
//! own. Fragments are joined here, so that whoever takes from it sees lines.

mod missing;
mod source;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, time::Instant};
use tracing::warn;

use super::{
    Fetch, Journal,
    cursor::{Cursor, Open, Place},
    format::entry::{Entries, Entry},
    part::Frames,
    tail::Fresh,
};
use crate::{
    event::{Batch, Ending, HoleReason, Origin, Receipt, Record},
    process::Joiner,
};

/// One reader's place, and what it has read ahead.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    id: u64,
    cursor: Arc<Cursor>,
    grown: watch::Receiver<u64>,
    /// Everything below was read.
    position: u64,
    /// Raw bytes of output up to there.
    output: u64,
    /// A file that is being read.
    stored: Option<Frames>,
    joiner: Joiner,
    /// Per stream, where what was read of it ends.
    pub(super) ends: HashMap<u32, u64>,
    /// Streams with a number below this began before the reader did.
    born: u32,
    /// Below this only what an earlier process did not acknowledge is wanted.
    resumed: u64,
    wanted: BTreeMap<u64, Open>,
    /// Read, and not taken yet, each with the time of its frame; 0 where that is gone.
    ready: VecDeque<(u64, Batch)>,
    /// How often the journal had dropped something when this reader last looked for what it missed.
    drops: u64,
    /// What is missing from here on stood in a damaged file.
    damaged: bool,
}

/// One batch on its way to the reader's owner.
struct Step {
    seq: u64,
    stream: u32,
    origin: Arc<Origin>,
    records: Vec<Record>,
    ending: Option<Ending>,
    received: Instant,
    time_ns: u64,
}

/// What there is to know of a batch before it is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    /// When its frame was appended.
    pub(super) time_ns: u64,
    /// It goes on where the other head ends.
    pub(super) has_moved: bool,
}

/// Told when a batch was delivered.
#[derive(Debug)]
struct Delivered {
    cursor: Arc<Cursor>,
    /// Entries of which the batch has a part.
    parts: Vec<u64>,
    /// A stream of which it says that all below is gone that was not given.
    missed: Option<(u32, u64)>,
}

static IDS: AtomicU64 = AtomicU64::new(0);

// === impl Journal ===

impl Journal {
    /// A reader whose place is kept under `name`: it goes on where the last one of that name was acknowledged, and begins
    /// with the oldest that is there where there was none. Where its place is there and cannot be read, nobody knows what it has had: all
    /// that is gone by now counts as missed.
    #[must_use]
    pub fn reader(self: &Arc<Self>, name: &'static str) -> Reader {
        let path = Cursor::path(self.dir(), name);
        let place = Cursor::read(&path).unwrap_or_else(|| {
            let oldest = self.beginning();
            if !Cursor::is_there(&path) {
                return oldest;
            }
            warn!(
                sink = name, path = %path.display(),
                "how far a sink is cannot be read: its disk is at fault, or a power cut. It gets all that is there, perhaps again, and \
                 what is not there any more is a gap, though it may have had it"
            );
            Place { born: 0, ..oldest }
        });
        let cursor = Arc::new(Cursor::new(Some(path), place.clone()));
        self.state().cursors.push((name, Arc::clone(&cursor)));
        Reader::new(self, cursor, place)
    }

    /// A reader that begins with the oldest there is and keeps no place.
    #[must_use]
    pub fn glance(self: &Arc<Self>) -> Reader {
        let place = self.beginning();
        Reader::new(self, Arc::new(Cursor::new(None, place.clone())), place)
    }

    /// Before the oldest entry, with nothing promised of streams that began before.
    fn beginning(&self) -> Place {
        let state = self.state();
        let given = state.parts.front().map_or(state.next, |part| part.first);
        let held = |part: &super::Part| part.streams.values().fold(0u64, |sum, n| sum.saturating_add(*n));
        let there = state.parts.iter().fold(0u64, |sum, part| sum.saturating_add(held(part)));
        Place {
            given,
            born: state.table.next_stream(),
            output: state.output.saturating_sub(there),
            ..Place::default()
        }
    }
}

// === impl Reader ===

impl Reader {
    fn new(journal: &Arc<Journal>, cursor: Arc<Cursor>, place: Place) -> Self {
        let position = place.open.keys().next().copied().unwrap_or(place.given);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let grown = journal.grown.subscribe();
        journal.state().readers.insert(id, position);
        Self {
            journal: Arc::clone(journal),
            id,
            cursor,
            grown,
            position,
            output: place.output,
            stored: None,
            joiner: Joiner::default(),
            ends: place.ends,
            born: place.born,
            resumed: place.given,
            wanted: place.open,
            ready: VecDeque::new(),
            drops: 0,
            damaged: false,
        }
    }

    /// Reads on; false at the journal's end, and then whether it is the end for good.
    fn read_on(&mut self) -> Result<(), bool> {
        match self.journal.fetch(self.id, self.position) {
            Fetch::Fresh(frame) => {
                self.stored = None;
                self.fresh(&frame);
            }
            Fetch::Stored { frames, limit, next, damaged } => self.stored(frames, limit, next, damaged),
            Fetch::End { closed } => {
                self.look_for_missed();
                return if self.ready.is_empty() { Err(closed) } else { Ok(()) };
            }
        }
        self.give_up_wanted();
        self.cursor.reach(self.position, self.output);
        Ok(())
    }

    /// A frame from memory.
    fn fresh(&mut self, frame: &Fresh) {
        let position = self.position;
        for batch in frame.batches.iter().filter(|batch| batch.seq >= position) {
            self.batch(Step {
                seq: batch.seq,
                stream: batch.stream,
                origin: Arc::clone(&batch.origin),
                records: batch.records.clone(),
                ending: batch.ending,
                received: batch.received,
                time_ns: frame.time_ns,
            });
        }
        (self.position, self.output) = (frame.next, frame.output);
    }

    /// The next frame of a file.
    fn stored(&mut self, mut frames: Frames, limit: u64, next: u64, damaged: bool) {
        // The same file goes on where we were.
        if let Some(open) = self.stored.take().filter(|open| open.is_same(&frames)) {
            frames = open;
        }
        frames.extend(limit);
        match frames.next() {
            Ok(Some(found)) => {
                let head = found.sealed.head;
                if head.next > self.position {
                    let read = frames.open(&found).and_then(|payload| self.entries(payload, &head));
                    self.damaged |= read.is_err();
                    (self.position, self.output) = (head.next, head.output);
                }
                self.stored = Some(frames);
            }
            // What is left of the file was dropped, or lost.
            other => {
                self.damaged |= damaged || other.is_err();
                self.position = self.position.max(next);
            }
        }
    }

    fn entries(
        &mut self,
        payload: bytes::Bytes,
        head: &super::format::frame::Head,
    ) -> Result<(), super::format::Damage> {
        let mut entries = Entries::new(payload, head.first);
        while let Some(entry) = entries.next()? {
            let Entry::Batch(batch) = entry else { continue };
            let origin = self.journal.state().table.get(batch.stream).map(|row| Arc::clone(&row.origin));
            let Some(origin) = origin.filter(|_| batch.seq >= self.position) else { continue };
            self.batch(Step {
                seq: batch.seq,
                stream: batch.stream,
                origin,
                records: batch.records,
                ending: batch.ending,
                received: Instant::now(),
                time_ns: head.time_ns,
            });
        }
        Ok(())
    }

    fn batch(&mut self, mut step: Step) {
        let mut promised = self.ends.get(&step.stream).copied();
        if step.seq < self.resumed {
            let Some(open) = self.wanted.remove(&step.seq) else { return };
            promised = Some(open.from);
        } else if promised.is_none() && step.stream >= self.born {
            promised = Some(0);
        }
        if let (Some(first), Some(promised)) = (step.records.first(), promised)
            && first.from > promised
        {
            let missing = self.missing(step.stream, promised, first.from, first.time_ns.saturating_sub(1));
            step.records.splice(0..0, missing);
        }
        let from = Batch::own_from(&step.records);
        let to = step.records.last().map_or(0, |record| record.to);
        if to > 0 {
            let end = self.ends.entry(step.stream).or_default();
            *end = to.max(*end);
        }
        let joined = self.joiner.take(step.stream, step.seq, step.records, step.ending);
        let parts = u32::from(!joined.records.is_empty()).saturating_add(u32::from(joined.waits));
        let open = Open { stream: step.stream, from, to, time_ns: step.time_ns, parts };
        self.cursor.give(step.seq, open);
        if joined.records.is_empty() {
            return;
        }
        let mut parts = joined.finished;
        parts.push(step.seq);
        let batch = self.delivery(step.origin, joined.records, step.ending, step.received, parts, None);
        self.ready.push_back((step.time_ns, batch));
    }

    fn delivery(
        &self,
        origin: Arc<Origin>,
        records: Vec<Record>,
        ending: Option<Ending>,
        received: Instant,
        parts: Vec<u64>,
        missed: Option<(u32, u64)>,
    ) -> Batch {
        let end = records.last().map_or(0, |record| record.to);
        let receipt = Arc::new(Delivered { cursor: Arc::clone(&self.cursor), parts, missed });
        Batch { origin, records, end, ending, receipt, received, last: false }
    }

    /// The next batch; where there is none, whether there will be none.
    pub(super) fn try_next(&mut self) -> Result<Batch, bool> {
        loop {
            if let Some((_, batch)) = self.ready.pop_front() {
                return Ok(batch);
            }
            self.read_on()?;
        }
    }

    /// A look at the next batch, which stays the next.
    pub(super) fn front(&mut self) -> Result<Front, bool> {
        loop {
            if let Some((time_ns, batch)) = self.ready.front() {
                let has_moved = batch.records.iter().any(Record::is_moved);
                return Ok(Front { time_ns: *time_ns, has_moved });
            }
            self.read_on()?;
        }
    }

    /// What comes from here on wakes whoever waits for [`Reader::grown`].
    pub(super) fn look(&mut self) {
        self.grown.borrow_and_update();
    }

    /// Something was appended since [`Reader::look`], or nothing more will be. Cancel-safe.
    pub(super) async fn grown(&mut self) {
        // Refused only when the journal is gone, which we hold.
        let _ = self.grown.changed().await;
    }

    /// The head that it reads.
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// So much that was promised is not here, though it was not dropped.
    pub(super) fn lost(&self, reason: HoleReason, bytes: u64) {
        self.cursor.lost.add(reason, bytes);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.journal.state().readers.remove(&self.id);
    }
}

// === impl Delivered ===

impl Receipt for Delivered {
    fn done(&self, _: &Batch) {
        self.cursor.acknowledge(&self.parts);
        if let Some((stream, end)) = self.missed {
            self.cursor.skip(stream, end);
        }
    }
}
