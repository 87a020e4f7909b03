//! The tables of the block, layout version 2: plain words, no behaviour.
//!
//! An index of 0 in a word that names a table entry means "none"; entry `n` is stored as `n + 1`.

use std::sync::atomic::Ordering;

use shimtap_proto::ttrpc::Method;

use super::{
    PendingState, Slot,
    care::Care,
    counters::{Counters, MethodCounters},
    spool::Spool,
    text::Text,
};
use crate::sys::{
    atomic::{AtomicU8, AtomicU32, AtomicU64},
    shared::shared_layout,
};

/// Connections at a time.
pub const CONNS: usize = CONN_COUNT as usize;
pub(super) const CONN_COUNT: u32 = 128;
/// Requests in flight at a time that are observed; more are forwarded unobserved and counted.
pub const PENDINGS: usize = 512;
/// Tasks at a time, ended ones included until the collector has their last bytes.
pub const TASKS: usize = 128;
/// Captured streams at a time.
pub const STREAMS: usize = STREAM_COUNT as usize;
pub(super) const STREAM_COUNT: u32 = 256;
/// Pipes in the pool: bytes on their way, of frames or of output.
pub const PIPES: usize = 2 * CONNS + STREAMS;
/// Chunks one stream may own: 1 MiB.
pub const STREAM_CHUNKS: usize = 16;
/// Remembered times of a stream's bytes.
pub const MARKS: usize = 32;
/// Longest containerd id (76 by its own rule) and namespace, with room.
pub const ID: usize = 128;
/// Longest path of a FIFO or bundle.
pub const PATH: usize = 512;
/// Largest Wait answer that is held; a larger one goes at once.
pub const HELD: usize = 256;

shared_layout! {
    /// One direction of a connection.
    pub struct Dir {
        /// [`DirState`].
        pub state: AtomicU32,
        /// Pipe of the pool.
        pub pipe: AtomicU32,
        /// Header and body, in bytes, of the frame at hand.
        pub frame_len: AtomicU32,
        /// 0: goes out as read; 1: from the second area, as changed.
        pub changed: AtomicU32,
        /// Bytes that go out.
        pub out_len: AtomicU32,
        /// Bytes that have gone out, and where the piece in the pipe ends.
        pub put_start: AtomicU32,
        pub put_end: AtomicU32,
        /// The request this frame belongs to.
        pub pending: AtomicU32,
    }
}

shared_layout! {
    /// A connection of containerd's. Its descriptors are slots [`Slot::outer`] and [`Slot::inner`].
    pub struct Conn {
        /// [`ConnState`].
        pub state: AtomicU32,
        _reserved: AtomicU32,
        /// 0: to the inner shim; 1: to containerd.
        pub dirs: [Dir; 2],
    }
}

shared_layout! {
    /// A request in flight: answers carry no method, so this is what gives them meaning.
    pub struct Pending {
        /// [`PendingState`].
        pub state: AtomicU32,
        pub conn: AtomicU32,
        pub stream_id: AtomicU32,
        /// `Method` as u8.
        pub method: AtomicU32,
        /// The task's entry, and its handle: an entry may be another task's by now.
        pub task: AtomicU32,
        pub task_handle: AtomicU32,
        /// Signal of a Kill.
        pub signal: AtomicU32,
        /// 1: Stats of a frequent caller, which we bound.
        pub bounded: AtomicU32,
        /// Status code of the answer, once there.
        pub code: AtomicU32,
        /// What a Stats answer was (or is about to be) counted as: see `relay::repair`.
        pub tally: AtomicU32,
        /// CLOCK_MONOTONIC ns when the request was decided, and when its answer began to be held.
        pub asked_ns: AtomicU64,
        pub held_ns: AtomicU64,
        /// 1: released, whatever its streams say; 2: an answer of ours.
        pub release: AtomicU32,
        /// 1: counted.
        pub counted: AtomicU32,
        /// `events_head` + 1 before this request's event was pushed: it was, if the head has moved since.
        pub event_at: AtomicU64,
        pub id: Text<ID>,
        pub exec: Text<ID>,
        pub held: Text<HELD>,
    }
}

