//! One Stats answer, reduced to the figures that are shown, from either cgroup version.
//!
//! protobuf's third version cannot tell 0 from unset, so each figure has a rule by which it is *known* (listed in
//! docs/metrics.md, "When a value is known"). What is not known is `None` here and absent in every exposition;
//! nothing is repaired and nothing is guessed.

use std::collections::BTreeMap;

use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2, protobuf::Message};
use shimtap_proto::link;

use crate::closed::closed;

closed! {
    /// How a wrapper got a sample.
    pub enum SampleSource {
        /// Somebody else asked.
        Snooped => "snooped",
        /// The wrapper asked.
        Polled => "polled",
        /// The wrapper asked when the exit was known.
        Final => "final",
        /// It did not say.
        Unknown => "unknown",
    }
}

closed! {
    /// Why a sample was of no use.
    pub enum Undecoded {
        /// Its type is none that we know.
        Type => "type",
        /// Its bytes are no such message.
        Body => "body",
        /// A newer one was there.
        Stale => "stale",
    }
}

/// Figures of one container at one moment. Every field `None` = not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Unix ns when the answer arrived at the wrapper.
    pub time_ns: u64,
    /// CPU time used, in ns.
    pub cpu_ns: Option<u64>,
    /// Of it in user mode, in ns.
    pub cpu_user_ns: Option<u64>,
    /// Of it in the kernel, in ns.
    pub cpu_system_ns: Option<u64>,
    /// Enforcement periods elapsed.
    pub periods: Option<u64>,
    /// Of these, throttled.
    pub throttled_periods: Option<u64>,
    /// Time throttled, in ns.
    pub throttled_ns: Option<u64>,
    /// Memory in use, page cache included, in bytes.
    pub memory_usage: Option<u64>,
    /// Memory in use without the inactive file cache, in bytes.
    pub working_set: Option<u64>,
    /// Anonymous memory, in bytes.
    pub rss: Option<u64>,
    /// Page cache, in bytes.
    pub cache: Option<u64>,
    /// Swap in use, in bytes.
    pub swap: Option<u64>,
    /// Mapped files, in bytes.
    pub mapped_file: Option<u64>,
    /// Highest memory usage, in bytes.
    pub max_usage: Option<u64>,
    /// How often usage hit the limit.
    pub failcnt: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Most threads allowed.
    pub threads_max: Option<u64>,
    /// Block IO by device.
    pub devices: BTreeMap<Device, Io>,
}

/// A block device by its numbers, and by its name where the sample has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// As `/dev/sda`; empty = not said.
    pub name: String,
}

/// Block IO of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Reads completed.
    pub reads: Option<u64>,
    /// Writes completed.
    pub writes: Option<u64>,
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub written_bytes: Option<u64>,
}

const TYPE_V1: &str = "io.containerd.cgroups.v1.Metrics";
const TYPE_V2: &str = "io.containerd.cgroups.v2.Metrics";
const NS_PER_US: u64 = 1_000;
/// CPU time after which user and system time cannot both be 0: the kernel counts them in ticks of at most 10 ms,
/// and a hundred of those are not overlooked.
const BOTH_MODES_SHOW_NS: u64 = 1_000_000_000;
/// Limits from here on mean "none": cgroup v1 shows the largest multiple of the page size, v2 the largest number.
const NO_LIMIT: u64 = 1 << 62;

// === impl SampleSource ===

impl SampleSource {
    /// From the wire.
    #[must_use]
    pub fn of(stats: &link::Stats) -> Self {
        match stats.source.enum_value() {
            Ok(link::StatsSource::STATS_SOURCE_SNOOPED) => Self::Snooped,
            Ok(link::StatsSource::STATS_SOURCE_POLLED) => Self::Polled,
            Ok(link::StatsSource::STATS_SOURCE_FINAL) => Self::Final,
            _ => Self::Unknown,
        }
    }
}

// === impl Sample ===

