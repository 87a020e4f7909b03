//! What a scenario may not leave behind: mounts, FIFOs, sockets, state files, cgroups.
//!
//! Looks and, at the end of a node, removes; it never decides whether something may stay.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use sha2::{Digest, Sha256};

use crate::rig::image::hex;

/// Mount points below `dir`, innermost first.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    below.sort();
    below.reverse();
    Ok(below)
}

/// Unmounts what is left below `dir`; what cannot be unmounted shows when the folder is removed.
pub fn unmount_below(dir: &Path) {
    for point in mounts_below(dir).unwrap_or_default() {
        let _ = umount2(&point, MntFlags::MNT_DETACH);
    }
}

/// FIFOs, sockets, locks and state files below `dir`: what stands for something that still lives. Empty folders may stay.
pub fn live_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            let kind = entry.file_type().context("look at a file")?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// The file name of the socket that a runc shim computes for a group (containerd's `SocketAddress`).
pub fn socket_name(containerd: &Path, namespace: &str, id: &str) -> String {
    hex(&Sha256::digest(format!("{}/{namespace}/{id}", containerd.display())))
}

/// Removes the cgroups that runc made below `/mark`; they are empty once their processes are gone.
pub fn remove_cgroups(mark: &str) {
    for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        remove_tree(&controller.path().join(mark));
    }
    remove_tree(&Path::new("/sys/fs/cgroup").join(mark));
}

/// The cgroups below `/mark`, of every controller.
pub fn cgroups(mark: &str) -> Vec<PathBuf> {
    let controllers =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let roots = controllers.chain([PathBuf::from("/sys/fs/cgroup")]).map(|root| root.join(mark));
    let below = roots.flat_map(|root| fs::read_dir(root).into_iter().flatten().flatten());
    below
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_name_is_the_one_that_containerd_computes() {
        // printf '%s' /run/containerd/containerd.sock/default/a | sha256sum
        let name = socket_name(Path::new("/run/containerd/containerd.sock"), "default", "a");
        assert_eq!(name, "82795ca4b9b166c1139546afbf9dfd59d74776e0b49c8edfbb195f9d8b9e94a6");
    }
}
