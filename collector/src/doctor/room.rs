//! Findings about the machine: who may touch our folders, how much room disks and pipes have, what keeps the clock.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;

use super::{
    Evidence, Finding, Id,
    evidence::guard,
    finding::{Severity, Whose},
};

/// What a wrapper leaves free of the disk that it spools to, unless its shim.toml says otherwise.
const SPOOL_PERCENT: u64 = 15;
const SPOOL_BYTES: u64 = 2 << 30;
/// A pipe's pages unless somebody asks for more.
const PIPE_PAGES: u64 = 16;
const PIPES_LIMIT: &str = "/proc/sys/fs/pipe-user-pages-soft";
/// Programs that keep a clock, by the name that the kernel shows (15 bytes).
const CLOCKS: [&str; 6] = ["chronyd", "ntpd", "ntpsec", "systemd-timesyn", "phc2sys", "VBoxService"];
/// A stamp of the future that no rounding explains.
const AHEAD_NS: u64 = 2_000_000_000;

/// What is to be said of it.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    [permissions(evidence), spool(evidence), pipes(evidence), clock(evidence)].into_iter().flatten().collect()
}

/// What holds sockets and output.
fn guarded(evidence: &Evidence) -> Vec<PathBuf> {
    let told = evidence.collector.as_ref().ok().into_iter().flat_map(|told| &told.health.places);
    let run = ["s", "c"].map(|of| evidence.places.run_dir.join(of)).into_iter();
    run.chain(told.map(|place| place.path.clone())).collect()
}

fn permissions(evidence: &Evidence) -> Option<Finding> {
    let open = guarded(evidence).into_iter().filter_map(|path| {
        let (owner, bits) = guard(&path)?;
        let others = bits & 0o077;
        (owner != 0 || others != 0).then(|| format!("{}: owner {owner}, mode {bits:03o}", path.display()))
    });
    let open: Vec<String> = open.collect();
    let what =
        "what holds containers' output is not root's alone; wrappers do not spool where others could write";
    let remedy = "chown root, and chmod 700 folders, 600 sockets";
    (!open.is_empty())
        .then(|| Finding::new(Id::Permissions, Severity::Fault, Whose::Setup, what, remedy).about(open))
}

/// Whether there is room for spool files, which are wanted when nothing else works.
fn spool(evidence: &Evidence) -> Option<Finding> {
    let told = evidence.collector.as_ref().ok()?;
    let disk = told.health.places.iter().find(|place| place.what == "spool_disk")?;
    let system = statvfs(there(&disk.path)?).ok()?;
    let block = system.fragment_size();
    let (size, free) =
        (system.blocks().saturating_mul(block), system.blocks_available().saturating_mul(block));
    let (bytes, percent) = spool_keeps_free(&evidence.places.shim_toml);
    let reserve = (size / 100).saturating_mul(percent).max(bytes);
    let what = format!(
        "{} MiB are free where wrappers spool, and they leave {} MiB free: with the collector away, only memory is left",
        free >> 20,
        reserve >> 20
    );
    let remedy = "make room there, or lower [spool] disk_free_bytes and disk_free_percent in shim.toml";
    (free < reserve).then(|| {
        Finding::new(Id::SpoolReserve, Severity::Warning, Whose::Node, what, remedy)
            .about([disk.path.display().to_string()])
    })
}

/// In bytes and in percent.
fn spool_keeps_free(shim_toml: &Path) -> (u64, u64) {
    let table: toml::Table =
        fs::read_to_string(shim_toml).ok().and_then(|text| toml::from_str(&text).ok()).unwrap_or_default();
    let number = |key: &str| {
        let value = table.get("spool").and_then(|spool| spool.get(key)).and_then(toml::Value::as_integer);
        value.and_then(|value| u64::try_from(value).ok())
    };
    (number("disk_free_bytes").unwrap_or(SPOOL_BYTES), number("disk_free_percent").unwrap_or(SPOOL_PERCENT))
}

/// The path, or the first folder above it that is there.
fn there(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

/// Beyond its share a user's new pipes have one or two pages instead of sixteen: everything slows down, ours and the
/// containers' alike.
fn pipes(evidence: &Evidence) -> Option<Finding> {
    let limit: u64 = fs::read_to_string(PIPES_LIMIT).ok()?.trim().parse().ok()?;
    let inodes: HashSet<PathBuf> =
        evidence.processes.iter().flat_map(|process| pipes_of(process.pid)).collect();
    let pages = u64::try_from(inodes.len()).unwrap_or(u64::MAX).saturating_mul(PIPE_PAGES);
    let what = format!(
        "{} pipes are open, which may be {pages} of the {limit} pages that a user's pipes may have: beyond that new ones are small \
         and everybody's output is slow",
        inodes.len()
    );
    let remedy = "sysctl fs.pipe-user-pages-soft, for instance four times as much; a pod has about three pipes of ours";
    // Zero is no limit.
    let short = limit > 0 && pages.saturating_mul(10) > limit.saturating_mul(8);
    short.then(|| Finding::new(Id::PipeBudget, Severity::Warning, Whose::Node, what, remedy))
}

/// Pipes that a process of root's has open.
fn pipes_of(pid: u32) -> Vec<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if guard(&process).is_none_or(|(owner, _)| owner != 0) {
        return Vec::new();
    }
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).collect()
}

fn clock(evidence: &Evidence) -> Option<Finding> {
    let told = evidence.collector.as_ref().ok();
    let containers = told.into_iter().flat_map(|told| &told.ps.containers);
    let stamps = containers.flat_map(|one| [Some(one.created_ns), one.started_ns, one.sampled_ns]).flatten();
    let ahead = stamps.max().unwrap_or_default().saturating_sub(evidence.now_ns);
    if ahead > AHEAD_NS {
        let what = format!(
            "the clock has gone back by {} s while containers ran: times of records are not in order",
            ahead / 1_000_000_000
        );
        let remedy =
            "let chrony or systemd-timesyncd slew it; a step at boot belongs before containerd's start";
        return Some(Finding::new(Id::Clock, Severity::Warning, Whose::Node, what, remedy));
    }
    let kept = evidence.processes.iter().any(|process| CLOCKS.contains(&process.name.as_str()));
    let what = "no program that keeps the clock is running here: times of records are this machine's guess";
    let remedy = "chrony or systemd-timesyncd, unless the hypervisor keeps it";
    (!kept).then(|| Finding::new(Id::Clock, Severity::Note, Whose::Node, what, remedy))
}
