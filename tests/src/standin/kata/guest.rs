//! The guest of a stand-in's container: the figures that its kernel would give, and so the truth that an exposition is
//! held against.
//!
//! A guest does not move: the same Stats twice is the same answer; unless a script says what its counters grow by.

use std::{collections::BTreeMap, env, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A cgroup version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroup {
    /// A hierarchy per controller.
    V1,
    /// One hierarchy.
    #[default]
    V2,
}

/// A container's cgroup in its guest. Times are in microseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guest {
    /// What the guest's kernel has mounted.
    pub cgroup: Cgroup,
    /// CPU time in user mode.
    pub user_us: u64,
    /// CPU time in the kernel.
    pub system_us: u64,
    /// Periods of the quota.
    pub periods: u64,
    /// Of these, throttled.
    pub throttled: u64,
    /// Time throttled.
    pub throttled_us: u64,
    /// memory.current, or memory.usage_in_bytes.
    pub usage: u64,
    /// memory.peak, or memory.max_usage_in_bytes.
    pub peak: u64,
    /// memory.max; none says "max".
    pub limit: Option<u64>,
    /// memory.failcnt, of v1 alone.
    pub failcnt: u64,
    /// Swap in use; none where the kernel has no swap accounting.
    pub swap: Option<u64>,
    /// memory.stat, under its own names.
    pub stat: BTreeMap<String, u64>,
    /// pids.current.
    pub pids: u64,
    /// pids.max; none says "max".
    pub pids_limit: Option<u64>,
    /// Block devices.
    pub devices: Vec<Device>,
    /// Sizes of huge pages that the kernel has.
    pub hugetlb: Vec<String>,
}

