//! cAdvisor's names, labels and units, for the containers that wrappers told us of.
//!
//! At a container's exit its gauges vanish at once; counters stay for two minutes with the time of their last
//! sample, so that a scraper still gets the final values. A living container's sample is not shown any more when
//! several newer ones should have come.

use std::sync::{Arc, MutexGuard};

use super::{
    container::{Container, Live},
    devices, families as f,
    families::Family,
    labels,
    registry::Registry,
    sample::{Io, Sample},
    text::{Text, Value},
};
use crate::{config::Scope, time::now_ns};

type Pick = fn(&Sample) -> Option<u64>;
type PickIo = fn(&Io) -> Option<u64>;

/// Counters of seconds, with whether they carry `cpu="total"`.
static SECONDS: &[(&Family, Pick, &str)] = &[
    (&f::CPU_USAGE, |s| s.cpu_ns, "cpu=\"total\""),
    (&f::CPU_USER, |s| s.cpu_user_ns, ""),
    (&f::CPU_SYSTEM, |s| s.cpu_system_ns, ""),
    (&f::CFS_THROTTLED, |s| s.throttled_ns, ""),
];

static COUNTS: &[(&Family, Pick)] = &[
    (&f::CFS_PERIODS, |s| s.periods),
    (&f::CFS_THROTTLED_PERIODS, |s| s.throttled_periods),
    (&f::MEMORY_FAILCNT, |s| s.failcnt),
    (&f::OOM_EVENTS, |s| s.oom_kills),
];

static GAUGES: &[(&Family, Pick)] = &[
    (&f::MEMORY_USAGE, |s| s.memory_usage),
    (&f::MEMORY_WORKING_SET, |s| s.working_set),
    (&f::MEMORY_RSS, |s| s.rss),
    (&f::MEMORY_CACHE, |s| s.cache),
    (&f::MEMORY_SWAP, |s| s.swap),
    (&f::MEMORY_MAPPED, |s| s.mapped_file),
    (&f::MEMORY_MAX, |s| s.max_usage),
    (&f::THREADS, |s| s.threads),
    (&f::THREADS_MAX, |s| s.threads_max),
];

static DEVICES: &[(&Family, PickIo)] = &[
    (&f::FS_READS, |io| io.reads),
    (&f::FS_WRITES, |io| io.writes),
    (&f::FS_READ_BYTES, |io| io.read_bytes),
    (&f::FS_WRITE_BYTES, |io| io.written_bytes),
];

/// What a container shows in this exposition, taken at one moment.
struct View {
    container: Arc<Container>,
    /// The newest sample, unless it is too old.
    sample: Option<Sample>,
    running: bool,
    started_ns: u64,
    /// The sample's time in Unix ms, where times are wanted.
    at_ms: Option<u64>,
}

/// The exposition for `scope`; `times` puts each sample's own time behind it.
#[must_use]
pub fn render(registry: &Registry, scope: Scope, times: bool) -> String {
    let fresh = u64::try_from(registry.fresh.as_nanos()).unwrap_or(u64::MAX);
    let oldest = now_ns().saturating_sub(fresh);
    let views: Vec<View> = registry
        .containers()
        .into_iter()
        .filter(|container| scope == Scope::All || !container.identity.host_visible)
        .map(|container| View::new(container, oldest, times))
        .collect();
    let mut text = Text::default();
    seconds(&mut text, &views);
    for (family, pick) in COUNTS {
        write_samples(&mut text, family, &views, |view| view.sample.as_ref().and_then(pick));
    }
    for (family, pick) in GAUGES {
        write_samples(&mut text, family, &views, |view| view.gauge().and_then(pick));
    }
    block_io(&mut text, &views);
    spec(&mut text, &views);
    text.finish()
}

fn seconds(text: &mut Text, views: &[View]) {
    for (family, pick, extra) in SECONDS {
        let mut writer = text.family(family);
        for view in views {
            let Some(ns) = view.sample.as_ref().and_then(pick) else { continue };
            if extra.is_empty() {
                writer.sample(&view.container.labels, Value::Ns(ns), view.at_ms);
            } else {
                let labels = format!("{extra},{}", view.container.labels);
                writer.sample(&labels, Value::Ns(ns), view.at_ms);
            }
        }
    }
}

fn write_samples(
    text: &mut Text,
    family: &'static Family,
    views: &[View],
    pick: impl Fn(&View) -> Option<u64>,
) {
    let mut writer = text.family(family);
    for view in views {
        if let Some(value) = pick(view) {
            writer.sample(&view.container.labels, Value::Whole(value), view.at_ms);
        }
    }
}

fn block_io(text: &mut Text, views: &[View]) {
    for (family, pick) in DEVICES {
        let mut writer = text.family(family);
        for view in views {
            for (device, io) in view.sample.iter().flat_map(|sample| &sample.devices) {
                let Some(value) = pick(io) else { continue };
                let mut labels = String::new();
                let name = devices::label(device, view.container.identity.host_visible);
                labels::push(&mut labels, "device", Some(&name));
                labels.push(',');
                labels.push_str(&view.container.labels);
                writer.sample(&labels, Value::Whole(value), view.at_ms);
            }
        }
    }
}

/// What is known without a sample. These have no time of their own.
fn spec(text: &mut Text, views: &[View]) {
    let limit =
        |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0 && *v < 1 << 62);
    let mut gauge = |family: &'static Family, pick: &dyn Fn(&View) -> Option<Value>| {
        let mut writer = text.family(family);
        for view in views.iter().filter(|view| view.running) {
            if let Some(value) = pick(view) {
                writer.sample(&view.container.labels, value, None);
            }
        }
    };
    gauge(&f::SPEC_CPU_QUOTA, &|v| limit(v.container.spec.cpu_quota_us).map(Value::Whole));
    gauge(&f::SPEC_CPU_PERIOD, &|v| v.container.spec.cpu_period_us.filter(|p| *p > 0).map(Value::Whole));
    gauge(&f::SPEC_CPU_SHARES, &|v| v.container.spec.cpu_shares.filter(|s| *s > 0).map(Value::Whole));
    gauge(&f::SPEC_MEMORY_LIMIT, &|v| limit(v.container.spec.memory_limit_bytes).map(Value::Whole));
    gauge(&f::START_TIME, &|v| (v.started_ns != 0).then_some(Value::Ns(v.started_ns)));
    gauge(&f::LAST_SEEN, &|v| v.sample.as_ref().map(|sample| Value::Ns(sample.time_ns)));
}

// === impl View ===

impl View {
    fn new(container: Arc<Container>, oldest_ns: u64, times: bool) -> Self {
        let live: MutexGuard<'_, Live> = container.live();
        let running = live.is_running();
        // What ended keeps its last sample until the registry forgets it.
        let sample = live.sample.clone().filter(|sample| !running || sample.time_ns > oldest_ns);
        let started_ns = live.started_ns;
        drop(live);
        let at_ms = sample.as_ref().filter(|_| times).map(|sample| sample.time_ns / 1_000_000);
        Self { container, sample, running, started_ns, at_ms }
    }

    /// The sample as a source of gauges: gone with the container.
    fn gauge(&self) -> Option<&Sample> {
        self.sample.as_ref().filter(|_| self.running)
    }
}

#[cfg(test)]
mod tests;
