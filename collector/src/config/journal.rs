//! `[journal]`: where output is kept until every sink has it, and how much of it.

use std::{path::PathBuf, time::Duration};

use super::{
    fault::Faults,
    ingest::{seconds, size},
    section::{At, Document},
};
use crate::closed::{Closed, closed};

closed! {
    /// When bytes are brought to the disk itself.
    pub enum Fsync {
        /// Before they are acknowledged.
        Always => "always",
        /// Every now and then: a power cut may take the last ones along, a death of the collector takes nothing.
        Interval => "interval",
    }
}

/// Resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// The folder of its files.
    pub dir: PathBuf,
    /// Most bytes of its files.
    pub max_bytes: u64,
    /// Output older than this is dropped.
    pub max_age: Duration,
    /// When bytes are brought to the disk.
    pub fsync: Fsync,
    /// From one time to the next, with [`Fsync::Interval`].
    pub fsync_interval: Duration,
    /// Percent of the file system that stay free.
    pub reserve_percent: u64,
    /// Bytes of the file system that stay free, where it is on a disk.
    pub reserve_bytes: u64,
    /// Bytes in memory on their way to the journal; when they are reached, connections are read no further.
    pub queue_bytes: usize,
}

/// As the file has it.
#[derive(Default)]
pub(super) struct Raw {
    dir: Option<At<String>>,
    max_bytes: Option<At<u64>>,
    max_age_secs: Option<At<u64>>,
    fsync: Option<At<String>>,
    fsync_interval_ms: Option<At<u64>>,
    reserve_percent: Option<At<u64>>,
    reserve_bytes: Option<At<u64>>,
    queue_bytes: Option<At<u64>>,
}

/// A week: what is not delivered by then is of no use to anybody, and rules about personal data like an end.
const MAX_AGE_SECS: u64 = 604_800;

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let Some(mut section) = document.section("journal") else { return Self::default() };
        let raw = Self {
            dir: section.string("dir"),
            max_bytes: section.number("max_bytes", 4 << 20..=1 << 40),
            max_age_secs: section.number("max_age_secs", 1..=31_536_000),
            fsync: section.string("fsync"),
            fsync_interval_ms: section.number("fsync_interval_ms", 10..=600_000),
            reserve_percent: section.number("reserve_percent", 0..=90),
            reserve_bytes: section.number("reserve_bytes", 0..=1 << 50),
            queue_bytes: section.number("queue_bytes", 1 << 20..=1 << 30),
        };
        section.finish();
        raw
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Journal {
        let dir = self.dir.map_or_else(
            || PathBuf::from("/run/shimtap/journal"),
            |At { line, value }| {
                if !value.starts_with('/') {
                    faults.push(Some(line), "journal.dir", "must be an absolute path");
                }
                PathBuf::from(value)
            },
        );
        let fsync = self.fsync.map_or(Fsync::Interval, |At { line, value }| {
            let known = Fsync::ALL.iter().copied().find(|known| known.name() == value);
            known.unwrap_or_else(|| {
                faults.push(Some(line), "journal.fsync", "must be \"always\" or \"interval\"");
                Fsync::Interval
            })
        });
        let number = |raw: Option<At<u64>>, default| raw.map_or(default, |at| at.value);
        Journal {
            dir,
            max_bytes: number(self.max_bytes, 64 << 20),
            max_age: seconds(self.max_age_secs, MAX_AGE_SECS),
            fsync,
            fsync_interval: Duration::from_millis(number(self.fsync_interval_ms, 1_000)),
            reserve_percent: number(self.reserve_percent, 15),
            reserve_bytes: number(self.reserve_bytes, 2 << 30),
            queue_bytes: size(self.queue_bytes, 8 << 20),
        }
    }
}
