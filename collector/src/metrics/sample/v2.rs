//! `io.containerd.cgroups.v2.Metrics`: runc's shim on a v2 host, Kata's Go shim there.
//!
//! Kata's shim sends it of a v1 guest too, most of whose rows of memory.stat have other names and come as 0.

use containerd_shim_protos::cgroups_v2::metrics::{MemoryStat, Metrics};

use super::{Device, Fault, Io, Layout, NS_PER_US, PageFaults, Sample, known, limit};

/// Reads the message.
pub(super) fn read(metrics: &Metrics) -> Sample {
    let mut sample = Sample { layout: Layout::V2, ..Sample::default() };
    if let Some(cpu) = metrics.cpu.as_ref() {
        let ns = |us: u64| us.saturating_mul(NS_PER_US);
        sample.cpu(ns(cpu.usage_usec), ns(cpu.user_usec), ns(cpu.system_usec));
        sample.throttling(cpu.nr_periods, cpu.nr_throttled, ns(cpu.throttled_usec));
    }
    if let Some(stat) = metrics.memory.as_ref() {
        memory(&mut sample, stat);
    }
    if let Some(events) = metrics.memory_events.as_ref() {
        sample.oom_kills = Some(events.oom_kill);
    }
    if let Some(pids) = metrics.pids.as_ref() {
        sample.threads = known(pids.current);
        sample.threads_max = limit(pids.limit);
    }
    let devices = metrics.io.iter().flat_map(|io| &io.usage).map(|entry| {
        let device = Device { major: entry.major, minor: entry.minor, name: String::new() };
        let io = Io {
            reads: Some(entry.rios),
            writes: Some(entry.wios),
            read_bytes: Some(entry.rbytes),
            written_bytes: Some(entry.wbytes),
        };
        (device, io)
    });
    sample.devices = devices.collect();
    sample
}

fn memory(sample: &mut Sample, stat: &MemoryStat) {
    sample.memory_usage = known(stat.usage);
    sample.max_usage = known(stat.max_usage);
    let Some(usage) = sample.memory_usage else { return };
    if is_of_v2(stat) {
        sample.cache = Some(stat.file);
        sample.rss = Some(stat.anon);
        sample.mapped_file = Some(stat.file_mapped);
        // v2 counts a cgroup with all below it; cAdvisor shows that as both.
        let (all, major) = (stat.pgfault, stat.pgmajfault);
        let faults = PageFaults { own: all, own_major: major, all, all_major: major };
        sample.page_faults = (all != 0).then_some(faults);
        sample.working_set = Some(usage.saturating_sub(stat.inactive_file));
        // 0 of 0 is what a kernel without swap accounting leaves; a limit shows that somebody counts.
        sample.swap = (stat.swap_usage != 0 || stat.swap_limit != 0).then_some(stat.swap_usage);
        return;
    }
    // Of a v1 guest `inactive_file` is the cgroup's own and not the hierarchy's, and swap contains memory.
    sample.faults.insert(Fault::MemoryRowsMissing);
    sample.faults.insert(Fault::WorkingSetMissing);
    if stat.swap_usage != 0 {
        sample.faults.insert(Fault::SwapUnclear);
    }
}

/// True where a row is there that only a v2 kernel has. Whatever runs has a kernel stack.
fn is_of_v2(stat: &MemoryStat) -> bool {
    [stat.anon, stat.file, stat.kernel_stack, stat.slab, stat.sock, stat.shmem, stat.file_mapped]
        .iter()
        .any(|row| *row != 0)
}

#[cfg(test)]
mod tests;