impl Sample {
    /// Reads what a shim answered.
    pub fn decode(stats: &link::Stats) -> Result<Self, Undecoded> {
        // Clients differ in whether they put a host in front of the type's name.
        let name = stats.type_url.rsplit('/').next().unwrap_or_default();
        let mut sample = match name {
            TYPE_V1 => from_v1(&v1::Metrics::parse_from_bytes(&stats.value).map_err(|_| Undecoded::Body)?),
            TYPE_V2 => from_v2(&v2::Metrics::parse_from_bytes(&stats.value).map_err(|_| Undecoded::Body)?),
            _ => return Err(Undecoded::Type),
        };
        sample.time_ns = stats.time_ns;
        Ok(sample)
    }

    /// This sample with every counter at least what it was in `old`, an earlier one: within an incarnation none
    /// goes backwards, whatever a shim says after its container's cgroup is gone.
    #[must_use]
    pub fn not_below(mut self, old: &Self) -> Self {
        for (new, old) in [
            (&mut self.cpu_ns, old.cpu_ns),
            (&mut self.cpu_user_ns, old.cpu_user_ns),
            (&mut self.cpu_system_ns, old.cpu_system_ns),
            (&mut self.periods, old.periods),
            (&mut self.throttled_periods, old.throttled_periods),
            (&mut self.throttled_ns, old.throttled_ns),
            (&mut self.failcnt, old.failcnt),
            (&mut self.oom_kills, old.oom_kills),
        ] {
            *new = (*new).max(old);
        }
        for (device, old) in &old.devices {
            let new = self.devices.entry(device.clone()).or_default();
            new.reads = new.reads.max(old.reads);
            new.writes = new.writes.max(old.writes);
            new.read_bytes = new.read_bytes.max(old.read_bytes);
            new.written_bytes = new.written_bytes.max(old.written_bytes);
        }
        self
    }

    fn cpu(&mut self, total: u64, user: u64, system: u64) {
        // A process that ran has used CPU time; 0 means that nobody counted.
        self.cpu_ns = known(total);
        if total != 0 && (user != 0 || system != 0 || total < BOTH_MODES_SHOW_NS) {
            self.cpu_user_ns = Some(user);
            self.cpu_system_ns = Some(system);
        }
    }

    fn throttling(&mut self, periods: u64, throttled: u64, time_ns: u64) {
        // Without a quota no period ever elapses: 0 then is the truth, and nobody wants to see it.
        if periods == 0 {
            return;
        }
        self.periods = Some(periods);
        self.throttled_periods = Some(throttled);
        if throttled == 0 || time_ns != 0 {
            self.throttled_ns = Some(time_ns);
        }
    }
}

fn from_v1(metrics: &v1::Metrics) -> Sample {
    let mut sample = Sample::default();
    if let Some(cpu) = metrics.cpu.as_ref() {
        if let Some(usage) = cpu.usage.as_ref() {
            sample.cpu(usage.total, usage.user, usage.kernel);
        }
        if let Some(throttling) = cpu.throttling.as_ref() {
            sample.throttling(throttling.periods, throttling.throttled_periods, throttling.throttled_time);
        }
    }
    if let Some(memory) = metrics.memory.as_ref() {
        memory_v1(&mut sample, memory);
    }
    if let Some(control) = metrics.memory_oom_control.as_ref() {
        sample.oom_kills = Some(control.oom_kill);
    }
    if let Some(pids) = metrics.pids.as_ref() {
        sample.threads = known(pids.current);
        sample.threads_max = limit(pids.limit);
    }
    if let Some(blkio) = metrics.blkio.as_ref() {
        for entry in &blkio.io_service_bytes_recursive {
            let io = sample.devices.entry(device_v1(entry)).or_default();
            operation(entry, &mut io.read_bytes, &mut io.written_bytes);
        }
        for entry in &blkio.io_serviced_recursive {
            let io = sample.devices.entry(device_v1(entry)).or_default();
            operation(entry, &mut io.reads, &mut io.writes);
        }
    }
    sample
}

