//! Kata's Rust shim: `src/runtime-rs/crates/runtimes/common/src/types/trans_from_agent.rs`. It sends v1's message whatever
//! host and guest have (issue 12988; seen).

use containerd_shim_protos::{
    cgroups::metrics::{
        BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryStat, Metrics, PidsStat,
        Throttle,
    },
    protobuf::MessageField,
};

use super::agent::{Blkio, CgroupStats, MemoryData};

/// The message.
#[must_use]
pub fn v1(said: &CgroupStats) -> Metrics {
    let usage = CPUUsage {
        total: said.total,
        kernel: said.kernel,
        user: said.user,
        per_cpu: said.per_cpu.clone(),
        ..Default::default()
    };
    let throttling = Throttle {
        periods: said.periods,
        throttled_time: said.throttled_ns,
        throttled_periods: said.throttled,
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
        memory: MessageField::some(memory(said)),
        blkio: MessageField::some(blkio),
        ..Default::default()
    }
}

fn memory(said: &CgroupStats) -> MemoryStat {
    let entry = |data: &MemoryData| {
        MessageField::some(MemoryEntry {
            limit: data.limit,
            usage: data.usage,
            max: data.max,
            failcnt: data.failcnt,
            ..Default::default()
        })
    };
    // Fault: v1's names alone, four of which no kernel has (`pg_fault` for `pgfault` and so on); `active_anon` and
    // `total_active_anon` have no line at all as release 4.1.0 was read.
    let stat = |key: &str| said.stats.get(key).copied().unwrap_or(0);
    MemoryStat {
        cache: said.cache,
        usage: entry(&said.usage),
        swap: entry(&said.swap),
        kernel: entry(&said.kernel_memory),
        dirty: stat("dirty"),
        rss: stat("rss"),
        rss_huge: stat("rss_huge"),
        mapped_file: stat("mapped_file"),
        writeback: stat("writeback"),
        pg_pg_in: stat("pg_pg_in"),
        pg_pg_out: stat("pg_pg_out"),
        pg_fault: stat("pg_fault"),
        pg_maj_fault: stat("pg_maj_fault"),
        inactive_file: stat("inactive_file"),
        inactive_anon: stat("inactive_anon"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        hierarchical_memory_limit: stat("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat("hierarchical_swap_limit"),
        total_cache: stat("total_cache"),
        total_rss: stat("total_rss"),
        total_mapped_file: stat("total_mapped_file"),
        total_dirty: stat("total_dirty"),
        total_pg_pg_in: stat("total_pg_pg_in"),
        total_pg_pg_out: stat("total_pg_pg_out"),
        total_pg_fault: stat("total_pg_fault"),
        total_pg_maj_fault: stat("total_pg_maj_fault"),
        total_inactive_file: stat("total_inactive_file"),
        total_inactive_anon: stat("total_inactive_anon"),
        total_active_file: stat("total_active_file"),
        total_unevictable: stat("total_unevictable"),
        ..Default::default()
    }
}

/// `copy_blkio_entry`: every row as it came, so that counts stand among bytes where the guest has cgroup v2.
fn rows(rows: &[Blkio]) -> Vec<BlkIOEntry> {
    let row = |row: &Blkio| BlkIOEntry {
        op: row.op.to_owned(),
        value: row.value,
        major: row.major,
        minor: row.minor,
        ..Default::default()
    };
    rows.iter().map(row).collect()
}
