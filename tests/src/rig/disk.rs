//! Disks of a test's own: a file system in memory, or a real one on a loop device, which can be frozen.
//!
//! Whoever writes to a frozen one hangs in the kernel until it is thawed, and not even SIGKILL ends him before: it is thawed
//! when it is dropped, whatever came of the test, and taken from its place at once, however many have files open on it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::rig::run::run;

/// How long making one may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A mounted file system, its root for its owner alone.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    /// What it lies in, where it is one on a loop device.
    image: Option<PathBuf>,
}

impl Disk {
    /// In memory, of so many bytes.
    pub fn in_memory(dir: &Path, bytes: u64) -> Result<Self> {
        let options = format!("size={bytes},mode=0700");
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mount a file system of {bytes} bytes at {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), image: None })
    }

    /// An ext4 on a loop device, with a file beside `dir` for its bytes.
    pub fn on_loop(dir: &Path, bytes: u64) -> Result<Self> {
        let image = dir.with_extension("image");
        let file = fs::File::create(&image).with_context(|| format!("create {}", image.display()))?;
        file.set_len(bytes).context("give it its length")?;
        told("mkfs.ext4", &["-q", "-F"], &[&image])?;
        told("mount", &["-o", "loop"], &[&image, dir])?;
        let disk = Self { dir: dir.to_owned(), image: Some(image) };
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).context("close it to others")?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whoever writes to it hangs from here on. What was written before is on it.
    pub fn freeze(&self) -> Result<()> {
        told("fsfreeze", &["-f"], &[&self.dir])
    }

    /// They go on.
    pub fn thaw(&self) -> Result<()> {
        told("fsfreeze", &["-u"], &[&self.dir])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(image) = &self.image {
            // Refused where it is not frozen.
            let _ = Command::new("fsfreeze").arg("-u").arg(&self.dir).output();
            let _ = fs::remove_file(image);
        }
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
    }
}

fn told(program: &str, words: &[&str], paths: &[&Path]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(words).args(paths);
    let what = format!("{command:?}");
    run(command, LIMIT)?.ok().context(what).map(drop)
}