shared_layout! {
    /// A task.
    pub struct Task {
        /// [`TaskState`].
        pub state: AtomicU32,
        /// Number on the link; never reused.
        pub handle: AtomicU32,
        pub incarnation: AtomicU64,
        /// The Create that made it, so that a successor finds what a dead worker began.
        pub conn: AtomicU32,
        pub stream_id: AtomicU32,
        /// 2 or 3.
        pub api: AtomicU32,
        pub terminal: AtomicU32,
        pub pid: AtomicU32,
        pub exit_status: AtomicU32,
        /// 1: the exit status is known.
        pub exit_known: AtomicU32,
        /// 1: a Kill with signal 9 for the task, or its Delete, was forwarded.
        pub killed: AtomicU32,
        /// Streams, and `NotCaptured` where there is none: stdout, stderr.
        pub streams: [AtomicU32; 2],
        pub not_captured: [AtomicU32; 2],
        /// Unix ns; 0 = not yet.
        pub created_ns: AtomicU64,
        pub started_ns: AtomicU64,
        pub exited_ns: AtomicU64,
        /// CLOCK_MONOTONIC ns of the same.
        pub exited_mono_ns: AtomicU64,
        pub deleted_ns: AtomicU64,
        /// CLOCK_MONOTONIC ns at which the newest foreign Stats was asked that the shim has answered.
        pub stats_asked_ns: AtomicU64,
        /// 1: a foreign Stats of this task has exceeded its bound and is still unanswered.
        pub stats_mute: AtomicU32,
        /// link: bytes of the announcement in its area; 0 = not made yet.
        pub announcement: AtomicU32,
        /// link: 1: the collector has everything, the entry may go.
        pub link_done: AtomicU32,
        /// 1: the relay wants a last sample; link: 2 = done.
        pub final_stats: AtomicU32,
        pub id: Text<ID>,
        pub bundle: Text<PATH>,
    }
}

shared_layout! {
    /// A time and the raw offset from which on it holds.
    pub struct Mark {
        pub offset: AtomicU64,
        pub time_ns: AtomicU64,
    }
}

shared_layout! {
    /// A captured stream. Its descriptors are slots [`Slot::stream`].
    pub struct Stream {
        /// [`StreamState`].
        pub state: AtomicU32,
        /// [`Phase`].
        pub phase: AtomicU32,
        /// Pipe of the pool (the private pipe).
        pub pipe: AtomicU32,
        pub task: AtomicU32,
        /// 1 stdout, 2 stderr.
        pub number: AtomicU32,
        /// Number on the link; never reused.
        pub handle: AtomicU32,
        /// Bytes in tap and pipe when `Drain` began.
        pub teed: AtomicU32,
        pub filled: AtomicU32,
        /// Raw offset up to which bytes are copied and passed on.
        pub pos: AtomicU64,
        /// Raw offset after the bytes that `Pass` is moving.
        pub next: AtomicU64,
        /// Oldest raw offset whose byte is still in the ring.
        pub start: AtomicU64,
        /// Which chunks: see `tee::ring`.
        pub ring: AtomicU64,
        pub chunks: [AtomicU8; STREAM_CHUNKS],
        /// link: durable at the collector up to here; handed to the link up to here.
        pub acked: AtomicU64,
        pub sent: AtomicU64,
        /// link: 1 = the collector wants no bytes of this stream.
        pub unwanted: AtomicU32,
        /// Next place in `marks`.
        pub mark: AtomicU32,
        /// Raw offset up to which a byte that is missing from the ring is missing because of safe mode.
        pub uncopied: AtomicU64,
        pub marks: [Mark; MARKS],
        pub inner_path: Text<PATH>,
        /// Of containerd's FIFO; or the URI of a logger, then there is no inner path.
        pub outer_path: Text<PATH>,
        /// spool: a [`spool::Mark`]: raw offset up to which a completed write has it.
        pub spooled: AtomicU64,
        /// link: a [`spool::Verdict`].
        pub spool_to: AtomicU32,
        /// How often this entry became another stream's.
        pub epoch: AtomicU32,
        /// link: the handle of the stream of which the collector has the end as well, for good. Not a 1: who has this entry by now
        /// may be another.
        pub end_acked: AtomicU32,
        _reserved: AtomicU32,
    }
}

shared_layout! {
    /// Who this wrapper is; written once, before the first worker, but for `inner_pid`.
    pub struct Identity {
        /// 64 random bits.
        pub wrapper: AtomicU64,
        /// 2 or 3.
        pub task_api: AtomicU32,
        /// What the inner shim last called its own pid; 0 until it was asked.
        pub inner_pid: AtomicU32,
        /// Device and inode of the inner shim's socket, for the release before, to which there may be a way back. The key
        /// has the change time too, without which they do not tell it from a later shim's.
        pub inner_dev: AtomicU64,
        pub inner_ino: AtomicU64,
        /// The name under which our files stand in `s/`.
        pub key: Text<ID>,
        pub namespace: Text<ID>,
        pub id: Text<ID>,
        pub run_dir: Text<ID>,
        pub inner_path: Text<ID>,
        pub inner_binary: Text<PATH>,
        pub collector: Text<ID>,
        /// 1: Stats answers leave mended (shim.toml).
        pub repairs_stats: AtomicU32,
    }
}

