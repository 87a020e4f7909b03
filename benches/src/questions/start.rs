//! How much longer does `ctr run … true` take with the wrapper? Target: median +3 ms, ratio at most 1.03.
//!
//! Both sides on one containerd, taking turns; from fork of `ctr` to the end of the wait for it, so from nothing to
//! removed. Once without a collector, once with one.

use crate::bed::{SIDES, Side, both_sides, run_command, timed};
use crate::options::Options;
use crate::report::Report;
use crate::spread::ratios;
use crate::witness::Witness;
use anyhow::Result;
use shimtap_tests::rig::Node;

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("start", options)?;
    let node = both_sides(options.version)?;
    let turns = options.turns(10, 200);
    if options.wants("absent") {
        measure(&node, turns, "no collector", &mut report)?;
    }
    if options.wants("attached") {
        let witness = Witness::start(&node, true)?;
        measure(&node, turns, "collector with file", &mut report)?;
        witness.stop()?;
    }
    node.finish()
}

fn measure(node: &Node, turns: usize, case: &str, report: &mut Report) -> Result<()> {
    let mut took = [Vec::new(), Vec::new()];
    // The first ones pay for cold caches on both sides and are not counted.
    for turn in 0..turns + 2 {
        for (side, samples) in SIDES.into_iter().zip(&mut took) {
            let id = format!("{}-{turn}", if side == Side::Plain { "p" } else { "w" });
            let ms = timed(run_command(node, side, &id, &["--rm"], &["true"]))?.as_secs_f64() * 1000.0;
            if turn >= 2 {
                samples.push(ms);
            }
        }
    }
    let [plain, wrapped] = took;
    let more: Vec<f64> = plain.iter().zip(&wrapped).map(|(plain, wrapped)| wrapped - plain).collect();
    report.heading(case)?;
    report.row("unwrapped", "ms", &plain, "")?;
    report.row("wrapped", "ms", &wrapped, "")?;
    report.row("wrapped - unwrapped, per turn", "ms", &more, "median <= 3")?;
    report.row("wrapped / unwrapped, per turn", "", &ratios(&plain, &wrapped), "median <= 1.03")
}
