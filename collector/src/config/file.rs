//! `[file]`: the file sink. Without this section there is none.

use std::path::PathBuf;

use super::{
    fault::Faults,
    section::{At, Document},
};
use crate::sinks::Format;

/// Resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The file that is written.
    pub path: PathBuf,
    /// How a line looks.
    pub format: Format,
    /// Size in bytes at which it is renamed to `<path>.1`.
    pub rotate_bytes: u64,
    /// How many renamed files are kept.
    pub keep: u32,
}

/// As the file has it.
pub(super) struct Raw {
    path: Option<At<String>>,
    format: Option<At<String>>,
    rotate_bytes: Option<At<u64>>,
    keep: Option<At<u64>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Option<Self> {
        let mut section = document.section("file")?;
        let raw = Self {
            path: section.string("path"),
            format: section.string("format"),
            rotate_bytes: section.number("rotate_bytes", 4 << 10..=1 << 40),
            keep: section.number("keep", 0..=1_000),
        };
        section.finish();
        Some(raw)
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Option<File> {
        let format = format(self.format, "file.format", faults);
        let Some(At { line, value }) = self.path else {
            faults.push(None, "file.path", "is missing; the file sink needs an absolute path");
            return None;
        };
        if !value.starts_with('/') || value.ends_with('/') {
            faults.push(Some(line), "file.path", "must be the absolute path of a file");
        }
        Some(File {
            path: PathBuf::from(value),
            format,
            rotate_bytes: self.rotate_bytes.map_or(100 << 20, |at| at.value),
            keep: self.keep.map_or(5, |at| u32::try_from(at.value).unwrap_or(u32::MAX)),
        })
    }
}

/// The name of a format, which is JSON unless told otherwise.
pub(super) fn format(raw: Option<At<String>>, key: &str, faults: &mut Faults) -> Format {
    let Some(At { line, value }) = raw else { return Format::Json };
    Format::named(&value).unwrap_or_else(|| {
        faults.push(Some(line), key, "must be \"json\" or \"cri\"");
        Format::Json
    })
}
