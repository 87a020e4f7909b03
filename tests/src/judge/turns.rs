//! Cases one after the other, for as long as somebody asks: every case in its turn, on each containerd in its turn, each time
//! with another seed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{Case, Seen, cases, run};
use crate::chaos::report::Piece;
use crate::rig::Version;

/// The turns that were taken.
#[derive(Debug, Default)]
pub struct Turns {
    taken: usize,
    seen: Seen,
    troubles: BTreeMap<String, u64>,
    /// What did not hold, with case and seed.
    pub faults: Vec<String>,
}

impl Turns {
    /// Carries out the next case, and says how it came out.
    pub fn next(&mut self, seed: u64) -> Piece {
        let index = self.taken % cases::ALL.len();
        let round = u64::try_from(self.taken / cases::ALL.len()).unwrap_or(0);
        self.taken += 1;
        // Two thirds on the newer one.
        let version = if self.taken.is_multiple_of(3) { Version::Packaged } else { Version::Pinned };
        let case = cases::ALL.get(index).map(|(_, made)| made(version, seed.wrapping_add(round)));
        case.map_or_else(Piece::default, |case| self.take(&case))
    }

    /// Carries out a case.
    pub fn take(&mut self, case: &Case) -> Piece {
        let start = Instant::now();
        let judged = run(case);
        let green = judged.is_ok();
        match judged {
            Ok(seen) => {
                self.seen.add(seen);
                for trouble in &case.troubles {
                    *self.troubles.entry(format!("{trouble:?}")).or_default() += 1;
                }
            }
            Err(fault) => {
                println!("{fault:#}");
                self.faults.push(format!("{fault:#}"));
            }
        }
        let what = format!("judge: {}, {:?}, seed {}", case.name, case.version, case.seed);
        println!("{what}: {}", if green { "green" } else { "FAILED" });
        Piece { what, deaths: 0, took: start.elapsed().as_secs(), green }
    }

    /// What came of it, as a part of a page.
    ///
    /// # Errors
    /// None: writing into memory does not fail.
    pub fn page(&self) -> Result<String> {
        let Seen { streams, written, kept, holes, missing, delivered, counted, moves, logged } = &self.seen;
        let mut out = String::from("\n## The judge\n\n| | |\n|---|---|\n");
        let list = |rows: Vec<String>| if rows.is_empty() { "0".to_owned() } else { rows.join(", ") };
        for (what, value) in [
            ("cases that did not hold", self.faults.len().to_string()),
            ("streams judged", streams.to_string()),
            ("bytes that containers wrote", written.to_string()),
            ("bytes of lines in the journal", kept.to_string()),
            ("bytes of holes in it", list(holes.iter().map(|(why, n)| format!("{why} {n}")).collect())),
            ("bytes that it dropped or lost later", missing.to_string()),
            (
                "bytes of lines in sinks",
                list(delivered.iter().map(|(who, n)| format!("{who} {n}")).collect()),
            ),
            ("bytes that they were told they do not get, or refused", {
                list(counted.iter().map(|(who, n)| format!("{who} {n}")).collect())
            }),
            ("streams moved between the journal's heads, so often", moves.to_string()),
            ("bytes in containerd's own logs", logged.to_string()),
            ("troubles", list(self.troubles.iter().map(|(what, n)| format!("{what} {n}")).collect())),
        ] {
            writeln!(out, "| {what} | {value} |").context("write")?;
        }
        for fault in &self.faults {
            writeln!(out, "\n```\n{fault}\n```").context("write")?;
        }
        Ok(out)
    }
}

impl Seen {
    /// Adds another one to it.
    pub fn add(&mut self, other: Self) {
        self.streams += other.streams;
        self.written += other.written;
        self.kept += other.kept;
        self.missing += other.missing;
        self.moves += other.moves;
        self.logged += other.logged;
        for (why, bytes) in other.holes {
            *self.holes.entry(why).or_default() += bytes;
        }
        for (mine, theirs) in [(&mut self.delivered, other.delivered), (&mut self.counted, other.counted)] {
            for (who, bytes) in theirs {
                *mine.entry(who).or_default() += bytes;
            }
        }
    }
}
