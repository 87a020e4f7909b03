//! `[spool]`: what wrappers may keep in files while no collector takes their output, and where those files lie.

use std::path::PathBuf;

use super::{
    fault::Faults,
    section::{At, Document},
};

/// Resolved.
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

/// As the file has it.
#[derive(Default)]
pub(super) struct Raw {
    disk: Option<At<bool>>,
    disk_dir: Option<At<String>>,
    memory_dir: Option<At<String>>,
    budget_bytes: Option<At<u64>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let Some(mut section) = document.section("spool") else { return Self::default() };
        let raw = Self {
            disk: section.boolean("disk"),
            disk_dir: section.string("disk_dir"),
            memory_dir: section.string("memory_dir"),
            budget_bytes: section.number("budget_bytes", 1 << 20..=1 << 40),
        };
        section.finish();
        raw
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Spool {
        let disk_dir = directory(self.disk_dir, "spool.disk_dir", "/var/lib/shimtap/spool", faults);
        let memory_dir = directory(self.memory_dir, "spool.memory_dir", "/run/shimtap/spool", faults);
        if disk_dir == memory_dir {
            faults.push(None, "spool.memory_dir", "is the same as spool.disk_dir; it must be one in memory");
        }
        Spool {
            disk: self.disk.is_none_or(|at| at.value),
            disk_dir,
            memory_dir,
            budget_bytes: self.budget_bytes.map_or(256 << 20, |at| at.value),
        }
    }
}

fn directory(raw: Option<At<String>>, key: &str, default: &str, faults: &mut Faults) -> PathBuf {
    let Some(At { line, value }) = raw else { return PathBuf::from(default) };
    if !value.starts_with('/') {
        faults.push(Some(line), key, "must be an absolute path");
    }
    PathBuf::from(value)
}
