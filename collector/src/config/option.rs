//! One option: its key, what it may be, what it is unless the file says so, and what it means.
//!
//! Each is stated once, beside the section that reads it. What is read, what `shimtap check` says and what
//! docs/configuration.md shows all come from here; none of the three may know a default or a limit of its own.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::section::{At, Section};
use crate::closed::Closed;

/// A whole number.
pub(super) struct Number {
    pub(super) key: &'static str,
    pub(super) says: &'static str,
    pub(super) range: RangeInclusive<u64>,
    pub(super) default: u64,
}

/// A text.
pub(super) struct Text {
    pub(super) key: &'static str,
    pub(super) says: &'static str,
    pub(super) default: &'static str,
}

/// A text that is absent unless the file has it.
pub(super) struct Given {
    pub(super) key: &'static str,
    pub(super) says: &'static str,
    pub(super) example: &'static str,
}

/// A whole number that is absent unless the file has it.
pub(super) struct Bound {
    pub(super) key: &'static str,
    pub(super) says: &'static str,
    pub(super) range: RangeInclusive<u64>,
    pub(super) example: u64,
}

/// Anything else that is absent unless the file has it: `example` as the file would say it.
pub(super) struct Sample {
    pub(super) key: &'static str,
    pub(super) says: &'static str,
    pub(super) example: &'static str,
}

/// True or false.
pub(super) struct Switch {
    pub(super) key: &'static str,
    pub(super) says: &'static str,
    pub(super) default: bool,
}

/// One of some names.
pub(super) struct Choice<C: 'static> {
    pub(super) key: &'static str,
    pub(super) says: &'static str,
    pub(super) default: C,
}

/// Some texts; none unless the file has them.
pub(super) struct Names {
    pub(super) key: &'static str,
    pub(super) says: &'static str,
}

/// A section whose keys are not ours: lines that show what may stand there.
pub(super) struct Shown(pub(super) &'static str);

/// An option as the documentation shows it.
pub(super) trait Entry: Sync {
    /// Its key; empty where the section's keys are not ours.
    fn key(&self) -> &'static str;
    /// What it means; the limits of a number are added.
    fn says(&self) -> String;
    /// The line `key = value` with its default, or lines of an example.
    fn line(&self) -> String;
}

/// A section.
pub(super) struct Heading {
    /// As it stands between the brackets.
    pub(super) name: &'static str,
    /// What it is about.
    pub(super) says: &'static str,
    /// Shown as comments, since there being such a section has an effect.
    pub(super) is_comment: bool,
    /// All of its options, in the order in which they are shown.
    pub(super) options: &'static [&'static dyn Entry],
}

// === impl Entry ===

impl Entry for Number {
    fn key(&self) -> &'static str {
        self.key
    }

    fn says(&self) -> String {
        format!("{} From {} to {}.", self.says, self.range.start(), self.range.end())
    }

    fn line(&self) -> String {
        format!("{} = {}", self.key, self.default)
    }
}

impl Entry for Text {
    fn key(&self) -> &'static str {
        self.key
    }

    fn says(&self) -> String {
        self.says.to_owned()
    }

    fn line(&self) -> String {
        format!("{} = {:?}", self.key, self.default)
    }
}

impl Entry for Given {
    fn key(&self) -> &'static str {
        self.key
    }

    fn says(&self) -> String {
        format!("{} No default.", self.says)
    }

    fn line(&self) -> String {
        format!("{} = {:?}", self.key, self.example)
    }
}

impl Entry for Bound {
    fn key(&self) -> &'static str {
        self.key
    }

    fn says(&self) -> String {
        format!("{} From {} to {}.", self.says, self.range.start(), self.range.end())
    }

    fn line(&self) -> String {
        format!("{} = {}", self.key, self.example)
    }
}

impl Entry for Sample {
    fn key(&self) -> &'static str {
        self.key
    }

    fn says(&self) -> String {
        self.says.to_owned()
    }

    fn line(&self) -> String {
        format!("{} = {}", self.key, self.example)
    }
}

