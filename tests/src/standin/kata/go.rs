//! Kata's Go shim: `src/runtime/pkg/containerd-shim-v2/metrics.go`. Which message it sends follows the *host's* cgroup
//! version (`marshalMetrics`), whatever the guest has.

use containerd_shim_protos::{
    cgroups::metrics as v1_metrics, cgroups_v2::metrics as v2_metrics, protobuf::MessageField,
};

use super::agent::{Blkio, CgroupStats, MemoryData};

/// On a v1 host: `statsToMetricsV1`.
#[must_use]
pub fn v1(said: &CgroupStats) -> v1_metrics::Metrics {
    use v1_metrics::{
        BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryStat, Metrics, PidsStat,
        Throttle,
    };
    let entry = |data: &MemoryData| {
        MessageField::some(MemoryEntry {
            limit: data.limit,
            usage: data.usage,
            max: data.max,
            failcnt: data.failcnt,
            ..Default::default()
        })
    };
    let stat = |key: &str| said.stats.get(key).copied().unwrap_or(0);
    // Fault: v1's names alone, and of the hierarchy's figures only one goes where readers look for it.
    let names = if said.use_hierarchy {
        ["total_cache", "total_rss", "total_mapped_file"]
    } else {
        ["cache", "rss", "mapped_file"]
    };
    let [cache, rss, mapped_file] = names.map(stat);
    let memory = MemoryStat {
        cache,
        rss,
        mapped_file,
        pg_fault: stat("pgfault"),
        pg_maj_fault: stat("pgmajfault"),
        total_inactive_file: stat("total_inactive_file"),
        usage: entry(&said.usage),
        swap: entry(&said.swap),
        kernel: entry(&said.kernel_memory),
        kernel_tcp: entry(&MemoryData::default()),
        ..Default::default()
    };
    let rows = |rows: &[Blkio]| -> Vec<BlkIOEntry> {
        // copyBlkioV1 leaves the device's name out.
        let row = |row: &Blkio| BlkIOEntry {
            op: row.op.to_owned(),
            major: row.major,
            minor: row.minor,
            value: row.value,
            ..Default::default()
        };
        rows.iter().map(row).collect()
    };
    let usage = CPUUsage {
        total: said.total,
        kernel: said.kernel,
        user: said.user,
        per_cpu: said.per_cpu.clone(),
        ..Default::default()
    };
    let throttling = Throttle {
        periods: said.periods,
        throttled_periods: said.throttled,
        throttled_time: said.throttled_ns,
        ..Default::default()
    };
    let cpu = CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(throttling),
        ..Default::default()
    };
    let pids = PidsStat { current: said.pids, limit: said.pids_limit, ..Default::default() };
    let blkio = BlkIOStat {
        io_service_bytes_recursive: rows(&said.bytes),
        io_serviced_recursive: rows(&said.serviced),
        ..Default::default()
    };
    let page = |size: &String| HugetlbStat { pagesize: size.clone(), ..Default::default() };
    Metrics {
        hugetlb: said.hugetlb.iter().map(page).collect(),
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        blkio: MessageField::some(blkio),
        ..Default::default()
    }
}

/// On a v2 host: `statsToMetricsV2`.
#[must_use]
pub fn v2(said: &CgroupStats) -> v2_metrics::Metrics {
    use v2_metrics::{CPUStat, HugeTlbStat, IOStat, MemoryStat, Metrics, PidsStat};
    let stat = |key: &str| said.stats.get(key).copied().unwrap_or(0);
    let memory = MemoryStat {
        usage: said.usage.usage,
        usage_limit: said.usage.limit,
        // Of a v1 guest this is memory and swap together.
        swap_usage: said.swap.usage,
        swap_limit: said.swap.limit,
        anon: stat("anon"),
        file: stat("file"),
        kernel_stack: stat("kernel_stack"),
        slab: stat("slab"),
        shmem: stat("shmem"),
        file_mapped: stat("file_mapped"),
        inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        pgfault: stat("pgfault"),
        pgmajfault: stat("pgmajfault"),
        ..Default::default()
    };
    let cpu = CPUStat {
        usage_usec: said.total / 1_000,
        // Fault: setCPUStatsV2, lines 152 and 153, has the two the wrong way round.
        user_usec: said.kernel / 1_000,
        system_usec: said.user / 1_000,
        nr_periods: said.periods,
        nr_throttled: said.throttled,
        throttled_usec: said.throttled_ns / 1_000,
        ..Default::default()
    };
    let pids = PidsStat { current: said.pids, limit: said.pids_limit, ..Default::default() };
    let page = |size: &String| HugeTlbStat { pagesize: size.clone(), ..Default::default() };
    Metrics {
        hugetlb: said.hugetlb.iter().map(page).collect(),
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        io: MessageField::some(IOStat { usage: vec![merged(&said.bytes)], ..Default::default() }),
        ..Default::default()
    }
}

/// Fault: `copyBlkioV2` writes all devices into one entry, so that the last one's figures are left; and there is an entry
/// where there is no device.
fn merged(rows: &[Blkio]) -> v2_metrics::IOEntry {
    let mut entry = v2_metrics::IOEntry::default();
    for row in rows {
        match row.op {
            "read" => entry.rbytes = row.value,
            "write" => entry.wbytes = row.value,
            "rios" => entry.rios = row.value,
            "wios" => entry.wios = row.value,
            _ => {}
        }
        entry.major = row.major;
        entry.minor = row.minor;
    }
    entry
}
