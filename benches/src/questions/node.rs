//! What does a whole node pay under many slow containers, and how many lines can it carry? containerd, runc shims,
//! wrappers and collector apart; CRI pods of one container, logs written by containerd; `coalesce_ms` 0, 20 and 40 (the default).
//!
//! Targets at the default: CPU wrapped / unwrapped at most 0.92 without and below 1 with the collector at 10 000 lines/s over
//! 100 containers; at least 1.3 times the lines per second at saturation (8 containers ask for 40 000, then for 120 000).
//!
//! Each arm is a node of its own with a containerd of its own. All stand side by side; the generators of all arms but
//! one are stopped by SIGSTOP, and the arms take turns.

use anyhow::{Context, Result};
use shimtap_tests::rig::Version;

use crate::bed::{Side, one_side};
use crate::fleet::{Fleet, Load, Window, column, show};
use crate::options::Options;
use crate::report::Report;
use crate::spread::ratios;
use crate::witness::Witness;

/// Of a wrapper that is told nothing.
const DEFAULT_MS: u32 = 40;
/// The arms: unwrapped, and wrapped with a `coalesce_ms` each.
const ARMS: [Option<u32>; 4] = [None, Some(0), Some(20), Some(DEFAULT_MS)];

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("node", options)?;
    let mut arms = build(options.version)?;
    let heavy = Load { name: "heavy", containers: 8, rate: 5000 };
    let many = options.pick(10, 100);
    let slow = Load { name: "slow", containers: many, rate: 10_000 / many };
    // What is asked for may not saturate a quick machine: this is more than any carries.
    let flood = Load { name: "flood", containers: 8, rate: 15_000 };
    let wanted = |load: &Load| options.wants(load.name);
    for load in [heavy, flood, slow].into_iter().filter(wanted) {
        populate(&mut arms, load)?;
        rounds(&arms, load, options, false, &mut report)?;
        rounds(&arms, load, options, true, &mut report)?;
        for arm in &mut arms {
            arm.fleet.clear("").with_context(|| format!("remove the pods of {}", arm.name()))?;
        }
    }
    Ok(())
}

/// One way to run a node.
struct Arm {
    coalesce_ms: Option<u32>,
    fleet: Fleet,
}

impl Arm {
    fn name(&self) -> String {
        self.coalesce_ms.map_or("unwrapped".to_owned(), |ms| format!("wrapped, {ms} ms"))
    }
}

fn build(version: Version) -> Result<Vec<Arm>> {
    let build = |coalesce_ms: Option<u32>| -> Result<Arm> {
        let side = if coalesce_ms.is_some() { Side::Wrapped } else { Side::Plain };
        let text = coalesce_ms.map_or(String::new(), |ms| format!("[tee]\ncoalesce_ms = {ms}\n"));
        Ok(Arm { coalesce_ms, fleet: Fleet::on(one_side(version, side, &text)?)? })
    };
    ARMS.into_iter().map(build).collect()
}

/// Runs the load's containers on every arm and stops their generators.
fn populate(arms: &mut [Arm], load: Load) -> Result<()> {
    for number in 0..load.containers {
        for arm in &mut *arms {
            arm.fleet.add(load, number, &[])?;
        }
        for arm in &*arms {
            arm.fleet.pause()?;
        }
    }
    Ok(())
}

fn rounds(arms: &[Arm], load: Load, options: &Options, collect: bool, report: &mut Report) -> Result<()> {
    let mut witnesses = Vec::new();
    for arm in arms {
        let wanted = collect && arm.coalesce_ms.is_some();
        witnesses.push(wanted.then(|| Witness::start(arm.fleet.node(), true)).transpose()?);
    }
    for witness in witnesses.iter().flatten() {
        witness.await_wrappers(load.containers)?;
    }
    let mut windows: Vec<Vec<Window>> = vec![Vec::new(); arms.len()];
    for _ in 0..options.turns(1, 3) {
        for ((arm, witness), windows) in arms.iter().zip(&witnesses).zip(&mut windows) {
            let collector: Vec<i32> = witness.as_ref().map(Witness::pid).into_iter().collect();
            let parts = arm.fleet.parts(&collector)?;
            arm.fleet.go()?;
            windows.push(arm.fleet.window(load, &parts, options.pick(4, 8))?);
            arm.fleet.stop()?;
        }
    }
    for witness in witnesses.into_iter().flatten() {
        witness.stop()?;
    }
    let with = if collect { "collector with file" } else { "no collector" };
    report.heading(&format!("{} containers ask for {} lines/s, {with}", load.containers, load.asked()))?;
    compare(arms, &windows, report)
}

fn compare(arms: &[Arm], windows: &[Vec<Window>], report: &mut Report) -> Result<()> {
    let plain = windows.first().context("no arm")?;
    for (arm, own) in arms.iter().zip(windows) {
        let name = arm.name();
        show(&name, own, report)?;
        if arm.coalesce_ms.is_none() {
            continue;
        }
        let target = |text| if arm.coalesce_ms == Some(DEFAULT_MS) { text } else { "" };
        let cpu = ratios(&column(plain, Window::per_line), &column(own, Window::per_line));
        report.row(
            &format!("{name}: CPU per line / unwrapped"),
            "",
            &cpu,
            target("<= 0.92 alone, < 1 collected"),
        )?;
        let speed = |window: &Window| window.lines_per_second;
        let lines = ratios(&column(plain, speed), &column(own, speed));
        report.row(&format!("{name}: lines/s / unwrapped"), "", &lines, target(">= 1.3 when saturated"))?;
    }
    Ok(())
}