fn memory_v1(sample: &mut Sample, memory: &v1::MemoryStat) {
    if let Some(usage) = memory.usage.as_ref() {
        sample.memory_usage = known(usage.usage);
        sample.max_usage = known(usage.max);
        sample.failcnt = sample.memory_usage.map(|_| usage.failcnt);
        // `swap` counts memory and swap together (memory.memsw).
        sample.swap = memory.swap.as_ref().map(|both| both.usage.saturating_sub(usage.usage));
    }
    let rows = [
        memory.total_cache,
        memory.total_rss,
        memory.total_mapped_file,
        memory.total_pg_pg_in,
        memory.total_pg_fault,
        memory.total_inactive_anon,
        memory.total_active_anon,
        memory.total_inactive_file,
        memory.total_active_file,
        memory.total_unevictable,
    ];
    if rows.iter().any(|row| *row != 0) {
        sample.cache = Some(memory.total_cache);
        sample.rss = Some(memory.total_rss);
        sample.mapped_file = Some(memory.total_mapped_file);
        sample.working_set =
            sample.memory_usage.map(|usage| usage.saturating_sub(memory.total_inactive_file));
    }
}

fn from_v2(metrics: &v2::Metrics) -> Sample {
    let mut sample = Sample::default();
    if let Some(cpu) = metrics.cpu.as_ref() {
        let ns = |us: u64| us.saturating_mul(NS_PER_US);
        sample.cpu(ns(cpu.usage_usec), ns(cpu.user_usec), ns(cpu.system_usec));
        sample.throttling(cpu.nr_periods, cpu.nr_throttled, ns(cpu.throttled_usec));
    }
    if let Some(memory) = metrics.memory.as_ref() {
        memory_v2(&mut sample, memory);
    }
    if let Some(events) = metrics.memory_events.as_ref() {
        sample.oom_kills = Some(events.oom_kill);
    }
    if let Some(pids) = metrics.pids.as_ref() {
        sample.threads = known(pids.current);
        sample.threads_max = limit(pids.limit);
    }
    for entry in metrics.io.iter().flat_map(|io| &io.usage) {
        let device = Device { major: entry.major, minor: entry.minor, name: String::new() };
        sample.devices.insert(
            device,
            Io {
                reads: Some(entry.rios),
                writes: Some(entry.wios),
                read_bytes: Some(entry.rbytes),
                written_bytes: Some(entry.wbytes),
            },
        );
    }
    sample
}

fn memory_v2(sample: &mut Sample, memory: &v2::MemoryStat) {
    sample.memory_usage = known(memory.usage);
    sample.max_usage = known(memory.max_usage);
    // 0 of 0 is what a kernel without swap accounting leaves; a limit shows that somebody counts.
    if memory.swap_usage != 0 || memory.swap_limit != 0 {
        sample.swap = Some(memory.swap_usage);
    }
    let rows = [
        memory.anon,
        memory.file,
        memory.kernel_stack,
        memory.slab,
        memory.file_mapped,
        memory.inactive_anon,
        memory.active_anon,
        memory.inactive_file,
        memory.active_file,
        memory.unevictable,
        memory.pgfault,
    ];
    if rows.iter().any(|row| *row != 0) {
        sample.cache = Some(memory.file);
        sample.rss = Some(memory.anon);
        sample.mapped_file = Some(memory.file_mapped);
        sample.working_set = sample.memory_usage.map(|usage| usage.saturating_sub(memory.inactive_file));
    }
}

fn device_v1(entry: &v1::BlkIOEntry) -> Device {
    Device { major: entry.major, minor: entry.minor, name: entry.device.clone() }
}

fn operation(entry: &v1::BlkIOEntry, read: &mut Option<u64>, write: &mut Option<u64>) {
    if entry.op.eq_ignore_ascii_case("read") {
        *read = Some(entry.value);
    } else if entry.op.eq_ignore_ascii_case("write") {
        *write = Some(entry.value);
    }
}

/// A figure that is never 0 where somebody counted it.
fn known(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

/// A limit, unless it says that there is none.
fn limit(value: u64) -> Option<u64> {
    known(value).filter(|value| *value < NO_LIMIT)
}
