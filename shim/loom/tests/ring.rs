//! What the link thread reads from the ring is what was written there, or nothing: while the relay thread appends, drops,
//! starts over or skips.
//!
//! The byte at raw offset n is n + 1, so 0 is one that was never written.

use std::os::fd::{AsFd, OwnedFd};

use containerd_shim_tap_loom::{
    block::{Block, CHUNK, STREAM_CHUNKS},
    ring::{ChunkPool, RingView},
};
use loom::{sync::atomic::Ordering, thread};

struct Relay {
    block: &'static Block,
    pool: ChunkPool,
    tap: OwnedFd,
}

impl Relay {
    fn new() -> Self {
        let block: &'static Block = Box::leak(Box::default());
        let tap = std::fs::File::open("/dev/null").unwrap().into();
        Self { block, pool: ChunkPool::recover(block).unwrap(), tap }
    }

    /// As the pump does: room, bytes, position.
    fn write(&mut self, len: usize) {
        let stream = self.block.stream();
        let pos = self.block.pos();
        let room = self.pool.reserve(stream, len, false);
        assert_eq!(room, len);
        let mut done = 0;
        while done < len {
            done += self.pool.fill(stream, self.tap.as_fd(), pos + done as u64, len - done).unwrap();
        }
        stream.pos.store(pos + len as u64, Ordering::Release);
    }
}

/// A look of the link thread's, in the order in which it looks (`link/streams.rs`): what it may take from `at` on is
/// right.
fn look(block: &'static Block, at: u64) {
    let stream = block.stream();
    let pos = block.pos();
    let start = stream.start.load(Ordering::Acquire);
    if at < start || at >= pos {
        return;
    }
    if let Some(bytes) = RingView::new(block).read(stream, at, CHUNK) {
        assert!(!bytes.is_empty());
        let wanted: Vec<u8> = (at + 1..).map(|n| u8::try_from(n).unwrap()).take(bytes.len()).collect();
        assert_eq!(bytes, wanted, "from {at} on, with position {pos} and start {start}");
    }
}

#[test]
fn no_byte_is_read_before_it_was_written() {
    loom::model(|| {
        let mut relay = Relay::new();
        let block = relay.block;
        let relay = thread::spawn(move || {
            relay.write(1);
            relay.write(2);
        });
        // Also by one who has not looked at the position first.
        for at in [0, 1] {
            let bytes = RingView::new(block).read(block.stream(), at, CHUNK).unwrap_or_default();
            assert!(
                bytes.iter().zip(at + 1..).all(|(byte, wanted)| u64::from(*byte) == wanted),
                "{bytes:?} from {at} on"
            );
        }
        relay.join().unwrap();
        assert_eq!(block.pos(), 3);
    });
}

#[test]
fn no_byte_is_read_after_its_place_was_given_to_another() {
    loom::model(|| {
        let mut relay = Relay::new();
        let block = relay.block;
        relay.write(CHUNK * STREAM_CHUNKS);
        let relay = thread::spawn(move || relay.write(CHUNK));
        look(block, 0);
        relay.join().unwrap();
        assert_eq!(block.stream().start.load(Ordering::Relaxed), 2, "the oldest chunk went");
    });
}

#[test]
fn an_acknowledged_chunk_is_started_over_behind_the_reader() {
    loom::model(|| {
        let mut relay = Relay::new();
        let block = relay.block;
        relay.write(CHUNK);
        let relay = thread::spawn(move || relay.write(CHUNK));
        look(block, 0);
        block.stream().acked.fetch_max(2, Ordering::AcqRel);
        look(block, 2);
        relay.join().unwrap();
        look(block, 2);
    });
}

#[test]
fn bytes_that_are_passed_on_without_a_copy_are_a_gap() {
    loom::model(|| {
        let mut relay = Relay::new();
        let block = relay.block;
        relay.write(1);
        let relay = thread::spawn(move || {
            // As the pump does where there is no room for a copy.
            relay.pool.skip(block.stream(), 3);
            block.stream().pos.store(3, Ordering::Release);
        });
        let pos = block.pos();
        let start = block.stream().start.load(Ordering::Acquire);
        assert!(pos < 3 || start == 3, "position {pos} is seen and start {start} is not");
        look(block, 0);
        relay.join().unwrap();
    });
}

#[test]
fn what_was_passed_on_behind_a_full_ring_is_missing_and_nothing_else_is() {
    loom::model(|| {
        let full = (CHUNK * STREAM_CHUNKS) as u64;
        let mut relay = Relay::new();
        let block = relay.block;
        relay.write(CHUNK * STREAM_CHUNKS);
        let relay = thread::spawn(move || {
            let stream = block.stream();
            // As the pump does while the collector takes what fills the ring: two bytes go without a copy.
            assert_eq!(relay.pool.reserve(stream, 2, true), 0);
            assert!(ChunkPool::is_waited_for(stream));
            block.memfd().pass_by(2);
            stream.pos.store(full + 2, Ordering::Release);
            // By now it has taken all, and the next byte has one.
            stream.acked.fetch_max(full, Ordering::AcqRel);
            relay.write(1);
        });
        // As the link thread looks where it has sent all of the ring.
        let pos = block.pos();
        if RingView::ends_before(block.stream(), full) && full < pos {
            assert_eq!(pos, full + 2, "a byte that has a copy is said to be missing");
        }
        look(block, full);
        look(block, full + 2);
        relay.join().unwrap();
        assert_eq!(block.stream().start.load(Ordering::Relaxed), full + 2);
    });
}
