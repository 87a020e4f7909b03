//! What Kata's agent says of a container in its guest: `get_stats` of `src/agent/rustjail/src/cgroups/fs/mod.rs`, message
//! `CgroupStats` of `src/libs/protocols/protos/agent.proto`.
//!
//! Fields are the message's. Network is not here: `StatsContainerResponse` has it and the agent never fills it.

use std::collections::BTreeMap;

use super::guest::{Cgroup, Guest};

const NS_PER_US: u64 = 1_000;

/// `CgroupStats`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupStats {
    /// `cpu_usage.total_usage`, ns.
    pub total: u64,
    /// `cpu_usage.usage_in_usermode`, ns.
    pub user: u64,
    /// `cpu_usage.usage_in_kernelmode`, ns.
    pub kernel: u64,
    /// `cpu_usage.percpu_usage`, ns; of v1 alone.
    pub per_cpu: Vec<u64>,
    /// `throttling_data.periods`.
    pub periods: u64,
    /// `throttling_data.throttled_periods`.
    pub throttled: u64,
    /// `throttling_data.throttled_time`, ns.
    pub throttled_ns: u64,
    /// `memory_stats.cache`.
    pub cache: u64,
    /// `memory_stats.usage`.
    pub usage: MemoryData,
    /// `memory_stats.swap_usage`.
    pub swap: MemoryData,
    /// `memory_stats.kernel_usage`.
    pub kernel_memory: MemoryData,
    /// `memory_stats.use_hierarchy`.
    pub use_hierarchy: bool,
    /// `memory_stats.stats`: memory.stat under its native keys.
    pub stats: BTreeMap<String, u64>,
    /// `pids_stats.current`.
    pub pids: u64,
    /// `pids_stats.limit`; 0 = none.
    pub pids_limit: u64,
    /// `blkio_stats.io_service_bytes_recursive`.
    pub bytes: Vec<Blkio>,
    /// `blkio_stats.io_serviced_recursive`.
    pub serviced: Vec<Blkio>,
    /// Page sizes of `hugetlb_stats`.
    pub hugetlb: Vec<String>,
}

/// `MemoryData`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryData {
    /// Bytes in use.
    pub usage: u64,
    /// Most bytes that were.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
    /// Most bytes allowed; -1 of the guest's library comes as 2^64 − 1.
    pub limit: u64,
}

/// `BlkioStatsEntry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blkio {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Operation, in lower case.
    pub op: &'static str,
    /// What of it.
    pub value: u64,
}

/// The agent's answer.
#[must_use]
pub fn stats(guest: &Guest) -> CgroupStats {
    let v2 = guest.cgroup == Cgroup::V2;
    let total = (guest.user_us + guest.system_us) * NS_PER_US;
    let mut said = CgroupStats {
        total,
        user: guest.user_us * NS_PER_US,
        kernel: guest.system_us * NS_PER_US,
        per_cpu: if v2 { Vec::new() } else { vec![total] },
        periods: guest.periods,
        throttled: guest.throttled,
        // Fault: get_cpu_stats asks cpu.stat for v1's key, `throttled_time` (issue 13851, mended after 4.2.0).
        throttled_ns: if v2 { 0 } else { guest.throttled_us * NS_PER_US },
        // Fault: the library's `memory.stat.cache` has no v2 key (seen: the field is not there).
        cache: if v2 { 0 } else { stat(guest, "cache") },
        usage: MemoryData {
            usage: guest.usage,
            max: guest.peak,
            failcnt: guest.failcnt,
            limit: guest.limit.unwrap_or(u64::MAX),
        },
        swap: swap(guest),
        // Seen: nothing but this limit.
        kernel_memory: MemoryData { limit: u64::MAX, ..MemoryData::default() },
        // v2 has no such file.
        use_hierarchy: !v2,
        stats: guest.stat.clone(),
        pids: guest.pids,
        // get_pids_stats: `MaxValue::Max => 0`.
        pids_limit: guest.pids_limit.unwrap_or(0),
        hugetlb: guest.hugetlb.clone(),
        ..CgroupStats::default()
    };
    block_io(&mut said, guest);
    said
}

/// `memswap()` of the guest's library: memory and swap together in v1, swap alone in v2; nothing where the kernel does not
/// account for it (seen: an empty message).
fn swap(guest: &Guest) -> MemoryData {
    let Some(swap) = guest.swap else { return MemoryData::default() };
    let usage = if guest.cgroup == Cgroup::V2 { swap } else { guest.usage + swap };
    MemoryData { usage, limit: u64::MAX, ..MemoryData::default() }
}

/// `get_blkio_stats`: in v1 five rows per device in each of two lists, in v2 six in one list (`get_blkio_stats_v2`), where
/// `rios` and `wios` stand among the bytes.
fn block_io(said: &mut CgroupStats, guest: &Guest) {
    for device in &guest.devices {
        let row = |op, value| Blkio { major: device.major, minor: device.minor, op, value };
        let five = |read, write| {
            [
                row("read", read),
                row("write", write),
                row("sync", write),
                row("async", read),
                row("total", read + write),
            ]
        };
        if guest.cgroup == Cgroup::V1 {
            said.bytes.extend(five(device.read_bytes, device.written_bytes));
            said.serviced.extend(five(device.reads, device.writes));
        } else {
            said.bytes.extend([
                row("read", device.read_bytes),
                row("write", device.written_bytes),
                row("rios", device.reads),
                row("wios", device.writes),
                row("dbytes", 0),
                row("dios", 0),
            ]);
        }
    }
}

fn stat(guest: &Guest, key: &str) -> u64 {
    guest.stat.get(key).copied().unwrap_or(0)
}
