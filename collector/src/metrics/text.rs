//! The Prometheus text format, version 0.0.4, plain or compressed on the way.
//!
//! A family's HELP and TYPE are written with its first sample; a family without one is not mentioned. Samples of a
//! family stand together: a writer is asked for one family after the other. A compressed exposition is never there as a
//! whole in plain text, which would be ten times as large.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use flate2::{Compression, write::GzEncoder};

use super::families::{Family, Kind};

/// What the format calls itself.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// So much plain text is compressed at a time.
const PIECE: usize = 64 << 10;

/// How an exposition leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// As text.
    Plain,
    /// Compressed.
    Gzip,
}

/// An exposition in the making.
#[derive(Debug)]
pub(super) struct Text {
    /// What is not compressed yet, or never will be.
    out: String,
    packed: Option<GzEncoder<Vec<u8>>>,
    /// Families that are shown; `None` = all.
    only: Option<&'static [&'static Family]>,
    /// Series that there is still room for.
    room: u64,
    /// Series that there was none for.
    cut: u64,
}

/// One family of it.
pub(super) struct Writer<'t> {
    text: &'t mut Text,
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
    /// A whole number that may be below 0.
    Signed(i64),
    /// Nanoseconds that may be below 0, shown as seconds.
    SignedNs(i64),
}

// === impl Text ===

impl Text {
    /// One for `series` series at most, and of these families alone where some are named.
    pub(super) fn new(packing: Packing, series: u64, only: Option<&'static [&'static Family]>) -> Self {
        let packed = match packing {
            Packing::Plain => None,
            Packing::Gzip => Some(GzEncoder::new(Vec::new(), Compression::fast())),
        };
        Self { out: String::new(), packed, only, room: series, cut: 0 }
    }

    /// Begins a family.
    pub(super) fn family(&mut self, family: &'static Family) -> Writer<'_> {
        let shown = self.only.is_none_or(|only| only.contains(&family));
        Writer { text: self, family, begun: false, shown }
    }

    /// Series that were left out so far.
    pub(super) const fn cut(&self) -> u64 {
        self.cut
    }

    /// All of it.
    ///
    /// # Errors
    /// Never in practice: what is written to is memory.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        match self.packed.take() {
            None => Ok(self.out.into_bytes()),
            Some(mut packed) => {
                packed.write_all(self.out.as_bytes())?;
                packed.finish()
            }
        }
    }

    /// Is there room for so many series more? What there is none for is counted.
    fn take(&mut self, series: u64) -> bool {
        // Nothing smaller slips through behind what did not fit: the end is cut off, not holes into the middle.
        match self.room.checked_sub(series).filter(|_| self.cut == 0) {
            Some(left) => self.room = left,
            None => self.cut = self.cut.saturating_add(series),
        }
        self.cut == 0
    }

    fn pack(&mut self) {
        if let Some(packed) = self.packed.as_mut().filter(|_| self.out.len() >= PIECE)
            && packed.write_all(self.out.as_bytes()).is_ok()
        {
            self.out.clear();
        }
    }
}

// === impl Writer ===

