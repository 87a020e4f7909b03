//! Where benches measure: a private containerd on which any container runs with the wrapper or without it.
//!
//! For what one container costs, both sides share one containerd, so that nothing but the wrapper differs. For
//! what a node costs, each side has a containerd of its own, because its CPU is part of the answer.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, tools};

use crate::favour;

/// With or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// containerd starts its own runc shim.
    Plain,
    /// containerd starts the wrapper, and the wrapper the runc shim.
    Wrapped,
}

/// The two sides, in the order of a turn.
pub const SIDES: [Side; 2] = [Side::Plain, Side::Wrapped];

/// A node on which `ctr` containers run on either side.
pub fn both_sides(version: Version) -> Result<Node> {
    let node = Setup::new(version, Shim::Wrapped(Hook::Path)).start()?;
    furnish(&node)?;
    Ok(node)
}

/// A node of one side, with the wrapper's configuration where there is one.
pub fn one_side(version: Version, side: Side, shim_toml: &str) -> Result<Node> {
    let shim = match side {
        Side::Plain => Shim::Unwrapped,
        Side::Wrapped => Shim::Wrapped(Hook::Path),
    };
    let node = Setup::new(version, shim).shim_toml(shim_toml).start()?;
    furnish(&node)?;
    Ok(node)
}

/// `ctr run FLAGS IMAGE id COMMAND` on one side; output goes to /dev/null.
pub fn run_command(node: &Node, side: Side, id: &str, flags: &[&str], command: &[&str]) -> Command {
    // The node's own command names the wrapper as runtime; the last of two flags holds.
    let plain = ["--runtime", "io.containerd.runc.v2"];
    let mut all = flags.to_vec();
    if side == Side::Plain {
        all.extend(plain);
    }
    let mut ctr = node.run_command(id, &all, command);
    ctr.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ctr
}

/// Runs a command to its end and says how long it took, from fork to the end of the wait.
pub fn timed(mut command: Command) -> Result<Duration> {
    let start = Instant::now();
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    let took = start.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(took)
}

/// A file that a generator in a container writes as `/host/<name>`.
pub fn report_path(node: &Node, name: &str) -> PathBuf {
    node.host_dir().join(name)
}

/// The load generator, seen as `/host/pour` in containers, and the containers' share of the machine.
fn furnish(node: &Node) -> Result<()> {
    if favour::is_asked() {
        favour::weighted(node.mark())?;
    }
    let speaker = tools::speaker()?;
    let pour = speaker.with_file_name("pour");
    fs::copy(&pour, node.host_dir().join("pour")).with_context(|| format!("copy {}", pour.display()))?;
    Ok(())
}
