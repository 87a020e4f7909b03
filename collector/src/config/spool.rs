//! `[spool]`: what wrappers may keep in files while no collector takes their output, and where those files lie.

use std::path::PathBuf;

use super::{
    option::{Heading, Number, Switch, Text},
    section::Document,
};

/// As it stands in the file, or is without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// Output may be spooled to the disk; else to memory only.
    pub disk: bool,
    /// The directories that wrappers are told of in their shim.toml.
    pub disk_dir: PathBuf,
    /// The same in memory.
    pub memory_dir: PathBuf,
    /// What the files of all wrappers together may hold, in bytes.
    pub budget_bytes: u64,
}

const DISK: Switch = Switch {
    key: "disk",
    says: "Output that no collector takes may be written to the disk; else to memory only, as is what a rule takes something \
           out of. A wrapper that has met no collector yet uses memory.",
    default: true,
};
const DISK_DIR: Text = Text {
    key: "disk_dir",
    says: "Where wrappers write (their shim.toml says the same), and where it is looked for. Made by whoever comes first; must \
           belong to root, mode 0700, and not be the journal's (docs/spool.md).",
    default: "/var/lib/shimtap/spool",
};
const MEMORY_DIR: Text = Text {
    key: "memory_dir",
    says: "The same in memory; must be on a tmpfs.",
    default: "/run/shimtap/spool",
};
const BUDGET_BYTES: Number = Number {
    key: "budget_bytes",
    says: "What the files of all attached wrappers may hold together. Each gets this divided by their number, rounded up to a \
           power of two, 16 MiB at most (a quarter of it in memory).",
    range: 1 << 20..=1 << 40,
    default: 256 << 20,
};

pub(super) const HEADING: Heading = Heading {
    name: "spool",
    says: "",
    is_comment: false,
    options: &[&DISK, &DISK_DIR, &MEMORY_DIR, &BUDGET_BYTES],
};

// === impl Spool ===

impl Spool {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let mut section = document.section(&HEADING);
        let spool = Self {
            disk: section.switch(&DISK),
            disk_dir: section.path(&DISK_DIR),
            memory_dir: section.path(&MEMORY_DIR),
            budget_bytes: section.whole(&BUDGET_BYTES),
        };
        if spool.disk_dir == spool.memory_dir {
            section.lacks(MEMORY_DIR.key, "is the same as spool.disk_dir; it must be one in memory");
        }
        section.finish();
        spool
    }
}
