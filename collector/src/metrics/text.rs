//! The Prometheus text format, version 0.0.4.
//!
//! A family's HELP and TYPE are written with its first sample; a family without one is not mentioned. Samples of a
//! family stand together: a writer is asked for one family after the other.

use std::fmt::Write;

use super::families::{Family, Kind};

/// What the format calls itself.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An exposition in the making.
#[derive(Debug, Default)]
pub(super) struct Text {
    out: String,
    /// Families that are shown; `None` = all.
    only: Option<&'static [&'static Family]>,
}

/// One family of it.
pub(super) struct Writer<'t> {
    out: &'t mut String,
    family: &'static Family,
    begun: bool,
    shown: bool,
}

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// A whole number.
    Whole(u64),
    /// Nanoseconds, shown as seconds.
    Ns(u64),
}

// === impl Text ===

impl Text {
    /// One that shows only these families.
    pub(super) fn only(families: &'static [&'static Family]) -> Self {
        Self { out: String::new(), only: Some(families) }
    }

    /// Begins a family.
    pub(super) fn family(&mut self, family: &'static Family) -> Writer<'_> {
        let shown = self.only.is_none_or(|only| only.contains(&family));
        Writer { out: &mut self.out, family, begun: false, shown }
    }

    pub(super) fn finish(self) -> String {
        self.out
    }
}

// === impl Writer ===

impl Writer<'_> {
    /// Writes a sample with rendered `labels` (`a="b",c="d"`) and, where it has one, its time in Unix ms.
    pub(super) fn sample(&mut self, labels: &str, value: Value, at_ms: Option<u64>) {
        self.line("", labels, value, at_ms);
    }

    /// Writes a histogram: `counts` per bucket, not cumulative, one more than `bounds_ns`.
    pub(super) fn histogram(&mut self, labels: &str, bounds_ns: &[u64], counts: &[u64], sum_ns: u64) {
        let mut sum: u64 = 0;
        let comma = if labels.is_empty() { "" } else { "," };
        for (i, count) in counts.iter().enumerate() {
            sum = sum.saturating_add(*count);
            let mut with_le = format!("{labels}{comma}le=\"");
            match bounds_ns.get(i) {
                Some(bound) => push_seconds(&mut with_le, *bound),
                None => with_le.push_str("+Inf"),
            }
            with_le.push('"');
            self.line("_bucket", &with_le, Value::Whole(sum), None);
        }
        self.line("_sum", labels, Value::Ns(sum_ns), None);
        self.line("_count", labels, Value::Whole(sum), None);
    }

    fn line(&mut self, suffix: &str, labels: &str, value: Value, at_ms: Option<u64>) {
        if !self.shown {
            return;
        }
        if !self.begun {
            self.begun = true;
            let kind = match self.family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(self.out, "# HELP {} {}", self.family.name, self.family.help);
            let _ = writeln!(self.out, "# TYPE {} {kind}", self.family.name);
        }
        self.out.push_str(self.family.name);
        self.out.push_str(suffix);
        if !labels.is_empty() {
            self.out.push('{');
            self.out.push_str(labels);
            self.out.push('}');
        }
        self.out.push(' ');
        match value {
            Value::Whole(n) => {
                let _ = write!(self.out, "{n}");
            }
            Value::Ns(ns) => push_seconds(self.out, ns),
        }
        if let Some(ms) = at_ms {
            let _ = write!(self.out, " {ms}");
        }
        self.out.push('\n');
    }
}

/// Writes nanoseconds as seconds, exactly and without needless zeros.
fn push_seconds(out: &mut String, ns: u64) {
    let (whole, part) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let _ = write!(out, "{whole}");
    if part != 0 {
        let digits = format!("{part:09}");
        out.push('.');
        out.push_str(digits.trim_end_matches('0'));
    }
}
