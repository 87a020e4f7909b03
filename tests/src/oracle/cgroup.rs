//! What the kernel's own cgroup files say of a container, under the names that the exposition uses.
//!
//! Read with nothing of ours in between, in either cgroup version. A figure that the kernel does not have is not in here;
//! neither is a CFS figure where no period has elapsed, because then nobody counts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::oracle::exposition::Shown;
use crate::rig::eventually;

/// Figures by cAdvisor's family name; seconds and bytes, devices together.
pub type Figures = BTreeMap<&'static str, f64>;

/// The kernel gathers memory figures per CPU and lazily: that much may move although nothing happens.
const MEMORY_MOVES_BYTES: f64 = 512.0 * 1024.0;
/// Seconds are compared after they were written as text.
const ROUNDING: f64 = 1e-6;

const ROOT: &str = "/sys/fs/cgroup";

/// Whether the machine has the unified hierarchy.
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The figures of the cgroup at `path` below each hierarchy's root.
pub fn figures(path: &str) -> Result<Figures> {
    let path = path.trim_start_matches('/');
    if is_v2() { of_v2(&Path::new(ROOT).join(path)) } else { of_v1(path) }
}

/// The limits of the cgroup at `path`, under the exposition's names; what has none is absent, and so is a limit of swap where the
/// kernel has no such file.
pub fn limits(path: &str) -> Result<Figures> {
    let path = path.trim_start_matches('/');
    let mut found = Figures::new();
    let mut put = |name, value: Option<f64>| {
        // What v1 shows where there is no limit.
        if let Some(value) = value.filter(|value| (0.0..4e18).contains(value)) {
            found.insert(name, value);
        }
    };
    if is_v2() {
        let dir = Path::new(ROOT).join(path);
        let text = fs::read_to_string(dir.join("cpu.max")).context("read cpu.max")?;
        let mut words = text.split_whitespace().map(|word| word.parse().ok());
        put("container_spec_cpu_quota", words.next().flatten());
        put("container_spec_cpu_period", words.next().flatten());
        // "max" is no number.
        let memory = single(&dir.join("memory.max")).ok();
        put("container_spec_memory_limit_bytes", memory);
        let swap = single(&dir.join("memory.swap.max")).ok();
        put("container_spec_memory_swap_limit_bytes", memory.zip(swap).map(|(memory, swap)| memory + swap));
        return Ok(found);
    }
    let at = |controller: &str, file: &str| single(&Path::new(ROOT).join(controller).join(path).join(file));
    put("container_spec_cpu_quota", Some(at("cpu", "cpu.cfs_quota_us")?));
    put("container_spec_cpu_period", Some(at("cpu", "cpu.cfs_period_us")?));
    put("container_spec_cpu_shares", Some(at("cpu", "cpu.shares")?));
    put("container_spec_memory_limit_bytes", Some(at("memory", "memory.limit_in_bytes")?));
    put("container_spec_memory_swap_limit_bytes", at("memory", "memory.memsw.limit_in_bytes").ok());
    Ok(found)
}

/// What v2 has instead of shares.
pub fn weight(path: &str) -> Result<f64> {
    single(&Path::new(ROOT).join(path.trim_start_matches('/')).join("cpu.weight"))
}

/// The cgroup of a process, in the hierarchy that accounts memory.
pub fn of_process(pid: i32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).context("read a process's cgroup")?;
    let mut rows = text.lines().map(|row| row.splitn(3, ':').collect::<Vec<_>>());
    let row = rows.find(|row| row.get(1).is_some_and(|names| names.is_empty() || names.contains("memory")));
    let path = row.as_deref().and_then(|row| row.get(2)).context("it is in no cgroup")?;
    Ok((*path).to_owned())
}

/// The figures of a cgroup whose processes have stopped working: of two readings that agree on its CPU time, the second.
/// A process may say that it rests while it is still on its way into sleep.
pub fn at_rest(path: &str, limit: Duration) -> Result<Figures> {
    let mut last = None;
    eventually(limit, &format!("the CPU time of {path} to stand still"), || {
        let now = figures(path)?;
        let cpu = now.get("container_cpu_usage_seconds_total").copied();
        let stands = cpu.is_some() && last == cpu;
        last = cpu;
        Ok(stands.then_some(now))
    })
}

/// This moment, in Unix ms.
pub fn now_ms() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    u64::try_from(since.as_millis()).context("a time")
}

