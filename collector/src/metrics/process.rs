//! The collector's own process, under the names that Prometheus' client libraries use.

use std::fs;

use super::{
    families as f,
    text::{Text, Value},
};
use crate::units::{pages_as_bytes, ticks_as_ns};

/// Figures of `/proc/self/stat`, whose fields are counted from 1 as in proc(5).
struct Stat {
    fields: Vec<u64>,
}

/// Writes what /proc says; what it does not say is absent.
pub(super) fn render(text: &mut Text) {
    let stat = Stat::read();
    let mut one = |family, value: Option<Value>| {
        if let Some(value) = value {
            text.family(family).sample("", value, None);
        }
    };
    let cpu = stat.field(14).zip(stat.field(15)).map(|(user, system)| user.saturating_add(system));
    one(&f::PROCESS_CPU, cpu.and_then(ticks_as_ns).map(Value::Ns));
    let resident = stat.field(24).and_then(pages_as_bytes);
    one(&f::PROCESS_RSS, resident.map(Value::Whole));
    one(&f::PROCESS_VIRTUAL, stat.field(23).map(Value::Whole));
    let fds = fs::read_dir("/proc/self/fd").ok().and_then(|dir| u64::try_from(dir.count()).ok());
    one(&f::PROCESS_FDS, fds.map(Value::Whole));
    one(&f::PROCESS_MAX_FDS, max_fds().map(Value::Whole));
    let started = stat.field(22).and_then(ticks_as_ns).zip(boot_ns());
    one(&f::PROCESS_START, started.map(|(since, boot)| Value::Ns(boot.saturating_add(since))));
}

/// The soft limit, unless there is none.
fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// When the machine was started, in Unix ns.
fn boot_ns() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    seconds.checked_mul(1_000_000_000)
}

// === impl Stat ===

impl Stat {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is a name in parentheses that may hold spaces; the third is a letter.
        let after = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields = after.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        Self { fields }
    }

    fn field(&self, number: usize) -> Option<u64> {
        self.fields.get(number.checked_sub(3)?).copied()
    }
}
