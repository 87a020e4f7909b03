//! What the load generator says of itself: one record in a file that it shares with the bench.
//!
//! Written by `bin/pour.rs` inside a container, read by the bench outside of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use shimtap_tests::rig::eventually;

/// Bytes of a record: four numbers of 20 digits, each followed by a blank or the newline.
pub const RECORD: usize = 84;

/// How far a generator is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Poured {
    /// Lines written.
    pub lines: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Since its first write, until its last one returned; in ns.
    pub took_ns: u64,
    /// Whether it is through.
    pub done: bool,
}

impl Poured {
    /// As it stands in the file: always of the same length, so that a write replaces the one before.
    pub fn record(&self) -> String {
        format!("{:020} {:020} {:020} {:020}\n", self.lines, self.bytes, self.took_ns, u8::from(self.done))
    }

    /// Reads a record; none where it is not there yet.
    pub fn read(path: &Path) -> Option<Poured> {
        let text = fs::read_to_string(path).ok()?;
        let mut numbers = text.split_whitespace().map(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        Some(Poured { lines: next()?, bytes: next()?, took_ns: next()?, done: next()? == 1 })
    }

    /// Waits until the generator is through.
    pub fn await_done(path: &Path, limit: Duration) -> Result<Poured> {
        eventually(limit, &format!("{} to be done", path.display()), || {
            Ok(Poured::read(path).filter(|poured| poured.done))
        })
        .context("the load generator")
    }

    /// Bytes per second.
    pub fn speed(&self) -> f64 {
        crate::spread::float64(self.bytes) / (crate::spread::float64(self.took_ns) / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_length_and_comes_back() {
        let poured = Poured { lines: 1, bytes: u64::MAX, took_ns: 3, done: true };
        assert_eq!(poured.record().len(), RECORD);
        let path = std::env::temp_dir().join(format!("pour-record-{}", std::process::id()));
        fs::write(&path, poured.record()).expect("write");
        assert_eq!(Poured::read(&path), Some(poured));
        fs::remove_file(&path).expect("remove");
        assert_eq!(Poured::read(&path), None);
    }
}