shared_layout! {
    /// Everything but the big areas.
    pub struct Tables {
        pub magic: AtomicU64,
        /// Layout of the worker that last began (see `Block::make_ours`).
        pub version: AtomicU32,
        /// [`Upgrade`](super::Upgrade); the relay thread and the keeper take turns in writing it.
        pub upgrade: AtomicU32,
        pub identity: Identity,
        pub keeper_pid: AtomicU32,
        pub worker_pid: AtomicU32,
        /// Workers so far.
        pub generation: AtomicU64,
        pub handles: AtomicU32,
        /// The stream whose bytes are (or may be) in the tap.
        pub tap_owner: AtomicU32,
        pub coalesce_ms: AtomicU32,
        pub stats_interval_ms: AtomicU32,
        pub stats_bound_ms: AtomicU32,
        /// 1: all is over; keeper and worker leave.
        pub over: AtomicU32,
        /// Entries of each table that were ever used: looking further would only allocate pages.
        pub conns_used: AtomicU32,
        pub pendings_used: AtomicU32,
        pub tasks_used: AtomicU32,
        pub streams_used: AtomicU32,
        /// The event ring: see `events`.
        pub events_head: AtomicU64,
        pub events_tail: AtomicU64,
        pub events_seq: AtomicU64,
        /// The request whose event is being pushed.
        pub event_pending: AtomicU32,
        /// Why the last upgrade came to nothing.
        pub upgrade_errno: AtomicU32,
        /// Deaths, and what follows from them.
        pub care: Care,
        /// What no collector takes, on its way to a file. Here, since each move of a byte looks at it: a page of its own would
        /// be one more for every pod.
        pub spool: Spool,
        pub counters: Counters,
        pub methods: [MethodCounters; 20],
        /// keeper: descriptor number + 1 of each slot it holds.
        pub held: [AtomicU32; Slot::COUNT],
        pub conns: [Conn; CONNS],
        pub pendings: [Pending; PENDINGS],
        pub tasks: [Task; TASKS],
        pub streams: [Stream; STREAMS],
        /// By task: its handle, and what was decided of its Stats (see `relay::repair`). Not in [`Task`]: where nobody wants it,
        /// its page is never touched.
        pub repairs: [AtomicU64; TASKS],
        /// What the tests' next release has appended: workers of its layout so far.
        #[cfg(next_layout)]
        pub workers: AtomicU64,
        #[cfg(next_layout)]
        _reserved_next: AtomicU64,
    }
}

// === impl Pending ===

impl Pending {
    /// Of the request; `None` where the word names none.
    pub fn method(&self) -> Option<Method> {
        u8::try_from(self.method.load(Ordering::Relaxed)).ok().and_then(Method::from_u8)
    }
}

// === impl Stream ===

impl Stream {
    /// Has the collector its end for good, and so all of it?
    pub fn is_end_acked(&self) -> bool {
        self.end_acked.load(Ordering::Acquire) == self.handle.load(Ordering::Acquire)
    }
}

// === impl Tables ===

impl Tables {
    /// Connections that were ever used.
    pub fn conns(&self) -> &[Conn] {
        used(&self.conns, &self.conns_used)
    }

    /// Requests that were ever in flight.
    pub fn pendings(&self) -> &[Pending] {
        used(&self.pendings, &self.pendings_used)
    }

    /// Tasks that ever were.
    pub fn tasks(&self) -> &[Task] {
        used(&self.tasks, &self.tasks_used)
    }

    /// Is a Wait for that task on its way? Its answer may be the first to tell of the exit, also after a Delete.
    pub fn is_waited_for(&self, task: usize) -> bool {
        let waits = |p: &Pending| p.method() == Some(Method::Wait) && linked(&p.task) == Some(task);
        self.pendings().iter().any(|p| PendingState::load(&p.state) != PendingState::Free && waits(p))
    }

    /// Streams that ever were.
    pub fn streams(&self) -> &[Stream] {
        used(&self.streams, &self.streams_used)
    }
}

fn used<'a, T>(table: &'a [T], count: &AtomicU32) -> &'a [T] {
    let count = usize::try_from(count.load(Ordering::Acquire)).unwrap_or(0);
    table.get(..count).unwrap_or(table)
}

/// Entry `index` is about to be used.
pub fn note_used(count: &AtomicU32, index: usize) {
    count.fetch_max(link_to(Some(index)), Ordering::AcqRel);
}

/// `n + 1` for an index, 0 for none.
pub fn link_to(index: Option<usize>) -> u32 {
    index.and_then(|i| u32::try_from(i).ok()).map_or(0, |i| i.saturating_add(1))
}

/// The index behind a word made by [`link_to`].
pub fn linked(word: &AtomicU32) -> Option<usize> {
    usize::try_from(word.load(Ordering::Acquire)).ok()?.checked_sub(1)
}
