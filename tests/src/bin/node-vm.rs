//! The node VM by hand: `node-vm image` builds its disk, `node-vm shell` boots it with a console on this terminal.
//!
//! `./dev test` and `./dev vm` call it. The console ends with `poweroff`, or with Ctrl-A X.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use shimtap_tests::rig::vm::{Base, Machine, Plan, last_run, payload};

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
        _ => bail!("usage: node-vm image | node-vm shell"),
    }
}
