//! What is missing from a copy of a tape whose bytes are unlike each other.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

/// So many bytes of a tape are found in one place only.
const UNIQUE: usize = 40;

/// The ranges of `written` that `copy` holds, in order. Fails where it has anything else than what was written, in order and
/// once; between the ranges, before and behind them may be bytes that it has not.
pub fn stretches(copy: &[u8], written: &[u8]) -> Result<Vec<Range<usize>>> {
    let (mut here, mut at, mut found) = (copy, 0, Vec::new());
    loop {
        let there = written.get(at..).unwrap_or_default();
        let same = here.iter().zip(there).take_while(|(a, b)| a == b).count();
        found.extend((same > 0).then_some(at..at + same));
        here = here.split_at(same).1;
        if here.is_empty() {
            return Ok(found);
        }
        let there = there.split_at(same).1;
        let next = here.split_at(here.len().min(UNIQUE)).0;
        let hole = there.windows(next.len()).position(|window| window == next);
        let hole = hole.with_context(|| format!("doubled or out of place: {}", next.escape_ascii()))?;
        at += same + hole;
    }
}

/// The sizes in bytes of the stretches of `written` that are not in `copy`, in order. Fails where `copy` has anything else
/// than what was written, in order and once, and where it ends early: what is missing at the end is no hole.
pub fn holes(copy: &[u8], written: &[u8]) -> Result<Vec<usize>> {
    let (mut end, mut holes) = (0, Vec::new());
    for range in stretches(copy, written)? {
        holes.extend((range.start > end).then_some(range.start - end));
        end = range.end;
    }
    ensure!(end == written.len(), "the copy ends {} bytes early", written.len() - end);
    Ok(holes)
}

/// The same of a copy that may also end early; then the last of the sizes is that of what is missing at the end.
pub fn holes_and_end(copy: &[u8], written: &[u8]) -> Result<Vec<usize>> {
    let last = copy.split_at(copy.len().saturating_sub(UNIQUE)).1;
    let end = match last {
        [] => 0,
        _ => {
            let at = written.windows(last.len()).rposition(|window| window == last);
            at.with_context(|| format!("never written: {}", last.escape_ascii()))? + last.len()
        }
    };
    let (there, missing) = written.split_at(end);
    let mut all = holes(copy, there)?;
    all.extend((!missing.is_empty()).then_some(missing.len()));
    Ok(all)
}

/// Whether a container's log holds what was written but for what died with containerd in so many of its ends (killed or
/// restarted): what it has read and not yet written. That is one buffer at most (32 KiB, of the `io.Copy` in its CRI's
/// `ContainerIO.Pipe`) and what is left of a line; mostly a line without the wrapper, with it what gathers in `coalesce_ms`, and more with
/// either where containerd had no processor meanwhile. `line`: the longest line in bytes.
pub fn whole_but_for_ends_of_containerd(log: &[u8], written: &[u8], line: usize, ends: usize) -> Result<()> {
    const BUFFER: usize = 32 << 10;
    let holes = holes(log, written)?;
    let small = holes.len() <= ends && holes.iter().all(|bytes| *bytes <= BUFFER + line);
    ensure!(small, "containerd ended {ends} times, and holes of these bytes are in its log: {holes:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::tape;

    #[test]
    fn an_end_of_containerd_takes_a_buffer_and_no_more() -> Result<()> {
        let written = tape(1, 500, 100);
        let without = |from: usize, to: usize| [&written[..from], &written[to..]].concat();
        whole_but_for_ends_of_containerd(&without(1600, 34_300), &written, 100, 1)?;
        assert!(
            whole_but_for_ends_of_containerd(&without(1600, 1700), &written, 100, 0).is_err(),
            "nobody ended"
        );
        assert!(
            whole_but_for_ends_of_containerd(&without(1600, 34_600), &written, 100, 1).is_err(),
            "too much"
        );
        assert!(whole_but_for_ends_of_containerd(&written[..49_900], &written, 100, 1).is_err(), "the end");
        Ok(())
    }

    #[test]
    fn an_end_that_is_missing_is_a_hole_where_it_may_be() -> Result<()> {
        let written = tape(1, 50, 100);
        assert_eq!(holes_and_end(&written, &written)?, [0; 0]);
        assert_eq!(holes_and_end(&written[..4900], &written)?, [100]);
        assert_eq!(holes_and_end(&[], &written)?, [5000]);
        assert_eq!(holes_and_end(&[&written[..50], &written[250..400]].concat(), &written)?, [200, 4600]);
        assert!(holes_and_end(b"more", &written).is_err(), "it was never written");
        Ok(())
    }

    #[test]
    fn what_a_copy_has_is_where_it_was_written() -> Result<()> {
        let written = tape(1, 50, 100);
        assert_eq!(stretches(&[], &written)?, []);
        assert_eq!(stretches(&written[..4900], &written)?, std::slice::from_ref(&(0..4900)));
        // Where a hole begins nobody can say to the byte: lines begin alike.
        let copy = [&written[50..100], &written[300..900]].concat();
        let found: Vec<_> = stretches(&copy, &written)?.into_iter().map(|range| &written[range]).collect();
        assert_eq!(found.concat(), copy);
        assert!(stretches(&[&written[300..400], &written[..50]].concat(), &written).is_err(), "out of order");
        Ok(())
    }

    #[test]
    fn what_is_missing_is_found_and_nothing_else_is_accepted() -> Result<()> {
        let written = tape(1, 50, 100);
        let without = |from: usize, to: usize| [&written[..from], &written[to..]].concat();
        assert_eq!(holes(&written, &written)?, [0; 0]);
        assert_eq!(holes(&without(1050, 1242), &written)?, [192]);
        assert_eq!(
            holes(&[&written[..100], &written[300..900], &written[2000..]].concat(), &written)?,
            [200, 1100]
        );
        assert!(holes(&written[..4900], &written).is_err(), "the end is missing");
        assert!(holes(&[&written[..200], &written[100..]].concat(), &written).is_err(), "a line twice");
        assert!(holes(&[&written[..], b"more"].concat(), &written).is_err(), "more than was written");
        Ok(())
    }
}
