//! Reading a TOML document section by section, option by option, keeping lines and going on after a fault.

use std::{ops::RangeInclusive, path::Path};

use toml::{Spanned, de::DeTable, de::DeValue};

use super::{HEADINGS, fault::Faults, option::Heading, rule};

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
    /// Sections that were taken.
    had: Vec<&'static str>,
}

/// One section of which options are taken one after the other.
pub(super) struct Section<'d, 't> {
    name: String,
    text: &'t str,
    table: DeTable<'t>,
    faults: &'d mut Faults,
    known: Vec<&'static str>,
    heading: Option<&'static Heading>,
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
        Self { text, table: table.into_inner(), faults, had: Vec::new() }
    }

    /// Takes a section of which every option has a default or may be absent; empty where the file has none.
    pub(super) fn section(&mut self, heading: &'static Heading) -> Section<'_, 't> {
        let table = self.take(heading.name).unwrap_or_default();
        let name = heading.name.to_owned();
        let (text, faults, known) = (self.text, &mut self.faults, Vec::new());
        Section { name, text, table, faults, known, heading: Some(heading) }
    }

    /// Takes a section; `None` where the file has none of that name.
    pub(super) fn optional(&mut self, heading: &'static Heading) -> Option<Section<'_, 't>> {
        self.table.contains_key(heading.name).then(|| self.section(heading))
    }

    /// Whether the file had that section, right or wrong.
    pub(super) fn has_had(&self, name: &str) -> bool {
        self.had.contains(&name)
    }

    fn take(&mut self, name: &'static str) -> Option<DeTable<'t>> {
        let (key, value) = self.table.remove_entry(name)?;
        self.had.push(name);
        let DeValue::Table(table) = value.into_inner() else {
            let line = line_of(self.text, key.span().start);
            self.faults.push(Some(line), name, format!("is a section: write [{name}]"));
            return None;
        };
        Some(table)
    }

    /// Takes the tables of an array (`[[name]]`), in order, one after the other: `read` gets each with its line.
    pub(super) fn each<T>(
        &mut self,
        heading: &'static Heading,
        mut read: impl FnMut(usize, Section<'_, 't>) -> T,
    ) -> Vec<T> {
        let name = heading.name;
        let Some((key, value)) = self.table.remove_entry(name) else { return Vec::new() };
        let DeValue::Array(array) = value.into_inner() else {
            let line = line_of(self.text, key.span().start);
            self.faults.push(Some(line), name, format!("is a list of sections: write [[{name}]]"));
            return Vec::new();
        };
        let mut out = Vec::new();
        for value in array {
            let line = line_of(self.text, value.span().start);
            let DeValue::Table(table) = value.into_inner() else {
                self.faults.push(Some(line), name, format!("is a list of sections: write [[{name}]]"));
                continue;
            };
            let section = Section {
                name: name.to_owned(),
                text: self.text,
                table,
                faults: &mut self.faults,
                known: Vec::new(),
                heading: Some(heading),
            };
            out.push(read(line, section));
        }
        out
    }

    /// Whatever was not taken is a fault.
    pub(super) fn reject_unknown_sections(&mut self) {
        let known: Vec<_> =
            HEADINGS.iter().map(|heading| heading.name).filter(|name| !name.contains('.')).collect();
        for (key, _) in std::mem::take(&mut self.table) {
            let line = line_of(self.text, key.span().start);
            let message =
                format!("is unknown; the sections are {}, {}", known.join(", "), rule::HEADING.name);
            self.faults.push(Some(line), key.get_ref().as_ref(), message);
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

    /// Takes true or false.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<At<bool>> {
        let (line, value) = self.take(key)?;
        let DeValue::Boolean(value) = value else {
            self.fault(line, key, "must be true or false");
            return None;
        };
        Some(At { line, value })
    }

    /// Takes a string or a list of strings.
    pub(super) fn strings(&mut self, key: &'static str) -> Option<At<Vec<String>>> {
        let (line, value) = self.take(key)?;
        let value = strings(value);
        if value.is_none() {
            self.fault(line, key, "must be a string or a list of strings");
        }
        Some(At { line, value: value? })
    }

    /// Takes a table of which each value is a string or a list of strings.
    pub(super) fn lists(&mut self, key: &'static str) -> Vec<(String, At<Vec<String>>)> {
        let Some((line, value)) = self.take(key) else { return Vec::new() };
        let DeValue::Table(table) = value else {
            self.fault(line, key, "must be a table: { key = \"value\" }");
            return Vec::new();
        };
        let mut out = Vec::new();
        for (name, value) in table {
            let name = name.into_inner().into_owned();
            match strings(value.into_inner()) {
                Some(value) => out.push((name, At { line, value })),
                None => self.fault(line, &format!("{key}.{name}"), "must be a string or a list of strings"),
            }
        }
        out
    }

    /// A fault of an option that was taken.
    pub(super) fn refuse(&mut self, line: usize, key: &str, message: &str) {
        self.fault(line, key, message);
    }

    /// A fault of an option that is missing, or does not go with another.
    pub(super) fn lacks(&mut self, key: &str, message: &str) {
        self.faults.push(None, format!("{}.{key}", self.name), message);
    }

    /// Takes a section within this one.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'_, 't>> {
        self.known.push(key);
        self.table(key)
    }

    /// The keys that nobody took, each with its line, for sections whose keys are not ours.
    pub(super) fn keys(&self) -> Vec<(usize, String)> {
        let line = |key: &Spanned<_>| line_of(self.text, key.span().start);
        let mut keys: Vec<_> =
            self.table.keys().map(|key| (line(key), key.get_ref().clone().into_owned())).collect();
        keys.sort_unstable();
        keys
    }

    /// Takes a value of any key if it is a string; else leaves it.
    pub(super) fn take_text(&mut self, key: &str) -> Option<String> {
        let DeValue::String(text) = self.table.get(key)?.get_ref() else { return None };
        let text = text.clone().into_owned();
        self.table.remove(key);
        Some(text)
    }

    /// Takes a section of any key.
    pub(super) fn table(&mut self, key: &str) -> Option<Section<'_, 't>> {
        let (at, value) = self.table.remove_entry(key)?;
        let DeValue::Table(table) = value.into_inner() else {
            self.fault(
                line_of(self.text, at.span().start),
                key,
                "is a table: write it in braces, or as a section",
            );
            return None;
        };
        let name = format!("{}.{key}", self.name);
        let (text, faults, known) = (self.text, &mut *self.faults, Vec::new());
        let heading = HEADINGS.into_iter().find(|heading| heading.name == name);
        Some(Section { name, text, table, faults, known, heading })
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
        debug_assert!(
            self.heading.is_none_or(|all| all.options.iter().any(|option| option.key() == key)),
            "{}.{key} is read and not stated",
            self.name
        );
        self.known.push(key);
        let (at, value): (Spanned<_>, Spanned<DeValue<'t>>) = self.table.remove_entry(key)?;
        Some((line_of(self.text, at.span().start), value.into_inner()))
    }

    fn fault(&mut self, line: usize, key: &str, message: &str) {
        let key = if key.is_empty() { self.name.clone() } else { format!("{}.{key}", self.name) };
        self.faults.push(Some(line), key, message);
    }
}

fn strings(value: DeValue<'_>) -> Option<Vec<String>> {
    let text = |value| match value {
        DeValue::String(text) => Some(text.into_owned()),
        _ => None,
    };
    match value {
        DeValue::Array(array) => array.into_iter().map(|value| text(value.into_inner())).collect(),
        value => text(value).map(|text| vec![text]),
    }
}

/// The line, from 1, of a byte position.
fn line_of(text: &str, position: usize) -> usize {
    let before = text.as_bytes().get(..position.min(text.len())).unwrap_or_default();
    memchr::memchr_iter(b'\n', before).count().saturating_add(1)
}