impl Writer<'_> {
    /// Writes a sample with rendered `labels` (`a="b",c="d"`) and, where it has one, its time in Unix ms.
    pub(super) fn sample(&mut self, labels: &str, value: Value, at_ms: Option<u64>) {
        self.sample_of("", labels, value, at_ms);
    }

    /// The same with labels in two parts, either of which may be empty.
    pub(super) fn sample_of(&mut self, first: &str, labels: &str, value: Value, at_ms: Option<u64>) {
        if self.shown && self.text.take(1) {
            self.line("", [first, labels], value, at_ms);
        }
    }

    /// Writes a histogram: `counts` per bucket, not cumulative, one more than `bounds_ns`.
    pub(super) fn histogram(&mut self, labels: &str, bounds_ns: &[u64], counts: &[u64], sum_ns: u64) {
        // All of it or nothing: a bucket that is missing is a wrong number.
        let series = u64::try_from(counts.len()).unwrap_or(u64::MAX).saturating_add(2);
        if !self.shown || !self.text.take(series) {
            return;
        }
        let mut sum: u64 = 0;
        for (i, count) in counts.iter().enumerate() {
            sum = sum.saturating_add(*count);
            let mut le = String::from("le=\"");
            match bounds_ns.get(i) {
                Some(bound) => push_seconds(&mut le, *bound),
                None => le.push_str("+Inf"),
            }
            le.push('"');
            self.line("_bucket", [labels, &le], Value::Whole(sum), None);
        }
        self.line("_sum", ["", labels], Value::Ns(sum_ns), None);
        self.line("_count", ["", labels], Value::Whole(sum), None);
    }

    fn line(&mut self, suffix: &str, labels: [&str; 2], value: Value, at_ms: Option<u64>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.head();
        }
        let out = &mut self.text.out;
        out.push_str(self.family.name);
        out.push_str(suffix);
        let [first, second] = labels;
        if !first.is_empty() || !second.is_empty() {
            out.push('{');
            out.push_str(first);
            if !first.is_empty() && !second.is_empty() {
                out.push(',');
            }
            out.push_str(second);
            out.push('}');
        }
        out.push(' ');
        match value {
            Value::Whole(n) => {
                let _ = write!(out, "{n}");
            }
            Value::Ns(ns) => push_seconds(out, ns),
            Value::Signed(n) => {
                let _ = write!(out, "{n}");
            }
            Value::SignedNs(ns) => {
                if ns < 0 {
                    out.push('-');
                }
                push_seconds(out, ns.unsigned_abs());
            }
        }
        if let Some(ms) = at_ms {
            let _ = write!(out, " {ms}");
        }
        out.push('\n');
        self.text.pack();
    }

    fn head(&mut self) {
        let kind = match self.family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text.out, "# HELP {} {}", self.family.name, self.family.help);
        let _ = writeln!(self.text.out, "# TYPE {} {kind}", self.family.name);
    }
}

/// Writes nanoseconds as seconds, exactly and without needless zeros.
fn push_seconds(out: &mut String, ns: u64) {
    let (whole, mut part) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let _ = write!(out, "{whole}");
    if part != 0 {
        let mut width = 9;
        while part % 10 == 0 {
            part /= 10;
            width -= 1;
        }
        let _ = write!(out, ".{part:0width$}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::metrics::families as f;

    #[test]
    fn seconds_are_exact_and_without_needless_zeros() {
        for (ns, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (25_000_000, "0.025"),
            (1_500_000_000, "1.5"),
            (3_000_000_000, "3"),
            (100_000_000, "0.1"),
            (12_345_678_901, "12.345678901"),
        ] {
            let mut out = String::new();
            push_seconds(&mut out, ns);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_left_out_and_counted_and_nothing_comes_behind_it() {
        let mut text = Text::new(Packing::Plain, 3, None);
        let mut writer = text.family(&f::WRAPPERS);
        for n in 0..2 {
            writer.sample("", Value::Whole(n), None);
        }
        // A histogram fits as a whole or not at all.
        text.family(&f::ACK_DELAY).histogram("", &[1], &[1, 1], 1);
        text.family(&f::CONNECTIONS).sample("", Value::Whole(1), None);
        assert_eq!(text.cut(), 5, "four of the histogram, and what comes behind it");
        let out = String::from_utf8(text.finish().expect("memory")).expect("text");
        assert_eq!(out.lines().filter(|line| !line.starts_with('#')).count(), 2, "{out}");
        assert!(!out.contains("shimtap_ingest_connections"), "{out}");
    }

    #[test]
    fn compressed_on_the_way_it_is_the_same() {
        let write = |packing| {
            let mut text = Text::new(packing, u64::MAX, None);
            let mut writer = text.family(&f::CPU_USAGE);
            for n in 0..5_000 {
                writer.sample_of("cpu=\"total\"", &format!("name=\"{n}\""), Value::Ns(n), Some(n));
            }
            text.finish().expect("memory")
        };
        let (plain, packed) = (write(Packing::Plain), write(Packing::Gzip));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).expect("gzip");
        assert!(unpacked == plain && plain.len() > 4 * PIECE && packed.len() < plain.len() / 4);
    }
}
