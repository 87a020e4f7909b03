//! The collector's copy: unacknowledged output in chunks of 64 KiB that all streams of a wrapper share.
//!
//! A stream owns at most 16 chunks and takes them as it needs them, so a quiet wrapper holds a page or two and the
//! busiest stream at most 1 MiB of the 4 MiB. When no chunk is free, one is taken of which nobody needs anything; where there is
//! none, the oldest unacknowledged bytes of the stream itself (else of the largest one) are dropped: `start` moves up, and the link says
//! so with a Gap. While a
//! collector takes what the stream has, it is left to that, and what comes meanwhile goes without a copy (docs/adr/0027):
//! `pos` is then beyond the ring's end, and the ring begins anew once it has all been taken. What a spool
//! file has is given back like what is acknowledged; then `start` moves up too, and the collector finds it in the file.
//!
//! The relay thread writes; the link thread reads through [`RingView`], whose copies are the kernel's and which checks
//! afterwards that the bytes were still there.

use std::{cmp::Reverse, os::fd::BorrowedFd, sync::atomic::Ordering};

use crate::{
    block::{Block, CHUNK, CHUNKS, MARKS, Phase, Places, STREAM_CHUNKS, Stream, StreamState, words::wide},
    sys::{
        Errno, Kernel,
        atomic::fence,
        fd,
        shared::{Mapping, copy_out, punch},
    },
};

/// Free chunks whose pages are kept for the next burst.
const SPARE: usize = 1;

/// `Stream::ring` unpacked: `len` chunks from place `first` of `chunks`, the first byte of the first being at
/// raw offset `base`. One word, so that it changes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Shape {
    base: u64,
    first: usize,
    len: usize,
}

/// The chunks, and which of them are free.
pub struct ChunkPool {
    block: &'static Block,
    area: Mapping,
    /// Never written, or punched since.
    fresh: Vec<usize>,
    /// Free, pages kept.
    warm: Vec<usize>,
}

/// The link thread's way to read.
pub struct RingView {
    block: &'static Block,
}

// === impl Shape ===

impl Shape {
    fn load(stream: &Stream) -> Self {
        let word = stream.ring.load(Ordering::Acquire);
        let small = |n: u64| usize::try_from(n & 0xff).unwrap_or(0);
        Self {
            base: word >> 16,
            first: small(word >> 8) % STREAM_CHUNKS,
            len: small(word).min(STREAM_CHUNKS),
        }
    }

    fn store(self, stream: &Stream) {
        // 48 bits of offset are 256 TiB of output of one container.
        stream.ring.store(self.base << 16 | wide(self.first) << 8 | wide(self.len), Ordering::Release);
    }

    fn place(self, n: usize) -> usize {
        self.first.saturating_add(n) % STREAM_CHUNKS
    }

    /// Chunk and position in it of a raw offset.
    fn locate(self, stream: &Stream, offset: u64) -> Option<(usize, usize)> {
        let into = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        let n = into / CHUNK;
        let chunk = (n < self.len).then(|| stream.chunks.get(self.place(n)))??;
        let chunk = usize::from(chunk.load(Ordering::Acquire));
        // Beyond only in a damaged block.
        (chunk < CHUNKS).then_some((chunk, into % CHUNK))
    }

    /// Does the first chunk, of several, end at or below an offset?
    fn has_whole_below(self, offset: u64) -> bool {
        self.len > 1 && self.base.saturating_add(wide(CHUNK)) <= offset
    }

    fn end(self) -> u64 {
        self.base.saturating_add(wide(self.len.saturating_mul(CHUNK)))
    }
}

// === impl ChunkPool ===

impl ChunkPool {
    /// Chunks that no stream owns are free.
    pub fn recover(block: &'static Block) -> Kernel<Self> {
        let mut fresh: Vec<usize> = (0..CHUNKS).rev().collect();
        for stream in block.tables().streams() {
            let shape = Shape::load(stream);
            let owned = (0..shape.len).filter_map(|n| stream.chunks.get(shape.place(n)));
            let owned: Vec<usize> = owned.map(|c| usize::from(c.load(Ordering::Acquire))).collect();
            fresh.retain(|c| !owned.contains(c));
        }
        Ok(Self { block, area: block.map_place(Places::chunks())?, fresh, warm: Vec::new() })
    }

