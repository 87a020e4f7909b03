//! A tape held against what was written: what it has of it, what it says that it has not, and that all it has is right.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::oracle::{Piece, Tape};

/// What a tape that may have gaps holds of what was written.
#[derive(Debug, Default)]
pub struct Held {
    /// Raw bytes of lines.
    pub delivered: u64,
    /// Bytes of holes, by reason.
    pub holes: BTreeMap<String, u64>,
    /// Bytes between its records.
    pub gaps: u64,
    /// The byte behind its last record.
    pub end: u64,
}

/// Holds a tape against what was written: every line must be right, and nothing may overlap; between records may be gaps.
///
/// # Errors
/// What is wrong, and at which byte.
pub fn held(tape: &Tape, written: &[u8]) -> Result<Held> {
    let mut held = Held::default();
    ensure!(tape.outdone().is_empty(), "records were repeated with other content: {:?}", tape.outdone());
    for (from, to, piece) in tape.spans() {
        ensure!(from >= held.end, "byte {} is followed by byte {from}", held.end);
        held.gaps += from - held.end;
        held.end = to;
        match piece {
            Piece::Gap(reason) => *held.holes.entry(reason.clone()).or_default() += to - from,
            Piece::Line(message) => {
                is_right(from, to, message, written)?;
                held.delivered += to - from;
            }
        }
    }
    Ok(held)
}

/// The same of a sink that may have had what a damaged journal lost, and then was told that it does not get it: records may
/// overlap, and where it has a line it is of no concern what else was said.
///
/// # Errors
/// A line that is not what was written there.
pub fn covered(tape: &Tape, written: &[u8]) -> Result<Held> {
    let (mut lines, mut all) = (Vec::new(), tape.outdone().to_vec());
    for (from, to, piece) in tape.spans() {
        all.push((from, to));
        if let Piece::Line(message) = piece {
            is_right(from, to, message, written)?;
            lines.push((from, to));
        }
    }
    let (delivered, _) = union(lines);
    let (accounted, end) = union(all);
    let told = BTreeMap::from([("told".to_owned(), accounted - delivered)]);
    Ok(Held { delivered, holes: told, gaps: end - accounted, end })
}

/// Bytes in any of these ranges, and where the last one ends.
fn union(mut ranges: Vec<(u64, u64)>) -> (u64, u64) {
    ranges.sort_unstable();
    ranges
        .into_iter()
        .fold((0, 0), |(sum, end), (from, to)| (sum + to.saturating_sub(from.max(end)), end.max(to)))
}

/// Demands that a line is what was written there, at most without its end.
fn is_right(from: u64, to: u64, message: &[u8], written: &[u8]) -> Result<()> {
    let range = usize::try_from(from)?..usize::try_from(to)?;
    let truth = written.get(range).with_context(|| format!("[{from}, {to}) was never written"))?;
    let rest = truth.strip_prefix(message);
    ensure!(
        matches!(rest, Some(b"" | b"\n" | b"\r\n")),
        "at byte {from} stands {}, written was {}",
        shortened(message),
        shortened(truth)
    );
    Ok(())
}

fn shortened(bytes: &[u8]) -> String {
    bytes.get(..bytes.len().min(120)).unwrap_or_default().escape_ascii().to_string()
}
