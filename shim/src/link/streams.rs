//! Output on its way: per stream a cursor between what the ring has and what has gone out, over the link or into a
//! spool file. Both say the same in the same order; they differ in when.

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use shimtap_proto::link::{Close, DATA_MAX, Data, Gap, GapReason, StreamPosition, WINDOW, from_wrapper};

use super::client::Link;
use crate::{
    block::{
        Block, Stream, StreamState, Task, linked,
        spool::{Mark, Verdict},
        words::wide,
    },
    tee::ring::RingView,
};

#[cfg(test)]
mod turns;

/// What comes this soon after a message of its stream waits for company, where the collector does not say how long: a message
/// per line, and its acknowledgement, cost more than the line. It is less than moves of a busy stream are apart (`tee::pace`), so
/// that each of them brings its message along at once and no timer is for the message alone (docs/adr/0032). 64 KiB never wait.
const GATHER: Duration = Duration::from_millis(30);
/// A look that came between two words of the relay thread is repeated after this.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// One stream's place.
struct Cursor {
    index: usize,
    /// Next raw offset to send.
    at: u64,
    wanted: bool,
    closed: bool,
    /// The collector of this session has the end for good.
    end_acked: bool,
    /// When its last output went out.
    sent: Option<Instant>,
    /// Until then nothing goes, because some was dropped: who writes faster than is taken brings a piece per tick.
    rests_until: Option<Instant>,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    /// A collector that acknowledges: no more than its window at a time, and what is little waits for company.
    Link,
    /// A file, which takes what there is.
    Spool,
}

/// All announced streams of a session, by handle.
pub struct Cursors {
    block: &'static Block,
    ring: RingView,
    towards: Towards,
    gather: Duration,
    cursors: BTreeMap<u32, Cursor>,
}

// === impl Cursors ===

impl Cursors {
    /// None announced yet.
    pub fn new(block: &'static Block, towards: Towards) -> Self {
        let gather = match towards {
            Towards::Link => GATHER,
            Towards::Spool => Duration::ZERO,
        };
        Self { block, ring: RingView::new(block), towards, gather, cursors: BTreeMap::new() }
    }

    /// The collector says how long after a message of a stream the next one may be gathered for; a second at most.
    pub fn gather(&mut self, ms: u32) {
        self.gather = Duration::from_millis(ms.min(1000).into());
    }

