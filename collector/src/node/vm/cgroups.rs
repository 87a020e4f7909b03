//! What this host charges a sandbox with: its own cgroup and the overhead's, in whatever layout Kata made them.
//!
//! Which cgroups those are is asked of the kernel, by the processes that are to be charged, and not concluded from a setting:
//! releases have put memory where no setting would have it. A cgroup counts where one of its folders has the sandbox's id in
//! its name, or where Kata's state names it. Where hypervisor or virtiofsd are charged anywhere else as well, the sum is not
//! known, and absent.
//!
//! Plain reads of three files: crates for cgroups (`cgroups-rs`) make and change them, find mounts of the running system alone,
//! and bring a D-Bus client for it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

/// Threads of a hypervisor that are asked for their cgroup: on v1 those of its vCPUs may be elsewhere than the rest.
const THREADS: usize = 4_096;

/// What this host charges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostUse {
    /// Memory of the sandbox's cgroups, page cache included, in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU time of theirs, in ns.
    pub cpu_ns: Option<u64>,
}

/// Whose cgroups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// Id of the sandbox.
    pub(super) sandbox: &'a str,
    /// What Kata's state names.
    pub(super) named: &'a [String],
    /// Hypervisor and virtiofsd: what they use must be in the sum.
    pub(super) charged: &'a [u32],
    /// Others that may be charged to it: its shim.
    pub(super) others: &'a [u32],
}

/// The two figures that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Memory,
    Cpu,
}

/// Looks.
pub(super) fn read(root: &Path, asked: &Asked<'_>) -> HostUse {
    if asked.charged.is_empty() {
        return HostUse::default();
    }
    HostUse { memory_bytes: sum(root, asked, Figure::Memory), cpu_ns: sum(root, asked, Figure::Cpu) }
}

fn sum(root: &Path, asked: &Asked<'_>, figure: Figure) -> Option<u64> {
    let mount = figure.mount(root)?;
    let mut cgroups = BTreeSet::new();
    for pid in asked.charged {
        // Memory goes with the process, CPU time with each thread.
        let all = match figure {
            Figure::Memory => vec![root.join(format!("proc/{pid}/cgroup"))],
            Figure::Cpu => threads(root, *pid)?,
        };
        for file in all {
            let path = figure.path_of(&fs::read_to_string(file).ok()?)?;
            if !asked.is_its(&path) {
                return None;
            }
            cgroups.insert(path);
        }
    }
    let others = asked.others.iter().filter_map(|pid| {
        let text = fs::read_to_string(root.join(format!("proc/{pid}/cgroup"))).ok()?;
        figure.path_of(&text).filter(|path| asked.is_its(path))
    });
    cgroups.extend(others);
    // An overhead's cgroup without a process may still be charged for what they left.
    cgroups
        .extend(asked.named.iter().filter_map(|path| plain(path)).filter(|path| mount.join(path).is_dir()));
    let top: Vec<&PathBuf> = cgroups
        .iter()
        .filter(|path| !cgroups.iter().any(|other| other != *path && path.starts_with(other)))
        .collect();
    top.into_iter().try_fold(0u64, |sum, path| sum.checked_add(figure.read(&mount.join(path))?))
}

fn threads(root: &Path, pid: u32) -> Option<Vec<PathBuf>> {
    let entries = fs::read_dir(root.join(format!("proc/{pid}/task"))).ok()?.flatten();
    let all: Vec<PathBuf> = entries.take(THREADS + 1).map(|entry| entry.path().join("cgroup")).collect();
    (all.len() <= THREADS).then_some(all)
}

/// A path below the hierarchy's root, without ways elsewhere; none of the root itself.
fn plain(path: &str) -> Option<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    let folders = path.components().all(|part| matches!(part, Component::Normal(_)));
    (folders && path.components().next().is_some()).then(|| path.to_owned())
}

// === impl Asked ===

impl Asked<'_> {
    fn is_its(&self, path: &Path) -> bool {
        let named =
            || self.named.iter().filter_map(|named| plain(named)).any(|named| path.starts_with(named));
        has_id(path, self.sandbox) || named()
    }
}

/// What Kata and CRI put in front of an id.
const PREFIXES: [&str; 5] = ["", "kata_", "runtime-rs-", "cri-containerd-", "crio-"];

/// Is the id a word of one of the folders' names? `ID`, `kata_ID`, `cri-containerd-ID.scope`, `kubepods-x.slice:cri-containerd:ID`.
pub(super) fn has_id(path: &Path, sandbox: &str) -> bool {
    if sandbox.is_empty() {
        return false;
    }
    path.iter().filter_map(|folder| folder.to_str()).any(|folder| {
        let name = folder.strip_suffix(".scope").unwrap_or(folder);
        // The slice stands in front of the colons (issue 2963).
        let name = name.rsplit_once(':').map_or(name, |(_, id)| id);
        PREFIXES.iter().any(|prefix| name.strip_prefix(prefix) == Some(sandbox))
    })
}

// === impl Figure ===

impl Figure {
    /// The hierarchy that counts it.
    fn mount(self, root: &Path) -> Option<PathBuf> {
        let unified = root.join("sys/fs/cgroup");
        if unified.join("cgroup.controllers").exists() {
            return Some(unified);
        }
        let mount = unified.join(self.controller());
        mount.is_dir().then_some(mount)
    }

    const fn controller(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpuacct",
        }
    }

    /// The cgroup that /proc/PID/cgroup names for it: v1's hierarchy of its controller, else v2's only one.
    fn path_of(self, text: &str) -> Option<PathBuf> {
        let rows = || {
            text.lines().filter_map(|row| {
                let mut parts = row.splitn(3, ':');
                Some((parts.next()?, parts.next()?, parts.next()?))
            })
        };
        let v1 =
            rows().find(|(_, controllers, _)| controllers.split(',').any(|one| one == self.controller()));
        let v2 = || rows().find(|(number, controllers, _)| *number == "0" && controllers.is_empty());
        let (_, _, path) = v1.or_else(v2)?;
        plain(path)
    }

    fn read(self, cgroup: &Path) -> Option<u64> {
        let number = |name: &str| fs::read_to_string(cgroup.join(name)).ok()?.trim().parse().ok();
        match self {
            Self::Memory => number("memory.current").or_else(|| number("memory.usage_in_bytes")),
            Self::Cpu => number("cpuacct.usage").or_else(|| {
                let stat = fs::read_to_string(cgroup.join("cpu.stat")).ok()?;
                let row = stat.lines().find_map(|row| row.strip_prefix("usage_usec "))?;
                row.trim().parse::<u64>().ok()?.checked_mul(1_000)
            }),
        }
    }
}

#[cfg(test)]
mod tests;