/// Whether what is shown is of a Stats after `since_ms` (Unix). Where a machine is so slow that a Stats was given up there are no numbers
/// of it, and the time of what is left is nobody's.
pub fn is_sampled_after(shown: &Shown, since_ms: u64) -> bool {
    let counted = ["container_cpu_usage_seconds_total", "container_memory_usage_bytes"];
    shown.time_ms > since_ms && counted.iter().any(|name| shown.values.contains_key(*name))
}

/// Demands of a container that rests that every figure of the kernel is shown and lies between what the kernel said
/// `before` and `after`, and that nothing is shown that the kernel does not have.
pub fn agree(before: &Figures, shown: &Shown, after: &Figures) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, low) in before {
        let high = after.get(name).copied().unwrap_or(*low);
        let slack = if name.contains("memory") { MEMORY_MOVES_BYTES } else { ROUNDING };
        match shown.values.get(*name) {
            Some(value) if (low.min(high) - slack..=low.max(high) + slack).contains(value) => {}
            // The shims of 1.6 do not say it on cgroup v2.
            None if *name == "container_memory_max_usage_bytes" && is_v2() => {}
            other => wrong.push(format!("{name}: shown {other:?}, the kernel says {low} to {high}")),
        }
    }
    for name in shown.values.keys() {
        let counted = [
            "container_cpu_",
            "container_memory_",
            "container_fs_",
            "container_blkio_",
            "container_oom",
            "container_processes",
        ];
        if counted.iter().any(|start| name.starts_with(start)) && !before.contains_key(name.as_str()) {
            wrong.push(format!("{name} is shown, and the kernel has no such figure"));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}\nbefore: {before:#?}\nafter: {after:#?}\nshown: {shown:#?}");
    Ok(())
}

fn of_v2(dir: &Path) -> Result<Figures> {
    let mut found = Figures::new();
    let cpu = rows(&dir.join("cpu.stat"))?;
    for (name, key) in [
        ("container_cpu_usage_seconds_total", "usage_usec"),
        ("container_cpu_user_seconds_total", "user_usec"),
        ("container_cpu_system_seconds_total", "system_usec"),
    ] {
        found.insert(name, *cpu.get(key).with_context(|| format!("cpu.stat has no {key}"))? / 1e6);
    }
    throttling(&mut found, &cpu, "throttled_usec", 1e6);

    let memory = rows(&dir.join("memory.stat"))?;
    let stat = |key: &str| memory.get(key).copied().with_context(|| format!("memory.stat has no {key}"));
    let usage = single(&dir.join("memory.current"))?;
    found.insert("container_memory_usage_bytes", usage);
    found.insert("container_memory_working_set_bytes", (usage - stat("inactive_file")?).max(0.0));
    found.insert("container_memory_rss", stat("anon")?);
    found.insert("container_memory_cache", stat("file")?);
    found.insert("container_memory_mapped_file", stat("file_mapped")?);
    found.insert("container_memory_swap", single(&dir.join("memory.swap.current"))?);
    if let Ok(peak) = single(&dir.join("memory.peak")) {
        found.insert("container_memory_max_usage_bytes", peak);
    }
    let kills = rows(&dir.join("memory.events"))?.get("oom_kill").copied().context("no oom_kill")?;
    found.insert("container_oom_events_total", kills);
    found.insert("container_threads", single(&dir.join("pids.current"))?);

    page_faults(&mut found, &memory, ["pgfault", "pgmajfault", "pgfault", "pgmajfault"]);
    processes(&mut found, dir)?;

    let io = fs::read_to_string(dir.join("io.stat")).context("read io.stat")?;
    for (name, key) in [
        ("container_fs_reads_total", "rios="),
        ("container_fs_writes_total", "wios="),
        ("container_fs_reads_bytes_total", "rbytes="),
        ("container_fs_writes_bytes_total", "wbytes="),
    ] {
        let values = io.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<f64>().ok());
        sum(&mut found, name, values);
    }
    both_ways(&mut found);
    Ok(found)
}

