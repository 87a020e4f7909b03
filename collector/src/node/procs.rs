//! How many processes a container has: those of its cgroup and of the cgroups below it.
//!
//! Only where the container's first process is among them, so that a path that means another cgroup on this host says nothing.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// Cgroups below a container's that are looked into; a container with more has its reasons, and no number here.
const CGROUPS: usize = 1_024;
/// Controllers of cgroup v1 that a container's cgroup is looked for in; every runtime joins these.
const V1: [&str; 4] = ["pids", "memory", "cpu", "freezer"];

/// Processes of the cgroup at `path` below the hierarchy's root, if process `first` is one of them.
pub(super) fn count(root: &Path, path: &str, first: u32) -> Option<u64> {
    let path = path.strip_prefix('/')?;
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain {
        return None;
    }
    let mut waiting = vec![hierarchy(root)?.join(path)];
    let (mut seen, mut processes, mut has_first) = (0, 0u64, false);
    while let Some(dir) = waiting.pop() {
        seen += 1;
        if seen > CGROUPS {
            return None;
        }
        for line in fs::read_to_string(dir.join("cgroup.procs")).ok()?.lines() {
            processes = processes.saturating_add(1);
            has_first |= line.parse() == Ok(first);
        }
        let below = fs::read_dir(&dir).ok()?.flatten();
        waiting.extend(below.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    has_first.then_some(processes)
}

fn hierarchy(root: &Path) -> Option<PathBuf> {
    let unified = root.join("sys/fs/cgroup");
    if unified.join("cgroup.controllers").exists() {
        return Some(unified);
    }
    V1.iter().map(|controller| unified.join(controller)).find(|mount| mount.join("cgroup.procs").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn procs(dir: &Path, text: &str) {
        fs::create_dir_all(dir).expect("a folder");
        fs::write(dir.join("cgroup.procs"), text).expect("a file");
    }

    #[test]
    fn processes_of_a_container_and_below_it_are_counted() {
        for (mark, mount) in [("cgroup.controllers", ""), ("memory/cgroup.procs", "memory")] {
            let root = tempfile::tempdir().expect("a folder");
            let top = root.path().join("sys/fs/cgroup");
            procs(&top.join(mount), "");
            fs::write(top.join(mark), "").expect("a file");
            procs(&top.join(mount).join("pod/c"), "7\n8\n");
            assert_eq!(count(root.path(), "/pod/c", 7), Some(2), "{mark}");
            procs(&top.join(mount).join("pod/c/below/more"), "9\n");
            procs(&top.join(mount).join("pod/c/below"), "");
            assert_eq!(count(root.path(), "/pod/c", 9), Some(3), "{mark}");
            assert_eq!(count(root.path(), "/pod/c", 10), None, "{mark}: another's cgroup");
            for path in ["", "/", "pod/c", "/pod/../pod/c", "/pod/d"] {
                assert_eq!(count(root.path(), path, 7), None, "{mark} {path}");
            }
        }
    }

    #[test]
    fn without_a_hierarchy_nothing_is_counted() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(count(root.path(), "/pod/c", 7), None);
    }
}
