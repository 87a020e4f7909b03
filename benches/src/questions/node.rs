//! What does a whole node pay under many slow containers, and how many lines can it carry? containerd, runc shims,
//! wrappers and collector apart; CRI pods of one container, logs written by containerd; `coalesce_ms` 0, 20 and 50.
//!
//! Targets at 20 ms: CPU wrapped / unwrapped at most 0.92 without and below 1 with the collector at 10 000 lines/s over
//! 100 containers; at least 1.3 times the lines per second at saturation (8 containers ask for 40 000, then for 120 000).
//!
//! Each arm is a node of its own with a containerd of its own. All stand side by side; the generators of all arms but
//! one are stopped by SIGSTOP, and the arms take turns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::rig::Node;
use shimtap_tests::rig::Version;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::patience::{eventually, throughout};
use shimtap_tests::rig::process::{self, Process};

use crate::bed::{Side, one_side, report_path};
use crate::options::Options;
use crate::pour::Poured;
use crate::report::Report;
use crate::spread::{float64, ratios};
use crate::usage::Usage;
use crate::witness::Witness;

/// The arms: unwrapped, and wrapped with a `coalesce_ms` each.
const ARMS: [Option<u32>; 4] = [None, Some(0), Some(20), Some(50)];
const PARTS: [&str; 4] = ["containerd", "runc shims", "wrappers", "collector"];

/// What all containers of an arm write together.
#[derive(Debug, Clone, Copy)]
struct Load {
    name: &'static str,
    containers: usize,
    /// Lines per second of each.
    rate: usize,
}

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("node", options)?;
    let arms = build(options.version)?;
    let heavy = Load { name: "heavy", containers: 8, rate: 5000 };
    let many = options.pick(10, 100);
    let slow = Load { name: "slow", containers: many, rate: 10_000 / many };
    // What is asked for may not saturate a quick machine: this is more than any carries.
    let flood = Load { name: "flood", containers: 8, rate: 15_000 };
    let wanted = |load: &Load| options.wants(load.name);
    for load in [heavy, flood, slow].into_iter().filter(wanted) {
        populate(&arms, load)?;
        rounds(&arms, load, options, false, &mut report)?;
        rounds(&arms, load, options, true, &mut report)?;
        for arm in &arms {
            clear(arm).with_context(|| format!("remove the pods of {}", arm.name()))?;
        }
    }
    Ok(())
}

/// One way to run a node.
struct Arm {
    coalesce_ms: Option<u32>,
    node: Node,
    pods: std::cell::RefCell<Vec<shimtap_tests::rig::cri::Pod>>,
}

impl Arm {
    fn name(&self) -> String {
        self.coalesce_ms.map_or("unwrapped".to_owned(), |ms| format!("wrapped, {ms} ms"))
    }

    fn signal(&self, with: Signal) -> Result<()> {
        let all = self.node.processes()?;
        for pour in all.iter().filter(|process| process.program() == "pour") {
            process::signal(pour.pid, with)?;
        }
        Ok(())
    }
}

fn build(version: Version) -> Result<Vec<Arm>> {
    let build = |coalesce_ms: Option<u32>| -> Result<Arm> {
        let side = if coalesce_ms.is_some() { Side::Wrapped } else { Side::Plain };
        let text = coalesce_ms.map_or(String::new(), |ms| format!("[tee]\ncoalesce_ms = {ms}\n"));
        let node = one_side(version, side, &text)?;
        node.cri()?;
        Ok(Arm { coalesce_ms, node, pods: Vec::new().into() })
    };
    ARMS.into_iter().map(build).collect()
}

/// Runs the load's containers on every arm and stops their generators.
fn populate(arms: &[Arm], load: Load) -> Result<()> {
    let rate = format!("rate={}", load.rate);
    for number in 0..load.containers {
        for arm in arms {
            let cri = arm.node.cri()?;
            let name = format!("{}{number}", load.name);
            let pod = cri.run_pod(&name)?;
            let host = arm.node.host_dir();
            let report = format!("report=/host/{name}");
            let command = ["/host/pour", &rate, &report];
            cri.run(
                &pod,
                &Wanted { name: "pour", command: &command, host: Some(&host), ..Wanted::default() },
            )?;
            arm.pods.borrow_mut().push(pod);
            let path = report_path(&arm.node, &name);
            eventually(Duration::from_secs(30), "its first lines", || Ok(Poured::read(&path).map(drop)))?;
        }
        for arm in arms {
            arm.signal(Signal::SIGSTOP)?;
        }
    }
    Ok(())
}

/// Removes its pods; their generators die by SIGKILL, stopped as they are.
fn clear(arm: &Arm) -> Result<()> {
    for pod in arm.pods.borrow_mut().drain(..) {
        arm.node.cri()?.remove_pod(&pod)?;
    }
    Ok(())
}

/// What one window of one arm gave.
#[derive(Debug, Default, Clone)]
struct Window {
    /// Cores used by each of `PARTS`.
    cores: [f64; 4],
    lines_per_second: f64,
}

