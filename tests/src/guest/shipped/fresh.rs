//! A node with containerd and nothing of ours: configured as kubeadm's documentation has it, under its own unit, with whichever
//! containerd is wanted at the place where a package has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::guest::node::{connect, systemctl, write};
use crate::rig::Version;
use crate::rig::cri::Cri;
use crate::rig::node::PATIENT;
use crate::rig::tools::Tools;
use crate::rig::vm::kubeadm::containerd_toml;

const CONFIG: &str = "/etc/containerd/config.toml";
/// What `guest::node` leaves of another check.
const LEFT: [&str; 3] =
    ["/etc/systemd/system/containerd.service.d", "/opt/containerd", "/etc/systemd/system/shimtap.service"];

/// The node; dropped, it has its distribution's containerd again, stopped.
#[derive(Debug)]
pub struct Fresh {
    /// Its containerd's programs.
    pub tools: Tools,
    /// Its CRI.
    pub cri: Cri,
    covered: Covered,
}

/// Files with what they hold.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Files of the distribution that others lie over.
#[derive(Debug, Default)]
struct Covered(Vec<PathBuf>);

impl Fresh {
    /// Starts its containerd.
    pub fn start(version: Version) -> Result<Fresh> {
        ensure!(!Path::new("/usr/bin/shimtap").exists(), "an earlier check has left its package");
        systemctl(&["stop", "containerd.service"])?;
        for left in LEFT.map(Path::new) {
            let removed = if left.is_dir() { fs::remove_dir_all(left) } else { fs::remove_file(left) };
            ensure!(removed.is_ok() || !left.exists(), "{} cannot be removed", left.display());
        }
        let tools = version.tools()?;
        let mut covered = Covered::default();
        for program in [&tools.containerd, &tools.ctr, &tools.runc_shim] {
            covered.by(program)?;
        }
        // A node that keeps its configuration has remarks in it.
        write(CONFIG, &format!("# kept by hand\n{}", containerd_toml(&tools)))?;
        // An emulated machine starts no worker within what a node allows, and the pod would run unwrapped.
        write("/etc/shimtap/shim.toml", PATIENT)?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["start", "containerd.service"])?;
        let cri = connect(&tools)?;
        Ok(Fresh { tools, cri, covered })
    }

    /// What containerd's configuration consists of.
    pub fn configuration(&self) -> Result<Files> {
        let mut files = Files::new();
        let mut folders = vec![PathBuf::from("/etc/containerd")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
                let path = entry.context("list it")?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                    files.insert(path, bytes);
                }
            }
        }
        Ok(files)
    }

    /// Ends it. What runs under it has to be gone.
    pub fn end(mut self) -> Result<()> {
        systemctl(&["stop", "containerd.service"])?;
        self.covered.uncover()
    }
}

impl Covered {
    /// Lays a program over the distribution's of that name, unless it is that.
    fn by(&mut self, program: &Path) -> Result<()> {
        let to = Path::new("/usr/bin").join(program.file_name().context("a program without a name")?);
        if fs::canonicalize(program).ok() == fs::canonicalize(&to).ok() {
            return Ok(());
        }
        mount(Some(program), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("lay {} over {}", program.display(), to.display()))?;
        self.0.push(to);
        Ok(())
    }

    fn uncover(&mut self) -> Result<()> {
        while let Some(path) = self.0.pop() {
            umount2(&path, MntFlags::MNT_DETACH).with_context(|| format!("uncover {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        // Only where a check has failed: what comes after it shall find the distribution's.
        if !self.0.is_empty() {
            let _ = systemctl(&["stop", "containerd.service"]);
            let _ = self.uncover();
        }
    }
}
