//! What is wrong with a configuration file: every fault with its line and key, for a person to read.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1; `None` where something is missing or concerns several lines.
    pub line: Option<usize>,
    /// `section.option`, or the section, or empty where the file is no TOML.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Everything that is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    file: PathBuf,
    all: Vec<Fault>,
}

// === impl Faults ===

impl Faults {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), all: Vec::new() }
    }

    pub(super) fn push(&mut self, line: Option<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.all.push(Fault { line, key: key.into(), message: message.into() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// In the order of the file.
    pub(super) fn sorted(mut self) -> Self {
        self.all.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
        self
    }

    /// Each fault.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.all.iter()
    }
}

/// One line per fault: `file:line: key: message`.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.all.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some(line) = fault.line {
                write!(f, "{line}:")?;
            }
            if !fault.key.is_empty() {
                write!(f, " {}:", fault.key)?;
            }
            write!(f, " {}", fault.message)?;
        }
        Ok(())
    }
}