fn rounds(arms: &[Arm], load: Load, options: &Options, collect: bool, report: &mut Report) -> Result<()> {
    let mut witnesses = Vec::new();
    for arm in arms {
        let wanted = collect && arm.coalesce_ms.is_some();
        witnesses.push(wanted.then(|| Witness::start(&arm.node, true)).transpose()?);
    }
    for witness in witnesses.iter().flatten() {
        witness.await_wrappers(load.containers)?;
    }
    let mut windows: Vec<Vec<Window>> = vec![Vec::new(); arms.len()];
    for _ in 0..options.turns(1, 3) {
        for ((arm, witness), windows) in arms.iter().zip(&witnesses).zip(&mut windows) {
            windows.push(window(arm, load, witness.as_ref(), options.pick(4, 8))?);
        }
    }
    for witness in witnesses.into_iter().flatten() {
        witness.stop()?;
    }
    let asked = load.containers * load.rate;
    let with = if collect { "collector with file" } else { "no collector" };
    report.heading(&format!("{} containers ask for {asked} lines/s, {with}", load.containers))?;
    show(arms, &windows, report)
}

fn window(arm: &Arm, load: Load, witness: Option<&Witness>, secs: u64) -> Result<Window> {
    let parts = parts(&arm.node, witness)?;
    arm.signal(Signal::SIGCONT)?;
    throughout(Duration::from_secs(2), "the load before the window", || Ok(true))?;
    let before = parts.each_ref().map(|pids| Usage::of(pids));
    let (lines, start) = (poured(arm, load)?, Instant::now());
    throughout(Duration::from_secs(secs), "the window", || Ok(true))?;
    let after = parts.each_ref().map(|pids| Usage::of(pids));
    let (lines, took) = (poured(arm, load)? - lines, start.elapsed().as_secs_f64());
    arm.signal(Signal::SIGSTOP)?;
    // What stands in pipes and rings is worked off before another arm's turn.
    throughout(Duration::from_secs(2), "the load after the window", || Ok(true))?;
    let mut window = Window { lines_per_second: float64(lines) / took, ..Window::default() };
    for ((cores, before), after) in window.cores.iter_mut().zip(before).zip(after) {
        *cores = float64(after.since(before).cpu_ns) / 1e9 / took;
    }
    Ok(window)
}

/// Lines that all generators have written so far.
fn poured(arm: &Arm, load: Load) -> Result<u64> {
    let each = (0..load.containers).map(|number| {
        let path = report_path(&arm.node, &format!("{}{number}", load.name));
        let poured = Poured::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(poured.lines)
    });
    each.sum()
}

/// The processes of `PARTS`.
fn parts(node: &Node, witness: Option<&Witness>) -> Result<[Vec<i32>; 4]> {
    let all = node.processes()?;
    let pids = |of: &dyn Fn(&&Process) -> bool| all.iter().filter(of).map(|process| process.pid).collect();
    let containerd: Vec<i32> = pids(&|process| process.program() == "containerd");
    ensure!(containerd.len() == 1, "{} containerds on one node", containerd.len());
    let is_ours = |process: &&Process| process.is_role("tap-keeper") || process.is_role("tap-worker");
    let shims = pids(&|process| process.program() == "containerd-shim-runc-v2" && !is_ours(process));
    let collector = witness.map(Witness::pid).into_iter().collect();
    Ok([containerd, shims, pids(&is_ours), collector])
}

fn show(arms: &[Arm], windows: &[Vec<Window>], report: &mut Report) -> Result<()> {
    let column =
        |windows: &[Window], of: &dyn Fn(&Window) -> f64| -> Vec<f64> { windows.iter().map(of).collect() };
    let total = |window: &Window| window.cores.iter().sum::<f64>();
    let per_line = |window: &Window| total(window) / window.lines_per_second * 1e6;
    let plain = windows.first().context("no arm")?;
    for (arm, own) in arms.iter().zip(windows) {
        let name = arm.name();
        let is_target = arm.coalesce_ms == Some(20);
        report.row(&format!("{name}: lines/s"), "", &column(own, &|window| window.lines_per_second), "")?;
        report.row(&format!("{name}: all"), "cores", &column(own, &total), "")?;
        for (number, part) in PARTS.iter().enumerate() {
            let cores = column(own, &|window| window.cores.get(number).copied().unwrap_or_default());
            if cores.iter().any(|cores| *cores > 0.0) {
                report.row(&format!("  {part}"), "cores", &cores, "")?;
            }
        }
        if arm.coalesce_ms.is_none() {
            continue;
        }
        let target = |text| if is_target { text } else { "" };
        let cpu = ratios(&column(plain, &per_line), &column(own, &per_line));
        report.row(
            &format!("{name}: CPU per line / unwrapped"),
            "",
            &cpu,
            target("<= 0.92 alone, < 1 collected"),
        )?;
        let speed = |window: &Window| window.lines_per_second;
        let lines = ratios(&column(plain, &speed), &column(own, &speed));
        report.row(&format!("{name}: lines/s / unwrapped"), "", &lines, target(">= 1.3 when saturated"))?;
    }
    Ok(())
}
