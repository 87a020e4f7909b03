//! `[stats]`: what wrappers are told about statistics.

use std::time::Duration;

use super::{
    option::{Heading, Number},
    section::Document,
};

/// As it stands in the file, or is without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// A wrapper asks its shim itself when the newest sample is older than this.
    pub interval: Duration,
}

const INTERVAL_SECS: Number = Number {
    key: "interval_secs",
    says: "A wrapper asks its shim for statistics when nobody else has within this time.",
    range: 1..=3_600,
    default: 10,
};

pub(super) const HEADING: Heading =
    Heading { name: "stats", says: "", is_comment: false, options: &[&INTERVAL_SECS] };

// === impl Stats ===

impl Stats {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let mut section = document.section(&HEADING);
        let stats = Self { interval: section.seconds(&INTERVAL_SECS) };
        section.finish();
        stats
    }
}
