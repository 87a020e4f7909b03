//! The checks of a whole node, one after the other, with results in libtest's words, and how any such list is run.
//!
//! One at a time, because each has the node's only containerd and collector.

use anyhow::{Result, ensure};

use super::{cores, install, pods, unit};
use crate::rig::Version;

/// A check and its name.
pub type Check = (&'static str, fn() -> Result<()>);

/// All of them.
pub const CHECKS: &[Check] = &[
    ("the_node_is_what_it_is_meant_to_be", the_node_is_what_it_is_meant_to_be),
    ("the_collectors_unit_is_active_and_hardened", unit::is_active_and_hardened),
    ("packaged::pods_in_systemd_slices", || pods::in_systemd_slices(Version::Packaged)),
    ("packaged::containers_outlive_the_collectors_unit", || pods::outlive_the_unit(Version::Packaged)),
    ("packaged::a_slow_core_handler_delays_no_successor", cores::a_slow_handler_delays_no_successor),
    ("packaged::an_installation_restarts_the_unit", install::restarts_the_unit),
    ("pinned::pods_in_systemd_slices", || pods::in_systemd_slices(Version::Pinned)),
    ("pinned::containers_outlive_the_collectors_unit", || pods::outlive_the_unit(Version::Pinned)),
];

/// Runs these checks, or those of them whose name contains `wanted`; whether all passed.
pub fn run(checks: &[Check], wanted: Option<&str>) -> bool {
    // Where it was not built, the plan's other suites leave it out as well, and `./dev test` says so.
    let has_pinned = Version::Pinned.tools().is_ok();
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in checks {
        if wanted.is_some_and(|part| !name.contains(part)) || (name.starts_with("pinned::") && !has_pinned) {
            continue;
        }
        match check() {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Err(fault) => {
                failed += 1;
                println!("test {name} ... FAILED\n{fault:#}");
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed");
    failed == 0
}

/// systemd is the first process, and every controller that containers need is in the unified hierarchy.
pub fn the_node_is_what_it_is_meant_to_be() -> Result<()> {
    let first = std::fs::read_to_string("/proc/1/comm")?;
    ensure!(first.trim() == "systemd", "the first process is {first:?}");
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    for controller in ["cpu", "io", "memory", "pids"] {
        ensure!(
            controllers.split_whitespace().any(|word| word == controller),
            "no {controller}: {controllers}"
        );
    }
    Ok(())
}
