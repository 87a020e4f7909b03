//! What the stages of the pipeline hand to each other: records of one stream, and the handle by which the last
//! stage says that they are durable.
//!
//! Nothing here knows a wire, a file or a sink. Offsets are raw byte positions of the container's stream; the
//! records of a stream tile its tape without overlap, whatever was cut off a message (a newline, a CR).

use std::sync::{
    Arc, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use crate::{closed::closed, enrich::Identity};

closed! {
    /// Which of a process's outputs.
    pub enum StreamKind {
        /// Standard output; with a terminal, everything.
        Stdout => "stdout",
        /// Standard error.
        Stderr => "stderr",
    }
}

closed! {
    /// Why bytes of a stream are not here.
    pub enum HoleReason {
        /// The wrapper's ring was full, the oldest unacknowledged bytes were dropped.
        Overflow => "overflow",
        /// Passed on to containerd without a copy, because the ring was full.
        TapFull => "gap_tap_full",
        /// The wrapper was in safe mode.
        SafeMode => "safe_mode",
        /// Discarded after a kill, because containerd's end took nothing for a second.
        DrainedAfterKill => "drained_after_kill",
        /// Capture was switched off.
        CaptureOff => "capture_off",
        /// Was in a spool file that was not there.
        SpoolLost => "spool_lost",
        /// Was in a spool file that was not as it had been written.
        SpoolCorrupt => "spool_corrupt",
        /// The wrapper went on at a later offset and claimed nothing: counted by us.
        Missing => "missing",
        /// A reason that this release does not know.
        Unknown => "unknown",
    }
}

/// The durable name of a stream; no two streams of a node ever share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamName {
    /// containerd's namespace.
    pub namespace: String,
    /// Container id.
    pub container: String,
    /// 64 random bits chosen when the task was created.
    pub incarnation: u64,
    /// Empty = the init process, else the exec id.
    pub process: String,
    /// Which output.
    pub stream: StreamKind,
}

/// Where records come from: the stream's name and whose container it is.
#[derive(Debug)]
pub struct Origin {
    /// The stream.
    pub name: StreamName,
    /// The container.
    pub identity: Arc<Identity>,
    /// What records have alike in JSON, made by the first sink that needs it so.
    pub json: OnceLock<Stencil>,
}

/// What all records of a stream have alike, as pieces of a JSON object.
#[derive(Debug)]
pub struct Stencil {
    /// From the time to the record's first offset.
    pub names: Vec<u8>,
    /// From its last offset to that within its id.
    pub id: Vec<u8>,
}

/// What is peculiar about a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

/// One record of a stream: `[from, to)` of its tape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Raw offset of the first byte.
    pub from: u64,
    /// Raw offset behind the last byte, a newline included.
    pub to: u64,
    /// Unix nanoseconds, strictly increasing per container.
    pub time_ns: u64,
    /// What is peculiar about it.
    pub flags: Flags,
    /// Bytes, or why there are none.
    pub body: Body,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A line without its end (LF or CR LF), or a piece of one.
    Line(Bytes),
    /// Bytes that are not here.
    Hole(HoleReason),
}

/// Records of one stream in order, on their way to a sink.
#[derive(Debug)]
pub struct Batch {
    /// Where they come from.
    pub origin: Arc<Origin>,
    /// Never empty, in order, without a gap between them.
    pub records: Vec<Record>,
    /// Told when they are durable.
    pub progress: Arc<Progress>,
    /// When their bytes arrived here.
    pub received: Instant,
    /// True for a stream's last batch: its acknowledgement is sent at once.
    pub last: bool,
}

/// How far a stream is durable. Shared by the stage that makes it so and the connection that acknowledges it.
#[derive(Debug)]
pub struct Progress {
    durable: AtomicU64,
    /// Who waits for this offset waits for nothing else: reaching it is told at once.
    awaited: AtomicU64,
    due: std::sync::Mutex<Option<Arc<Due>>>,
}

/// What of a connection's streams has become durable since somebody last looked, and the call to look at once.
#[derive(Debug, Default)]
pub struct Due {
    bytes: AtomicU64,
    at_once: AtomicBool,
    called: Notify,
}

