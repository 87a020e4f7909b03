//! `[stdout]`: the stdout sink. Without this section there is none.

use super::{
    fault::Faults,
    file::format,
    section::{At, Document},
};
use crate::sinks::Format;

/// Resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stdout {
    /// How a line looks.
    pub format: Format,
}

/// As the file has it.
pub(super) struct Raw {
    format: Option<At<String>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Option<Self> {
        let mut section = document.section("stdout")?;
        let raw = Self { format: section.string("format") };
        section.finish();
        Some(raw)
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Stdout {
        Stdout { format: format(self.format, "stdout.format", faults) }
    }
}
