//! What one stream of a container delivered, and how it ended.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    closed::Counts,
    event::{Ending, HoleReason, StreamKind},
    journal::Row,
};

/// No time that anything lasts.
const NOT_TOLD: u64 = u64::MAX;

/// What one stream delivered.
#[derive(Debug)]
pub struct StreamCounts {
    /// Which output.
    pub stream: StreamKind,
    /// Empty = the init process.
    pub process: String,
    /// Why it is not captured; `None` = it is.
    pub not_captured: Option<&'static str>,
    /// A rule says that it is not collected.
    pub off: AtomicBool,
    /// Bytes taken.
    pub bytes: AtomicU64,
    /// Lines made of them.
    pub lines: AtomicU64,
    /// Bytes that are not here, by reason.
    pub gap_bytes: Counts<HoleReason>,
    /// How long containerd took nothing of it, in ns; [`NOT_TOLD`] where its wrapper does not say.
    stalled_ns: AtomicU64,
    ending: Mutex<Option<Ending>>,
}

// === impl StreamCounts ===

impl StreamCounts {
    /// For one stream; `not_captured` says why it delivers nothing.
    #[must_use]
    pub fn new(stream: StreamKind, process: &str, not_captured: Option<&'static str>) -> Self {
        Self {
            stream,
            process: process.to_owned(),
            not_captured,
            off: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            gap_bytes: Counts::default(),
            stalled_ns: AtomicU64::new(NOT_TOLD),
            ending: Mutex::new(None),
        }
    }

    /// Why nothing of it comes; `None` = it does.
    pub fn silent(&self) -> Option<&'static str> {
        self.not_captured.or_else(|| self.off.load(Ordering::Relaxed).then_some("rule"))
    }

    /// Takes over what an earlier process counted.
    pub fn resume(&self, row: &Row) {
        self.bytes.store(row.bytes, Ordering::Relaxed);
        self.lines.store(row.lines, Ordering::Relaxed);
        for hole in &row.holes {
            self.gap_bytes.add(hole.reason, hole.bytes);
        }
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = row.ending;
    }

    /// Its wrapper says for how long containerd took nothing of it, in ns, all times together.
    pub fn stalled(&self, ns: u64) {
        self.stalled_ns.store(ns, Ordering::Relaxed);
    }

    /// What it said last.
    #[must_use]
    pub fn stalled_ns(&self) -> Option<u64> {
        Some(self.stalled_ns.load(Ordering::Relaxed)).filter(|ns| *ns != NOT_TOLD)
    }

    /// The stream ended.
    pub fn close(&self, ending: Ending) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
    }

    /// A wrapper has it (again): where nobody knew its end, it is open.
    pub fn carried(&self) {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        *ending = ending.filter(|ending| ending.is_orderly());
    }

    /// How it ended; `None` while it has not, as far as is known.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
