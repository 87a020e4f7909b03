//! What is kept of a sample for differences: two of them stay for each container, and a whole one has room for devices.

use super::{Io, Sample};

/// The figures of one answer whose growth is shown. What it did not say itself is absent, whatever an earlier one said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Unix ns when the answer arrived at the wrapper.
    pub time_ns: u64,
    /// CPU time used, in ns.
    pub cpu_ns: Option<u64>,
    /// Enforcement periods elapsed.
    pub periods: Option<u64>,
    /// Of these, throttled.
    pub throttled_periods: Option<u64>,
    /// Memory in use without the inactive file cache, in bytes.
    pub working_set: Option<u64>,
    /// Bytes read from block devices, all together.
    pub read_bytes: Option<u64>,
    /// Bytes written to them.
    pub written_bytes: Option<u64>,
}

// === impl Said ===

impl From<&Sample> for Said {
    fn from(sample: &Sample) -> Self {
        let io = |bytes: fn(&Io) -> Option<u64>| {
            sample.devices.values().filter_map(bytes).reduce(u64::saturating_add)
        };
        Self {
            time_ns: sample.time_ns,
            cpu_ns: sample.cpu_ns,
            periods: sample.periods,
            throttled_periods: sample.throttled_periods,
            working_set: sample.working_set,
            read_bytes: io(|device| device.read_bytes),
            written_bytes: io(|device| device.written_bytes),
        }
    }
}
