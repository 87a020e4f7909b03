//! `[stats]`: what wrappers are told about statistics.

use std::time::Duration;

use super::{
    fault::Faults,
    ingest::seconds,
    section::{At, Document},
};

/// Resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// A wrapper asks its shim itself when the newest sample is older than this.
    pub interval: Duration,
}

/// As the file has it.
#[derive(Default)]
pub(super) struct Raw {
    interval_secs: Option<At<u64>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let Some(mut section) = document.section("stats") else { return Self::default() };
        let raw = Self { interval_secs: section.number("interval_secs", 1..=3_600) };
        section.finish();
        raw
    }

    pub(super) fn resolve(self, _: &mut Faults) -> Stats {
        Stats { interval: seconds(self.interval_secs, 10) }
    }
}
