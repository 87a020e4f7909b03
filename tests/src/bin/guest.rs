//! What runs inside the node VM: the payload's plan, or, as `guest check [NAME]`, the checks that need a whole node.
//!
//! Its stdout is the report that the host reads. It belongs to a machine that is thrown away, and refuses to run
//! anywhere else: its checks rewrite containerd's configuration and start and stop units.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use shimtap_tests::guest::{checks, plan, power};

fn main() -> ExitCode {
    match guest() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            println!("guest: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything passed.
fn guest() -> Result<bool> {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    ensure!(hostname.trim() == "node", "this is for the inside of the node VM only: see docs/node-vm.md");
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        None => plan::run().map(|()| true),
        Some("check") => Ok(checks::run(words.next().as_deref())),
        Some("power") => power(&words.collect::<Vec<_>>()),
        Some(other) => anyhow::bail!("{other} is none of my words: `guest`, `guest check [NAME]`"),
    }
}

/// One of the two boots around a power cut, with its result in libtest's words.
fn power(words: &[String]) -> Result<bool> {
    let judged = match words.split_first() {
        Some((word, [])) if word == "load" => power::load(),
        Some((word, durable)) if word == "verdict" => power::verdict(durable),
        _ => anyhow::bail!("`guest power load`, `guest power verdict NAME/STREAM=BYTES…`"),
    };
    match &judged {
        Ok(()) => println!("test result: ok. 1 passed; 0 failed"),
        Err(fault) => println!("{fault:#}\ntest result: FAILED. 0 passed; 1 failed"),
    }
    Ok(judged.is_ok())
}
