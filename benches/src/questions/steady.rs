//! Does a steady 50 MB/s get through whole? Target: no loss (bytes at the collector = bytes written, no gap), ratio 1.00.
//!
//! A container writes at that pace on either side. The ratio is that of the speeds reached; the collector must have
//! every byte, and no gap may be counted.

use std::time::Duration;

use anyhow::Result;
use shimtap_tests::rig::{Node, eventually};

use crate::bed::{SIDES, Side, both_sides, report_path, run_command, timed};
use crate::options::Options;
use crate::pour::Poured;
use crate::report::Report;
use crate::spread::{float64, ratios};
use crate::witness::Witness;

const WIDTH: u64 = 216;
/// Lines in one write: 1 ms of the load.
const BATCH: u64 = 231;
/// 50 MB/s in lines.
const RATE: u64 = 50_000_000 / WIDTH;

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("steady", options)?;
    let node = both_sides(options.version)?;
    for (case, with_file) in [("collector without file", false), ("collector with file", true)] {
        let witness = Witness::start(&node, with_file)?;
        measure(&node, options, case, &witness, &mut report)?;
        witness.stop()?;
    }
    node.finish()
}

fn measure(node: &Node, options: &Options, case: &str, witness: &Witness, report: &mut Report) -> Result<()> {
    let lines = RATE * options.pick(2, 8);
    let mut speeds = [Vec::new(), Vec::new()];
    let (mut arrived, mut gaps) = (Vec::new(), Vec::new());
    for _ in 0..options.turns(2, 4) {
        for (side, samples) in SIDES.into_iter().zip(&mut speeds) {
            let before = counted(witness)?;
            let poured = pour(node, side, lines)?;
            samples.push(poured.speed() / 1e6);
            if side == Side::Wrapped {
                let written = float64(poured.bytes);
                let mut last = (0.0, 0.0);
                // What never arrives and is never counted as missing shows as a share below 1.
                let _late = eventually(Duration::from_secs(10), "all of it", || {
                    let now = counted(witness)?;
                    last = (now.0 - before.0, now.1 - before.1);
                    Ok((last.0 + last.1 >= written).then_some(()))
                });
                arrived.push(last.0 / written);
                gaps.push(last.1);
            }
        }
    }
    let [plain, wrapped] = speeds;
    report.heading(case)?;
    report.row("unwrapped", "MB/s", &plain, "50")?;
    report.row("wrapped", "MB/s", &wrapped, "50")?;
    report.row("wrapped / unwrapped, per turn", "", &ratios(&plain, &wrapped), "1.00")?;
    report.row("bytes at the collector / bytes written", "", &arrived, "1")?;
    report.row("gaps", "bytes", &gaps, "0")
}

fn pour(node: &Node, side: Side, lines: u64) -> Result<Poured> {
    let (width, batch) = (format!("width={WIDTH}"), format!("batch={BATCH}"));
    let (rate, lines) = (format!("rate={RATE}"), format!("lines={lines}"));
    let command = ["/host/pour", &width, &batch, &rate, &lines, "report=/host/steady"];
    timed(run_command(node, side, "steady", &["--rm"], &command))?;
    Poured::await_done(&report_path(node, "steady"), Duration::from_secs(1))
}

fn counted(witness: &Witness) -> Result<(f64, f64)> {
    Ok((witness.sum("shimtap_log_bytes_total", &[])?, witness.sum("shimtap_log_gap_bytes_total", &[])?))
}
