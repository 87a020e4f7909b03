//! `[file]`: the file sink. Without this section there is none.

use std::path::PathBuf;

use super::{
    option::{Choice, Given, Heading, Number},
    section::{At, Document},
};
use crate::sinks::Format;

/// As it stands in the file.
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

const PATH: Given = Given {
    key: "path",
    says: "An absolute path; the directory must be there. Made with mode 0600.",
    example: "/var/log/shimtap/containers.json",
};
pub(super) const FORMAT: Choice<Format> = Choice {
    key: "format",
    says: "JSON lines, or as kubelet and containerd write container logs.",
    default: Format::Json,
};
const ROTATE_BYTES: Number = Number {
    key: "rotate_bytes",
    says: "Renamed to <path>.1 before it would grow beyond this.",
    range: 4 << 10..=1 << 40,
    default: 100 << 20,
};
const KEEP: Number =
    Number { key: "keep", says: "Renamed files that are kept.", range: 0..=1_000, default: 5 };

pub(super) const HEADING: Heading = Heading {
    name: "file",
    says: "The file sink is there where this section is.",
    is_comment: true,
    options: &[&PATH, &FORMAT, &ROTATE_BYTES, &KEEP],
};

// === impl File ===

impl File {
    pub(super) fn read(document: &mut Document<'_>) -> Option<Self> {
        let mut section = document.optional(&HEADING)?;
        let path = section.given(&PATH);
        let file = path.as_ref().map(|at| PathBuf::from(&at.value));
        match path {
            None => section.lacks(PATH.key, "is missing; the file sink needs an absolute path"),
            Some(At { line, value }) if !value.starts_with('/') || value.ends_with('/') => {
                section.refuse(line, PATH.key, "must be the absolute path of a file");
            }
            Some(_) => {}
        }
        let (format, rotate_bytes) = (section.choice(&FORMAT), section.whole(&ROTATE_BYTES));
        let keep = u32::try_from(section.whole(&KEEP)).unwrap_or(u32::MAX);
        section.finish();
        file.map(|path| Self { path, format, rotate_bytes, keep })
    }
}
