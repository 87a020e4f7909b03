//! What a wrapper counts, by name; the names are docs/protocol.md's.

use std::sync::atomic::Ordering;

use shimtap_proto::link::BUCKETS_NS;

use crate::sys::{atomic::AtomicU64, shared::shared_layout};

/// Places in [`Counters`]; the order is part of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// ttrpc frames relayed, both directions.
    Frames,
    /// Of these, changed by us.
    FramesRewritten,
    /// Whose body did not decode; forwarded as they came.
    FramesUnparsed,
    /// Larger than 4 MiB, forwarded unseen.
    FramesOversize,
    /// Connections that fell back to raw moving.
    RawConnections,
    /// Requests forwarded unobserved because a table was full.
    TableOverflow,
    /// Stats answered with DeadlineExceeded by us.
    SyntheticAnswers,
    /// Wait answers held for a drain.
    WaitHeld,
    /// Of these, released by the limit.
    WaitHoldExpired,
    /// Events lost because their ring was full.
    EventsDropped,
    /// 1 where shim.toml could not be used.
    ConfigFaults,
    /// Streams left alone, whatever the reason.
    NotCaptured,
    /// Connections to a collector after the first.
    LinkReconnects,
    /// New connections that waited because descriptors were short.
    AcceptsDelayed,
    /// Bytes of killed tasks that containerd's end did not take.
    DiscardedAfterKill,
    /// Bytes that no collector had taken when their task's entry was needed for another.
    EvictedBytes,
    /// Bytes of spool files that a completed write has.
    SpoolBytes,
    /// Children made to write spool files.
    SpoolWriters,
    /// Times that writing stopped at a bound of ours: this wrapper's share, the directory's, or what the disk keeps free.
    SpoolFull,
    /// Times that the system refused: ENOSPC or EDQUOT.
    SpoolRefusedSpace,
    /// EROFS, EACCES or EPERM.
    SpoolRefusedAccess,
    /// EIO.
    SpoolRefusedIo,
    /// Any other errno.
    SpoolRefusedOther,
    /// Times that a directory was not one that only root can write to, or not in memory where it must be.
    SpoolUnsafe,
    /// Bytes that a logger had not taken at its end, or ten minutes after that of a shim that would have ended it.
    DiscardedLoggerGone,
    /// Stats answers that left mended.
    StatsRepaired,
    /// Stats answers that could not be read in one way, or not be mended, and left as they came.
    StatsUnrepaired,
    /// Tasks whose entry was needed for another before anybody was told of their end.
    EvictedTasks,
}

impl Counter {
    /// All, in layout order, with the name under which they are reported.
    pub const ALL: [(Self, &'static str); 28] = [
        (Self::Frames, "frames"),
        (Self::FramesRewritten, "frames_rewritten"),
        (Self::FramesUnparsed, "frames_unparsed"),
        (Self::FramesOversize, "frames_oversize"),
        (Self::RawConnections, "raw_connections"),
        (Self::TableOverflow, "table_overflow"),
        (Self::SyntheticAnswers, "synthetic_answers"),
        (Self::WaitHeld, "wait_held"),
        (Self::WaitHoldExpired, "wait_hold_expired"),
        (Self::EventsDropped, "events_dropped"),
        (Self::ConfigFaults, "config_faults"),
        (Self::NotCaptured, "not_captured"),
        (Self::LinkReconnects, "link_reconnects"),
        (Self::AcceptsDelayed, "accepts_delayed"),
        (Self::DiscardedAfterKill, "discarded_after_kill_bytes"),
        (Self::EvictedBytes, "evicted_bytes"),
        (Self::SpoolBytes, "spool_bytes"),
        (Self::SpoolWriters, "spool_writers"),
        (Self::SpoolFull, "spool_full"),
        (Self::SpoolRefusedSpace, "spool_refused_space"),
        (Self::SpoolRefusedAccess, "spool_refused_access"),
        (Self::SpoolRefusedIo, "spool_refused_io"),
        (Self::SpoolRefusedOther, "spool_refused_other"),
        (Self::SpoolUnsafe, "spool_unsafe"),
        (Self::DiscardedLoggerGone, "discarded_logger_gone_bytes"),
        (Self::StatsRepaired, "stats_repaired"),
        (Self::StatsUnrepaired, "stats_unrepaired"),
        (Self::EvictedTasks, "evicted_tasks"),
    ];
}

shared_layout! {
    /// One word per [`Counter`], with room for later ones.
    pub struct Counters {
        words: [AtomicU64; 32],
    }
}

impl Counters {
    /// Adds one.
    pub fn add(&self, counter: Counter) {
        if let Some(word) = self.words.get(counter as usize) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds `n`.
    pub fn add_many(&self, counter: Counter, n: u64) {
        if let Some(word) = self.words.get(counter as usize) {
            word.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Makes it `n`. Only for counters that one thread writes and that must survive its death exactly.
    pub fn reach(&self, counter: Counter, n: u64) {
        if let Some(word) = self.words.get(counter as usize) {
            word.store(n, Ordering::Release);
        }
    }

    /// The value now.
    pub fn get(&self, counter: Counter) -> u64 {
        self.words.get(counter as usize).map_or(0, |w| w.load(Ordering::Relaxed))
    }
}

shared_layout! {
    /// Answers of one method: how many, how many failed, how long.
    pub struct MethodCounters {
        pub count: AtomicU64,
        pub errors: AtomicU64,
        pub sum_ns: AtomicU64,
        pub buckets: [AtomicU64; 14],
    }
}

impl MethodCounters {
    /// Takes one answered request into account.
    pub fn observe(&self, duration_ns: u64, failed: bool) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.sum_ns.fetch_add(duration_ns, Ordering::Relaxed);
        let bucket = BUCKETS_NS.iter().position(|b| duration_ns <= *b).unwrap_or(BUCKETS_NS.len());
        if let Some(word) = self.buckets.get(bucket) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }
}