fn of_v1(path: &str) -> Result<Figures> {
    let at =
        |controller: &str, file: &str| -> PathBuf { Path::new(ROOT).join(controller).join(path).join(file) };
    let mut found = Figures::new();
    found.insert("container_cpu_usage_seconds_total", single(&at("cpuacct", "cpuacct.usage"))? / 1e9);
    let modes = rows(&at("cpuacct", "cpuacct.stat"))?;
    for (name, key) in
        [("container_cpu_user_seconds_total", "user"), ("container_cpu_system_seconds_total", "system")]
    {
        // In ticks of 10 ms, whatever the kernel's own are.
        found.insert(name, *modes.get(key).with_context(|| format!("cpuacct.stat has no {key}"))? / 100.0);
    }
    throttling(&mut found, &rows(&at("cpu", "cpu.stat"))?, "throttled_time", 1e9);

    let memory = rows(&at("memory", "memory.stat"))?;
    let stat = |key: &str| memory.get(key).copied().with_context(|| format!("memory.stat has no {key}"));
    let usage = single(&at("memory", "memory.usage_in_bytes"))?;
    found.insert("container_memory_usage_bytes", usage);
    found.insert("container_memory_working_set_bytes", (usage - stat("total_inactive_file")?).max(0.0));
    found.insert("container_memory_rss", stat("total_rss")?);
    found.insert("container_memory_cache", stat("total_cache")?);
    found.insert("container_memory_mapped_file", stat("total_mapped_file")?);
    found.insert("container_memory_max_usage_bytes", single(&at("memory", "memory.max_usage_in_bytes"))?);
    found.insert("container_memory_failcnt", single(&at("memory", "memory.failcnt"))?);
    if let Ok(both) = single(&at("memory", "memory.memsw.usage_in_bytes")) {
        found.insert("container_memory_swap", (both - usage).max(0.0));
    }
    if let Some(kills) = rows(&at("memory", "memory.oom_control"))?.get("oom_kill") {
        found.insert("container_oom_events_total", *kills);
    }
    found.insert("container_threads", single(&at("pids", "pids.current"))?);
    page_faults(&mut found, &memory, ["pgfault", "pgmajfault", "total_pgfault", "total_pgmajfault"]);
    processes(&mut found, &at("pids", ""))?;

    for (file, read, write) in [
        ("blkio.throttle.io_serviced_recursive", "container_fs_reads_total", "container_fs_writes_total"),
        (
            "blkio.throttle.io_service_bytes_recursive",
            "container_fs_reads_bytes_total",
            "container_fs_writes_bytes_total",
        ),
    ] {
        // Not every kernel has it.
        let text = fs::read_to_string(at("blkio", file)).unwrap_or_default();
        for (name, operation) in [(read, " Read "), (write, " Write ")] {
            sum(&mut found, name, text.lines().filter_map(|row| row.split_once(operation)?.1.parse().ok()));
        }
    }
    both_ways(&mut found);
    Ok(found)
}

/// The two kinds in both scopes together, as the exposition is summed by its reader.
fn page_faults(found: &mut Figures, stat: &BTreeMap<String, f64>, keys: [&str; 4]) {
    found.insert("container_memory_failures_total", keys.iter().filter_map(|key| stat.get(*key)).sum());
}

/// Of the cgroup itself: none of the tests' containers makes cgroups below its own.
fn processes(found: &mut Figures, dir: &Path) -> Result<()> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).context("read cgroup.procs")?;
    found.insert("container_processes", text.lines().map(|_| 1.0).sum());
    Ok(())
}

/// Bytes read and written together, likewise.
fn both_ways(found: &mut Figures) {
    let bytes = ["container_fs_reads_bytes_total", "container_fs_writes_bytes_total"];
    let both: Vec<f64> = bytes.iter().filter_map(|name| found.get(name).copied()).collect();
    sum(found, "container_blkio_device_usage_total", both.into_iter());
}

fn throttling(found: &mut Figures, rows: &BTreeMap<String, f64>, time: &str, per_second: f64) {
    let value = |key: &str| rows.get(key).copied().filter(|_| rows.get("nr_periods") > Some(&0.0));
    for (name, value) in [
        ("container_cpu_cfs_periods_total", value("nr_periods")),
        ("container_cpu_cfs_throttled_periods_total", value("nr_throttled")),
        ("container_cpu_cfs_throttled_seconds_total", value(time).map(|time| time / per_second)),
    ] {
        found.extend(value.map(|value| (name, value)));
    }
}

/// The sum of `values`, unless there is none.
fn sum(found: &mut Figures, name: &'static str, values: impl Iterator<Item = f64>) {
    if let Some(sum) = values.reduce(|one, other| one + other) {
        found.insert(name, sum);
    }
}

/// A file of one number.
fn single(path: &Path) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} says {text:?}", path.display()))
}

/// A file of rows with a key and a number.
fn rows(path: &Path) -> Result<BTreeMap<String, f64>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let rows = text.lines().filter_map(|row| row.split_once(' '));
    Ok(rows.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect())
}
