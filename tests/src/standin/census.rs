//! What a process holds, by what /proc says of it: descriptors, memory, threads.
//!
//! Reads only, and asks nobody: a wrapper that has lost count of its descriptors is found out here and nowhere else.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::Pid,
};

/// One open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Open {
    /// What it is of, as its link says: `pipe:[7]`, `socket:[8]`, a path.
    pub target: String,
    /// Whether it reads, writes or both (`O_ACCMODE` of its flags).
    pub mode: i32,
    /// Its number.
    pub fd: i32,
}

impl Open {
    /// What it is of, without the number that tells it from its like.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.target.split_once(":[").map_or(&self.target, |(kind, _)| kind)
    }
}

/// Every descriptor of a process.
///
/// # Errors
/// The process is gone.
pub fn open(pid: Pid) -> Result<Vec<Open>> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let entries = fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))?;
    let mut found: Vec<Open> = entries.filter_map(|e| one(pid, &e.ok()?.path())).collect();
    found.sort();
    Ok(found)
}

/// One that is closed while it is looked at is not there.
fn one(pid: Pid, link: &Path) -> Option<Open> {
    let fd: i32 = link.file_name()?.to_str()?.parse().ok()?;
    let target = fs::read_link(link).ok()?.display().to_string();
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    let flags = info.lines().find_map(|l| l.strip_prefix("flags:"))?.trim();
    let mode = i32::from_str_radix(flags, 8).ok()? & OFlag::O_ACCMODE.bits();
    Some(Open { target, mode, fd })
}

/// Descriptors of slots lie here and above, so that none of them is ever 0, 1 or 2; what a thread's own runtime has open
/// lies below.
const FLOOR: i32 = 16;

/// Descriptors that a process has twice: of one pipe, FIFO or socket, in the same mode. Each has a slot of its own, so
/// there must be none. (The keeper keeps descriptors in reserve for its next worker: duplicates of the block, no slots.)
#[must_use]
pub fn twice(open: &[Open]) -> Vec<Open> {
    let is_slot =
        |o: &&Open| o.fd >= FLOOR && !o.target.starts_with("anon_inode:") && !o.target.starts_with("/memfd:");
    let slots = || open.iter().filter(is_slot);
    let pairs = slots().zip(slots().skip(1));
    pairs.filter(|(a, b)| (&a.target, a.mode) == (&b.target, b.mode)).map(|(a, _)| a.clone()).collect()
}

/// How many descriptors of each kind a process has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds(pub BTreeMap<String, usize>);

impl Kinds {
    /// Counts them.
    #[must_use]
    pub fn of(open: &[Open]) -> Self {
        let mut kinds = BTreeMap::new();
        for o in open {
            *kinds.entry(o.kind().to_owned()).or_default() += 1;
        }
        Self(kinds)
    }

    /// How many of one kind.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.0.get(kind).copied().unwrap_or(0)
    }

    /// The same without a kind.
    #[must_use]
    pub fn without(mut self, kind: &str) -> Self {
        self.0.remove(kind);
        self
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<_> = self.0.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        f.write_str(&list.join(", "))
    }
}

/// Memory of a process that nobody else has, and of the memory files that it has open, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Anonymous pages (`Anonymous` of smaps_rollup).
    pub anonymous: u64,
    /// Pages of its memfds.
    pub memfd: u64,
    /// Threads.
    pub threads: usize,
}

/// Reads both.
///
/// # Errors
/// The process is gone.
pub fn memory(pid: Pid) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line =
        text.lines().find_map(|l| l.strip_prefix("Anonymous:")).context("Anonymous in smaps_rollup")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("Anonymous in smaps_rollup")?;
    let mut blocks = BTreeMap::new();
    for o in open(pid)?.iter().filter(|o| o.target.starts_with("/memfd:")) {
        let about = fs::metadata(format!("/proc/{pid}/fd/{}", o.fd)).context("a memfd")?;
        blocks.insert(about.ino(), about.blocks() * 512);
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).context("its threads")?.count();
    Ok(Memory { anonymous: kib << 10, memfd: blocks.values().sum(), threads })
}

/// Size in bytes of each pipe and FIFO that these processes have open, by its name; what the kernel books on the account
/// of the user who opened it first.
///
/// # Errors
/// One of the processes is gone.
pub fn pipes(pids: &[Pid]) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for pid in pids {
        for o in open(*pid)? {
            let mut options = fs::OpenOptions::new();
            options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
            // Opening a link of a pipe gives the pipe itself; of anything else a size is refused.
            let Ok(file) = options.open(format!("/proc/{pid}/fd/{}", o.fd)) else { continue };
            if let Ok(size) = fcntl(file.as_fd(), FcntlArg::F_GETPIPE_SZ) {
                found.insert(o.target, u64::try_from(size)?);
            }
        }
    }
    Ok(found)
}
