//! Counters of this process. They only go up, and each is added to where the thing happens.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use shimtap_proto::link;

use super::{SampleSource, Undecoded, containerd::ContainerdTotals, journal::JournalTotals};
use crate::{
    closed::{Counts, closed},
    event::{HoleReason, Store, StreamKind},
    ingest::{Aside, EventLabel, FaultKind},
    node::Death,
};

closed! {
    /// What was left out of an exposition, or put together with others, because a bound was reached.
    pub enum Cut {
        /// A series that an exposition had no room for.
        Series => "series",
        /// A label's value that was too long, shown by its beginning and a number.
        LabelLength => "label_length",
        /// A block device of a container that has too many.
        Devices => "devices",
        /// An interface of a pod that has too many.
        Interfaces => "interfaces",
        /// A runtime handler that has no row of its own.
        Handlers => "handlers",
        /// An exit whose class and code have none.
        Exits => "exits",
        /// A namespace that has none.
        Namespaces => "namespaces",
        /// An exec whose duration is not known, since too many ran.
        Execs => "execs",
    }
}

/// A number that goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that is what it is.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// One value per output.
#[derive(Debug, Default)]
pub struct PerStream<T> {
    stdout: T,
    stderr: T,
}

/// Durations by the link's buckets.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

/// Everything this process counts.
#[derive(Debug, Default)]
pub struct Totals {
    /// Bytes of output taken, repeats not included.
    pub log_bytes: Counts<StreamKind>,
    /// Lines made of them; the pieces of a split line count once each.
    pub log_lines: Counts<StreamKind>,
    /// Bytes that came again and were dropped.
    pub log_repeated: Counts<StreamKind>,
    /// Bytes that are not here.
    pub gap_bytes: PerStream<Counts<HoleReason>>,
    /// Holes they make.
    pub holes: PerStream<Counts<HoleReason>>,
    /// Secrets taken out of lines.
    pub redactions: Counter,
    /// Ends of lines taken out unsearched.
    pub redacted_unsearched: Counter,
    /// Lines that a rule's rate dropped: the sum over its holes.
    pub limited_lines: Counter,
    /// Connections open now.
    pub connections: Gauge,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Connections refused or closed, by what the peer (or we) did wrong.
    pub ingest_faults: Counts<FaultKind>,
    /// Events taken, by kind.
    pub events: Counts<EventLabel>,
    /// Events that their sequence numbers say we never got.
    pub events_missed: Counter,
    /// Spool files taken to their ends.
    pub spool_files: Counter,
    /// Records in them and in others.
    pub spool_records: Counter,
    /// Spool files set aside or left alone, by why.
    pub spool_aside: Counts<Aside>,
    /// Statistics taken, by how the wrapper got them.
    pub samples: Counts<SampleSource>,
    /// Statistics that were of no use, by why.
    pub samples_undecoded: Counts<Undecoded>,
    /// Asking containerd.
    pub containerd: ContainerdTotals,
    /// What bounds of metrics left out or put together.
    pub cuts: Counts<Cut>,
    /// Sandboxes that died under their containers, by what of them died.
    pub sandbox_deaths: Counts<Death>,
    /// The journal's.
    pub journal: JournalTotals,
    /// Those of its head on a disk.
    pub journal_disk: JournalTotals,
    /// From a batch's arrival to its being durable.
    pub ack_delay: Histogram,
}

// === impl Totals ===

impl Totals {
    /// Those of that head of the journal.
    #[must_use]
    pub const fn journal(&self, store: Store) -> &JournalTotals {
        match store {
            Store::Memory => &self.journal,
            Store::Disk => &self.journal_disk,
        }
    }

    /// A hole of that reason, in which so many lines begin.
    pub fn limited(&self, reason: HoleReason, lines: Option<u64>) {
        if reason == HoleReason::RateLimit {
            self.limited_lines.add(lines.unwrap_or_default());
        }
    }
}

// === impl Counter ===

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Gauge ===

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl PerStream ===

impl<T> PerStream<T> {
    /// The value of one output.
    pub fn of(&self, stream: StreamKind) -> &T {
        match stream {
            StreamKind::Stdout => &self.stdout,
            StreamKind::Stderr => &self.stderr,
        }
    }
}

// === impl Histogram ===

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..=link::BUCKETS_NS.len()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let index = link::BUCKETS_NS.partition_point(|bound| *bound < ns);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Each bucket's own count (not cumulative), the last one without an upper bound, and the sum in ns.
    #[must_use]
    pub fn read(&self) -> (Vec<u64>, u64) {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        (counts, self.sum_ns.load(Ordering::Relaxed))
    }
}
