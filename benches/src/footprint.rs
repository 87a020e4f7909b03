//! What a wrapper holds of the machine's memory, and in which mappings.
//!
//! The sum is what the target speaks of: private pages of keeper and worker, blocks of the memfd that both map
//! (shared in smaps, so counted once, as the file system has them), and bytes that stand in pipes. Page tables and
//! the kernel's own structures are shown apart: no target speaks of them, and they are not free.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use crate::usage::field;

const KIB: u64 = 1024;

mod ioctl {
    nix::ioctl_read_bad!(
        /// Bytes that can be read from a descriptor.
        fionread,
        nix::libc::FIONREAD,
        nix::libc::c_int
    );
}

/// The memory of one wrapper, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Private pages by process and mapping.
    pub private: BTreeMap<(String, String), u64>,
    /// Blocks of its memfds.
    pub memfd: u64,
    /// Bytes in its pipes and FIFOs.
    pub in_pipes: u64,
    /// How many pipes and FIFOs it holds.
    pub pipes: u64,
    /// Page tables of its processes.
    pub page_tables: u64,
}

impl Footprint {
    /// Of the processes of one wrapper, with the name that each is shown by.
    pub fn of(processes: &[(&str, i32)]) -> Result<Footprint> {
        let mut footprint = Footprint::default();
        let mut seen = BTreeSet::new();
        for (name, pid) in processes {
            footprint.add_mappings(name, *pid)?;
            footprint.add_descriptors(*pid, &mut seen)?;
        }
        Ok(footprint)
    }

    /// What the target speaks of.
    pub fn total(&self) -> u64 {
        self.private_total() + self.memfd + self.in_pipes
    }

    /// Private pages of all processes.
    pub fn private_total(&self) -> u64 {
        self.private.values().sum()
    }

    /// Private pages of one process.
    pub fn private_of(&self, name: &str) -> u64 {
        self.private.iter().filter(|((process, _), _)| process == name).map(|(_, bytes)| bytes).sum()
    }

    fn add_mappings(&mut self, name: &str, pid: i32) -> Result<()> {
        let path = format!("/proc/{pid}/smaps");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let mut mapping = String::new();
        for line in text.lines() {
            if let Some(fresh) = heading(line, &mapping) {
                mapping = fresh;
            } else if line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:") {
                let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
                let clean = if line.starts_with("Private_Clean:") { " (clean)" } else { "" };
                // A memfd is counted by its blocks: pages that only one process has touched look private.
                if kib > 0 && !mapping.contains("memfd:") {
                    *self.private.entry((name.to_owned(), format!("{mapping}{clean}"))).or_default() +=
                        kib * KIB;
                }
            }
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read its status")?;
        self.page_tables += field(&status, "VmPTE:").unwrap_or(0) * KIB;
        Ok(())
    }

    fn add_descriptors(&mut self, pid: i32, seen: &mut BTreeSet<(u64, u64)>) -> Result<()> {
        let dir = format!("/proc/{pid}/fd");
        for entry in fs::read_dir(&dir).with_context(|| format!("list {dir}"))?.flatten() {
            let path = entry.path();
            let (Ok(target), Ok(metadata)) = (fs::read_link(&path), fs::metadata(&path)) else { continue };
            if !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            let target = target.to_string_lossy().into_owned();
            if target.contains("memfd:") {
                self.memfd += metadata.blocks() * 512;
            } else if metadata.mode() & nix::libc::S_IFMT == nix::libc::S_IFIFO {
                self.pipes += 1;
                self.in_pipes += bytes_in(&path).unwrap_or(0);
            }
        }
        Ok(())
    }
}

/// The name of a mapping, where the line is the first one of a mapping. `before` is the mapping before: pages
/// without a name that follow an object's are its .bss.
fn heading(line: &str, before: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let range = words.next()?;
    let rights = words.next()?;
    if !range.contains('-') || range.ends_with(':') {
        return None;
    }
    let name = words.nth(3).unwrap_or_default();
    let object = name.rsplit('/').next().unwrap_or_default();
    Some(match object {
        "" if before.starts_with("lib") || before.starts_with("containerd") => {
            format!("{} .bss", before.split(' ').next().unwrap_or_default())
        }
        "" => format!("anonymous {} KiB", size_kib(range).unwrap_or(0)),
        object => format!("{object} {rights}"),
    })
}

fn size_kib(range: &str) -> Option<u64> {
    let (from, to) = range.split_once('-')?;
    let parse = |text| u64::from_str_radix(text, 16).ok();
    Some(parse(to)?.checked_sub(parse(from)?)? / KIB)
}

/// Bytes that wait in a pipe, seen through another process's descriptor.
#[expect(unsafe_code, reason = "an ioctl that nix has no safe form of")]
fn bytes_in(path: &Path) -> Option<u64> {
    let pipe = fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).ok()?;
    let mut count = 0;
    // SAFETY: FIONREAD writes one int, `count` is one and outlives the call, and the descriptor is open.
    // JUSTIFICATION: nothing else says how much a pipe holds without taking it.
    unsafe { ioctl::fionread(pipe.as_raw_fd(), &raw mut count) }.ok()?;
    u64::try_from(count).ok()
}
