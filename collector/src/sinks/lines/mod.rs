//! Records as lines of text, for sinks that write to a file descriptor.
//!
//! A line is whole or it is not there: what is pending is written from its front, and a sink that stopped in the
//! middle of a line goes on with that line's rest.

pub mod cri;
mod escape;
pub mod json;
mod pending;
#[cfg(test)]
mod tests;

pub use pending::Pending;

use std::time::Duration;

use super::frame::{Encode, Limits, Pace};
use crate::{
    closed::closed,
    event::{Batch, Body, Record},
};

closed! {
    /// How a line looks.
    pub enum Format {
        /// One JSON object.
        Json => "json",
        /// As kubelet and containerd write container logs: time, stream, `F` or `P`, text.
        Cri => "cri",
    }
}

/// Makes lines.
#[derive(Clone, Debug)]
pub struct Lines {
    format: Format,
    json: json::Encoder,
    cri: cri::Encoder,
}

/// Lines are written without looking for more after this many bytes: one write of this size costs little more than one
/// of a page, and a stall holds no more than this in the air. Nothing is waited for: the journal has gathered already, so
/// that each wake-up and each write serves several containers, and a second wait would gather nothing (docs/adr/0025).
pub const LIMITS: Limits = Limits { bytes: 256 << 10, records: usize::MAX, wait: Duration::ZERO };
/// A disk that has room again, or a reader that reads again, is found within seconds.
pub const PACE: Pace = Pace { first: Duration::from_millis(100), most: Duration::from_secs(5) };

/// More than a record takes beside its text, names of usual length included.
const REST: usize = 640;

// === impl Lines ===

impl Lines {
    /// For lines of that format.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, json: json::Encoder::default(), cri: cri::Encoder::default() }
    }
}

impl Encode for Lines {
    type Parcel = Pending;

    fn weight(record: &Record) -> usize {
        REST.saturating_add(match &record.body {
            Body::Line(text) => text.len(),
            Body::Hole(_) => 0,
        })
    }

    fn add(&mut self, pending: &mut Pending, batch: &Batch, record: &Record) {
        match self.format {
            Format::Json => self.json.record(pending.text(), &batch.origin, record),
            Format::Cri => self.cri.record(pending.text(), &batch.origin, record),
        }
    }

    fn size(&self, pending: &Pending) -> usize {
        pending.len()
    }

    fn seal(&mut self, _: &mut Pending) {}

    fn clear(&mut self, pending: &mut Pending) {
        pending.clear();
    }
}

fn put(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.extend_from_slice(text.as_ref());
}