    /// Makes room behind `pos`; says for how many bytes. 0 only where not a single chunk can be had, or where the collector
    /// is taking (`taken`) what fills the stream's ring.
    pub fn reserve(&mut self, stream: &Stream, want: usize, taken: bool) -> usize {
        self.free_kept_elsewhere(stream);
        let pos = stream.pos.load(Ordering::Acquire);
        let want_end = pos.saturating_add(wide(want));
        let ring = Shape::load(stream);
        if ring.len > 0 && ring.end() < pos {
            if taken && self.block.tables().kept_elsewhere(stream) < ring.end() {
                return 0;
            }
            self.skip(stream, pos);
        }
        while Shape::load(stream).end() < want_end && self.append(stream, pos) {}
        if taken && Shape::load(stream).len > 0 {
            return room(stream, pos, want);
        }
        // Full: as many of the oldest chunks go as this move needs; where even a whole ring is not enough, the block is
        // damaged and the stream does without a copy.
        for _ in 0..2 * STREAM_CHUNKS {
            if Shape::load(stream).end() >= want_end {
                break;
            }
            self.make_way(stream);
            if !self.append(stream, pos) {
                break;
            }
        }
        room(stream, pos, want)
    }

    /// Is the ring full to its end, so that what is passed on now without a copy leaves it as it is?
    pub fn is_waited_for(stream: &Stream) -> bool {
        let ring = Shape::load(stream);
        ring.len > 0 && ring.end() <= stream.pos.load(Ordering::Acquire)
    }

    /// Reads at most `len` bytes from the tap to raw `offset` (which `reserve` made room for).
    pub fn fill(&self, stream: &Stream, tap: BorrowedFd<'_>, offset: u64, len: usize) -> Kernel<usize> {
        let (chunk, at) = Shape::load(stream).locate(stream, offset).ok_or(Errno::EFAULT)?;
        let area = self.area.area(chunk.saturating_mul(CHUNK), CHUNK).ok_or(Errno::EFAULT)?;
        // `start` was moved past what lay here before: whoever sees a byte of the new sees that too (shim/loom).
        fence(Ordering::Release);
        Ok(area.read_from(tap, at, len.min(CHUNK.saturating_sub(at)))?.unwrap_or(0))
    }

    /// Bytes up to `next` were passed on without (all of) a copy: nothing below is in the ring any more.
    pub fn skip(&mut self, stream: &Stream, next: u64) {
        stream.start.store(next, Ordering::Release);
        self.free_all(stream, next);
    }

    /// Gives back what is kept elsewhere, down to nothing where all is.
    pub fn trim(&mut self, stream: &Stream) {
        let pos = stream.pos.load(Ordering::Acquire);
        if self.block.tables().kept_elsewhere(stream) >= pos {
            stream.start.store(pos, Ordering::Release);
            self.free_all(stream, pos);
            while let Some(chunk) = self.warm.pop() {
                self.cool(chunk);
            }
        } else {
            self.free_kept_elsewhere(stream);
        }
    }

    /// The stream is no more.
    pub fn free_all(&mut self, stream: &Stream, base: u64) {
        let shape = Shape::load(stream);
        Shape { base, first: 0, len: 0 }.store(stream);
        for n in 0..shape.len {
            self.give(stream, shape.place(n));
        }
    }

    /// Remembers when the bytes from `offset` on were read.
    pub fn mark(stream: &Stream, offset: u64, time_ns: u64) {
        const DENSE_NS: u64 = 1_000_000;
        let next = usize::try_from(stream.mark.load(Ordering::Relaxed)).unwrap_or(0);
        let place = |n: usize| stream.marks.get(n % MARKS);
        let last = place(next.wrapping_sub(1)).map_or(0, |m| m.time_ns.load(Ordering::Relaxed));
        if next > 0 && time_ns.saturating_sub(last) < DENSE_NS {
            return;
        }
        if let Some(mark) = place(next) {
            // Offset and time of a mark are not read together atomically; a reader that meets both halves of different
            // marks is a millisecond or so off, and time is all it is about.
            mark.time_ns.store(time_ns, Ordering::Release);
            mark.offset.store(offset, Ordering::Release);
        }
        stream.mark.store(u32::try_from(next).unwrap_or(0).wrapping_add(1), Ordering::Release);
    }