/// One block device of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl Guest {
    /// The variable that describes one.
    pub const KEY: &str = "STANDIN_GUEST";

    /// As the environment says.
    ///
    /// # Errors
    /// It describes none.
    pub fn of_env() -> Result<Option<Self>> {
        let Some(text) = env::var_os(Self::KEY) else { return Ok(None) };
        let guest = serde_json::from_str(&text.to_string_lossy());
        guest.map(Some).with_context(|| format!("{} is no guest", Self::KEY))
    }

    /// A container that has worked with files, two disks and a quota, and now rests. Every figure is another one.
    #[must_use]
    pub fn worked(cgroup: Cgroup) -> Self {
        let stat: &[(&str, u64)] = match cgroup {
            Cgroup::V1 => &[
                ("cache", 63_500_000),
                ("rss", 1_100_000),
                ("mapped_file", 210_000),
                ("pgfault", 4_100),
                ("pgmajfault", 11),
                ("inactive_anon", 45_000),
                ("active_anon", 1_000_000),
                ("inactive_file", 63_000_000),
                ("active_file", 400_000),
                ("unevictable", 0),
                ("total_cache", 63_600_000),
                ("total_rss", 1_200_000),
                ("total_mapped_file", 220_000),
                ("total_pgfault", 4_200),
                ("total_pgmajfault", 12),
                ("total_inactive_anon", 46_000),
                ("total_active_anon", 1_100_000),
                ("total_inactive_file", 63_100_000),
                ("total_active_file", 410_000),
                ("total_unevictable", 0),
            ],
            Cgroup::V2 => &[
                ("anon", 1_200_000),
                ("file", 63_600_000),
                ("kernel_stack", 32_768),
                ("slab", 90_000),
                ("shmem", 0),
                ("file_mapped", 220_000),
                ("inactive_anon", 46_000),
                ("active_anon", 1_100_000),
                ("inactive_file", 63_100_000),
                ("active_file", 410_000),
                ("unevictable", 0),
                ("pgfault", 4_200),
                ("pgmajfault", 12),
            ],
        };
        let disk = |minor, n: u64| Device {
            major: 254,
            minor,
            read_bytes: 1_000_000 * n,
            written_bytes: 2_000_000 * n,
            reads: 100 * n,
            writes: 200 * n,
        };
        Self {
            cgroup,
            user_us: 5_250_000,
            system_us: 2_750_000,
            periods: 90,
            throttled: 30,
            throttled_us: 1_500_000,
            usage: 65_000_000,
            peak: 66_000_000,
            limit: Some(134_217_728),
            failcnt: if cgroup == Cgroup::V1 { 7 } else { 0 },
            swap: Some(500_000),
            stat: stat.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
            pids: 3,
            pids_limit: Some(128),
            devices: vec![disk(0, 1), disk(16, 3)],
            hugetlb: vec!["2MB".to_owned()],
        }
    }

    /// The same container before it did anything: no quota, no limit, no disk, no swap.
    #[must_use]
    pub fn idle(cgroup: Cgroup) -> Self {
        let stat: &[(&str, u64)] = match cgroup {
            Cgroup::V1 => &[
                ("rss", 90_000),
                ("pgfault", 300),
                ("inactive_anon", 94_000),
                ("total_rss", 90_000),
                ("total_pgfault", 300),
                ("total_inactive_anon", 94_000),
            ],
            Cgroup::V2 => {
                &[("anon", 90_000), ("kernel_stack", 16_384), ("inactive_anon", 94_000), ("pgfault", 300)]
            }
        };
        Self {
            cgroup,
            user_us: 900,
            system_us: 2_100,
            usage: 540_000,
            peak: 2_600_000,
            stat: stat.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
            pids: 1,
            ..Self::default()
        }
    }

    /// The container of the captured answer whose name ends with `pagecache`.
    #[must_use]
    pub fn captured() -> Self {
        let stat = [("inactive_anon", 45_056), ("inactive_file", 63_315_968), ("active_file", 1_318_912)];
        Self {
            cgroup: Cgroup::V2,
            user_us: 7_297_484,
            system_us: 1_422_830,
            usage: 64_978_944,
            peak: 66_269_184,
            stat: stat.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
            pids: 1,
            hugetlb: vec!["1GB".to_owned(), "2MB".to_owned()],
            ..Self::default()
        }
    }

    /// The same after so long, its counters grown by these every second. What is no counter stays.
    #[must_use]
    pub fn after(&self, time: Duration, by: &Self) -> Self {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let grown = |from: u64, by: u64| from.saturating_add(by.saturating_mul(us) / 1_000_000);
        let mut devices = self.devices.clone();
        for (device, by) in devices.iter_mut().zip(&by.devices) {
            device.read_bytes = grown(device.read_bytes, by.read_bytes);
            device.written_bytes = grown(device.written_bytes, by.written_bytes);
            device.reads = grown(device.reads, by.reads);
            device.writes = grown(device.writes, by.writes);
        }
        Self {
            user_us: grown(self.user_us, by.user_us),
            system_us: grown(self.system_us, by.system_us),
            periods: grown(self.periods, by.periods),
            throttled: grown(self.throttled, by.throttled),
            throttled_us: grown(self.throttled_us, by.throttled_us),
            devices,
            ..self.clone()
        }
    }

    /// What the kernel says, under cAdvisor's names; devices together, as the exposition is summed by its reader.
    #[must_use]
    pub fn truth(&self) -> BTreeMap<&'static str, f64> {
        let mut truth = BTreeMap::new();
        let seconds = |us: u64| as_f64(us) / 1e6;
        truth.insert("container_cpu_usage_seconds_total", seconds(self.user_us + self.system_us));
        truth.insert("container_cpu_user_seconds_total", seconds(self.user_us));
        truth.insert("container_cpu_system_seconds_total", seconds(self.system_us));
        if self.periods > 0 {
            truth.insert("container_cpu_cfs_periods_total", as_f64(self.periods));
            truth.insert("container_cpu_cfs_throttled_periods_total", as_f64(self.throttled));
            truth.insert("container_cpu_cfs_throttled_seconds_total", seconds(self.throttled_us));
        }
        self.memory(&mut truth);
        truth.insert("container_threads", as_f64(self.pids));
        if let Some(limit) = self.pids_limit {
            truth.insert("container_threads_max", as_f64(limit));
        }
        for device in &self.devices {
            *truth.entry("container_blkio_device_usage_total").or_default() +=
                as_f64(device.read_bytes + device.written_bytes);
            for (name, value) in [
                ("container_fs_reads_total", device.reads),
                ("container_fs_writes_total", device.writes),
                ("container_fs_reads_bytes_total", device.read_bytes),
                ("container_fs_writes_bytes_total", device.written_bytes),
            ] {
                *truth.entry(name).or_default() += as_f64(value);
            }
        }
        truth
    }

    fn memory(&self, truth: &mut BTreeMap<&'static str, f64>) {
        let stat = |key: &str| self.stat.get(key).copied().unwrap_or(0);
        let (rss, cache, mapped, inactive) = match self.cgroup {
            Cgroup::V1 => ("total_rss", "total_cache", "total_mapped_file", "total_inactive_file"),
            Cgroup::V2 => ("anon", "file", "file_mapped", "inactive_file"),
        };
        truth.insert("container_memory_usage_bytes", as_f64(self.usage));
        truth.insert("container_memory_max_usage_bytes", as_f64(self.peak));
        truth.insert("container_memory_working_set_bytes", as_f64(self.usage.saturating_sub(stat(inactive))));
        truth.insert("container_memory_rss", as_f64(stat(rss)));
        truth.insert("container_memory_cache", as_f64(stat(cache)));
        truth.insert("container_memory_mapped_file", as_f64(stat(mapped)));
        let faults = match self.cgroup {
            Cgroup::V1 => ["pgfault", "pgmajfault", "total_pgfault", "total_pgmajfault"],
            Cgroup::V2 => ["pgfault", "pgmajfault", "pgfault", "pgmajfault"],
        };
        let faults = faults.map(|key| self.stat.get(key).copied());
        if faults.iter().any(Option::is_some) {
            truth.insert("container_memory_failures_total", as_f64(faults.into_iter().flatten().sum()));
        }
        if let Some(swap) = self.swap {
            truth.insert("container_memory_swap", as_f64(swap));
        }
        if self.cgroup == Cgroup::V1 {
            truth.insert("container_memory_failcnt", as_f64(self.failcnt));
        }
    }
}

/// Exact for every figure of a test.
fn as_f64(value: u64) -> f64 {
    u32::try_from(value).map_or(f64::INFINITY, f64::from)
}
