//! The ways to the heads of the journal: one queue each, so that a full one holds only what goes there.

use super::Outlet;
use crate::event::Store;

/// The entrances of both queues, or of the only one.
#[derive(Clone, Debug)]
pub struct Outlets {
    memory: Outlet,
    disk: Option<Outlet>,
}

// === impl Outlets ===

impl Outlets {
    /// These.
    #[must_use]
    pub const fn new(memory: Outlet, disk: Option<Outlet>) -> Self {
        Self { memory, disk }
    }

    /// The way to that head; where there is none on a disk, to the other.
    #[must_use]
    pub fn of(&self, store: Store) -> &Outlet {
        match store {
            Store::Memory => &self.memory,
            Store::Disk => self.disk.as_ref().unwrap_or(&self.memory),
        }
    }
}