    fn free_kept_elsewhere(&mut self, stream: &Stream) {
        let pos = stream.pos.load(Ordering::Acquire);
        let kept = self.block.tables().kept_elsewhere(stream);
        let shape = Shape::load(stream);
        if kept == pos && shape.len > 0 && shape.base < pos {
            // Nothing in it is needed: start over at the beginning of one chunk, whose first page is warm.
            let keep = shape.place(0);
            stream.start.store(pos, Ordering::Release);
            Shape { base: pos, first: keep, len: 1 }.store(stream);
            for n in 1..shape.len {
                self.give(stream, shape.place(n));
            }
            return;
        }
        self.free_whole(stream, kept);
    }

    /// Gives back the chunks that lie wholly below `kept`, but for the last.
    fn free_whole(&mut self, stream: &Stream, kept: u64) {
        while Shape::load(stream).has_whole_below(kept) {
            self.drop_first(stream);
        }
    }

    /// Drops the oldest chunk of this stream, or where it has none of the largest one: of several, of one that is over, for what is
    /// not has to have one again; and of the oldest of those.
    fn make_way(&mut self, stream: &Stream) {
        if Shape::load(stream).len > 0 {
            self.drop_first(stream);
            return;
        }
        let size = |s: &&Stream| {
            let is_over = StreamState::load(&s.state) == StreamState::Ended;
            (Shape::load(s).len, is_over, Reverse(s.handle.load(Ordering::Relaxed)))
        };
        let may =
            |s: &&Stream| is_settled(s) || Shape::load(s).has_whole_below(s.pos.load(Ordering::Acquire));
        if let Some(largest) = self.owners(stream).filter(may).max_by_key(size) {
            self.drop_first(largest);
        }
    }

    /// Takes chunks from the other streams that need none of what is in them. Nobody else does that where a stream is quiet, or over
    /// and waits, written down in a file, for a collector to be told.
    fn reclaim(&mut self, stream: &Stream) {
        for other in self.owners(stream) {
            if is_settled(other) {
                self.trim(other);
            } else {
                self.free_whole(other, self.block.tables().kept_elsewhere(other));
            }
        }
    }

    /// The other streams that have chunks.
    fn owners(&self, than: &Stream) -> impl Iterator<Item = &'static Stream> + use<> {
        let than = std::ptr::from_ref(than);
        self.block.tables().streams().iter().filter(move |s| {
            !std::ptr::eq(*s, than)
                && StreamState::load(&s.state) != StreamState::Free
                && Shape::load(s).len > 0
        })
    }

    fn drop_first(&mut self, stream: &Stream) {
        let shape = Shape::load(stream);
        let pos = stream.pos.load(Ordering::Acquire);
        // With its last chunk go those behind it, too, that were passed on without a copy; and the next byte needs another one.
        let base = if shape.len > 1 { shape.base.saturating_add(wide(CHUNK)) } else { pos };
        // First the word that readers check, then the chunk may be written again.
        stream.start.fetch_max(base.min(pos), Ordering::AcqRel);
        Shape { base, first: shape.place(1), len: shape.len.saturating_sub(1) }.store(stream);
        self.give(stream, shape.first);
    }

    fn append(&mut self, stream: &Stream, pos: u64) -> bool {
        let mut shape = Shape::load(stream);
        if shape.len == 0 {
            shape = Shape { base: pos, first: 0, len: 0 };
            stream.start.fetch_max(pos, Ordering::AcqRel);
        }
        let Some(cell) = stream.chunks.get(shape.place(shape.len)).filter(|_| shape.len < STREAM_CHUNKS)
        else {
            return false;
        };
        if self.warm.is_empty() && self.fresh.is_empty() {
            self.reclaim(stream);
        }
        let Some(chunk) = self.warm.pop().or_else(|| self.fresh.pop()) else { return false };
        cell.store(u8::try_from(chunk).unwrap_or(0), Ordering::Release);
        Shape { len: shape.len.saturating_add(1), ..shape }.store(stream);
        true
    }

    fn give(&mut self, stream: &Stream, place: usize) {
        let Some(cell) = stream.chunks.get(place) else { return };
        let chunk = usize::from(cell.load(Ordering::Acquire));
        if chunk < CHUNKS && self.warm.len() < SPARE {
            self.warm.push(chunk);
        } else {
            self.cool(chunk);
        }
    }

    fn cool(&mut self, chunk: usize) {
        if chunk >= CHUNKS {
            return;
        }
        let (start, _) = Places::chunks();
        let _ = punch(self.block.memfd(), start.saturating_add(chunk.saturating_mul(CHUNK)), CHUNK);
        self.fresh.push(chunk);
    }
}

