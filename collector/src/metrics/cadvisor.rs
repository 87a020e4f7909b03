//! cAdvisor's names, labels and units, for the containers that wrappers told us of.
//!
//! At a container's exit its gauges vanish at once; counters stay for two minutes with the time of their last
//! sample, so that a scraper still gets the final values. A living container's sample is not shown any more when
//! several newer ones should have come.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, MutexGuard},
};

use super::{
    container::{Container, Live},
    containerd::ContainerdState,
    devices::Devices,
    families as f,
    families::Family,
    labels,
    limits::Bounds,
    registry::Registry,
    sample::{Io, Sample},
    spec::Spec,
    text::{Packing, Text, Value},
    totals::Cut,
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
    sample: Option<Box<Sample>>,
    /// What this host's kernel said, unless that is too long ago.
    host: Option<HostFigures>,
    /// Its block devices, as far as they are shown.
    devices: Vec<Named>,
    spec: Spec,
    /// Processes killed for want of memory.
    oom: Option<u64>,
    running: bool,
    started_ns: u64,
    /// Times are wanted.
    times: bool,
    /// The sample's time in Unix ms, where times are wanted.
    at_ms: Option<u64>,
}

/// A block device of a container.
struct Named {
    /// `device="…"`.
    label: String,
    /// Major and minor.
    numbers: (String, String),
    io: Io,
}

/// What a scraper asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Which containers.
    pub scope: Scope,
    /// Which families.
    pub profile: Profile,
    /// Each sample's own time behind it.
    pub times: bool,
}

/// The exposition.
///
/// # Errors
/// It cannot be compressed.
pub fn render(registry: &Registry, wanted: Wanted, packing: Packing) -> io::Result<Vec<u8>> {
    let Wanted { scope, profile, times } = wanted;
    let fresh = u64::try_from(registry.fresh.as_nanos()).unwrap_or(u64::MAX);
    let oldest = now_ns().saturating_sub(fresh);
    let told_of_oom = registry.totals.containerd.state().0 == ContainerdState::Up;
    let mut devices = Devices::default();
    let views: Vec<View> = registry
        .shown()
        .into_iter()
        .filter(|container| scope == Scope::All || !container.identity.host_visible)
        .map(|container| {
            let mut view = View::new(container, oldest, times, told_of_oom);
            view.name_devices(&registry.bounds, &mut devices);
            view
        })
        .collect();
    let only: Option<&'static [&'static Family]> = match profile {
        Profile::Full => None,
        Profile::Minimal => Some(&f::MINIMAL),
    };
    let mut text = Text::new(packing, registry.bounds.limits.series, only);
    seconds(&mut text, &views);
    for (family, pick) in COUNTS {
        write_samples(&mut text, family, &views, |view| view.sample.as_deref().and_then(pick));
    }
    for (family, pick) in GAUGES {
        write_samples(&mut text, family, &views, |view| view.gauge().and_then(pick));
    }
    write_samples(&mut text, &f::OOM_EVENTS, &views, |view| view.oom);
    page_faults(&mut text, &views);
    block_io(&mut text, &views);
    host::render(&mut text, &views, &registry.bounds);
    spec(&mut text, &views);
    registry.bounds.series_cut(text.cut());
    text.finish()
}

fn seconds(text: &mut Text, views: &[View]) {
    for (family, pick, extra) in SECONDS {
        let mut writer = text.family(family);
        for view in views {
            let Some(ns) = view.sample.as_deref().and_then(pick) else { continue };
            writer.sample_of(extra, &view.container.labels, Value::Ns(ns), view.at_ms);
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
            for Named { label, io, .. } in &view.devices {
                let Some(value) = pick(io) else { continue };
                writer.sample_of(label, &view.container.labels, Value::Whole(value), view.at_ms);
            }
        }
    }
    device_usage(text, views);
}

/// The bytes once more, as cAdvisor has them besides.
fn device_usage(text: &mut Text, views: &[View]) {
    let mut writer = text.family(&f::BLKIO_DEVICE);
    for view in views {
        for Named { label, numbers, io } in &view.devices {
            for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
                let Some(bytes) = bytes else { continue };
                let mut own = label.clone();
                for (key, value) in [("major", &*numbers.0), ("minor", &*numbers.1), ("operation", operation)]
                {
                    labels::push(&mut own, key, Some(value));
                }
                writer.sample_of(&own, &view.container.labels, Value::Whole(bytes), view.at_ms);
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
            let own = format!("failure_type=\"{kind}\",scope=\"{scope}\"");
            writer.sample_of(&own, &view.container.labels, Value::Whole(value), view.at_ms);
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
    fn new(container: Arc<Container>, oldest_ns: u64, times: bool, told_of_oom: bool) -> Self {
        let live: MutexGuard<'_, Live> = container.live();
        let running = live.is_running();
        // What ended keeps its last sample until the registry forgets it.
        let sample = live.sample.clone().filter(|sample| !running || sample.time_ns > oldest_ns);
        let host = live.host.clone().filter(|figures| !running || figures.time_ns > oldest_ns);
        let (started_ns, spec) = (live.started_ns, live.spec);
        let counted = sample.as_ref().and_then(|sample| sample.oom_kills);
        let oom = if container.identity.host_visible {
            counted
        } else {
            // What a shim of a VM says is what its guest counted; what containerd heard of counts as well.
            counted.max(live.kills_told(container.shim).filter(|_| told_of_oom))
        };
        drop(live);
        let at_ms = sample.as_ref().filter(|_| times).map(|sample| sample.time_ns / 1_000_000);
        let devices = Vec::new();
        Self { container, sample, host, devices, spec, oom, running, started_ns, times, at_ms }
    }

    fn name_devices(&mut self, bounds: &Bounds, names: &mut Devices) {
        let Some(sample) = &mut self.sample else { return };
        let host_visible = self.container.identity.host_visible;
        let named = bounds.first(std::mem::take(&mut sample.devices).into_iter(), Cut::Devices);
        let mut taken = BTreeSet::new();
        self.devices = named
            .map(|(device, io)| {
                let name = names.label(&device, host_visible);
                // Two rows must not have the same labels, whoever gave them names.
                let free = taken.insert(name.clone());
                let name = if free { name } else { device.numbers() };
                let mut label = String::new();
                labels::push(&mut label, "device", Some(&name));
                Named { label, numbers: (device.major.to_string(), device.minor.to_string()), io }
            })
            .collect();
    }

    /// The sample as a source of gauges: gone with the container.
    fn gauge(&self) -> Option<&Sample> {
        self.sample.as_deref().filter(|_| self.running)
    }
}

#[cfg(test)]
mod tests;
