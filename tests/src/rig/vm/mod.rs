//! A whole node in a virtual machine, for what a process sandbox cannot show: cgroup v2, systemd, a kernel of its own,
//! units that are started and stopped, and later packages and power cuts.
//!
//! Three parts, each with its own life: [`Base`], a disk with the distribution's system, built once and kept below
//! `target/rig/vm`; [`payload`], a small second disk with what this build made and what shall be run; [`Machine`], qemu with
//! both. The guest runs a [`Plan`] and says on a port of its own what came of it, which is read as a [`Report`].
//!
//! The guest has no network and never writes to the kept disk. It is emulated, so it needs no rights that the rest of the
//! rig does not need, and it is slow: about ten times slower than the machine that it runs on.

pub mod baked;
mod base;
mod built;
pub mod kubeadm;
mod machine;
pub mod payload;
pub mod plan;
pub mod power;

pub use base::Base;
pub use built::test_programs;
pub use machine::Machine;
pub use plan::{Outcome, Plan, Report, Suite};

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::Flock;

use crate::rig::Version;
use crate::rig::tools::{self, Tools};

/// The pinned containerd, where the guest is to run every suite on it too. It doubles the time, so SHIMTAP_VM_BRIEF leaves it out;
/// CI never does.
pub fn pinned() -> Option<Tools> {
    let brief = std::env::var_os("SHIMTAP_VM_BRIEF").is_some();
    Version::Pinned.tools().ok().filter(|_| !brief)
}

/// Boots a node, lets it run `plan` with the test programs that it names, and reads what came of it. `limit` is for all of
/// it, from power-on to power-off.
///
/// The report and the console's output stay in [`last_run`].
pub fn run(plan: &Plan, limit: Duration) -> Result<Report> {
    run_in(&last_run(), plan, limit)
}

/// The same for one suite that has a boot of its own; report and console's output stay in a folder of that name beside
/// [`last_run`].
pub fn run_alone(name: &str, suite: Suite, limit: Duration) -> Result<Report> {
    run_in(&home().join(name), &Plan { suites: vec![suite] }, limit)
}

fn run_in(dir: &Path, plan: &Plan, limit: Duration) -> Result<Report> {
    let base = Base::ready().context("build the node's disk")?;
    let tests = test_programs(&plan.tests())?;
    let _alone = one_at_a_time()?;
    let disk = payload::build(dir, plan, &tests).context("build the disk with our programs")?;
    let text = Machine::new(&base, &disk).run(dir, limit)?;
    Report::parse(&text)
}

/// Where the last run's `report.log` and `console.log` are.
pub fn last_run() -> PathBuf {
    home().join("last")
}

/// Two machines at once would write one report, and each would take twice the time that it is given.
fn one_at_a_time() -> Result<Flock<File>> {
    base::lock(&home().join("last.lock"))
}

/// Where everything of this module is kept.
fn home() -> PathBuf {
    tools::cache_dir().join("vm")
}
