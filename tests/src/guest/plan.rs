//! Runs the payload's plan: one suite after the other, each with its limit, its output between two lines.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::rig::vm::plan::{IMAGE, PAYLOAD, Plan, Program, Suite, node_line};
use crate::rig::{eventually, image};

/// What the rig may write to, on a tmpfs; what is built already is linked into it.
const CACHE: &str = "/run/rig-cache";

/// Runs all suites. A suite that fails is in the report and no error.
pub fn run() -> Result<()> {
    let payload = Path::new(PAYLOAD);
    let plan = Plan::read(payload)?;
    say(&node_line(&node()))?;
    std::fs::create_dir_all(CACHE).context("create the rig's cache")?;
    symlink(payload.join("rig/bin"), Path::new(CACHE).join("bin")).context("link the pinned containerd")?;
    for suite in &plan.suites {
        say(&suite.begins())?;
        let begun = Instant::now();
        let status = match run_suite(payload, suite) {
            Ok(status) => status,
            Err(fault) => {
                say(&format!("{fault:#}"))?;
                -1
            }
        };
        say("")?;
        say(&suite.ends(status, begun.elapsed().as_secs()))?;
    }
    Ok(())
}

/// The exit status, as a shell shows it.
fn run_suite(payload: &Path, suite: &Suite) -> Result<i32> {
    let mut command = match &suite.program {
        Program::Test(name) => Command::new(payload.join("tests").join(name)),
        Program::Guest(word) => {
            let mut command = Command::new(payload.join("bin/guest"));
            command.arg(word);
            command
        }
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(&suite.arguments).process_group(0).current_dir("/");
    command.env("PATH", format!("{PAYLOAD}/bin:{path}"));
    command.env("SHIMTAP_BIN_DIR", payload.join("bin")).env("SHIMTAP_RIG_CACHE", CACHE);
    command.env(image::READY, payload.join(IMAGE));
    // Half of what is usual: each takes ten times as long here.
    command.env("SHIMTAP_EXACT_KILLS", "200");
    command.env("RUST_BACKTRACE", "0").env("HOME", "/root");
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let limit = Duration::from_secs(suite.limit_secs);
    let ended = eventually(limit, &format!("the end of {}", suite.name), || {
        child.try_wait().context("ask for its exit")
    });
    let Ok(status) = ended else {
        killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL).context("kill it")?;
        child.wait().context("wait for it")?;
        anyhow::bail!("it was killed after {limit:?}");
    };
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1))
}

/// Kernel and cgroup version.
fn node() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    format!("Linux {}, cgroup {}", release.trim(), if v2 { "v2" } else { "v1" })
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("write to the report")
}
