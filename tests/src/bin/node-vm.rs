//! The node VM by hand: `node-vm image` builds its disk, `node-vm shell` boots it with a console on this terminal,
//! `node-vm run TEST[:FILTER]…` runs integration tests in it.
//!
//! `./dev test` and `./dev vm` call it. The console ends with `poweroff`, or with Ctrl-A X.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shimtap_tests::rig::vm::{self, Base, Machine, Plan, Suite, last_run, payload};

/// How long one suite may take: the largest takes a quarter of an hour in an emulated machine.
const LIMIT: Duration = Duration::from_secs(1800);

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
        _ => bail!("usage: node-vm image | node-vm shell | node-vm run TEST[:FILTER]…"),
    }
}

/// Prints what each of `tests` came to; an error where one failed.
fn run(tests: impl Iterator<Item = String>) -> Result<()> {
    let suites = tests.map(|word| {
        let (test, filter) =
            word.split_once(':').map_or((word.as_str(), None), |(test, only)| (test, Some(only)));
        if test == "checks" { Suite::checks(test, LIMIT) } else { Suite::of_test(test, filter, LIMIT) }
    });
    let plan = Plan { suites: suites.collect() };
    let report = vm::run(&plan, LIMIT * 4)?;
    println!("{}", report.node);
    let mut faults = Vec::new();
    for suite in &plan.suites {
        match report.passed(&suite.name) {
            Ok(outcome) => println!("{}: {} tests in {} s", suite.name, outcome.tests(), outcome.secs),
            Err(fault) => faults.push(format!("{fault:#}")),
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
