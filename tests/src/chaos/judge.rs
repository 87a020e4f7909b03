//! What the collector holds, against what was written, and what it says of the wrappers.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    standin::Written,
    tally::{Ledger, lines_in},
};
use crate::{
    oracle::{Tape, exposition::family, sink},
    rig::collector::Collector,
};

/// Takes over what the collector says of living wrappers.
///
/// # Errors
/// It does not answer.
pub fn observe(collector: &Collector, ledger: &Ledger) -> Result<()> {
    let page = collector.get("/metrics")?;
    let mut tally = ledger.tally();
    for (_, value) in family(&page, "shimtap_wrapper_generation")? {
        tally.generation = tally.generation.max(whole(value));
    }
    Ok(())
}

/// Takes over what it has counted.
///
/// # Errors
/// It does not answer.
pub fn settle(collector: &Collector, ledger: &Ledger) -> Result<()> {
    let page = collector.get("/metrics")?;
    let mut tally = ledger.tally();
    for (labels, value) in family(&page, "shimtap_wrapper_restarts_total")? {
        let reason = labels.split('"').nth(1).unwrap_or_default().to_owned();
        *tally.restarts.entry(reason).or_default() += whole(value);
    }
    for (labels, value) in family(&page, "shimtap_wrapper_counts_total")? {
        if labels.contains("\"frames\"") {
            tally.frames += whole(value);
        }
    }
    for (_, value) in family(&page, "shimtap_wrapper_without_worker_seconds_total")? {
        tally.without_worker += Duration::try_from_secs_f64(value)?;
    }
    Ok(())
}

/// Ends the collector and holds its file against what was written: every stream is there as often as it was written, and
/// every byte of it is either there or admitted to be missing.
///
/// # Errors
/// Names the first stream that differs.
pub fn file_holds(
    collector: Collector,
    written: &[Written],
    only_these: bool,
    ledger: &Ledger,
) -> Result<()> {
    let path = collector.file();
    collector.stop()?;
    let tapes = sink(&path)?;
    let mut there: BTreeMap<(&str, &str), Vec<&Tape>> = BTreeMap::new();
    for (key, tape) in tapes.iter().filter(|(_, tape)| tape.end() > 0) {
        there.entry((&key.container, &key.stream)).or_default().push(tape);
    }
    let mut wanted: BTreeMap<(&str, &str), Vec<&[u8]>> = BTreeMap::new();
    for stream in written.iter().filter(|stream| !stream.bytes.is_empty()) {
        wanted.entry((&stream.container, stream.stream)).or_default().push(&stream.bytes);
    }
    for (name, mut bytes) in wanted {
        let mut tapes = there.remove(&name).unwrap_or_default();
        ensure!(
            tapes.len() == bytes.len(),
            "{name:?} was written {} times, the file has {}",
            bytes.len(),
            tapes.len()
        );
        // Several of one id are told apart by their length; where that is the same, so is the content.
        tapes.sort_by_key(|tape| tape.end());
        bytes.sort_by_key(|bytes| bytes.len());
        for (tape, bytes) in tapes.into_iter().zip(bytes) {
            holds(tape, bytes, ledger).with_context(|| format!("{name:?} in the collector's file"))?;
        }
    }
    ensure!(there.is_empty() || !only_these, "nobody wrote {:?}", there.keys());
    Ok(())
}

fn holds(tape: &Tape, written: &[u8], ledger: &Ledger) -> Result<()> {
    let end = u64::try_from(written.len())?;
    let judgement = tape.judge(written)?;
    ensure!(judgement.accounted() == end, "{} of {end} bytes are accounted for", judgement.accounted());
    let mut tally = ledger.tally();
    tally.captured.lines += lines_in(written);
    tally.captured.bytes += end;
    tally.inside.lines += u64::try_from(tape.lines())?;
    tally.inside.bytes += judgement.delivered;
    for (reason, bytes) in judgement.gaps {
        *tally.gaps.entry(reason).or_default() += bytes;
    }
    Ok(())
}

/// A count that was written as a float.
fn whole(value: f64) -> u64 {
    Duration::try_from_secs_f64(value).map_or(0, |seconds| seconds.as_secs())
}
