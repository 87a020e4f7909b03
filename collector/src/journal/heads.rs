//! The journal's heads side by side: one on tmpfs, and where the configuration has a second, one on a disk.
//!
//! Each is a journal of its own with folder, budget, writer and sinks' places; what becomes of one does not touch the other.
//! Records of a stream go to one of them at a time. When a rule moves it, the head that it comes to gets a hole of reason
//! `moved` for what that has not, so that records tile the stream in each of the two; and it is moved only when all that the
//! other has was acknowledged. How far a stream is, is how far the further of the two has it.

use std::{collections::HashSet, sync::Arc};

use tracing::warn;

use super::{
    Figures, Head, Journal, JournalFault, JournalThread, Merged, Row,
    recover::{Endings, Files, Recovered},
};
use crate::{
    config::Config,
    event::{Store, StreamName},
    ingest::Memory,
    metrics::Totals,
    process::Clock,
    sinks::{Outlet, Outlets},
};

/// Both heads, or the only one.
#[derive(Debug)]
pub struct Heads {
    memory: Arc<Journal>,
    disk: Option<Arc<Journal>>,
}

/// Heads that are open, and what has to be appended to each first.
#[derive(Debug)]
pub struct Opened {
    /// The heads.
    pub heads: Arc<Heads>,
    endings: Vec<(Store, Endings)>,
}

/// How far a stream is.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its row, with the sums of both heads.
    pub row: Row,
    /// The head that has its newest records.
    pub store: Store,
    /// How far the other one has it.
    pub elsewhere: u64,
}

// === impl Opened ===

impl Opened {
    /// Every stream that may go on: it has not ended, and will not when this is started.
    #[must_use]
    pub fn open_streams(&self) -> Vec<Known> {
        let over = self.endings.iter().flat_map(|(_, endings)| endings);
        let over: HashSet<_> = over.map(|(origin, _)| &origin.name).collect();
        let mut open = self.heads.open_streams();
        open.retain(|known| !over.contains(&known.row.origin.name));
        open
    }

    /// Starts a writer for each head; they end when the entrances are gone. Readers of sinks have to be there before.
    ///
    /// # Errors
    /// A thread cannot be had.
    pub fn start(self, config: &Config) -> Result<(Outlets, Vec<JournalThread>), JournalFault> {
        let (memory, exit) = Outlet::queue(config.journal.queue_bytes);
        let mut exits = vec![exit];
        let disk = config.journal_disk.as_ref().map(|disk| {
            let (outlet, exit) = Outlet::queue(disk.queue_bytes);
            exits.push(exit);
            outlet
        });
        let mut writers = Vec::new();
        for ((store, endings), exit) in self.endings.into_iter().zip(exits) {
            if let Some(journal) = self.heads.of(store) {
                writers.push(JournalThread::start(journal, exit, endings)?);
            }
        }
        Ok((Outlets::new(memory, disk), writers))
    }
}

// === impl Heads ===

impl Heads {
    /// Opens what `config` says, or makes it.
    ///
    /// # Errors
    /// See [`JournalFault`]. Where the disk's head cannot be had nothing runs: how far its streams are would not be known.
    pub fn open(config: &Config, totals: &Arc<Totals>) -> Result<Opened, JournalFault> {
        let order = config.journal_disk.as_ref().map(|_| Arc::<Clock>::default());
        let open = |store, config_of, files| {
            let head = Head { store, order: order.clone() };
            Journal::open_as(head, config_of, files, config.ingest.positions, Arc::clone(totals))
        };
        let of_memory = Files::of(&config.journal.dir)?;
        let on_disk = config.journal_disk.as_ref().map(|disk| Ok((disk, Files::of(&disk.dir)?)));
        let on_disk = on_disk.transpose()?;
        let Recovered { journal: memory, endings } = open(Store::Memory, &config.journal, of_memory)?;
        let mut all = vec![(Store::Memory, endings)];
        let disk = match on_disk {
            Some((disk, files)) => {
                let Recovered { journal, endings } = open(Store::Disk, disk, files)?;
                all.push((Store::Disk, endings));
                Some(journal)
            }
            None => None,
        };
        let heads = Self { memory, disk };
        heads.warn_of_places();
        heads.say_ended_with_the_boot(&all);
        for (store, endings) in &mut all {
            endings.extend(heads.ended_elsewhere(*store));
        }
        Ok(Opened { heads: Arc::new(heads), endings: all })
    }

