//! The ring against a model: whatever is written, acknowledged, dropped and forgotten, what it gives is what was
//! written, and what it does not give is below `start`.

use std::{collections::VecDeque, os::fd::AsFd};

use proptest::prelude::*;

use super::*;
use crate::{
    block::{
        StreamState, note_used,
        spool::{Kind, Verdict},
    },
    tee::pressure::is_pressed,
};

struct Lab {
    block: &'static Block,
    pool: ChunkPool,
    /// All that was ever written, per stream, never a zero; zeros are what was passed on without a copy.
    written: Vec<Vec<u8>>,
}

fn lab(streams: usize) -> Lab {
    let block: &'static Block = Box::leak(Box::new(Block::create().unwrap()));
    for n in 0..streams {
        note_used(&block.tables().streams_used, n);
        StreamState::Live.store(&block.tables().streams[n].state);
    }
    Lab { block, pool: ChunkPool::recover(block).unwrap(), written: vec![Vec::new(); streams] }
}

impl Lab {
    fn stream(&self, n: usize) -> &'static Stream {
        &self.block.tables().streams[n]
    }

    /// As the pump does: reserve, tap, fill, publish.
    fn write(&mut self, n: usize, bytes: &[u8]) {
        self.write_while(n, bytes, false);
    }

    /// The same while a collector takes what the stream has, or none does.
    fn write_while(&mut self, n: usize, bytes: &[u8], taken: bool) {
        let stream = self.stream(n);
        let mut rest = bytes;
        while !rest.is_empty() {
            let want = rest.len().min(CHUNK);
            let room = self.pool.reserve(stream, want, taken);
            assert!(room <= want);
            if room == 0 {
                assert!(taken, "there is always a chunk to be had");
                self.pass(n, rest.len());
                return;
            }
            let (now, later) = rest.split_at(room);
            let (tap_out, tap_in) = fd::pipe().unwrap();
            assert_eq!(nix::unistd::write(&tap_in, now), Ok(now.len()));
            let pos = stream.pos.load(Ordering::Relaxed);
            let mut done = 0;
            while in_tap(tap_out.as_fd()) > 0 {
                done += self.pool.fill(stream, tap_out.as_fd(), pos + wide(done), now.len() - done).unwrap();
            }
            stream.pos.store(pos + wide(now.len()), Ordering::Release);
            self.written[n].extend(now);
            rest = later;
        }
    }

    /// As the pump does with what has no copy.
    fn pass(&mut self, n: usize, len: usize) {
        let stream = self.stream(n);
        let next = stream.pos.load(Ordering::Relaxed) + wide(len);
        if !ChunkPool::is_waited_for(stream) {
            self.pool.skip(stream, next);
        }
        stream.pos.store(next, Ordering::Release);
        self.written[n].extend(vec![0; len]);
    }

    fn check(&self) {
        let ring = RingView::new(self.block);
        for (n, written) in self.written.iter().enumerate() {
            let stream = self.stream(n);
            assert_eq!(stream.pos.load(Ordering::Relaxed), wide(written.len()));
            let mut at = stream.start.load(Ordering::Relaxed).max(stream.acked.load(Ordering::Relaxed));
            while at < wide(written.len()) && !RingView::ends_before(stream, at) {
                let got =
                    ring.read(stream, at, 10_000).expect("everything from start to the ring's end is there");
                assert!(!got.is_empty());
                let from = usize::try_from(at).unwrap();
                assert!(got == written[from..from + got.len()], "stream {n} at {at}");
                at += wide(got.len());
            }
            let behind = written.get(usize::try_from(at).unwrap()..).unwrap_or_default();
            assert!(behind == vec![0; behind.len()], "stream {n}: copies behind the ring's end {at}");
        }
        let mut owned: Vec<u8> = Vec::new();
        for stream in self.block.tables().streams() {
            let shape = Shape::load(stream);
            owned.extend((0..shape.len).map(|k| stream.chunks[shape.place(k)].load(Ordering::Relaxed)));
        }
        let count = owned.len();
        owned.sort_unstable();
        owned.dedup();
        assert_eq!(owned.len(), count, "no chunk has two owners");
        assert_eq!(count + self.pool.fresh.len() + self.pool.warm.len(), CHUNKS, "no chunk is lost");
    }
}

