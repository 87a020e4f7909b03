//! What the collector holds, against what was written, and what it says of the wrappers.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};

use super::tally::{Ledger, lines_in};
use crate::{
    oracle::{Tape, Tapes, exposition::family, sink},
    rig::{collector::Collector, eventually},
    standin::client::lab::files,
};

/// The collector looks every five seconds, and again after a minute for what it could not take.
const SPOOLED: Duration = Duration::from_secs(90);

/// A stream that is captured: which, and how much was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Container id.
    pub container: String,
    /// What the container was there for.
    pub kind: &'static str,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// All of it.
    pub bytes: Vec<u8>,
}

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

/// Waits until it has taken what wrappers left behind, and takes over what it has counted.
///
/// A pod that ends while nobody is attached, be it for the moment that a new worker takes, leaves its last output in a
/// spool file, for which the collector looks every five seconds.
///
/// # Errors
/// It does not answer, or a file stays.
pub fn settle(collector: &Collector, ledger: &Ledger) -> Result<()> {
    let left =
        || -> Vec<_> { files(collector.spool_dir()).into_iter().filter(|path| path.is_file()).collect() };
    eventually(SPOOLED, "the spool files to be taken", || Ok(left().is_empty().then_some(())))
        .with_context(|| format!("{:?}", left()))?;
    let page = collector.get("/metrics")?;
    let mut tally = ledger.tally();
    for (labels, value) in family(&page, "shimtap_wrapper_restarts_total")? {
        let reason = labels.split('"').nth(1).unwrap_or_default().to_owned();
        *tally.restarts.entry(reason).or_default() += whole(value);
    }
    for (labels, value) in family(&page, "shimtap_wrapper_counts_total")? {
        match labels {
            "name=\"frames\"" => tally.frames += whole(value),
            "name=\"unwrapped_starts\"" => tally.unwrapped += whole(value),
            "name=\"not_captured\"" => tally.not_captured += whole(value),
            _ => {}
        }
    }
    for (_, value) in family(&page, "shimtap_spool_files_total")? {
        tally.spooled += whole(value);
    }
    for (_, value) in family(&page, "shimtap_wrapper_without_worker_seconds_total")? {
        tally.without_worker += Duration::try_from_secs_f64(value)?;
    }
    Ok(())
}

/// Ends the collector and holds its file against what was written: every stream is there as often as it was written, and
/// every byte of it is either there or admitted to be missing. As many containers may be missing altogether as the
/// collector was told of pods that run unwrapped and streams that are not captured.
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
    let all = sink(&path)?;
    let mut there: BTreeMap<(&str, &str), Vec<&Tape>> = BTreeMap::new();
    for (key, tape) in all.iter().filter(|(_, tape)| tape.end() > 0) {
        there.entry((&key.container, &key.stream)).or_default().push(tape);
    }
    let kinds: BTreeMap<&str, &str> = written.iter().map(|w| (w.container.as_str(), w.kind)).collect();
    let mut wanted: BTreeMap<(&str, &str), Vec<&[u8]>> = BTreeMap::new();
    for stream in written.iter().filter(|stream| !stream.bytes.is_empty()) {
        wanted.entry((&stream.container, stream.stream)).or_default().push(&stream.bytes);
    }
    let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, mut bytes) in wanted {
        // Several of one id are told apart by their length; where that is the same, so is the content.
        for tape in there.remove(&name).unwrap_or_default() {
            let it =
                bytes.iter().position(|bytes| u64::try_from(bytes.len()).is_ok_and(|end| end == tape.end()));
            let it = it.with_context(|| {
                let (all, kind) = (ends(&all, name.0), kinds.get(name.0));
                let wrote: Vec<usize> = bytes.iter().map(|bytes| bytes.len()).collect();
                format!(
                    "{name:?} ({kind:?}) was never written with {} bytes, but with {wrote:?}; the file has {all:?}",
                    tape.end()
                )
            })?;
            holds(tape, bytes.swap_remove(it), ledger)
                .with_context(|| format!("{name:?} in the collector's file"))?;
        }
        let of_it = missing.entry(name.0).or_default();
        *of_it = (*of_it).max(bytes.len());
    }
    ensure!(there.is_empty() || !only_these, "nobody wrote {:?}", there.keys());
    missing.retain(|_, n| *n > 0);
    let mut tally = ledger.tally();
    let (unwrapped, not_captured) = (tally.unwrapped, tally.not_captured);
    let all: usize = missing.values().sum();
    let told = || -> Vec<_> { missing.keys().map(|id| (id, kinds.get(id))).collect() };
    ensure!(
        u64::try_from(all)? <= unwrapped + not_captured,
        "{unwrapped} pods ran unwrapped, {not_captured} streams were not captured, not in the file are {:?}",
        told()
    );
    tally.absent += u64::try_from(all)?;
    Ok(())
}

/// Where the streams of a container end, for a message.
fn ends<'a>(tapes: &'a Tapes, container: &str) -> Vec<(&'a str, u64)> {
    let of_it = tapes.iter().filter(|(key, _)| key.container == container);
    of_it.map(|(key, tape)| (key.stream.as_str(), tape.end())).collect()
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
