//! `GET /v1/top` on the control socket: what changes from one look to the next, for `shimtap top`.
//!
//! Counters and moments only: what they come to per second is the client's business, from two of them and their own times.
//! What is not known is absent, and so is what was last known too long ago.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::control::{PsContainer, about};
use crate::{
    metrics::{Container, Live, Registry, Said},
    node::HostFigures,
    time::now_ns,
};

/// All of it. Fields are only ever added; absent = not known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Top {
    /// The collector's release.
    pub version: String,
    /// Unix ns at which the counters of streams were read.
    pub time_ns: u64,
    /// Wrappers that are connected.
    pub wrappers: usize,
    /// Tasks known.
    pub containers: Vec<TopContainer>,
}

/// One task.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TopContainer {
    /// As in `/v1/ps`, but for `record`, which is large and does not change.
    #[serde(flatten)]
    pub about: PsContainer,
    /// `sandbox`, `pod_container`, `plain`.
    pub role: String,
    /// Most memory that it may have, in bytes; absent also where it has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// What the newest statistics said themselves, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<TopSample>,
    /// Those before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<TopSample>,
    /// The pod's interfaces, at its sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<TopNetwork>,
    /// What a pod that is a VM costs its host beyond its containers, at its sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overhead: Option<TopOverhead>,
}

/// Figures of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopSample {
    /// Unix ns.
    pub time_ns: u64,
    /// CPU time used, in ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
    /// Enforcement periods elapsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub periods: Option<u64>,
    /// Of these, throttled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_periods: Option<u64>,
    /// Memory in use without the inactive file cache, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set_bytes: Option<u64>,
    /// Bytes read from block devices, all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Bytes written to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
}

/// What a pod's interfaces have moved, all together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopNetwork {
    /// Unix ns of the reading.
    pub time_ns: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// What the host is charged with, less what the guest's kernel says of the containers: either may be below 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopOverhead {
    /// Unix ns of the reading.
    pub time_ns: u64,
    /// CPU time since the collector first saw it, in ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<i64>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
}

/// As of now.
pub(crate) fn top(registry: &Registry) -> Top {
    let time_ns = now_ns();
    let fresh = u64::try_from(registry.fresh.as_nanos()).unwrap_or(u64::MAX);
    let oldest = time_ns.saturating_sub(fresh);
    let overheads = overheads(registry, time_ns);
    Top {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time_ns,
        wrappers: registry.attached_count(),
        containers: registry
            .containers()
            .iter()
            .map(|container| one(container, oldest, &overheads))
            .collect(),
    }
}

/// By containerd's namespace and the sandbox's id.
fn overheads(registry: &Registry, now_ns: u64) -> HashMap<(String, String), TopOverhead> {
    let all = registry.attached().into_iter().filter_map(|wrapper| {
        let sandbox = wrapper.machine.sandbox()?;
        let age = sandbox.at.elapsed();
        let overhead = TopOverhead {
            time_ns: now_ns.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
            cpu_ns: sandbox.overhead_cpu_ns,
            memory_bytes: sandbox.overhead_memory_bytes,
        };
        let known = overhead.cpu_ns.is_some() || overhead.memory_bytes.is_some();
        let about = wrapper.about();
        (known && age < registry.fresh).then_some(((about.namespace, about.id), overhead))
    });
    all.collect()
}

fn one(
    container: &Arc<Container>,
    oldest_ns: u64,
    overheads: &HashMap<(String, String), TopOverhead>,
) -> TopContainer {
    let key = (container.key.namespace.clone(), container.key.container.clone());
    let live = container.live();
    let shown = |sample: &&Said| live.is_running() && sample.time_ns > oldest_ns;
    TopContainer {
        about: about(container, &live),
        role: container.identity.role.label().to_owned(),
        memory_limit_bytes: live.spec.memory_limit(),
        newest: live.said.as_deref().filter(shown).map(TopSample::from),
        earlier: live.said_earlier.as_deref().filter(shown).map(TopSample::from),
        network: network(&live, oldest_ns),
        overhead: overheads.get(&key).filter(|_| live.is_running()).cloned(),
    }
}

fn network(live: &Live, oldest_ns: u64) -> Option<TopNetwork> {
    let fresh = |host: &&HostFigures| live.is_running() && host.time_ns > oldest_ns;
    let host = live.host.as_ref().filter(fresh)?;
    let interfaces = host.interfaces.as_ref()?;
    let sum = |bytes: fn(&crate::node::Interface) -> u64| {
        interfaces.values().fold(0u64, |sum, one| sum.saturating_add(bytes(one)))
    };
    Some(TopNetwork {
        time_ns: host.time_ns,
        received_bytes: sum(|one| one.received.bytes),
        sent_bytes: sum(|one| one.sent.bytes),
    })
}

// === impl TopSample ===

impl From<&Said> for TopSample {
    fn from(said: &Said) -> Self {
        Self {
            time_ns: said.time_ns,
            cpu_ns: said.cpu_ns,
            periods: said.periods,
            throttled_periods: said.throttled_periods,
            working_set_bytes: said.working_set,
            read_bytes: said.read_bytes,
            written_bytes: said.written_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Device, Io, Sample};

    #[test]
    fn what_no_device_said_is_absent() {
        let io = |read, written| Io { read_bytes: read, written_bytes: written, ..Io::default() };
        let device = |minor| Device { major: 8, minor, name: String::new() };
        let mut sample = Sample { time_ns: 7, cpu_ns: Some(1), ..Sample::default() };
        assert_eq!(TopSample::from(&Said::from(&sample)).read_bytes, None);
        sample.devices = [(device(0), io(Some(5), None)), (device(16), io(Some(6), None))].into();
        let top = TopSample::from(&Said::from(&sample));
        assert_eq!((top.read_bytes, top.written_bytes, top.cpu_ns), (Some(11), None, Some(1)));
        let text = serde_json::to_string(&top).expect("json");
        assert!(!text.contains("written") && !text.contains("null"), "{text}");
    }
}
