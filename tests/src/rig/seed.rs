//! A root folder of containerd with the images in it: made once per release and image, copied for each node.
//!
//! An import costs a second or two of a busy machine, a copy of some megabytes little. The copy is made while no containerd
//! runs on the folder.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rig::run::run;
use crate::rig::tools::{self, Tools};

const LIMIT: Duration = Duration::from_secs(60);

/// The seed of one release with one image.
#[derive(Debug)]
pub struct Seed {
    path: PathBuf,
}

impl Seed {
    /// Names the seed for `tools` and the image in `archive`; it may not be there yet.
    pub fn of(tools: &Tools, archive: &Path) -> Result<Seed> {
        let image = archive.file_stem().context("the archive has no name")?.to_string_lossy().into_owned();
        // The layout: 2 has the image in every namespace that a node may hold.
        let name = format!("{}-2-{image}", tools.release);
        Ok(Seed { path: tools::cache_dir().join("roots").join(name) })
    }

    /// Makes a copy at `root`; false where there is no seed yet.
    pub fn plant(&self, root: &Path) -> Result<bool> {
        if !self.path.is_dir() {
            return Ok(false);
        }
        copy(&self.path, root)?;
        Ok(true)
    }

    /// Keeps `root`, which no containerd uses at the moment, as the seed.
    pub fn keep(&self, root: &Path) -> Result<()> {
        let work = self.path.with_extension(format!("work-{}", crate::rig::node::unique()));
        fs::create_dir_all(self.path.parent().context("the seed has no folder")?)
            .context("create its folder")?;
        self.path.parent().into_iter().for_each(tools::forget_old);
        copy(root, &work)?;
        // Another node may have been quicker; both hold the same, so the loser's copy goes.
        if fs::rename(&work, &self.path).is_err() {
            fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
        }
        Ok(())
    }
}

/// What containerd never writes to again, below its root: unpacked layers, and content under its digest.
const FROZEN: [&str; 2] =
    ["io.containerd.snapshotter.v1.overlayfs/snapshots", "io.containerd.content.v1.content/blobs"];

/// Copies a root. Where both lie on one filesystem, what is frozen shares its inodes: most of a root are hundreds of links
/// to busybox, and to make them anew takes a disk longer than all else of a node's start.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
    let there = device(to.parent().context("a copy without a folder")?).context("look at its folder")?;
    let links = device(from).with_context(|| format!("look at {}", from.display()))? == there;
    let mut command = Command::new("cp");
    command.arg(if links { "-al" } else { "-a" }).arg(from).arg(to);
    run(command, LIMIT)?.ok().with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    if links { part(from, to, Path::new("")) } else { Ok(()) }
}

/// Gives the copy files of its own below `folder`, but for what is frozen.
fn part(from: &Path, to: &Path, folder: &Path) -> Result<()> {
    if FROZEN.iter().any(|frozen| folder == Path::new(frozen)) {
        return Ok(());
    }
    let list = || format!("list {}", to.join(folder).display());
    for entry in fs::read_dir(to.join(folder)).with_context(list)? {
        let entry = entry.with_context(list)?;
        let path = folder.join(entry.file_name());
        let kind = entry.file_type().with_context(list)?;
        if kind.is_dir() {
            part(from, to, &path)?;
        } else if kind.is_file() {
            let (theirs, ours) = (from.join(&path), to.join(&path));
            fs::remove_file(&ours).with_context(|| format!("part with {}", ours.display()))?;
            fs::copy(&theirs, &ours).with_context(|| format!("copy {}", theirs.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_only_what_is_frozen() {
        let dir = std::env::temp_dir().join(format!("shimtap-seed-{}", std::process::id()));
        let files =
            ["meta.db", &format!("{}/1/fs/bin/busybox", FROZEN[0]), &format!("{}/sha256/x", FROZEN[1])];
        for file in files {
            let path = dir.join("from").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        copy(&dir.join("from"), &dir.join("to")).unwrap();
        let inode = |side: &str, file: &str| fs::metadata(dir.join(side).join(file)).unwrap().ino();
        let shared = files.map(|file| inode("from", file) == inode("to", file));
        assert_eq!(shared, [false, true, true]);
        for file in files {
            assert_eq!(fs::read_to_string(dir.join("to").join(file)).unwrap(), file);
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
