//! Processes that do nothing but be there, each in a cgroup of its own as a container's would be, and one in a network of its own:
//! what a collector reads of this host's kernel can be asked without a container.
//!
//! All are gone with their owner, and so are their cgroups. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::eventually;

use crate::feed::{Pids, cgroup};

const LIMIT: Duration = Duration::from_secs(30);

/// Those of some containers, and of the sandboxes of all.
#[derive(Debug)]
pub struct Sleepers {
    /// The sandboxes' comes last.
    children: Vec<Child>,
    cgroups: Vec<PathBuf>,
}

impl Sleepers {
    /// For the containers below `many`.
    ///
    /// # Errors
    /// There is no cgroup file system to write to, or no network can be made.
    pub fn start(many: u32) -> Result<Sleepers> {
        let top = hierarchy()?;
        let mut all = Sleepers { children: Vec::new(), cgroups: Vec::new() };
        for number in 0..many {
            let child = quiet(Command::new("sleep").arg("86400"))?;
            let (pid, dir) = (child.id(), top.join(cgroup(number)));
            all.children.push(child);
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
            all.cgroups.push(dir.clone());
            fs::write(dir.join("cgroup.procs"), pid.to_string())
                .with_context(|| format!("join {}", dir.display()))?;
        }
        let network = "ip link add eth0 type veth peer name far0 && exec sleep 86400";
        let sandbox = quiet(Command::new("unshare").args(["--net", "sh", "-c", network]))?;
        let dev = format!("/proc/{}/net/dev", sandbox.id());
        all.children.push(sandbox);
        eventually(LIMIT, "a network of its own", || {
            Ok(fs::read_to_string(&dev).unwrap_or_default().contains("far0").then_some(()))
        })?;
        Ok(all)
    }

    /// Of container `number` and its sandbox.
    ///
    /// # Errors
    /// There is none of that number.
    pub fn pids(&self, number: u32) -> Result<Pids> {
        let (sandbox, containers) = self.children.split_last().context("nobody sleeps")?;
        let container = containers.get(usize::try_from(number)?).context("nobody of that number sleeps")?;
        Ok(Pids { container: container.id(), sandbox: Some(sandbox.id()) })
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail only where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        for dir in &self.cgroups {
            // The pod's as well; what is above is others' too, and stays where it is not empty.
            for above in dir.ancestors().take(4) {
                let _ = fs::remove_dir(above);
            }
        }
    }
}

fn quiet(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().with_context(|| format!("start {command:?}"))
}

/// Where a collector looks for processes: the unified hierarchy, or that of `pids`.
fn hierarchy() -> Result<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let top = if top.join("cgroup.controllers").exists() { top.to_owned() } else { top.join("pids") };
    ensure!(top.join("cgroup.procs").exists(), "there are no cgroups at {}", top.display());
    Ok(top)
}
