//! `io.containerd.cgroups.v1.Metrics`: runc's shim on a v1 host, Kata's Go shim there, Kata's Rust shim everywhere.
//!
//! The message does not say which rows of memory.stat its sender has filled in, and a v2 guest has few of them. So each
//! figure that may be 0 is held against what the rest of the message proves.

use std::collections::BTreeMap;

use containerd_shim_protos::cgroups::metrics::{BlkIOEntry, BlkIOStat, MemoryEntry, MemoryStat, Metrics};

use super::{Device, Fault, Io, Layout, PageFaults, Sample, known, limit};

/// What the rows of a message prove of who filled them in.
struct Proof {
    /// Every row was copied: a container that ever ran has faulted pages in, and only whole copies have these two.
    whole: bool,
    /// The counted cgroups are v1's: no v2 kernel has these names.
    of_v1: bool,
    /// The lists of pages were copied, whose names both versions share.
    lists: bool,
}

/// Reads the message.
pub(super) fn read(metrics: &Metrics) -> Sample {
    let mut sample = Sample { layout: Layout::V1, ..Sample::default() };
    if let Some(cpu) = metrics.cpu.as_ref() {
        if let Some(usage) = cpu.usage.as_ref() {
            sample.cpu(usage.total, usage.user, usage.kernel);
        }
        if let Some(throttling) = cpu.throttling.as_ref() {
            sample.throttling(throttling.periods, throttling.throttled_periods, throttling.throttled_time);
        }
    }
    if let Some(stat) = metrics.memory.as_ref() {
        memory(&mut sample, stat);
    }
    if let Some(control) = metrics.memory_oom_control.as_ref() {
        sample.oom_kills = Some(control.oom_kill);
    }
    if let Some(pids) = metrics.pids.as_ref() {
        sample.threads = known(pids.current);
        sample.threads_max = limit(pids.limit);
    }
    if let Some(blkio) = metrics.blkio.as_ref() {
        block_io(&mut sample, blkio);
    }
    sample
}

fn memory(sample: &mut Sample, stat: &MemoryStat) {
    let Some(entry) = stat.usage.as_ref() else { return };
    sample.memory_usage = known(entry.usage);
    sample.max_usage = known(entry.max);
    let Some(usage) = sample.memory_usage else { return };
    let proof = Proof::of(stat);
    sample.failcnt = failcnt(entry.failcnt, &proof);
    sample.working_set = inactive_file(sample, stat, &proof).map(|inactive| usage.saturating_sub(inactive));
    sample.swap = stat.swap.as_ref().and_then(|both| swap(sample, usage, both, &proof));
    // Only a whole copy has both scopes.
    sample.page_faults = (stat.total_pg_fault != 0).then_some(PageFaults {
        own: stat.pg_fault,
        own_major: stat.pg_maj_fault,
        all: stat.total_pg_fault,
        all_major: stat.total_pg_maj_fault,
    });
    sample.rss = row(sample, stat.total_rss, stat.rss, &proof);
    sample.cache = row(sample, stat.total_cache, stat.cache, &proof);
    sample.mapped_file = row(sample, stat.total_mapped_file, stat.mapped_file, &proof);
}

/// The inactive file cache, which the working set is without. Of a v2 guest `total_inactive_file` is not there, and what
/// has its name without the prefix is the whole hierarchy's.
fn inactive_file(sample: &mut Sample, stat: &MemoryStat, proof: &Proof) -> Option<u64> {
    if stat.total_inactive_file != 0 {
        return Some(stat.total_inactive_file);
    }
    if stat.inactive_file != 0 {
        // No kernel counts more in a cgroup than in it and those below it.
        sample.faults.insert(Fault::InactiveFileRepaired);
        return Some(stat.inactive_file);
    }
    if proof.whole || proof.lists {
        return Some(0);
    }
    sample.faults.insert(Fault::WorkingSetMissing);
    None
}

