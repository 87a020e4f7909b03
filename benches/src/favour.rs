//! Most of the machine for the bench, where others use it too (`--favour`).
//!
//! Everything that a bench starts, and every container that its containerds run, gets a cgroup with a weight far above
//! the default one. Both sides get the same, so no ratio is bent; what a fully idle machine would show still differs.
//! It takes the CPU from whoever else computes here: for short runs only.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Sixty times what others have.
const SHARES: &str = "65536";
const WEIGHT: &str = "6400";

/// Holds while it lives.
#[derive(Debug)]
pub struct Favour {
    group: PathBuf,
}

impl Favour {
    /// Moves the bench, and so what it will start, into a group of its own.
    pub fn ask() -> Result<Favour> {
        let group = weighted("shimtap-bench")?;
        let procs = group.join("cgroup.procs");
        fs::write(&procs, std::process::id().to_string())
            .with_context(|| format!("write {}", procs.display()))?;
        Ok(Favour { group })
    }
}

impl Drop for Favour {
    fn drop(&mut self) {
        // Only an empty group can be removed; what fails leaves an empty folder in a virtual file system.
        let procs = root().join("cgroup.procs");
        let _ = fs::write(procs, std::process::id().to_string());
        let _ = fs::remove_dir(&self.group);
    }
}

/// Whether the bench has asked for it: its containers are to be favoured as well.
pub fn is_asked() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own.lines().any(|line| line.ends_with(":/shimtap-bench"))
}

/// Makes the group that a node's containers will be in, with weight.
pub fn weighted(name: &str) -> Result<PathBuf> {
    let group = root().join(name);
    fs::create_dir_all(&group).with_context(|| format!("create {}", group.display()))?;
    let (file, value) = if is_v1() { ("cpu.shares", SHARES) } else { ("cpu.weight", WEIGHT) };
    let file = group.join(file);
    fs::write(&file, value).with_context(|| format!("write {}", file.display()))?;
    Ok(group)
}

fn root() -> PathBuf {
    if is_v1() { PathBuf::from("/sys/fs/cgroup/cpu") } else { PathBuf::from("/sys/fs/cgroup") }
}

fn is_v1() -> bool {
    Path::new("/sys/fs/cgroup/cpu/cpu.shares").exists()
}
