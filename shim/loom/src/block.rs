//! As much of the block as the ring needs; names and meanings as in `shim/src/block`.

use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::sys::{
    Kernel,
    shared::{Mapping, Memory},
};

pub const CHUNK: usize = 2;
pub const CHUNKS: usize = 2;
pub const STREAM_CHUNKS: usize = 2;
pub const MARKS: usize = 1;

pub mod words {
    pub fn wide(n: usize) -> u64 {
        n as u64
    }
}

#[derive(PartialEq, Eq)]
pub enum StreamState {
    Free,
    Live,
    Ended,
}

pub enum Phase {
    Fill,
    Tee,
}

impl StreamState {
    pub fn load(_: &AtomicU32) -> Self {
        Self::Live
    }
}

impl Phase {
    pub fn load(_: &AtomicU32) -> Self {
        Self::Fill
    }
}

#[derive(Default)]
pub struct Mark {
    pub offset: AtomicU64,
    pub time_ns: AtomicU64,
}

#[derive(Default)]
pub struct Stream {
    pub state: AtomicU32,
    pub handle: AtomicU32,
    pub phase: AtomicU32,
    pub pos: AtomicU64,
    pub start: AtomicU64,
    pub ring: AtomicU64,
    pub chunks: [AtomicU8; STREAM_CHUNKS],
    pub acked: AtomicU64,
    pub mark: AtomicU32,
    pub marks: [Mark; MARKS],
}

#[derive(Default)]
pub struct Tables {
    pub streams: [Stream; 1],
}

impl Tables {
    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// Nothing is in files here: what a writer says of them is a process's word, ordered by its own acquire and release.
    pub fn kept_elsewhere(&self, stream: &Stream) -> u64 {
        stream.acked.load(Ordering::Acquire).min(stream.pos.load(Ordering::Acquire))
    }
}

#[derive(Default)]
pub struct Block {
    tables: Tables,
    memory: Memory,
}

pub struct Places;

impl Places {
    pub const fn chunks() -> (usize, usize) {
        (0, CHUNK * CHUNKS)
    }
}

impl Block {
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn memfd(&self) -> &Memory {
        &self.memory
    }

    pub fn map_place(&'static self, _: (usize, usize)) -> Kernel<Mapping> {
        Ok(Mapping(&self.memory))
    }

    /// The stream, after loads of words that nobody else has by then.
    pub fn stream(&self) -> &Stream {
        &self.tables.streams[0]
    }

    pub fn pos(&self) -> u64 {
        self.stream().pos.load(Ordering::Acquire)
    }
}
