//! What befalls a spool: files that fill, a disk that is full, files that are damaged, each while the collector is away.
//!
//! What a file holds is docs/spool.md's business; here it has a name, a length and bytes that can be spoiled.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::load::Load;
use super::site::{LIMIT, Site};
use crate::rig::eventually;

/// What [`super::cases::spool_full`] lets one wrapper write to files.
pub const LIMIT_BYTES: u64 = 1 << 20;
/// What its rings hold, all together.
pub const RINGS: u64 = 4 << 20;
/// A file with so much in it has bytes of containers.
const SOME: u64 = 128 << 10;

/// The collector is killed; when a spool file has some bytes it is given to `what`, and the next collector starts.
pub fn fills(site: &Site<'_>, what: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    site.kill_collector()?;
    let file = eventually(LIMIT, "a wrapper to spool", || {
        let long = |path: &PathBuf| fs::metadata(path).is_ok_and(|about| about.len() >= SOME);
        Ok(files(site).into_iter().find(long))
    })?;
    what(&file)?;
    site.node.start_collector()
}

/// The same with damage, which the next collector must see.
pub fn damaged(site: &Site<'_>, damage: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    fills(site, damage)?;
    site.until("shimtap_spool_set_aside_total", "", 1)
}

/// The collector is away until there is more than files and rings may hold. It is over when wrappers are back: one whose pod
/// ends before that, with no room in files, takes along what its rings hold (docs/spool.md).
pub fn overflows(site: &Site<'_>, load: &Load<'_>) -> Result<()> {
    fills(site, |_| written(load, LIMIT_BYTES + 2 * RINGS))?;
    site.until("shimtap_wrappers", "", 1)
}

/// The same with a disk on which nothing fits from some moment on.
pub fn disk_full(site: &Site<'_>, load: &Load<'_>) -> Result<()> {
    fills(site, |file| {
        let full = site.fill(file.parent().context("a file without a folder")?)?;
        written(load, 2 * RINGS)?;
        drop(full);
        Ok(())
    })?;
    site.until("shimtap_wrappers", "", 1)
}

/// Waits until the steady containers have written so many bytes more.
pub fn written(load: &Load<'_>, bytes: u64) -> Result<()> {
    let wanted = load.steady_bytes() + bytes;
    eventually(LIMIT, &format!("{bytes} bytes more"), || Ok((load.steady_bytes() >= wanted).then_some(())))
}

/// The files on the disk.
fn files(site: &Site<'_>) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.node.spool_dir().join("disk")).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "spool")).collect()
}
