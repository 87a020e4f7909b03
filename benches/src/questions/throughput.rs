//! How fast does 1 GiB go through a container's stdout? Target: speed ratio at least 0.98 without a collector, at
//! least 0.90 with one attached, two cores saturated.
//!
//! The speed is the container's own: bytes by the time that its writes took. At full speed the collector is not
//! meant to keep up; what it was given and what was counted as a gap is shown, and the two must add up.

use std::time::Duration;

use crate::bed::{SIDES, Side, both_sides, report_path, run_command, timed};
use crate::options::Options;
use crate::pour::Poured;
use crate::report::Report;
use crate::spread::{float64, ratios};
use crate::witness::Witness;
use anyhow::{Result, ensure};
use shimtap_tests::rig::{Node, eventually};

/// Width of a line, and how many travel in one write: just under 64 KiB, what a busy program's buffer holds.
const WIDTH: u64 = 216;
const BATCH: u64 = 300;
const MIB: f64 = 1_048_576.0;

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("throughput", options)?;
    let node = both_sides(options.version)?;
    let bytes: u64 = options.pick(128 << 20, 1 << 30);
    let turns = options.turns(3, 12);
    measure(&node, turns, bytes, "no collector, target >= 0.98", None, &mut report)?;
    for (case, with_file) in
        [("collector without file, target >= 0.90", false), ("collector with file, target >= 0.90", true)]
    {
        let witness = Witness::start(&node, with_file)?;
        measure(&node, turns, bytes, case, Some(&witness), &mut report)?;
        witness.stop()?;
    }
    node.finish()
}

fn measure(
    node: &Node,
    turns: usize,
    bytes: u64,
    case: &str,
    witness: Option<&Witness>,
    report: &mut Report,
) -> Result<()> {
    let mut speeds = [Vec::new(), Vec::new()];
    let mut seen = Vec::new();
    for turn in 0..=turns {
        for (side, samples) in SIDES.into_iter().zip(&mut speeds) {
            let before = taken(witness)?;
            let poured = pour(node, side, bytes)?;
            let mut share = None;
            if let (Side::Wrapped, Some(witness)) = (side, witness) {
                share = Some(accounted(witness, before, poured.bytes)?);
            }
            // The first turn pays for cold caches.
            if turn > 0 {
                samples.push(poured.speed() / MIB);
                seen.extend(share);
            }
        }
    }
    let [plain, wrapped] = speeds;
    report.heading(case)?;
    report.row("unwrapped", "MiB/s", &plain, "")?;
    report.row("wrapped", "MiB/s", &wrapped, "")?;
    report.row("wrapped / unwrapped, per turn", "", &ratios(&plain, &wrapped), "")?;
    report.row("share of the bytes that reached the collector", "", &seen, "")
}

fn pour(node: &Node, side: Side, bytes: u64) -> Result<Poured> {
    let path = report_path(node, "poured");
    let lines = format!("lines={}", bytes / WIDTH);
    let (width, batch) = (format!("width={WIDTH}"), format!("batch={BATCH}"));
    let command = ["/host/pour", &width, &batch, &lines, "report=/host/poured"];
    timed(run_command(node, side, "pour", &["--rm"], &command))?;
    Poured::await_done(&path, Duration::from_secs(1))
}

/// Bytes that the collector has and bytes that it knows it has not.
fn taken(witness: Option<&Witness>) -> Result<(f64, f64)> {
    let Some(witness) = witness else { return Ok((0.0, 0.0)) };
    Ok((witness.sum("shimtap_log_bytes_total", &[])?, witness.sum("shimtap_log_gap_bytes_total", &[])?))
}

/// Waits until all bytes are either there or counted as missing, and says which share is there.
fn accounted(witness: &Witness, before: (f64, f64), bytes: u64) -> Result<f64> {
    let bytes = float64(bytes);
    let mut last = (0.0, 0.0);
    let share = eventually(Duration::from_secs(30), "every byte to be there or counted", || {
        let now = taken(Some(witness))?;
        last = (now.0 - before.0, now.1 - before.1);
        Ok((last.0 + last.1 >= bytes).then_some(last.0 / bytes))
    });
    let share = share.map_err(|late| late.context(format!("{bytes} written; here and missing: {last:?}")))?;
    ensure!(last.0 + last.1 <= bytes, "{bytes} written; here and missing: {last:?}");
    Ok(share)
}
