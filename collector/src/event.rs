//! What the stages of the pipeline hand to each other: records of one stream, and the handle by which the last
//! stage says that they are durable.
//!
//! Nothing here knows a wire, a file or a sink. Offsets are raw byte positions of the container's stream; the
//! records of a stream tile its tape without overlap, whatever was cut off a message (a newline, a CR).

mod progress;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
pub use progress::{Due, Progress, URGENT_BYTES};
use tokio::time::Instant;

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
    /// Where the journal keeps a stream: one head of it, at a time.
    pub enum Store {
        /// `[journal]`, which lies on tmpfs unless its folder was moved.
        Memory => "memory",
        /// `[journal.disk]`.
        Disk => "disk",
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
        /// A rule says that the stream is not collected.
        RuleDrop => "rule_drop",
        /// The container wrote more lines than a rule allows.
        RateLimit => "rate_limit",
        /// Was in a spool file that was not there.
        SpoolLost => "spool_lost",
        /// Was in a spool file that was not as it had been written.
        SpoolCorrupt => "spool_corrupt",
        /// An earlier collector had it for good, and its journal is not ours.
        JournalLost => "journal_lost",
        /// The wrapper went on at a later offset and claimed nothing: counted by us.
        Missing => "missing",
        /// A reason that this release does not know.
        Unknown => "unknown",
        /// The journal gave its place to newer output before this reader came to it.
        Retention => "retention",
        /// The journal was damaged where it stood.
        JournalDamaged => "journal_damaged",
        /// Not missing: the journal's other head has it, since a rule has moved the stream. Taken out where both are read.
        Moved => "moved",
    }
}

closed! {
    /// How a stream ended: exactly, or open-ended for a reason. Of an open end nothing is claimed of the last bytes.
    pub enum Ending {
        /// Its wrapper closed it at its end.
        Exact => "exact",
        /// Its wrapper closed it, and does not know the last bytes for sure.
        Inexact => "inexact",
        /// Its wrapper went away and did not come back.
        WrapperLost => "wrapper_lost",
        /// The node was shut down in order and started again.
        Reboot => "reboot",
        /// The node went down while the collector ran.
        PowerCut => "power_cut",
        /// An ending that this release does not know.
        Unknown => "unknown",
    }
}

/// The durable name of a stream; no two streams of a node ever share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// The container as an encoded OTLP resource, made by the first sink that needs it so.
    pub resource: OnceLock<Box<[u8]>>,
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
    Hole(Hole),
}

/// What is known of bytes that are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Why they are not.
    pub reason: HoleReason,
    /// How many lines begin in them (the end of a line whose beginning is missing counts as one); `None` where nobody has
    /// seen the bytes.
    pub lines: Option<u64>,
}

/// Records of one stream in order, on their way.
#[derive(Debug)]
pub struct Batch {
    /// Where they come from.
    pub origin: Arc<Origin>,
    /// In order, without a gap between them. Empty only where there is an ending.
    pub records: Vec<Record>,
    /// Raw offset behind the last record, and where the stream is without one.
    pub end: u64,
    /// Said behind the last record: the stream has ended.
    pub ending: Option<Ending>,
    /// Told when they are done with.
    pub receipt: Arc<dyn Receipt>,
    /// When their bytes arrived here.
    pub received: Instant,
    /// True where somebody waits for just this batch: its acknowledgement is sent at once.
    pub last: bool,
}

/// Whoever waits for a batch to be done with.
pub trait Receipt: std::fmt::Debug + Send + Sync {
    /// The batch is where it was to go: durable, or acknowledged by a sink's peer.
    fn done(&self, batch: &Batch);
}

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
    /// A piece of a line that was not finished yet; joined with what follows before a sink or a person sees it.
    pub const FRAGMENT: Self = Self(16);

    /// Each flag with its name, in the order in which they are shown.
    pub const NAMES: [(Self, &'static str); 4] = [
        (Self::PARTIAL, "partial"),
        (Self::CUT, "cut"),
        (Self::CUT_HEAD, "cut_head"),
        (Self::UNTERMINATED, "unterminated"),
    ];

    /// The set as a number, for a file.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set of a number that a file has; what this release does not know is left out.
    #[must_use]
    pub const fn of_bits(bits: u8) -> Self {
        Self(bits & 31)
    }

    /// One set without the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

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

// === impl Ending ===

impl Ending {
    /// True where of the last bytes nothing is claimed.
    #[must_use]
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::Exact)
    }

    /// True where its wrapper has closed it.
    #[must_use]
    pub const fn is_orderly(self) -> bool {
        matches!(self, Self::Exact | Self::Inexact)
    }
}

// === impl Record ===

impl Record {
    /// Bytes of container output that it stands for; a hole for none.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        match self.body {
            Body::Line(_) => self.to.saturating_sub(self.from),
            Body::Hole(_) => 0,
        }
    }

    /// True where the journal's other head has it.
    #[must_use]
    pub const fn is_moved(&self) -> bool {
        matches!(self.body, Body::Hole(Hole { reason: HoleReason::Moved, .. }))
    }
}

// === impl Body ===

impl Body {
    /// A hole in which nobody has counted lines.
    #[must_use]
    pub const fn hole(reason: HoleReason) -> Self {
        Self::Hole(Hole { reason, lines: None })
    }
}

// === impl Origin ===

impl Origin {
    /// A stream of a container.
    #[must_use]
    pub const fn new(name: StreamName, identity: Arc<Identity>) -> Self {
        Self { name, identity, json: OnceLock::new(), resource: OnceLock::new() }
    }

    /// Of which nothing is known: a place to begin reading one.
    #[must_use]
    pub fn unknown() -> Self {
        let name = StreamName {
            namespace: String::new(),
            container: String::new(),
            incarnation: 0,
            process: String::new(),
            stream: StreamKind::Stdout,
        };
        Self::new(name, Arc::new(Identity::unknown()))
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
    /// Raw offset of the first record that is its own: what the journal's other head has comes before it, if anything.
    #[must_use]
    pub fn own_from(records: &[Record]) -> u64 {
        let own = records.iter().find(|record| !record.is_moved()).map(|record| record.from);
        own.or_else(|| records.last().map(|record| record.to)).unwrap_or_default()
    }

    /// Says that this batch is where it was to go.
    pub fn done(&self) {
        self.receipt.done(self);
    }
}
