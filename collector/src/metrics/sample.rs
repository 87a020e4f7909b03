//! One Stats answer, reduced to the figures that are shown, from either cgroup version.
//!
//! protobuf's third version cannot tell 0 from unset, so each figure has a rule by which it is *known* (listed in
//! docs/metrics.md, "When a value is known"). What is not known is `None` here and absent in every exposition.
//!
//! Shims have faults. What can be told from the message itself is repaired or left out for every shim ([`v1`], [`v2`]), what
//! only a shim's name gives away in [`Sample::doubt`]; either way the sample says so ([`Fault`]). Nothing is guessed, and
//! the bytes that go to containerd are not touched.

mod fault;
mod guest;
mod said;
mod v1;
mod v2;

use containerd_shim_protos::{cgroups::metrics, cgroups_v2::metrics as metrics_v2, protobuf::Message};
use shimtap_proto::link;

pub use fault::{Fault, Faults};
pub use said::Said;

use crate::{closed::closed, enrich::ShimKind, few::Few};

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
    /// Page faults.
    pub page_faults: Option<PageFaults>,
    /// Threads.
    pub threads: Option<u64>,
    /// Most threads allowed.
    pub threads_max: Option<u64>,
    /// Block IO by device.
    pub devices: Devices,
    /// Which version's message it came in.
    pub layout: Layout,
    /// What was wrong with the message.
    pub faults: Faults,
}

/// A version of the statistics' message; says nothing of the cgroups that were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `io.containerd.cgroups.v1.Metrics`.
    #[default]
    V1,
    /// `io.containerd.cgroups.v2.Metrics`.
    V2,
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

/// Block IO by device.
pub type Devices = Few<Device, Io>;

/// Page faults: of a container's own cgroup, and with those below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFaults {
    /// All, of its own.
    pub own: u64,
    /// Of these, with a read from a disk.
    pub own_major: u64,
    /// All, of the hierarchy.
    pub all: u64,
    /// Of these, with a read from a disk.
    pub all_major: u64,
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

// === impl Device ===

impl Device {
    /// `8:0`.
    #[must_use]
    pub fn numbers(&self) -> String {
        format!("{}:{}", self.major, self.minor)
    }
}

// === impl Io ===

impl Io {
    fn not_below(self, old: Self) -> Self {
        Self {
            reads: self.reads.max(old.reads),
            writes: self.writes.max(old.writes),
            read_bytes: self.read_bytes.max(old.read_bytes),
            written_bytes: self.written_bytes.max(old.written_bytes),
        }
    }
}

// === impl PageFaults ===

impl PageFaults {
    fn not_below(self, old: Self) -> Self {
        Self {
            own: self.own.max(old.own),
            own_major: self.own_major.max(old.own_major),
            all: self.all.max(old.all),
            all_major: self.all_major.max(old.all_major),
        }
    }
}

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
            TYPE_V1 => v1::read(&parse::<metrics::Metrics>(&stats.value)?),
            TYPE_V2 => v2::read(&parse::<metrics_v2::Metrics>(&stats.value)?),
            _ => return Err(Undecoded::Type),
        };
        sample.time_ns = stats.time_ns;
        guest::bound(&mut sample);
        Ok(sample)
    }

    /// This sample without what shims of that kind are known or must be feared to say wrongly.
    #[must_use]
    pub fn doubt(mut self, kind: ShimKind) -> Self {
        if kind.is_host() {
            return self;
        }
        if kind.is_kata() && self.layout == Layout::V2 {
            self.doubt_kata_v2();
        }
        // Each container, CRI's pause among them, is said to have as much (`runsc/boot/events.go`).
        if kind == ShimKind::Gvisor && self.memory_usage.take().is_some() {
            self.faults.insert(Fault::MemoryShared);
        }
        // A kernel in a VM counts times exactly, so that a 0 is nobody's count; it must not be shown before that shows.
        if self.cpu_user_ns == Some(0) && self.cpu_system_ns == Some(0) {
            (self.cpu_user_ns, self.cpu_system_ns) = (None, None);
            self.faults.insert(Fault::UserSystemMissing);
        }
        if self.throttled_ns == Some(0) {
            self.throttled_ns = None;
        }
        self
    }

    /// Kata's Go shim on a v2 host swaps user and system time and merges all block devices into one entry
    /// (`metrics.go`, `setCPUStatsV2` and `copyBlkioV2`): read, never seen, so nothing is swapped back. No other shim
    /// of Kata's is known to send this message; one that does is not trusted in these before it was seen either.
    fn doubt_kata_v2(&mut self) {
        if self.cpu_ns.is_some() {
            (self.cpu_user_ns, self.cpu_system_ns) = (None, None);
            self.faults.insert(Fault::UserSystemDoubted);
        }
        if !self.devices.is_empty() {
            self.devices = Devices::default();
            self.faults.insert(Fault::DevicesDoubted);
        }
    }

    /// This sample with every counter at least what it was in `old`, an earlier one: within an incarnation none
    /// goes backwards, whatever a shim says after its container's cgroup is gone. What is left out because of a fault
    /// stays left out.
    #[must_use]
    pub fn not_below(mut self, old: &Self) -> Self {
        let modes = !self.faults.has(Fault::UserSystemMissing);
        let throttled = !self.faults.has(Fault::ThrottledTimeMissing);
        for (new, old) in [
            (&mut self.cpu_ns, old.cpu_ns),
            (&mut self.cpu_user_ns, old.cpu_user_ns.filter(|_| modes)),
            (&mut self.cpu_system_ns, old.cpu_system_ns.filter(|_| modes)),
            (&mut self.periods, old.periods),
            (&mut self.throttled_periods, old.throttled_periods),
            (&mut self.throttled_ns, old.throttled_ns.filter(|_| throttled)),
            (&mut self.failcnt, old.failcnt),
            (&mut self.oom_kills, old.oom_kills),
        ] {
            *new = (*new).max(old);
        }
        self.page_faults = match (self.page_faults, old.page_faults) {
            (Some(new), Some(old)) => Some(new.not_below(old)),
            (new, old) => new.or(old),
        };
        self
    }

    /// This sample with the devices that its container may have by now: `old` is an earlier one of its.
    #[must_use]
    pub fn with_devices(mut self, old: Option<&Self>, host_visible: bool) -> Self {
        guest::settle(&mut self, old.map(|old| &old.devices), host_visible);
        self
    }

    fn cpu(&mut self, total: u64, user: u64, system: u64) {
        // A process that ran has used CPU time; 0 means that nobody counted.
        self.cpu_ns = known(total);
        if total != 0 && (user != 0 || system != 0 || total < BOTH_MODES_SHOW_NS) {
            self.cpu_user_ns = Some(user);
            self.cpu_system_ns = Some(system);
        } else if total != 0 {
            self.faults.insert(Fault::UserSystemMissing);
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
        } else {
            self.faults.insert(Fault::ThrottledTimeMissing);
        }
    }
}

fn parse<M: Message>(bytes: &[u8]) -> Result<M, Undecoded> {
    M::parse_from_bytes(bytes).map_err(|_| Undecoded::Body)
}

/// A figure that is never 0 where somebody counted it.
fn known(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

/// A limit, unless it says that there is none.
fn limit(value: u64) -> Option<u64> {
    known(value).filter(|value| *value < NO_LIMIT)
}
