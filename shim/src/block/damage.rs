//! A block in which any word may hold anything: whatever reads it comes to an end, and panics or reads outside nowhere.
//!
//! The process around it is made to survive a worker that dies of such a block (safe mode); this keeps it from dying at
//! all where reading is enough.

use std::os::fd::AsFd;

use proptest::prelude::*;

use super::{care::Care, *};
use crate::{
    events::EventRing,
    link::report,
    tee::ring::{ChunkPool, RingView},
};

/// What is written where: mostly small numbers, which look like indices, and extremes.
fn scribbles() -> impl Strategy<Value = Vec<(usize, u32)>> {
    let value = prop_oneof![0u32..300, Just(u32::MAX), Just(1 << 31), any::<u32>()];
    proptest::collection::vec((0..Places::TABLES / 4, value), 0..400)
}

/// The same in the words that tables are reached through, which random places would hardly hit.
fn aimed() -> impl Strategy<Value = Vec<(usize, u32)>> {
    let at = std::mem::offset_of!(Tables, identity)..std::mem::offset_of!(Tables, held);
    let streams = std::mem::offset_of!(Tables, streams);
    let place = prop_oneof![at, streams..streams + 4 * size_of::<Stream>()];
    proptest::collection::vec((place.prop_map(|p| p / 4), any::<u32>()), 0..200)
}

fn damaged(scribbles: &[(usize, u32)]) -> &'static Block {
    let block = Block::create().unwrap();
    for (place, value) in scribbles {
        let at = i64::try_from(place * 4).unwrap();
        nix::sys::uio::pwrite(block.memfd(), &value.to_ne_bytes(), at).unwrap();
    }
    Box::leak(Box::new(block))
}

/// Everything that is done to a stream's ring.
fn use_streams(block: &'static Block) {
    let mut pool = ChunkPool::recover(block).unwrap();
    let (out, into) = crate::sys::fd::pipe().unwrap();
    let view = RingView::new(block);
    for stream in block.tables().streams.iter().take(6) {
        let pos = stream.pos.load(Ordering::Relaxed);
        let room = pool.reserve(stream, 70_000);
        assert!(room <= 70_000);
        nix::unistd::write(&into, &[7; 100]).unwrap();
        let _ = pool.fill(stream, out.as_fd(), pos, 100.min(room));
        crate::sys::fd::forget(out.as_fd());
        ChunkPool::mark(stream, pos, 1);
        for offset in [0, pos, pos / 2, u64::MAX] {
            let _ = view.read(stream, offset, 1 << 16);
            let _ = RingView::times(stream, offset, 1 << 16);
        }
        pool.trim(stream);
        pool.skip(stream, pos);
        pool.free_all(stream, 0);
    }
}

fn use_events(block: &'static Block) {
    let ring = EventRing::new(block).unwrap();
    let mut position = ring.tail();
    for _ in 0..100 {
        let Some((_, behind)) = ring.at(position) else { break };
        position = behind;
    }
    ring.push(shimtap_proto::link::Event::default());
}

fn use_care(care: &Care) {
    care.note_ready(5);
    let _ = care.take_announced();
    let cause = crate::keeper::Cause { reason: super::care::Reason::Crashed, signal: 11, exit_status: 0 };
    (0..20).for_each(|n| care.note_death(nix::unistd::Pid::from_raw(1), cause, n, n));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn readers_of_a_damaged_block_come_to_an_end(random in scribbles(), aimed in aimed()) {
        let block = damaged(&[random, aimed].concat());
        let tables = block.tables();
        prop_assert!(tables.tasks().len() <= TASKS && tables.streams().len() <= STREAMS);
        prop_assert!(tables.conns().len() <= CONNS && tables.pendings().len() <= PENDINGS);
        let _ = report::Reporter::new().changed(block);
        let _ = crate::worker::hands::pipes_in_use(block);
        use_streams(block);
        use_events(block);
        use_care(&tables.care);
        // Chunks are given back by number: none of another area's pages may have gone with them.
        let (events, len) = Places::events();
        prop_assert!(block.map_place((events, len)).is_ok());
    }

    /// Other sizes, other first words: refused, whatever else they hold.
    #[test]
    fn what_is_not_a_whole_block_of_ours_is_refused(len in 0usize..100_000, word in any::<u64>()) {
        let other = memfd("other", len).unwrap();
        if len >= 8 {
            nix::sys::uio::pwrite(&other, &word.to_ne_bytes(), 0).unwrap();
        }
        prop_assert_eq!(Block::open(other).err(), Some(Errno::EPROTO));
    }
}
