//! How fast does 1 GiB go through a container's stdout? Target: speed ratio at least 0.98 without a collector, at
//! least 0.90 with one attached, two cores saturated.
//!
//! The speed is the container's own: bytes by the time that its writes took. At full speed the collector is not
//! meant to keep up; what it was given and what was counted as a gap is shown, and the two must add up.

use std::time::Duration;

use crate::bed::{SIDES, Side, both_sides, report_path, run_command};
use crate::options::Options;
use crate::pour::Poured;
use crate::report::Report;
use crate::spread::{float64, ratios};
use crate::usage::Usage;
use crate::witness::Witness;
use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::{Node, eventually};

/// Width of a line, and how many travel in one write: just under 64 KiB, what a busy program's buffer holds.
const WIDTH: u64 = 216;
const BATCH: u64 = 300;
const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1024.0 * MIB;

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("throughput", options)?;
    let node = both_sides(options.version)?;
    let bytes: u64 = options.pick(128 << 20, 1 << 30);
    let turns = options.turns(3, 8);
    if options.wants("absent") {
        measure(&node, turns, bytes, "no collector, target >= 0.98", None, &mut report)?;
    }
    for (part, case, with_file) in [
        ("attached", "collector without file, target >= 0.90", false),
        ("file", "collector with file, target >= 0.90", true),
    ] {
        if !options.wants(part) {
            continue;
        }
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
    let (mut seen, mut spent) = (Vec::new(), Vec::new());
    for turn in 0..=turns {
        for (side, samples) in SIDES.into_iter().zip(&mut speeds) {
            let before = taken(witness)?;
            let (poured, cpu_s) = pour(node, side, bytes)?;
            let mut share = None;
            if let (Side::Wrapped, Some(witness)) = (side, witness) {
                share = Some(accounted(witness, before, poured.bytes)?);
            }
            // The first turn pays for cold caches.
            if turn > 0 {
                samples.push(poured.speed() / MIB);
                seen.extend(share);
                if side == Side::Wrapped {
                    spent.push(cpu_s / float64(poured.bytes) * GIB);
                }
            }
        }
    }
    let [plain, wrapped] = speeds;
    report.heading(case)?;
    report.row("unwrapped", "MiB/s", &plain, "")?;
    report.row("wrapped", "MiB/s", &wrapped, "")?;
    report.row("wrapped / unwrapped, per turn", "", &ratios(&plain, &wrapped), "")?;
    report.row("CPU of keeper and worker per GiB", "s", &spent, "")?;
    report.row("share of the bytes that reached the collector", "", &seen, "")
}

/// How a container fared, and the CPU seconds that its wrapper had used when it was through.
fn pour(node: &Node, side: Side, bytes: u64) -> Result<(Poured, f64)> {
    let path = report_path(node, "poured");
    // Absent before the first turn; what is left of the last one must not be taken for this one's.
    let _ = std::fs::remove_file(&path);
    let lines = format!("lines={}", bytes / WIDTH);
    let (width, batch) = (format!("width={WIDTH}"), format!("batch={BATCH}"));
    let command = ["/host/pour", &width, &batch, &lines, "report=/host/poured", "linger=1"];
    let mut ctr = run_command(node, side, "pour", &["--rm"], &command).spawn().context("start ctr")?;
    let poured = Poured::await_done(&path, Duration::from_secs(120))?;
    let mut wrapper = node.wrappers("tap-keeper")?;
    wrapper.extend(node.wrappers("tap-worker")?);
    let pids: Vec<i32> = wrapper.iter().map(|process| process.pid).collect();
    let used = Usage::of(&pids);
    let status = ctr.wait().context("wait for ctr")?;
    ensure!(status.success(), "ctr ended with {status}");
    Ok((poured, float64(used.cpu_ns) / 1e9))
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
