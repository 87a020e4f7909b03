//! A container's limits: those of its OCI spec, and those that an Update set since.
//!
//! What nobody can tell any more is absent: an Update whose resources did not come leaves nothing known. Never read from the
//! host's cgroups, so that a container in a VM is treated as any other.

use serde::Deserialize;
use shimtap_proto::link;

use super::text::Value;

/// Limits from here on mean "none", as cgroup v1 shows it.
const NO_LIMIT: u64 = 1 << 62;

/// Limits; absent = not known, or nobody set one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// CPU time per period, in µs; negative = no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period, in µs.
    pub cpu_period_us: Option<u64>,
    /// CPU shares.
    pub cpu_shares: Option<u64>,
    /// Memory limit in bytes; negative = no limit.
    pub memory_limit_bytes: Option<i64>,
    /// Limit of memory and swap together in bytes; negative = no limit.
    pub memory_swap_limit_bytes: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resources {
    cpu: Cpu,
    memory: Memory,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cpu {
    quota: Option<i64>,
    period: Option<u64>,
    shares: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Memory {
    limit: Option<i64>,
    swap: Option<i64>,
}

// === impl Spec ===

impl Spec {
    /// As a task's announcement has it.
    #[must_use]
    pub fn announced(open: &link::Open) -> Self {
        Self {
            cpu_quota_us: open.cpu_quota_us,
            cpu_period_us: open.cpu_period_us,
            cpu_shares: open.cpu_shares,
            memory_limit_bytes: open.memory_limit_bytes,
            memory_swap_limit_bytes: open.memory_swap_limit_bytes,
        }
    }

    /// What an Update asks for, from the OCI resources' JSON. `None` where that is no such JSON.
    #[must_use]
    pub fn asked(resources: &[u8]) -> Option<Self> {
        let Resources { cpu, memory } = serde_json::from_slice(resources).ok()?;
        Some(Self {
            cpu_quota_us: cpu.quota,
            cpu_period_us: cpu.period,
            cpu_shares: cpu.shares,
            memory_limit_bytes: memory.limit,
            memory_swap_limit_bytes: memory.swap,
        })
    }

    /// These, and where they say nothing (0 and absent are the same to the runtimes) those from before.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        Self {
            cpu_quota_us: self.cpu_quota_us.filter(|n| *n != 0).or(before.cpu_quota_us),
            cpu_period_us: self.cpu_period_us.filter(|n| *n != 0).or(before.cpu_period_us),
            cpu_shares: self.cpu_shares.filter(|n| *n != 0).or(before.cpu_shares),
            memory_limit_bytes: self.memory_limit_bytes.filter(|n| *n != 0).or(before.memory_limit_bytes),
            memory_swap_limit_bytes: self
                .memory_swap_limit_bytes
                .filter(|n| *n != 0)
                .or(before.memory_swap_limit_bytes),
        }
    }

    /// The memory limit in bytes, where there is one.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        limit_of(self.memory_limit_bytes)
    }

    pub(super) fn quota(&self) -> Option<Value> {
        limit(self.cpu_quota_us)
    }

    pub(super) fn period(&self) -> Option<Value> {
        self.cpu_period_us.filter(|period| *period > 0).map(Value::Whole)
    }

    pub(super) fn shares(&self) -> Option<Value> {
        self.cpu_shares.filter(|shares| *shares > 0).map(Value::Whole)
    }

    pub(super) fn memory(&self) -> Option<Value> {
        self.memory_limit().map(Value::Whole)
    }

    pub(super) fn swap(&self) -> Option<Value> {
        limit(self.memory_swap_limit_bytes)
    }
}

fn limit(value: Option<i64>) -> Option<Value> {
    limit_of(value).map(Value::Whole)
}

fn limit_of(value: Option<i64>) -> Option<u64> {
    u64::try_from(value?).ok().filter(|value| *value > 0 && *value < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_changes_what_it_names() {
        let before = Spec {
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            cpu_shares: Some(512),
            memory_limit_bytes: Some(1 << 30),
            memory_swap_limit_bytes: None,
        };
        let cases = [
            ("{}", before),
            (r#"{"cpu":{"quota":0,"shares":0},"memory":{"limit":0}}"#, before),
            (r#"{"cpu":{"quota":-1}}"#, Spec { cpu_quota_us: Some(-1), ..before }),
            (
                r#"{"memory":{"limit":7,"swap":9},"devices":[{"allow":false}]}"#,
                Spec { memory_limit_bytes: Some(7), memory_swap_limit_bytes: Some(9), ..before },
            ),
        ];
        for (json, after) in cases {
            assert_eq!(Spec::asked(json.as_bytes()).map(|asked| asked.over(before)), Some(after), "{json}");
        }
        for none in ["", "[]x", "{\"cpu\":7}", "{\"cpu\":{\"quota\":\"much\"}}"] {
            assert_eq!(Spec::asked(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn what_means_no_limit_is_not_shown() {
        for (bytes, shown) in [
            (Some(1), true),
            (Some((1 << 62) - 1), true),
            (Some(1 << 62), false),
            (Some(i64::MAX), false),
            (Some(0), false),
            (Some(-1), false),
            (None, false),
        ] {
            assert_eq!(limit(bytes).is_some(), shown, "{bytes:?}");
        }
    }
}
