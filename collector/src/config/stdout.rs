//! `[stdout]`: the stdout sink. Without this section there is none.

use super::{file::FORMAT, option::Heading, section::Document};
use crate::sinks::Format;

/// As it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stdout {
    /// How a line looks.
    pub format: Format,
}

pub(super) const HEADING: Heading = Heading {
    name: "stdout",
    says: "The sink that writes to standard output is there where this section is.",
    is_comment: true,
    options: &[&FORMAT],
};

// === impl Stdout ===

impl Stdout {
    pub(super) fn read(document: &mut Document<'_>) -> Option<Self> {
        let mut section = document.optional(&HEADING)?;
        let stdout = Self { format: section.choice(&FORMAT) };
        section.finish();
        Some(stdout)
    }
}
