//! A record as a line of the CRI log format, which every log shipper reads: `<time> <stream> <F|P> <text>`.
//!
//! The format has no place for names, offsets or gaps. The bytes of a line are what the container wrote, whatever their
//! encoding; a gap is a line of ours that says so, because a hole without a sign would be a silent loss.

use super::put;
use crate::{
    event::{Body, Flags, Origin, Record},
    time::write_rfc3339,
};

const NS_PER_SEC: u64 = 1_000_000_000;

/// Writes records. It keeps the second it wrote last, because most records are of the same one.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    second: Option<u64>,
    /// `2026-11-21T02:12:41.`
    time: String,
}

// === impl Encoder ===

impl Encoder {
    /// Appends one record and its newline.
    pub fn record(&mut self, out: &mut Vec<u8>, origin: &Origin, record: &Record) {
        let (second, ns) = (record.time_ns / NS_PER_SEC, record.time_ns % NS_PER_SEC);
        if self.second != Some(second) {
            self.begin_second(second);
        }
        put(out, &self.time);
        // A one in front keeps the zeros.
        put(out, itoa::Buffer::new().format(ns.saturating_add(NS_PER_SEC)).get(1..).unwrap_or_default());
        put(out, "Z ");
        put(out, origin.name.stream.label());
        put(out, if record.flags.has(Flags::PARTIAL) { " P " } else { " F " });
        match &record.body {
            Body::Line(text) => out.extend_from_slice(text),
            Body::Hole(hole) => {
                let bytes = record.to.saturating_sub(record.from);
                put(out, format!("shimtap: {bytes} bytes are not here: {}", hole.reason.label()));
            }
        }
        put(out, "\n");
    }

    fn begin_second(&mut self, second: u64) {
        self.second = Some(second);
        self.time.clear();
        // Writing to a string cannot fail.
        let _ = write_rfc3339(&mut self.time, second.saturating_mul(NS_PER_SEC));
        // What follows the seconds is nine digits and `Z`.
        self.time.truncate(self.time.len().saturating_sub(10));
    }
}
