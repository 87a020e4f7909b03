//! `[journal]`: where output is kept until every sink has it, and how much of it; `[journal.disk]`: the same for what rules
//! have on a disk.

use std::{path::PathBuf, time::Duration};

use super::{
    option::{Choice, Heading, Number, Text},
    section::{Document, Section},
};
use crate::closed::closed;

closed! {
    /// When bytes are brought to the disk itself.
    pub enum Fsync {
        /// Before they are acknowledged.
        Always => "always",
        /// Every now and then: a power cut may take the last ones along, a death of the collector takes nothing.
        Interval => "interval",
    }
}

/// As it stands in the file, or is without one.
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

const DIR: Text = Text {
    key: "dir",
    says: "The folder of its files, made with mode 0700. One collector at a time. On tmpfs output does not outlive the node's \
           boot.",
    default: "/run/shimtap/journal",
};
const MAX_BYTES: Number = Number {
    key: "max_bytes",
    says: "Most bytes of its files (compressed output, mostly).",
    range: 4 << 20..=1 << 40,
    default: 64 << 20,
};
// A week: what is not delivered by then is of no use to anybody, and rules about personal data like an end.
const MAX_AGE_SECS: Number = Number {
    key: "max_age_secs",
    says: "Output older than this is dropped.",
    range: 1..=31_536_000,
    default: 604_800,
};
const FSYNC: Choice<Fsync> = Choice {
    key: "fsync",
    says: "When bytes are brought to the disk: before they are acknowledged, or every now and then.",
    default: Fsync::Interval,
};
const FSYNC_INTERVAL_MS: Number = Number {
    key: "fsync_interval_ms",
    says: "From one time to the next; so often the places of sinks are written as well.",
    range: 10..=600_000,
    default: 1_000,
};
const RESERVE_PERCENT: Number = Number {
    key: "reserve_percent",
    says: "What stays free of the file system.",
    range: 0..=90,
    default: 15,
};
const RESERVE_BYTES: Number = Number {
    key: "reserve_bytes",
    says: "The same in bytes, on a disk; whichever is more.",
    range: 0..=1 << 50,
    default: 2 << 30,
};
const QUEUE_BYTES: Number = Number {
    key: "queue_bytes",
    says: "Memory for records on their way to the journal. When it is full, wrappers are read no further and keep their bytes.",
    range: 1 << 20..=1 << 30,
    // Sixty frames: more only waits, in our memory instead of the wrappers'.
    default: 4 << 20,
};

const DISK_DIR: Text = Text {
    key: "dir",
    says: "The folder of its files, made with mode 0700; on a disk, and not that of [journal].",
    default: "/var/lib/shimtap/journal",
};
const DISK_MAX_BYTES: Number = Number { default: 1 << 30, ..MAX_BYTES };

pub(super) const DISK_HEADING: Heading = Heading {
    name: "journal.disk",
    says: "A second journal is there where this section is: on a disk, for what rules say store = \"disk\" of.",
    is_comment: true,
    options: &[
        &DISK_DIR,
        &DISK_MAX_BYTES,
        &MAX_AGE_SECS,
        &FSYNC,
        &FSYNC_INTERVAL_MS,
        &RESERVE_PERCENT,
        &RESERVE_BYTES,
        &QUEUE_BYTES,
    ],
};

pub(super) const HEADING: Heading = Heading {
    name: "journal",
    says: "",
    is_comment: false,
    options: &[
        &DIR,
        &MAX_BYTES,
        &MAX_AGE_SECS,
        &FSYNC,
        &FSYNC_INTERVAL_MS,
        &RESERVE_PERCENT,
        &RESERVE_BYTES,
        &QUEUE_BYTES,
    ],
};

// === impl Journal ===

impl Journal {
    /// That of `[journal]`, and that of `[journal.disk]` where there is one.
    pub(super) fn read(document: &mut Document<'_>) -> (Self, Option<Self>) {
        let mut section = document.section(&HEADING);
        let journal = Self::of(&mut section, &DIR, &MAX_BYTES);
        let disk = section.section("disk").map(|mut section| {
            let journal = Self::of(&mut section, &DISK_DIR, &DISK_MAX_BYTES);
            section.finish();
            journal
        });
        section.finish();
        (journal, disk)
    }

    fn of(section: &mut Section<'_, '_>, dir: &Text, max_bytes: &Number) -> Self {
        Self {
            dir: section.path(dir),
            max_bytes: section.whole(max_bytes),
            max_age: section.seconds(&MAX_AGE_SECS),
            fsync: section.choice(&FSYNC),
            fsync_interval: section.millis(&FSYNC_INTERVAL_MS),
            reserve_percent: section.whole(&RESERVE_PERCENT),
            reserve_bytes: section.whole(&RESERVE_BYTES),
            queue_bytes: section.size(&QUEUE_BYTES),
        }
    }
}