#[derive(Debug, Clone)]
enum Act {
    Write(usize, usize, bool),
    Acknowledge(usize, u8),
    Trim(usize),
    Forget(usize),
    Skip(usize),
    Successor,
}

/// Mostly some lines; now and then what fills a stream's ring.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![9 => 1usize..20_000, 1 => 400_000usize..900_000]
}

fn acts(streams: usize) -> impl Strategy<Value = Vec<Act>> {
    let one = prop_oneof![
        8 => (0..streams, len(), any::<bool>()).prop_map(|(s, n, taken)| Act::Write(s, n, taken)),
        4 => (0..streams, any::<u8>()).prop_map(|(s, n)| Act::Acknowledge(s, n)),
        1 => (0..streams).prop_map(Act::Trim),
        1 => (0..streams).prop_map(Act::Forget),
        1 => (0..streams).prop_map(Act::Skip),
        1 => Just(Act::Successor),
    ];
    prop::collection::vec(one, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn it_gives_what_was_written(acts in acts(6)) {
        let mut lab = lab(6);
        let mut salt = 0u8;
        for act in acts {
            match act {
                Act::Write(n, len, taken) => {
                    salt = salt.wrapping_add(1);
                    let bytes: Vec<u8> = (0..len).map(|i| salt.wrapping_mul(31).wrapping_add(u8::try_from(i % 251).unwrap()) | 1).collect();
                    lab.write_while(n, &bytes, taken);
                }
                Act::Acknowledge(n, part) => {
                    let stream = lab.stream(n);
                    let (acked, pos) = (stream.acked.load(Ordering::Relaxed), stream.pos.load(Ordering::Relaxed));
                    stream.acked.store(acked + (pos - acked) * u64::from(part) / 255, Ordering::Relaxed);
                }
                Act::Trim(n) => lab.pool.trim(lab.stream(n)),
                Act::Forget(n) => {
                    let stream = lab.stream(n);
                    for word in [&stream.pos, &stream.start, &stream.acked] {
                        word.store(0, Ordering::Relaxed);
                    }
                    lab.pool.free_all(stream, 0);
                    lab.written[n].clear();
                }
                Act::Skip(n) => {
                    let stream = lab.stream(n);
                    let next = stream.pos.load(Ordering::Relaxed) + 1000;
                    lab.pool.skip(stream, next);
                    stream.pos.store(next, Ordering::Relaxed);
                    lab.written[n].extend([0; 1000]);
                }
                Act::Successor => lab.pool = ChunkPool::recover(lab.block).unwrap(),
            }
            lab.check();
        }
    }
}

#[test]
fn the_oldest_bytes_go_when_the_stream_has_its_megabyte() {
    let mut lab = lab(1);
    for n in 0..40u8 {
        lab.write(0, &vec![n; CHUNK]);
    }
    let kept = wide(lab.written[0].len()) - lab.stream(0).start.load(Ordering::Relaxed);
    assert_eq!(kept, wide(STREAM_CHUNKS * CHUNK));
    lab.check();
}

#[test]
fn what_is_being_taken_is_left_and_what_comes_meanwhile_goes_without_a_copy() {
    let mut lab = lab(1);
    let stream = lab.stream(0);
    let ring = wide(STREAM_CHUNKS * CHUNK);
    for n in 0..40u8 {
        lab.write_while(0, &vec![n; CHUNK], true);
    }
    assert_eq!(stream.start.load(Ordering::Relaxed), 0, "the oldest are there");
    assert_eq!(stream.pos.load(Ordering::Relaxed), wide(40 * CHUNK));
    assert!(RingView::ends_before(stream, ring) && !RingView::ends_before(stream, ring - 1));
    lab.check();
    // All but a byte is taken: still the same.
    stream.acked.store(ring - 1, Ordering::Relaxed);
    lab.write_while(0, b"not copied", true);
    assert!(RingView::ends_before(stream, ring));
    stream.acked.store(ring, Ordering::Relaxed);
    let anew = stream.pos.load(Ordering::Relaxed);
    lab.write_while(0, b"copied", true);
    assert_eq!(stream.start.load(Ordering::Relaxed), anew);
    assert_eq!(RingView::new(lab.block).read(stream, anew, 100), Some(b"copied".to_vec()));
    lab.check();
}

#[test]
fn who_stops_taking_loses_the_oldest() {
    let mut lab = lab(1);
    let stream = lab.stream(0);
    for _ in 0..20 {
        lab.write_while(0, &[1; CHUNK], true);
    }
    let anew = stream.pos.load(Ordering::Relaxed);
    lab.write_while(0, b"the newest", false);
    assert_eq!(stream.start.load(Ordering::Relaxed), anew);
    assert_eq!(RingView::new(lab.block).read(stream, anew, 100), Some(b"the newest".to_vec()));
    lab.check();
}

#[test]
fn a_slow_stream_touches_one_page_for_ever() {
    let mut lab = lab(1);
    let before = nix::sys::stat::fstat(lab.block.memfd()).unwrap().st_blocks;
    for _ in 0..3000 {
        lab.write(0, b"a line of some thirty bytes ..\n");
        let stream = lab.stream(0);
        stream.acked.store(stream.pos.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    let grown = nix::sys::stat::fstat(lab.block.memfd()).unwrap().st_blocks - before;
    assert!(grown * 512 <= 8192, "{} bytes", grown * 512);
}

#[test]
fn a_stream_without_a_chunk_takes_one_from_the_largest() {
    let mut lab = lab(6);
    for n in 0..4 {
        lab.write(n, &[1; STREAM_CHUNKS * CHUNK]);
    }
    assert!(lab.pool.fresh.is_empty() && lab.pool.warm.is_empty());
    lab.write(5, b"small");
    assert_eq!(RingView::new(lab.block).read(lab.stream(5), 0, 100), Some(b"small".to_vec()));
    lab.check();
}

/// Streams that are over, each with a chunk, as many as there are chunks; and one more.
fn all_chunks_are_of_what_is_over() -> Lab {
    let mut lab = lab(CHUNKS + 1);
    for n in 0..CHUNKS {
        lab.write(n, b"all it says");
        let stream = lab.stream(n);
        stream.handle.store(u32::try_from(n).unwrap() + 1, Ordering::Relaxed);
        StreamState::Ended.store(&stream.state);
    }
    assert!(lab.pool.fresh.is_empty() && lab.pool.warm.is_empty());
    lab
}

#[test]
fn what_is_over_and_kept_elsewhere_gives_its_chunk_to_whoever_needs_one() {
    let mut lab = all_chunks_are_of_what_is_over();
    for n in [20, 40] {
        let stream = lab.stream(n);
        stream.acked.store(stream.pos.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    lab.write(CHUNKS, b"of the newest");
    let ring = RingView::new(lab.block);
    assert_eq!(ring.read(lab.stream(CHUNKS), 0, 100), Some(b"of the newest".to_vec()));
    for n in (0..CHUNKS).filter(|n| ![20, 40].contains(n)) {
        assert_eq!(ring.read(lab.stream(n), 0, 100), Some(b"all it says".to_vec()), "{n} has lost something");
    }
    lab.check();
}

#[test]
fn of_several_that_have_as_much_the_oldest_that_is_over_makes_way() {
    let mut lab = all_chunks_are_of_what_is_over();
    StreamState::Live.store(&lab.stream(0).state);
    lab.write(CHUNKS, b"of the newest");
    let ring = RingView::new(lab.block);
    let lost: Vec<usize> = (0..=CHUNKS).filter(|n| ring.read(lab.stream(*n), 0, 100).is_none()).collect();
    assert_eq!(lost, [1]);
    lab.check();
}

/// Whoever has lost its only chunk so takes another one for what comes, and nothing is passed on without a copy for want of it.
#[test]
fn who_has_made_way_with_its_only_chunk_goes_on_in_another() {
    let mut lab = all_chunks_are_of_what_is_over();
    for n in 0..CHUNKS {
        StreamState::Live.store(&lab.stream(n).state);
    }
    lab.write(CHUNKS, b"of the newest");
    let ring = RingView::new(lab.block);
    let all_it_says = wide(b"all it says".len());
    assert_eq!(ring.read(lab.stream(0), 0, 100), None, "of the live ones, too, the oldest makes way");
    lab.write(0, b"goes on");
    assert_eq!(ring.read(lab.stream(0), all_it_says, 100), Some(b"goes on".to_vec()));
    lab.check();
}

/// Of one that ran away from its collector and is over, nothing is left that anybody could wait for.
#[test]
fn who_makes_way_with_its_only_chunk_has_nothing_behind_it_either() {
    let mut lab = all_chunks_are_of_what_is_over();
    let stream = lab.stream(0);
    stream.pos.store(wide(CHUNK) + 1000, Ordering::Relaxed);
    lab.write(CHUNKS, b"of the newest");
    assert_eq!(stream.start.load(Ordering::Relaxed), wide(CHUNK) + 1000);
}

/// A stream of which containerd takes nothing more has the last so many bytes beyond `pos`, until it does.
fn blocks(lab: &mut Lab, n: usize, beyond: usize) -> Vec<u8> {
    let stream = lab.stream(n);
    let pos = lab.written[n].len() - beyond;
    stream.next.store(stream.pos.load(Ordering::Relaxed), Ordering::Relaxed);
    stream.pos.store(wide(pos), Ordering::Relaxed);
    Phase::Pass.store(&stream.phase);
    lab.written[n].split_off(pos)
}

fn goes_on(lab: &mut Lab, n: usize, bytes: Vec<u8>) {
    let stream = lab.stream(n);
    stream.pos.store(stream.next.load(Ordering::Relaxed), Ordering::Relaxed);
    Phase::Fill.store(&stream.phase);
    lab.written[n].extend(bytes);
}

/// Four streams that have all of the memory, blocked, with that much beyond `pos`; `kept`: of what is below nobody needs anything.
fn blocked(beyond: usize, kept: bool) -> (Lab, Vec<Vec<u8>>) {
    let mut lab = lab(6);
    let mut beyonds = Vec::new();
    for n in 0..4 {
        lab.write(n, &[u8::try_from(n).unwrap() + 1; STREAM_CHUNKS * CHUNK]);
        beyonds.push(blocks(&mut lab, n, beyond));
        let stream = lab.stream(n);
        let acked = if kept { stream.pos.load(Ordering::Relaxed) } else { 0 };
        stream.acked.store(acked, Ordering::Relaxed);
    }
    assert!(lab.pool.fresh.is_empty() && lab.pool.warm.is_empty());
    (lab, beyonds)
}

#[test]
fn who_is_blocked_gives_what_it_needs_no_more_and_keeps_what_is_on_its_way() {
    for beyond in [1, 1000, CHUNK - 1, CHUNK] {
        let (mut lab, beyonds) = blocked(beyond, true);
        lab.write(4, &[9; STREAM_CHUNKS * CHUNK]);
        lab.write(5, b"small");
        for (n, bytes) in beyonds.into_iter().enumerate() {
            goes_on(&mut lab, n, bytes);
        }
        assert_eq!(RingView::new(lab.block).read(lab.stream(5), 0, 100), Some(b"small".to_vec()));
        for n in 0..4 {
            let stream = lab.stream(n);
            let (acked, start) = (stream.acked.load(Ordering::Relaxed), stream.start.load(Ordering::Relaxed));
            assert!(start <= acked, "stream {n} has lost {acked}..{start}");
        }
        assert_eq!(lab.stream(4).start.load(Ordering::Relaxed), 0, "it has all of its own");
        lab.check();
    }
}

#[test]
fn who_is_blocked_makes_way_with_its_oldest_and_keeps_what_is_on_its_way() {
    for beyond in [1, 1000, CHUNK - 1, CHUNK] {
        let (mut lab, beyonds) = blocked(beyond, false);
        lab.write(5, b"small");
        for (n, bytes) in beyonds.into_iter().enumerate() {
            goes_on(&mut lab, n, bytes);
        }
        assert_eq!(RingView::new(lab.block).read(lab.stream(5), 0, 100), Some(b"small".to_vec()));
        let lost: u64 = (0..4).map(|n| lab.stream(n).start.load(Ordering::Relaxed)).sum();
        assert_eq!(lost, wide(CHUNK), "of one stream its oldest piece");
        lab.check();
    }
}

/// Of streams that were switched off when they had said something.
#[test]
fn what_nobody_wants_presses_for_no_file_and_gives_its_chunks_away() {
    let mut lab = lab(5);
    for n in 0..4 {
        lab.write(n, &[1; STREAM_CHUNKS * CHUNK]);
    }
    assert!(is_pressed(lab.block, 0));
    (0..4).for_each(|n| lab.stream(n).unwanted.store(1, Ordering::Relaxed));
    assert!(!is_pressed(lab.block, 0));
    lab.write(4, &[2; STREAM_CHUNKS * CHUNK]);
    assert_eq!(lab.stream(4).start.load(Ordering::Relaxed), 0, "it has all of its own");
    lab.check();
}

#[test]
fn a_file_is_pressed_for_where_one_may_be_had() {
    let mut lab = lab(7);
    let spool = &lab.block.tables().spool;
    let half = STREAM_CHUNKS * CHUNK / 2;
    Verdict::Disk.store(&lab.stream(0).spool_to);
    Verdict::Memory.store(&lab.stream(1).spool_to);
    spool.refuse(Kind::Disk, 0, 1000);
    lab.write(0, &vec![1; half + 1]);
    assert!(!is_pressed(lab.block, 0), "the disk has refused it");
    assert!(is_pressed(lab.block, 1000), "and may take it then");
    lab.write(1, &vec![2; half + 1]);
    assert!(is_pressed(lab.block, 0), "memory has refused nothing");
    spool.refuse(Kind::Memory, 0, 1000);
    assert!(!is_pressed(lab.block, 0));
    // Memory for all runs short because of what was refused: others need a file all the sooner.
    spool.try_again();
    spool.refuse(Kind::Disk, 0, 1000);
    let stream = lab.stream(1);
    stream.acked.store(stream.pos.load(Ordering::Relaxed), Ordering::Relaxed);
    for n in 2..6 {
        Verdict::Disk.store(&lab.stream(n).spool_to);
        lab.write(n, &vec![1; half]);
    }
    assert!(!is_pressed(lab.block, 0), "nobody else has anything to write");
    lab.write(1, b"a line");
    assert!(!is_pressed(lab.block, 0), "a line is not worth a file");
    lab.write(1, &vec![2; half / 2]);
    assert!(is_pressed(lab.block, 0));
    lab.check();
}

#[test]
fn times_cover_what_was_asked_for() {
    let lab = lab(1);
    let stream = lab.stream(0);
    let marks: VecDeque<(u64, u64)> = (1..=50u64).map(|n| (n * 10, n * 2_000_000)).collect();
    for (offset, time) in &marks {
        ChunkPool::mark(stream, *offset, *time);
    }
    let times = RingView::times(stream, 455, 30);
    assert_eq!(times, [(450, 90_000_000), (460, 92_000_000), (470, 94_000_000), (480, 96_000_000)]);
    assert_eq!(RingView::times(stream, 5, 3), [], "forgotten by now");
}
