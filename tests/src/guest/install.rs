//! `shimtap install --restart` and `uninstall --restart` where containerd is a unit: it is restarted, and where it does not
//! come up everything is put back.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::node::{LIMIT, property, start_collector, start_containerd, systemctl};
use crate::rig::Version;
use crate::rig::run::{Finished, run};

const HOOK: &str = "/opt/containerd/bin/containerd-shim-runc-v2";
const UNIT: &str = "containerd.service";
const REFUSES: &str = "/etc/systemd/system/containerd.service.d/refuses.conf";

/// On the distribution's containerd, whose hook is a link.
pub fn restarts_the_unit() -> Result<()> {
    start_collector()?;
    let cri = start_containerd(Version::Packaged)?;
    fs::remove_file(HOOK).context("remove the node's own hook")?;
    is_put_back_where_it_does_not_come_up()?;
    cri.await_ready()?;

    let before = property(UNIT, "MainPID")?;
    let said = shimtap(&["install", "--yes", "--restart"])?.ok()?.text();
    ensure!(said.contains("containerd.service is restarted"), "it said {said}");
    ensure!(property(UNIT, "MainPID")? != before, "it was not restarted");
    cri.await_ready()?;
    let pod = cri.run_pod("installed")?;
    let wrapped = shimtap(&["ps"])?.ok()?.text();
    ensure!(wrapped.contains("WRAPPER OF"), "nothing is wrapped: {wrapped}");
    let said = shimtap(&["uninstall", "--yes", "--restart"])?.ok()?.text();
    ensure!(said.contains("containerd.service is restarted"), "it said {said}");
    cri.await_ready()?;
    ensure!(cri.is_ready(&pod)?, "the pod is lost");
    cri.remove_pod(&pod)?;
    shimtap(&["uninstall", "--yes"])?.ok()?;
    ensure!(!leads_to_us(), "the link is left");
    Ok(())
}

/// Where a container of an earlier check lives on, the link stays and leads to the real shim.
fn leads_to_us() -> bool {
    fs::read_link(HOOK).is_ok_and(|to| to.to_string_lossy().contains("shim-tap"))
}

/// A containerd that does not start with the hook in place.
fn is_put_back_where_it_does_not_come_up() -> Result<()> {
    let text = format!("[Service]\nExecStartPre=/bin/sh -c '! readlink {HOOK} | grep -q shim-tap'\n");
    fs::write(REFUSES, text).context("write a unit that refuses")?;
    systemctl(&["daemon-reload"])?;
    let said = shimtap(&["install", "--yes", "--restart"])?;
    ensure!(said.code == 1 && said.stderr.contains("is up again as it was"), "it said {said:?}");
    ensure!(!leads_to_us(), "the link is left");
    ensure!(systemctl(&["is-active", UNIT])?.text().trim() == "active", "containerd is down");
    fs::remove_file(REFUSES).context("remove it")?;
    systemctl(&["daemon-reload"])?;
    // It has failed to start once; further starts shall not be refused for that.
    systemctl(&["reset-failed", UNIT]).map(drop)
}

fn shimtap(words: &[&str]) -> Result<Finished> {
    let mut command = Command::new("/usr/bin/shimtap");
    command.args(words);
    run(command, LIMIT)
}
