//! The node VM by hand: `node-vm image` builds its disk, `node-vm shell` boots it with a console on this terminal,
//! `node-vm run NAME[:FILTER]…` runs suites and integration tests in it.
//!
//! `./dev test` and `./dev vm` call it. The console ends with `poweroff`, or with Ctrl-A X.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shimtap_tests::chaos::dice::{self, Dice};
use shimtap_tests::rig::vm::power::Fsync;
use shimtap_tests::rig::vm::{
    self, Base, Machine, Plan, Report, Suite, baked, last_run, payload, plan, power,
};

/// How long one suite may take: the largest takes a quarter of an hour in an emulated machine, and twice that and more on a busy host.
const LIMIT: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    match node_vm() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("node-vm: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

fn node_vm() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("image") => Base::ready().map(drop),
        Some("shell") => {
            let base = Base::ready()?;
            let disk = payload::build(&last_run(), &Plan::default(), &[])?;
            Err(Machine::new(&base, &disk).become_shell()).context("start qemu-system-x86_64")
        }
        Some("run") => run(std::env::args().skip(2)),
        _ => bail!("usage: node-vm image | node-vm shell | node-vm run NAME[:FILTER]…"),
    }
}

/// Prints what each of `names` came to; an error where one failed. What has a boot of its own has it, the others share one.
fn run(names: impl Iterator<Item = String>) -> Result<()> {
    let seed = dice::seed()?;
    let (mut faults, mut shared) = (Vec::new(), Plan::default());
    for word in names {
        let (name, filter) =
            word.split_once(':').map_or((word.as_str(), None), |(name, only)| (name, Some(only)));
        match name {
            "checks" => shared.suites.push(Suite::checks(name, LIMIT)),
            plan::SHIPPED => shared.suites.push(Suite::shipped(filter, LIMIT)),
            plan::CLOCK => shared.suites.push(Suite::clock(seed, LIMIT)),
            plan::BAKED => faults.extend(fault_of(&baked::boot(LIMIT)?, name)),
            "power" => {
                let late = Dice::new(seed, "power").pause(Duration::from_secs(3));
                for fsync in [Fsync::Interval, Fsync::Always] {
                    faults.extend(fault_of(&power::cut(fsync, late, LIMIT)?, power::VERDICT));
                }
            }
            _ => shared.suites.push(Suite::of_test(name, filter, LIMIT)),
        }
    }
    if !shared.suites.is_empty() {
        let report = vm::run(&shared, LIMIT * 4)?;
        faults.extend(shared.suites.iter().filter_map(|suite| fault_of(&report, &suite.name)));
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Why a suite did not pass; one that did is told.
fn fault_of(report: &Report, suite: &str) -> Option<String> {
    match report.passed(suite) {
        Ok(outcome) => {
            println!("{suite}: {} tests in {} s, on {}", outcome.tests(), outcome.secs, report.node);
            None
        }
        Err(fault) => Some(format!("{fault:#}")),
    }
}