/// Has it nothing in its ring beyond `pos`? Who is passing bytes on has, for as long as containerd does not take them.
fn is_settled(stream: &Stream) -> bool {
    matches!(Phase::load(&stream.phase), Phase::Fill | Phase::Tee)
}

/// Bytes for which there is room from `pos` on, at most `want`.
fn room(stream: &Stream, pos: u64, want: usize) -> usize {
    let room = Shape::load(stream).end().saturating_sub(pos);
    usize::try_from(room).unwrap_or(usize::MAX).min(want)
}

// === impl RingView ===

impl RingView {
    /// Over this block.
    pub fn new(block: &'static Block) -> Self {
        Self { block }
    }

    /// Is what was passed on from raw `offset` on without a copy for good? Asked after `pos`, which is beyond, was read: what
    /// has been passed on is never copied afterwards.
    pub fn ends_before(stream: &Stream, offset: u64) -> bool {
        let ring = Shape::load(stream);
        ring.len > 0 && ring.end() <= offset
    }

    /// At most `max` bytes from raw `offset` on, to the end of a chunk. `None`: they are no longer there.
    pub fn read(&self, stream: &Stream, offset: u64, max: usize) -> Option<Vec<u8>> {
        let there = stream.pos.load(Ordering::Acquire).saturating_sub(offset);
        let shape = Shape::load(stream);
        let (chunk, at) = shape.locate(stream, offset)?;
        let len = usize::try_from(there).unwrap_or(max).min(max).min(CHUNK.saturating_sub(at));
        let mut bytes = vec![0u8; len];
        let (start, _) = Places::chunks();
        let place = start.checked_add(chunk.checked_mul(CHUNK)?)?.checked_add(at)?;
        let got = copy_out(self.block.memfd(), place, &mut bytes).ok()?;
        // A chunk is only reused after `start` has moved past it, so an unmoved start proves the copy; the looks below may not
        // overtake it.
        fence(Ordering::Acquire);
        let unmoved = stream.start.load(Ordering::Acquire) <= offset;
        let same = Shape::load(stream).locate(stream, offset).is_some_and(|now| now == (chunk, at));
        (got == len && unmoved && same).then_some(bytes)
    }

    /// When the bytes from `offset` on were read, as pairs (raw offset, Unix ns) in order, the first at or below
    /// `offset` where that is still known.
    pub fn times(stream: &Stream, offset: u64, len: usize) -> Vec<(u64, u64)> {
        let mut marks: Vec<(u64, u64)> = stream
            .marks
            .iter()
            .map(|m| (m.offset.load(Ordering::Acquire), m.time_ns.load(Ordering::Acquire)))
            .filter(|(_, time)| *time != 0)
            .collect();
        marks.sort_unstable();
        let from = marks.partition_point(|(at, _)| *at <= offset).saturating_sub(1);
        let end = offset.saturating_add(wide(len));
        marks.into_iter().skip(from).filter(|(at, _)| *at < end).collect()
    }
}

/// Chunks that a stream owns.
pub fn chunks_of(stream: &Stream) -> usize {
    Shape::load(stream).len
}

/// Bytes that wait in the tap.
pub fn in_tap(tap: BorrowedFd<'_>) -> usize {
    fd::unread(tap).unwrap_or(0)
}

#[cfg(test)]
mod tests;
