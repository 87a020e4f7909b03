//! Whether the memory for output runs short, so that a spool writer is wanted. Looks at words and changes none.

use std::sync::atomic::Ordering;

use super::ring;
use crate::block::{Block, CHUNK, CHUNKS, STREAM_CHUNKS, StreamState, spool::Kind, words::wide};

/// Chunks for which a writer is begun where the rest may not be written: each begins a file, whose beginning takes room as well.
const WORTH: usize = CHUNKS / 16;

/// Is so much of the memory for output taken that waiting longer for a collector would cost some of it, and is there a file that
/// may have some?
pub fn is_pressed(block: &Block, now: u64) -> bool {
    let tables = block.tables();
    let (mut chunks, mut writable) = (0usize, 0usize);
    for stream in tables.streams().iter().filter(|s| StreamState::load(&s.state) != StreamState::Free) {
        let may_be_written = !tables.spool.refuses(Kind::of_stream(stream), now);
        // What is not in the ring any more no file can keep.
        let from = tables.kept_elsewhere(stream).max(stream.start.load(Ordering::Acquire));
        let unkept = stream.pos.load(Ordering::Acquire).saturating_sub(from);
        if may_be_written && unkept > wide(STREAM_CHUNKS * CHUNK / 2) {
            return true;
        }
        // A warm chunk of a stream that is kept elsewhere is free in all but name.
        if unkept > 0 {
            let its = ring::chunks_of(stream);
            chunks = chunks.saturating_add(its);
            writable = writable.saturating_add(if may_be_written { its } else { 0 });
        }
    }
    chunks > CHUNKS / 2 && writable > WORTH
}
