//! What runs inside the node VM: the payload's plan, or, as `guest check [NAME]`, the checks that need a whole node; as
//! `guest shipped [NAME]` those that need a fresh one, as `guest baked` those of an image, and as `guest clock SEED` the judge's case
//! of a stepped clock.
//!
//! Its stdout is the report that the host reads. It belongs to a machine that is thrown away, and refuses to run
//! anywhere else: its checks rewrite containerd's configuration and start and stop units.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use shimtap_tests::guest::{checks, clock, plan, power, shipped};
use shimtap_tests::rig::vm::power::Fsync;

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
        Some("check") => Ok(checks::run(checks::CHECKS, words.next().as_deref())),
        Some("shipped") => Ok(checks::run(shipped::CHECKS, words.next().as_deref())),
        Some("baked") => Ok(checks::run(shipped::BAKED, words.next().as_deref())),
        Some("power") => power(&words.collect::<Vec<_>>()),
        Some("clock") => {
            let seed = words.next().context("`guest clock SEED`")?.parse().context("a seed is a number")?;
            Ok(judged(clock::steps(seed)))
        }
        Some(other) => anyhow::bail!("{other} is none of my words: check, shipped, baked, power, clock"),
    }
}

/// One of the two boots around a power cut.
fn power(words: &[String]) -> Result<bool> {
    match words.split_first() {
        Some((word, [policy])) if word == "load" => {
            let policy = Fsync::of(policy).with_context(|| format!("{policy} is no policy of fsync"))?;
            Ok(judged(power::load(policy)))
        }
        Some((word, durable)) if word == "verdict" => Ok(judged(power::verdict(durable))),
        _ => anyhow::bail!("`guest power load POLICY`, `guest power verdict NAME/STREAM=BYTES…`"),
    }
}

/// Says a verdict in libtest's words; whether it is good.
fn judged(verdict: Result<()>) -> bool {
    match &verdict {
        Ok(()) => println!("test result: ok. 1 passed; 0 failed"),
        Err(fault) => println!("{fault:#}\ntest result: FAILED. 0 passed; 1 failed"),
    }
    verdict.is_ok()
}