/// A row that may be 0 in truth: the hierarchy's figure, or the cgroup's own where some shims put the hierarchy's.
fn row(sample: &mut Sample, total: u64, own: u64, proof: &Proof) -> Option<u64> {
    let value = total.max(own);
    if value == 0 && !proof.whole {
        sample.faults.insert(Fault::MemoryRowsMissing);
        return None;
    }
    Some(value)
}

/// Swap in use. v1 counts memory and swap together, a v2 guest swap alone, and the message does not say which.
fn swap(sample: &mut Sample, usage: u64, both: &MemoryEntry, proof: &Proof) -> Option<u64> {
    if both.usage == 0 {
        // Memory is in use: nobody has counted.
        return None;
    }
    if proof.whole || proof.of_v1 {
        return Some(both.usage.saturating_sub(usage));
    }
    sample.faults.insert(Fault::SwapUnclear);
    None
}

/// v2 has no such counter: its 0 is none.
fn failcnt(count: u64, proof: &Proof) -> Option<u64> {
    (count != 0 || proof.whole || proof.of_v1).then_some(count)
}

fn block_io(sample: &mut Sample, blkio: &BlkIOStat) {
    // Of a v2 guest everything stands in one list.
    let alone = blkio.io_serviced_recursive.is_empty();
    let mut devices: BTreeMap<Device, Io> = BTreeMap::new();
    for entry in &blkio.io_service_bytes_recursive {
        let io = devices.entry(device(entry)).or_default();
        match Operation::of(&entry.op) {
            Operation::Read => io.read_bytes = Some(entry.value),
            Operation::Write => io.written_bytes = Some(entry.value),
            Operation::Reads if alone => {
                io.reads = Some(entry.value);
                sample.faults.insert(Fault::BlockCountsRepaired);
            }
            Operation::Writes if alone => {
                io.writes = Some(entry.value);
                sample.faults.insert(Fault::BlockCountsRepaired);
            }
            _ => {}
        }
    }
    for entry in &blkio.io_serviced_recursive {
        let io = devices.entry(device(entry)).or_default();
        match Operation::of(&entry.op) {
            Operation::Read => io.reads = Some(entry.value),
            Operation::Write => io.writes = Some(entry.value),
            _ => {}
        }
    }
    // Rows of sums and discards alone say nothing of a device.
    sample.devices = devices.into_iter().filter(|(_, io)| *io != Io::default()).collect();
}

/// What a row of block IO counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
    /// The number of reads, where a v2 guest's rows were copied.
    Reads,
    /// Likewise of writes.
    Writes,
    /// Sums, discards, and what nobody has heard of.
    Other,
}

fn device(entry: &BlkIOEntry) -> Device {
    Device { major: entry.major, minor: entry.minor, name: entry.device.clone() }
}

// === impl Operation ===

impl Operation {
    fn of(word: &str) -> Self {
        let known =
            [("read", Self::Read), ("write", Self::Write), ("rios", Self::Reads), ("wios", Self::Writes)];
        known.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map_or(Self::Other, |(_, this)| *this)
    }
}

// === impl Proof ===

impl Proof {
    fn of(stat: &MemoryStat) -> Self {
        let any = |rows: &[u64]| rows.iter().any(|row| *row != 0);
        Self {
            whole: any(&[stat.total_pg_fault, stat.total_pg_pg_in]),
            of_v1: any(&[
                stat.cache,
                stat.rss,
                stat.mapped_file,
                stat.total_cache,
                stat.total_rss,
                stat.total_mapped_file,
                stat.total_inactive_anon,
                stat.total_active_anon,
                stat.total_inactive_file,
                stat.total_active_file,
                stat.total_unevictable,
            ]),
            lists: any(&[stat.inactive_anon, stat.active_anon, stat.active_file, stat.unevictable]),
        }
    }
}

#[cfg(test)]
mod tests;
