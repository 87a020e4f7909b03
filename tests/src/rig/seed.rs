//! A root folder of containerd with the images in it: made once per release and image, copied for each node.
//!
//! An import costs a second or two of a busy machine, a copy of some megabytes nothing. The copy is made
//! while no containerd runs on the folder.

use std::fs;
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

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    run(command, LIMIT)?.ok().with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