impl Entry for Switch {
    fn key(&self) -> &'static str {
        self.key
    }

    fn says(&self) -> String {
        self.says.to_owned()
    }

    fn line(&self) -> String {
        format!("{} = {}", self.key, self.default)
    }
}

impl Entry for Names {
    fn key(&self) -> &'static str {
        self.key
    }

    fn says(&self) -> String {
        self.says.to_owned()
    }

    fn line(&self) -> String {
        format!("{} = []", self.key)
    }
}

impl<C: Closed + Sync> Entry for Choice<C> {
    fn key(&self) -> &'static str {
        self.key
    }

    fn says(&self) -> String {
        format!("{} Either {}.", self.says, names::<C>())
    }

    fn line(&self) -> String {
        format!("{} = {:?}", self.key, self.default.name())
    }
}

impl Entry for Shown {
    fn key(&self) -> &'static str {
        ""
    }

    fn says(&self) -> String {
        String::new()
    }

    fn line(&self) -> String {
        self.0.to_owned()
    }
}

// === impl Section ===

impl Section<'_, '_> {
    /// A number.
    pub(super) fn whole(&mut self, option: &Number) -> u64 {
        self.number(option.key, option.range.clone()).map_or(option.default, |at| at.value)
    }

    /// A number that may be absent.
    pub(super) fn bound(&mut self, option: &Bound) -> Option<At<u64>> {
        self.number(option.key, option.range.clone())
    }

    /// A number as a size in memory.
    pub(super) fn size(&mut self, option: &Number) -> usize {
        // Every such range fits 32 bits.
        usize::try_from(self.whole(option)).unwrap_or(usize::MAX)
    }

    /// A number of seconds.
    pub(super) fn seconds(&mut self, option: &Number) -> Duration {
        Duration::from_secs(self.whole(option))
    }

    /// A number of milliseconds.
    pub(super) fn millis(&mut self, option: &Number) -> Duration {
        Duration::from_millis(self.whole(option))
    }

    /// True or false.
    pub(super) fn switch(&mut self, option: &Switch) -> bool {
        self.boolean(option.key).map_or(option.default, |at| at.value)
    }

    /// One of the names of `C`.
    pub(super) fn choice<C: Closed>(&mut self, option: &Choice<C>) -> C {
        let Some(At { line, value }) = self.string(option.key) else { return option.default };
        C::named(&value).unwrap_or_else(|| {
            self.refuse(line, option.key, &format!("must be {}", names::<C>()));
            option.default
        })
    }

    /// A text with its line; 0 where it is the default.
    pub(super) fn text(&mut self, option: &Text) -> At<String> {
        self.string(option.key).unwrap_or_else(|| At { line: 0, value: option.default.to_owned() })
    }

    /// An absolute path.
    pub(super) fn path(&mut self, option: &Text) -> PathBuf {
        let at = self.text(option);
        self.absolute(option.key, at)
    }

    /// A path for a unix socket: absolute, and short enough for the kernel.
    pub(super) fn socket(&mut self, option: &Text) -> PathBuf {
        let at = self.text(option);
        // sockaddr_un has 108 bytes, one of them the final NUL.
        if at.value.len() > 107 {
            let message = "is longer than the 107 bytes a unix socket's path may have";
            self.refuse(at.line, option.key, message);
        }
        self.absolute(option.key, at)
    }

    /// A text that may be absent.
    pub(super) fn given(&mut self, option: &Given) -> Option<At<String>> {
        self.string(option.key)
    }

    /// An absolute path that may be absent.
    pub(super) fn given_path(&mut self, option: &Given) -> Option<PathBuf> {
        self.given(option).map(|at| self.absolute(option.key, at))
    }

    fn absolute(&mut self, key: &str, At { line, value }: At<String>) -> PathBuf {
        if !value.starts_with('/') {
            self.refuse(line, key, "must be an absolute path");
        }
        PathBuf::from(value)
    }
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
fn names<C: Closed>() -> String {
    let mut out = String::new();
    for (n, known) in C::ALL.iter().enumerate() {
        let joint = match n {
            0 => "",
            n if n + 1 == C::ALL.len() => " or ",
            _ => ", ",
        };
        out.push_str(&format!("{joint}{:?}", known.name()));
    }
    out
}