/// Durable bytes of a wrapper after which an acknowledgement does not wait for its time. What a session holds of
/// unfinished lines is bounded by the same figure, so that most of the window is free at any time.
pub const URGENT_BYTES: u64 = shimtap_proto::link::WINDOW / 8;

// === impl Flags ===

impl Flags {
    /// Nothing peculiar.
    pub const NONE: Self = Self(0);
    /// The line was longer than we keep in one piece: it goes on in the next record.
    pub const PARTIAL: Self = Self(1);
    /// The line's end is missing: a hole follows, or the stream was lost.
    pub const CUT: Self = Self(2);
    /// The line's beginning is missing: it stands behind a hole.
    pub const CUT_HEAD: Self = Self(4);
    /// The stream ended here without a newline.
    pub const UNTERMINATED: Self = Self(8);

    /// Each flag with its name, in the order in which they are shown.
    pub const NAMES: [(Self, &'static str); 4] = [
        (Self::PARTIAL, "partial"),
        (Self::CUT, "cut"),
        (Self::CUT_HEAD, "cut_head"),
        (Self::UNTERMINATED, "unterminated"),
    ];

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True where all of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

// === impl StreamName ===

impl StreamName {
    /// What the ids of its records begin with; the raw offset of the record follows. So the same bytes have the same id,
    /// however often they are delivered.
    #[must_use]
    pub fn record_ids(&self) -> String {
        let dash = if self.process.is_empty() { "" } else { "-" };
        format!("{:016x}-{}{dash}{}-", self.incarnation, self.process, self.stream.label())
    }
}

// === impl Batch ===

impl Batch {
    /// Raw offset behind the last record.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.records.last().map_or(0, |record| record.to)
    }

    /// Says that every record of this batch is durable.
    pub fn done(&self) {
        self.progress.advance(self.end(), self.last);
    }
}

// === impl Progress ===

impl Default for Progress {
    fn default() -> Self {
        Self { durable: AtomicU64::new(0), awaited: AtomicU64::new(u64::MAX), due: Default::default() }
    }
}

impl Progress {
    /// Every byte below this is durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Says that every byte below `offset` is durable; `urgent` calls whoever acknowledges at once.
    pub fn advance(&self, offset: u64, urgent: bool) {
        let before = self.durable.fetch_max(offset, Ordering::SeqCst);
        if offset <= before && !urgent {
            return;
        }
        let due = self.due().clone();
        if let Some(due) = due {
            due.add(offset.saturating_sub(before));
            if urgent || offset >= self.awaited.load(Ordering::SeqCst) {
                due.call();
            }
        }
    }

    /// Calls as soon as every byte below `offset` is durable, which may be now.
    pub fn wait_for(&self, offset: u64) {
        self.awaited.store(offset, Ordering::SeqCst);
        if self.durable.load(Ordering::SeqCst) >= offset
            && let Some(due) = &*self.due()
        {
            due.call();
        }
    }

    /// From here on `due` is told of progress (a stream changes connections when its wrapper comes back).
    pub fn report_to(&self, due: Arc<Due>) {
        *self.due() = Some(due);
    }

    fn due(&self) -> MutexGuard<'_, Option<Arc<Due>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Due ===

impl Due {
    /// Waits until something is to be looked at. Cancel-safe.
    pub async fn called(&self) {
        self.called.notified().await;
    }

    /// Wakes whoever waits, who need not acknowledge yet.
    pub fn wake(&self) {
        self.called.notify_one();
    }

    /// True where an acknowledgement is due whatever its time. It is taken to be on its way from here on.
    pub fn take_call(&self) -> bool {
        self.at_once.swap(false, Ordering::AcqRel)
    }

    /// All that is durable is being acknowledged.
    pub fn begin(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < URGENT_BYTES && before.saturating_add(bytes) >= URGENT_BYTES {
            self.call();
        }
    }

    fn call(&self) {
        self.at_once.store(true, Ordering::Release);
        self.called.notify_one();
    }
}