    /// The only one.
    #[cfg(test)]
    pub fn alone(journal: Arc<Journal>) -> Self {
        Self { memory: journal, disk: None }
    }

    /// That head, if there is one.
    #[must_use]
    pub fn of(&self, store: Store) -> Option<&Arc<Journal>> {
        match store {
            Store::Memory => Some(&self.memory),
            Store::Disk => self.disk.as_ref(),
        }
    }

    /// Those that there are.
    pub fn each(&self) -> impl Iterator<Item = (Store, &Arc<Journal>)> {
        [Store::Memory, Store::Disk].into_iter().filter_map(|store| Some((store, self.of(store)?)))
    }

    /// A reader of all that there is, whose places are kept under `name`.
    #[must_use]
    pub fn reader(&self, name: &'static str) -> Merged {
        Merged::new(self.memory.reader(name), self.disk.as_ref().map(|disk| disk.reader(name)))
    }

    /// A reader that begins with the oldest there is and keeps no place.
    #[must_use]
    pub fn glance(&self) -> Merged {
        Merged::new(self.memory.glance(), self.disk.as_ref().map(Journal::glance))
    }

    /// What each shows of itself.
    #[must_use]
    pub fn figures(&self) -> Vec<(Store, Figures)> {
        self.each().map(|(store, journal)| (store, journal.figures())).collect()
    }

    /// Every stream that has not ended.
    #[must_use]
    pub fn open_streams(&self) -> Vec<Known> {
        let open = self.each().flat_map(|(store, journal)| {
            journal.open_streams().into_iter().filter_map(move |row| {
                self.known(&row.origin.name)
                    .filter(|known| known.store == store && known.row.ending.is_none())
            })
        });
        open.collect()
    }

    /// How far a stream is; `None` where neither ever had it.
    #[must_use]
    pub fn known(&self, name: &StreamName) -> Option<Known> {
        let disk = self.disk.as_ref().and_then(|disk| disk.stream(name));
        match (self.memory.stream(name), disk) {
            (Some(memory), Some(disk)) => {
                let place = |row: &Row| (row.end, row.ending.is_some());
                let on_disk = place(&disk) > place(&memory);
                let (row, other) = if on_disk { (disk, memory) } else { (memory, disk) };
                let store = if on_disk { Store::Disk } else { Store::Memory };
                Some(Known { elsewhere: other.end, row: row.with(other), store })
            }
            (Some(row), None) => Some(Known { row, store: Store::Memory, elsewhere: 0 }),
            (None, Some(row)) => Some(Known { row, store: Store::Disk, elsewhere: 0 }),
            (None, None) => None,
        }
    }

    /// Where a head does not lie where its name says, a rule's `store` does not do what it says.
    fn warn_of_places(&self) {
        let Some(disk) = &self.disk else { return };
        if disk.is_in_memory() {
            let dir = disk.dir().display();
            warn!(%dir, "journal.disk.dir lies on tmpfs: what it has does not outlive the node's boot");
        }
        if !self.memory.is_in_memory() {
            let dir = self.memory.dir().display();
            warn!(%dir, "journal.dir does not lie on tmpfs: what rules keep in memory is written to a disk");
        }
    }

    /// Streams that `store` has as open, and that ended in the other head: nothing else would ever say so there, and no row of
    /// an open stream is forgotten.
    fn ended_elsewhere(&self, store: Store) -> Endings {
        let open = self.of(store).map(|journal| journal.open_streams()).unwrap_or_default();
        let ended = open.into_iter().filter_map(|row| {
            let known = self.known(&row.origin.name).filter(|known| known.store != store)?;
            Some((row.origin, known.row.ending?))
        });
        ended.collect()
    }
}

impl Memory for Heads {
    fn stream(&self, name: &StreamName) -> Option<Known> {
        self.known(name)
    }
}
