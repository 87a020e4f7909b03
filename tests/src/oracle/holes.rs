//! What is missing from a copy of a tape whose bytes are unlike each other.

use anyhow::{Context, Result, ensure};

/// So many bytes of a tape are found in one place only.
const UNIQUE: usize = 40;

/// The sizes in bytes of the stretches of `written` that are not in `copy`, in order. Fails where `copy` has anything else
/// than what was written, in order and once, and where it ends early: what is missing at the end is no hole.
pub fn holes(copy: &[u8], written: &[u8]) -> Result<Vec<usize>> {
    let (mut here, mut there, mut holes) = (copy, written, Vec::new());
    loop {
        let same = here.iter().zip(there).take_while(|(a, b)| a == b).count();
        (here, there) = (here.split_at(same).1, there.split_at(same).1);
        if here.is_empty() {
            ensure!(there.is_empty(), "the copy ends {} bytes early", there.len());
            return Ok(holes);
        }
        let next = here.split_at(here.len().min(UNIQUE)).0;
        let hole = there.windows(next.len()).position(|window| window == next);
        let hole = hole.with_context(|| format!("doubled or out of place: {}", next.escape_ascii()))?;
        holes.push(hole);
        there = there.split_at(hole).1;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::tape;

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