    fn stream(&self, index: usize) -> Option<&'static Stream> {
        self.block.tables().streams.get(index)
    }

    /// The stream of a cursor, as long as its entry is still that stream's.
    fn stream_of(&self, handle: u32, cursor: &Cursor) -> Option<&'static Stream> {
        let lives = |s: &&Stream| {
            s.handle.load(Ordering::Acquire) == handle && StreamState::load(&s.state) != StreamState::Free
        };
        self.stream(cursor.index).filter(lives)
    }

    /// The task is done with: its cursors go.
    pub fn forget_task(&mut self, task: &Task) {
        let block = self.block;
        for stream in task.streams.iter().filter_map(linked).filter_map(|s| block.tables().streams.get(s)) {
            self.cursors.remove(&stream.handle.load(Ordering::Relaxed));
        }
    }

    /// The collector says where a stream goes on, or something new of one that does.
    pub fn begin(&mut self, position: &StreamPosition) {
        let has_handle = |s: &Stream| {
            s.handle.load(Ordering::Relaxed) == position.handle
                && StreamState::load(&s.state) != StreamState::Free
        };
        let Some(index) = self.block.tables().streams().iter().position(has_handle) else { return };
        let Some(stream) = self.stream(index) else { return };
        let task = linked(&stream.task).and_then(|task| self.block.tables().tasks.get(task));
        if task.is_some_and(|task| task.link_done.load(Ordering::Acquire) != 0) {
            // It crossed the last word on its task.
            return;
        }
        stream.unwanted.store(u32::from(!position.capture), Ordering::Release);
        let verdict = if position.spool_to_disk { Verdict::Disk } else { Verdict::Memory };
        verdict.store(&stream.spool_to);
        // Where it goes on is not what it has for good: that it says with an acknowledgement. Looked at last: while nobody wanted the
        // stream, its memory was anybody's.
        let start = stream.start.load(Ordering::Acquire);
        let at = position.next.unwrap_or_else(|| start.max(stream.acked.load(Ordering::Acquire)));
        let goes_on = |c: &Cursor| c.index == index && c.wanted == position.capture;
        if position.next.is_some() || !self.cursors.get(&position.handle).is_some_and(goes_on) {
            self.place(position.handle, index, at, position.capture);
        }
    }

    /// Stream `handle` in entry `index` goes on at `at`; unless it is wanted, only its end is told.
    pub fn place(&mut self, handle: u32, index: usize, at: u64, wanted: bool) {
        let cursor =
            Cursor { index, at, wanted, closed: false, end_acked: false, sent: None, rests_until: None };
        self.cursors.insert(handle, cursor);
    }

    /// Where that stream goes on; `None` where it was not announced.
    pub fn at(&self, handle: u32) -> Option<u64> {
        self.cursors.get(&handle).map(|c| c.at)
    }

    /// Was the end of that stream told?
    pub fn is_closed(&self, handle: u32) -> bool {
        self.cursors.get(&handle).is_some_and(|c| c.closed)
    }

    /// Durable up to here; `end`: and that it ends there.
    pub fn acknowledged(&mut self, handle: u32, offset: u64, end: bool) {
        let Some(cursor) = self.cursors.get_mut(&handle) else { return };
        let Some(stream) = self.block.tables().streams.get(cursor.index) else { return };
        if stream.handle.load(Ordering::Relaxed) == handle {
            stream.acked.fetch_max(offset.min(stream.pos.load(Ordering::Acquire)), Ordering::AcqRel);
            // Of an end that was not told nobody knows.
            if end && cursor.closed {
                cursor.end_acked = true;
                stream.end_acked.store(handle, Ordering::Release);
            }
        }
    }

    /// Has this collector acknowledged the end of everything of task `index`, and is no answer on its way that may tell of its exit?
    /// All bytes may be acknowledged without the end: who was told of it and dies before it is durable takes the stream for one
    /// that was cut off.
    pub fn is_task_finished(&self, index: usize, task: &Task) -> bool {
        !self.block.tables().is_waited_for(index)
            && task.streams.iter().filter_map(linked).all(|index| {
                let Some(stream) = self.stream(index) else { return true };
                let cursor = self.cursors.get(&stream.handle.load(Ordering::Relaxed));
                cursor.is_some_and(|c| c.end_acked)
            })
    }

    /// Says what is due, a message of each stream in turn; what the next piece waits for.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, link: &mut Link) -> io::Result<Rest> {
        loop {
            let (mut rest, mut is_done) = (Rest::Idle, true);
            for handle in self.in_turn() {
                match self.next_body(handle) {
                    Some(Next::Body(body)) => {
                        link.say(*body)?;
                        if link.wire.is_held_up() {
                            return Ok(Rest::Full);
                        }
                        is_done = false;
                    }
                    Some(Next::Later(at)) => rest = rest.or_at(at),
                    Some(Next::Asleep(at)) => rest = rest.or_at(at).asleep(),
                    Some(Next::Full) => rest = Rest::Full,
                    None => {}
                }
            }
            if is_done {
                return Ok(rest);
            }
        }
    }

    /// Who has waited longest goes first. Where a collector is slow, whoever is always first takes all of the window, and the
    /// others' output is dropped for as long as that lasts.
    fn in_turn(&self) -> Vec<u32> {
        let mut turns: Vec<_> = self.cursors.iter().map(|(handle, cursor)| (cursor.sent, *handle)).collect();
        turns.sort_unstable();
        turns.into_iter().map(|(_, handle)| handle).collect()
    }

    /// The next message of a stream, or when there will be one.
    pub fn next_body(&mut self, handle: u32) -> Option<Next> {
        let Some(stream) = self.cursors.get(&handle).and_then(|c| self.stream_of(handle, c)) else {
            self.cursors.remove(&handle);
            return None;
        };
        let cursor = self.cursors.get_mut(&handle).filter(|c| !c.closed)?;
        let ended = StreamState::load(&stream.state) == StreamState::Ended;
        let pos = stream.pos.load(Ordering::Acquire);
        let start = stream.start.load(Ordering::Acquire);
        if !cursor.wanted {
            cursor.at = pos;
        }
        if cursor.at < pos && self.in_flight() >= WINDOW {
            // Not even a Gap: what is missing grows until there is room, and is told at once.
            return Some(Next::Full);
        }
        let cursor = self.cursors.get_mut(&handle)?;
        // Below the ring, or behind one that is left to us: what was passed on behind it has no copy.
        let there_is_none = if RingView::ends_before(stream, cursor.at) { pos } else { start };
        if cursor.at < there_is_none && cursor.at < pos {
            let (end, reason) = missing(stream, cursor.at, there_is_none);
            let gap = gap(handle, cursor.at, end, reason);
            cursor.at = end;
            if reason == GapReason::GAP_REASON_OVERFLOW {
                cursor.rests_until = Some(Instant::now() + self.gather);
            }
            self.towards.note_sent(stream, end);
            return Some(Next::body(from_wrapper::Body::Gap(gap)));
        }
        if cursor.at >= pos {
            cursor.closed = ended;
            let close = Close { handle, end: pos, exact: true, ..Default::default() };
            return ended.then(|| Next::body(from_wrapper::Body::Close(close)));
        }
        let waits = if ended { None } else { cursor.waits(pos, self.gather) };
        waits.or_else(|| self.next_data(handle, stream))
    }

    /// The next piece of what the ring has.
    fn next_data(&mut self, handle: u32, stream: &Stream) -> Option<Next> {
        let cursor = self.cursors.get_mut(&handle)?;
        let Some(bytes) = self.ring.read(stream, cursor.at, DATA_MAX) else {
            // Dropped while we looked: the next look, soon, sends the Gap.
            return Some(Next::Later(Instant::now() + LOOK_AGAIN));
        };
        if stream.handle.load(Ordering::Acquire) != handle {
            // The table was full, and the entry became another stream's while we looked.
            return None;
        }
        cursor.sent = Some(Instant::now());
        let (time_offset, time_ns) = RingView::times(stream, cursor.at, bytes.len()).into_iter().unzip();
        let offset = cursor.at;
        cursor.at = cursor.at.saturating_add(wide(bytes.len()));
        self.towards.note_sent(stream, cursor.at);
        let data = Data { handle, offset, bytes, time_offset, time_ns, ..Default::default() };
        Some(Next::body(from_wrapper::Body::Data(data)))
    }

    /// The next message of a stream of which nothing more will be read: a Gap, as long as there is anything to be missed.
    pub fn give_up(&mut self, handle: u32) -> Option<from_wrapper::Body> {
        let stream = self.cursors.get(&handle).and_then(|c| self.stream_of(handle, c))?;
        let cursor = self.cursors.get_mut(&handle).filter(|c| c.wanted && !c.closed)?;
        let pos = stream.pos.load(Ordering::Acquire);
        if cursor.at >= pos {
            return None;
        }
        let (end, reason) = missing(stream, cursor.at, pos);
        let gap = gap(handle, cursor.at, end, reason);
        cursor.at = end;
        Some(from_wrapper::Body::Gap(gap))
    }

    /// What went out and is not acknowledged, in bytes of output. What a Gap says is missing counts like output: a stream that is
    /// written faster than it can be taken brings its next piece when the collector has come to the end of the one before, and
    /// leaves the processors to its container meanwhile (docs/adr/0027).
    fn in_flight(&self) -> u64 {
        let of = |(handle, cursor): (&u32, &Cursor)| {
            let counts = cursor.wanted && !cursor.closed;
            let stream = self.stream_of(*handle, cursor).filter(|_| counts);
            stream.map_or(0, |s| cursor.at.saturating_sub(s.acked.load(Ordering::Acquire)))
        };
        match self.towards {
            Towards::Link => self.cursors.iter().map(of).sum(),
            Towards::Spool => 0,
        }
    }
}

