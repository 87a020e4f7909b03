//! Reading a TOML document section by section, option by option, keeping lines and going on after a fault.

use std::{ops::RangeInclusive, path::Path};

use toml::{Spanned, de::DeTable, de::DeValue};

use super::fault::Faults;

/// A value with the line it stands in.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

/// A parsed file of which sections are taken one after the other.
pub(super) struct Document<'t> {
    text: &'t str,
    table: DeTable<'t>,
    faults: Faults,
}

/// One section of which options are taken one after the other.
pub(super) struct Section<'d, 't> {
    name: &'static str,
    text: &'t str,
    table: DeTable<'t>,
    faults: &'d mut Faults,
    known: Vec<&'static str>,
}

// === impl Document ===

impl<'t> Document<'t> {
    pub(super) fn new(file: &Path, text: &'t str) -> Self {
        let mut faults = Faults::new(file);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map(|span| line_of(text, span.start));
            faults.push(line, "", format!("is not TOML: {}", error.message()));
        }
        Self { text, table: table.into_inner(), faults }
    }

    /// Takes a section; `None` where the file has none of that name.
    pub(super) fn section(&mut self, name: &'static str) -> Option<Section<'_, 't>> {
        let (key, value) = self.table.remove_entry(name)?;
        let line = line_of(self.text, key.span().start);
        let DeValue::Table(table) = value.into_inner() else {
            self.faults.push(Some(line), name, format!("is a section: write [{name}]"));
            return None;
        };
        Some(Section { name, text: self.text, table, faults: &mut self.faults, known: Vec::new() })
    }

    /// Whatever was not taken is a fault.
    pub(super) fn reject_unknown_sections(&mut self) {
        for (key, _) in std::mem::take(&mut self.table) {
            let line = line_of(self.text, key.span().start);
            self.faults.push(
                Some(line),
                key.get_ref().as_ref(),
                "is unknown; the sections are ingest, metrics, control, file, stats, spool",
            );
        }
    }

    pub(super) fn into_faults(self) -> Faults {
        self.faults
    }
}

// === impl Section ===

impl<'t> Section<'_, 't> {
    /// Takes a string.
    pub(super) fn string(&mut self, key: &'static str) -> Option<At<String>> {
        let (line, value) = self.take(key)?;
        let DeValue::String(text) = value else {
            self.fault(line, key, "must be a string");
            return None;
        };
        Some(At { line, value: text.into_owned() })
    }

    /// Takes true or false.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<At<bool>> {
        let (line, value) = self.take(key)?;
        let DeValue::Boolean(value) = value else {
            self.fault(line, key, "must be true or false");
            return None;
        };
        Some(At { line, value })
    }

    /// Takes a whole number within `range`.
    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let (line, value) = self.take(key)?;
        let number = match &value {
            DeValue::Integer(n) => u64::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        let Some(value) = number.filter(|n| range.contains(n)) else {
            let message = format!("must be a whole number from {} to {}", range.start(), range.end());
            self.fault(line, key, &message);
            return None;
        };
        Some(At { line, value })
    }

    /// What was not taken is a fault.
    pub(super) fn finish(mut self) {
        let known = self.known.join(", ");
        for (key, _) in std::mem::take(&mut self.table) {
            let line = line_of(self.text, key.span().start);
            self.fault(line, key.get_ref().as_ref(), &format!("is unknown; the options here are {known}"));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<(usize, DeValue<'t>)> {
        self.known.push(key);
        let (at, value): (Spanned<_>, Spanned<DeValue<'t>>) = self.table.remove_entry(key)?;
        Some((line_of(self.text, at.span().start), value.into_inner()))
    }

    fn fault(&mut self, line: usize, key: &str, message: &str) {
        self.faults.push(Some(line), format!("{}.{key}", self.name), message);
    }
}

/// The line, from 1, of a byte position.
fn line_of(text: &str, position: usize) -> usize {
    let before = text.as_bytes().get(..position.min(text.len())).unwrap_or_default();
    memchr::memchr_iter(b'\n', before).count().saturating_add(1)
}
