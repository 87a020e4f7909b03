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
    spec::Spec,
    text::{Text, Value},
};
use crate::{
    config::{Profile, Scope},
    node::HostFigures,
    time::now_ns,
};

mod host;

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
    /// What this host's kernel said, unless that is too long ago.
    host: Option<HostFigures>,
    spec: Spec,
    running: bool,
    started_ns: u64,
    /// Times are wanted.
    times: bool,
    /// The sample's time in Unix ms, where times are wanted.
    at_ms: Option<u64>,
}

/// What a scraper asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which containers.
    pub scope: Scope,
    /// Which families.
    pub profile: Profile,
    /// Each sample's own time behind it.
    pub times: bool,
}

/// The exposition.
#[must_use]
pub fn render(registry: &Registry, wanted: Wanted) -> String {
    let Wanted { scope, profile, times } = wanted;
    let fresh = u64::try_from(registry.fresh.as_nanos()).unwrap_or(u64::MAX);
    let oldest = now_ns().saturating_sub(fresh);
    let views: Vec<View> = registry
        .containers()
        .into_iter()
        .filter(|container| scope == Scope::All || !container.identity.host_visible)
        .map(|container| View::new(container, oldest, times))
        .collect();
    let mut text = match profile {
        Profile::Full => Text::default(),
        Profile::Minimal => Text::only(&f::MINIMAL),
    };
    seconds(&mut text, &views);
    for (family, pick) in COUNTS {
        write_samples(&mut text, family, &views, |view| view.sample.as_ref().and_then(pick));
    }
    for (family, pick) in GAUGES {
        write_samples(&mut text, family, &views, |view| view.gauge().and_then(pick));
    }
    page_faults(&mut text, &views);
    block_io(&mut text, &views);
    host::render(&mut text, &views);
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
    device_usage(text, views);
}

/// The bytes once more, as cAdvisor has them besides.
fn device_usage(text: &mut Text, views: &[View]) {
    let mut writer = text.family(&f::BLKIO_DEVICE);
    for view in views {
        for (device, io) in view.sample.iter().flat_map(|sample| &sample.devices) {
            let name = devices::label(device, view.container.identity.host_visible);
            let (major, minor) = (device.major.to_string(), device.minor.to_string());
            for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
                let Some(bytes) = bytes else { continue };
                let mut labels = String::new();
                let own =
                    [("device", &*name), ("major", &*major), ("minor", &*minor), ("operation", operation)];
                own.into_iter().for_each(|(key, value)| labels::push(&mut labels, key, Some(value)));
                labels.push(',');
                labels.push_str(&view.container.labels);
                writer.sample(&labels, Value::Whole(bytes), view.at_ms);
            }
        }
    }
}

fn page_faults(text: &mut Text, views: &[View]) {
    let mut writer = text.family(&f::MEMORY_FAILURES);
    for view in views {
        let Some(faults) = view.sample.as_ref().and_then(|sample| sample.page_faults) else { continue };
        for (kind, scope, value) in [
            ("pgfault", "container", faults.own),
            ("pgmajfault", "container", faults.own_major),
            ("pgfault", "hierarchy", faults.all),
            ("pgmajfault", "hierarchy", faults.all_major),
        ] {
            let labels = format!("failure_type=\"{kind}\",scope=\"{scope}\",{}", view.container.labels);
            writer.sample(&labels, Value::Whole(value), view.at_ms);
        }
    }
}

/// What is known without a sample. These have no time of their own.
fn spec(text: &mut Text, views: &[View]) {
    let mut gauge = |family: &'static Family, pick: &dyn Fn(&View) -> Option<Value>| {
        let mut writer = text.family(family);
        for view in views.iter().filter(|view| view.running) {
            if let Some(value) = pick(view) {
                writer.sample(&view.container.labels, value, None);
            }
        }
    };
    gauge(&f::SPEC_CPU_QUOTA, &|v| v.spec.quota());
    gauge(&f::SPEC_CPU_PERIOD, &|v| v.spec.period());
    gauge(&f::SPEC_CPU_SHARES, &|v| v.spec.shares());
    gauge(&f::SPEC_MEMORY_LIMIT, &|v| v.spec.memory());
    gauge(&f::SPEC_SWAP_LIMIT, &|v| v.spec.swap());
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
        let host = live.host.clone().filter(|figures| !running || figures.time_ns > oldest_ns);
        let (started_ns, spec) = (live.started_ns, live.spec);
        drop(live);
        let at_ms = sample.as_ref().filter(|_| times).map(|sample| sample.time_ns / 1_000_000);
        Self { container, sample, host, spec, running, started_ns, times, at_ms }
    }

    /// The sample as a source of gauges: gone with the container.
    fn gauge(&self) -> Option<&Sample> {
        self.sample.as_ref().filter(|_| self.running)
    }
}

#[cfg(test)]
mod tests;