// === impl Cursor ===

impl Cursor {
    /// What its output up to `pos` waits for, though there is room for it: the end of a rest, or company.
    fn waits(&self, pos: u64, gather: Duration) -> Option<Next> {
        let now = Instant::now();
        let rests = self.rests_until.filter(|at| *at > now).map(Next::Asleep);
        let is_little = pos.saturating_sub(self.at) < wide(DATA_MAX);
        let gathered = self.sent.map(|at| at + gather).filter(|at| *at > now && is_little);
        rests.or_else(|| gathered.map(Next::Later))
    }
}

/// What a stream has to say.
pub enum Next {
    /// This.
    Body(Box<from_wrapper::Body>),
    /// Nothing before then.
    Later(Instant),
    /// Nothing before then, however much there is.
    Asleep(Instant),
    /// Nothing before the collector has acknowledged something.
    Full,
}

/// What a session's next output waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// For output.
    Idle,
    /// For this time, or for much output.
    Until(Instant),
    /// For this time.
    Asleep(Instant),
    /// For the collector: for an acknowledgement, or until it takes what was said.
    Full,
}

// === impl Next ===

impl Next {
    fn body(body: from_wrapper::Body) -> Self {
        Self::Body(Box::new(body))
    }
}

// === impl Rest ===

impl Rest {
    /// Something goes at that time.
    fn or_at(self, at: Instant) -> Self {
        match self {
            Self::Idle => Self::Until(at),
            Self::Until(before) => Self::Until(before.min(at)),
            Self::Asleep(before) => Self::Asleep(before.min(at)),
            Self::Full => Self::Full,
        }
    }

    /// The same, and not for output.
    fn asleep(self) -> Self {
        if let Self::Until(at) = self { Self::Asleep(at) } else { self }
    }

    /// The time that ends it.
    pub fn until(self) -> Option<Instant> {
        match self {
            Self::Until(at) | Self::Asleep(at) => Some(at),
            Self::Idle | Self::Full => None,
        }
    }
}

// === impl Towards ===

impl Towards {
    /// The relay thread wakes the link thread by what that has sent.
    fn note_sent(self, stream: &Stream, at: u64) {
        if self == Self::Link {
            stream.sent.store(at, Ordering::Relaxed);
        }
    }
}

/// What is missing from `at` on, below `start`, for one reason: its end, and the reason. What a spool file has (or had,
/// where the collector did not find it) is one Gap, what safe mode passed on another, and the rest was dropped.
fn missing(stream: &Stream, at: u64, start: u64) -> (u64, GapReason) {
    let spooled = Mark::load(&stream.spooled).offset;
    let uncopied = stream.uncopied.load(Ordering::Acquire);
    if at < spooled {
        (start.min(spooled), GapReason::GAP_REASON_SPOOL_LOST)
    } else if at < uncopied {
        (start.min(uncopied), GapReason::GAP_REASON_SAFE_MODE)
    } else {
        (start, GapReason::GAP_REASON_OVERFLOW)
    }
}

fn gap(handle: u32, from: u64, to: u64, reason: GapReason) -> Gap {
    Gap { handle, from, to, reason: reason.into(), ..Default::default() }
}
