//! What can be wrong with a shim's statistics. Each is found by one function, and says by its name what was done.

use crate::closed::{Closed, closed};

closed! {
    /// A fault of one sample.
    pub enum Fault {
        /// Repaired: the working set is made with `inactive_file`.
        InactiveFileRepaired => "inactive_file_repaired",
        /// Repaired: numbers of reads and writes stood among the bytes.
        BlockCountsRepaired => "block_counts_repaired",
        /// Left out: the working set, since nothing says how much of the cache is inactive.
        WorkingSetMissing => "working_set_missing",
        /// Left out: rss, cache or mapped files, which nobody filled in.
        MemoryRowsMissing => "memory_rows_missing",
        /// Left out: swap, which may or may not contain memory.
        SwapUnclear => "swap_unclear",
        /// Left out: throttled time, 0 although there were throttled periods.
        ThrottledTimeMissing => "throttled_time_missing",
        /// Left out: user and system time, both 0.
        UserSystemMissing => "user_system_missing",
        /// Left out: user and system time, which this shim is feared to swap.
        UserSystemDoubted => "user_system_doubted",
        /// Left out: block devices, which this shim is feared to merge.
        DevicesDoubted => "devices_doubted",
        /// Left out: memory, of which this shim says a pod's divided by the number of its containers.
        MemoryShared => "memory_shared",
        /// Left out: block devices beyond those that a container may have.
        DevicesDropped => "devices_dropped",
    }
}

/// A set of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults(u16);

// === impl Faults ===

impl Faults {
    /// Adds one.
    pub fn insert(&mut self, fault: Fault) {
        self.0 |= 1 << fault.index();
    }

    /// True where it is there.
    #[must_use]
    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault.index()) != 0
    }

    /// Those that are there.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |fault| self.has(*fault))
    }
}
