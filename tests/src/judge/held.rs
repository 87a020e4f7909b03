//! A tape held against what was written: what it has of it, what it says that it has not, and that all it has is right.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::oracle::{Piece, Record, Tape};

/// The reason of holes that a rule's rate makes, which say how many lines they hide.
pub const LIMITED: &str = "rate_limit";

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

/// The first byte of `[from, to)` that no record of the tape is there for, be it a line or a hole; also one that another outdid,
/// since a hole may begin where a line did and go on behind it.
#[must_use]
pub fn unaccounted(tape: &Tape, (from, to): (u64, u64)) -> Option<u64> {
    let spans = tape.spans().map(|(from, to, _)| (from, to));
    let mut spans: Vec<(u64, u64)> = spans.chain(tape.outdone().iter().copied()).collect();
    spans.sort_unstable();
    let reached = spans.into_iter().fold(from, |at, span| if span.0 <= at { at.max(span.1) } else { at });
    (reached < to).then_some(reached)
}

/// A hole of a rule's rate says how many lines begin in it, or one more where it begins within one.
pub fn says_its_lines(record: &Record, written: &[u8]) -> Result<()> {
    if record.piece != Piece::Gap(LIMITED.to_owned()) {
        return Ok(());
    }
    let (from, to) = (usize::try_from(record.from)?, usize::try_from(record.to)?);
    let begins = |at: &usize| at.checked_sub(1).is_none_or(|before| written.get(before) == Some(&b'\n'));
    let lines = u64::try_from((from..to).filter(begins).count())?;
    let most = lines + u64::from(!begins(&from));
    let said = record
        .lines
        .with_context(|| format!("the hole [{from}, {to}) does not say how many lines it hides"))?;
    ensure!((lines..=most).contains(&said), "the hole [{from}, {to}) hides {lines} lines, and says {said}");
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_neither_line_nor_hole_is_named() {
        let line = |from, to| (from, (to, Piece::Line(Vec::new())));
        let hole = |from, to| (from, (to, Piece::Gap("overflow".to_owned())));
        let tape: Tape = [line(0, 10), hole(10, 20), line(25, 40)].into_iter().collect();
        assert_eq!(unaccounted(&tape, (0, 20)), None);
        assert_eq!(unaccounted(&tape, (5, 21)), Some(20));
        assert_eq!(unaccounted(&tape, (25, 40)), None);
        assert_eq!(unaccounted(&tape, (20, 26)), Some(20));
        assert_eq!(unaccounted(&tape, (39, 41)), Some(40));
        assert_eq!(unaccounted(&Tape::default(), (0, 1)), Some(0));
        let of = r#""container_id":"c","incarnation":"1","stream":"stdout","id":"1-stdout-0""#;
        let line = format!("{{{of},\"offset\":{{\"from\":0,\"to\":3}},\"message\":\"ab\"}}\n");
        let lost = r#""gap":{"from":0,"to":9,"bytes":9,"reason":"journal_lost"}"#;
        let both = format!("{line}{{{of},\"offset\":{{\"from\":0,\"to\":9}},{lost}}}\n");
        let tapes = crate::oracle::sink_text(both.as_bytes()).expect("a journal was damaged in between");
        let tape = tapes.values().next().expect("one stream");
        assert_eq!(
            (unaccounted(tape, (0, 9)), unaccounted(tape, (0, 10))),
            (None, Some(9)),
            "a hole behind a line"
        );
    }

    #[test]
    fn a_hole_of_a_rate_says_how_many_lines_begin_in_it() {
        let written = b"one\ntwo\nthree\n";
        let said = |from, to, lines| {
            let piece = Piece::Gap(LIMITED.to_owned());
            says_its_lines(&Record { from, to, time_ns: 1, piece, lines }, written).is_ok()
        };
        assert!(said(0, 8, Some(2)) && said(4, 9, Some(2)) && said(8, 14, Some(1)));
        assert!(said(5, 8, Some(0)) && said(5, 8, Some(1)), "the end of a line may be one");
        assert!(!said(0, 8, Some(1)) && !said(0, 8, Some(3)) && !said(5, 8, Some(2)) && !said(0, 8, None));
    }
}
