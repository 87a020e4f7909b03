//! A pids cgroup of a test's own, in which so many processes may live and no more.
//!
//! Who is in it when it goes is put back into the hierarchy's root.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::unistd::Pid;

/// Where cgroups with a pids controller can be made: of v1, of v2 alone, and of v2 beside others of v1.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The group.
#[derive(Debug)]
pub struct Barren {
    hierarchy: &'static Path,
    dir: PathBuf,
}

impl Barren {
    /// None where this machine has no pids controller that we may use: on v2 the root must hand it on, which init does.
    #[must_use]
    pub fn make(name: &str) -> Option<Self> {
        let is_handed_on = |hierarchy: &&Path| {
            let handed_on = fs::read_to_string(hierarchy.join("cgroup.subtree_control"));
            let is_v1 = || hierarchy.join("cgroup.procs").exists() && hierarchy.ends_with("pids");
            handed_on.map_or_else(|_| is_v1(), |words| words.split_whitespace().any(|word| word == "pids"))
        };
        let hierarchy = HIERARCHIES.into_iter().map(Path::new).find(is_handed_on)?;
        let dir = hierarchy.join(format!("shimtap-{name}"));
        fs::create_dir(&dir).ok()?;
        Some(Self { hierarchy, dir })
    }

    /// The file that a process writes itself to, to be in it.
    #[must_use]
    pub fn members(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_in(&self, pid: Pid) -> Result<()> {
        fs::write(self.members(), pid.to_string()).context("cgroup.procs")
    }

    /// How many tasks may be born in it: a number, or `max`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn allow(&self, pids: &str) -> Result<()> {
        fs::write(self.dir.join("pids.max"), pids).context("pids.max")
    }
}

impl Drop for Barren {
    fn drop(&mut self) {
        for pid in fs::read_to_string(self.members()).unwrap_or_default().lines() {
            let _moved = fs::write(self.hierarchy.join("cgroup.procs"), pid);
        }
        let _removed = fs::remove_dir(&self.dir);
    }
}
