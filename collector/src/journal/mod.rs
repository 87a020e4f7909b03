//! The journal: where output lies between the wrappers and the sinks, and what an acknowledgement stands on.
//!
//! Layers: `format` (bytes, no IO), `part` (one file), `table` (how far each stream is), `recover` (what a start finds),
//! `append` and `newest` (the one writer; `hung` speaks for it while it hangs), `retain` and `rewrite` (what has to go), `tail`, `reader` and
//! `cursor` (the way out). A batch is acknowledged to its wrapper when the write(2) of its frame has come back, and not before; what
//! was appended is never changed, only dropped from the old end, and then counted. A slow reader holds nobody.
//!
//! A [`Journal`] is one head: one folder, one writer. `heads` puts two of them side by side, one on tmpfs and one on a disk,
//! and `merged` reads both as one; nothing else knows that there are two.
//!
//! This is the journal's head level: whole files of frames. What is done later with a full file (blocks per stream, for
//! long retention) begins at [`Journal::parts`].

mod append;
mod cursor;
mod figures;
mod format;
mod heads;
mod hung;
mod merged;
mod newest;
mod open_ended;
mod part;
mod reader;
mod recover;
mod retain;
mod rewrite;
mod settle;
mod table;
mod tail;

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use nix::fcntl::Flock;
use tokio::sync::watch;
use tracing::warn;

pub use append::JournalThread;
pub use figures::{Figures, SinkFigures};
pub use format::Row;
pub use heads::{Heads, Known};
pub use hung::say_what_hangs;
pub use merged::Merged;
pub use open_ended::{GivenUp, OpenEnded};

use crate::{
    config,
    event::{Origin, Store, StreamName},
    limited::Limited,
    metrics::{JournalTotals, Totals},
    process::{Clock, Edge},
    sinks::errno_name,
    time::now_ns,
};
use cursor::Cursor;
use part::Part;
use table::Table;
use tail::{Fresh, Tail};

/// Why the journal cannot be had. The configuration, the disk or its permissions are at fault, unless it says else.
#[derive(Debug, thiserror::Error)]
pub enum JournalFault {
    /// The system refused a step.
    #[error(
        "{doing} {path}: {source}; check that its disk has room and is in order, or choose another one (journal.dir, \
         journal.disk.dir)"
    )]
    Io {
        /// The step.
        doing: &'static str,
        /// Of what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another collector writes there.
    #[error(
        "opening the journal {dir}: another collector has it; stop that one, or choose another folder (journal.dir, \
         journal.disk.dir)"
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// A release that we do not know wrote it.
    #[error(
        "opening the journal: {path} is of version {version}, and this release knows versions {} to {}; nothing was \
         changed: run the release that wrote it, or move the folder away to begin anew",
        format::header::READS.start(), format::header::VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The thread cannot be had.
    #[error("starting the journal's thread: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// The journal, shared by its writer and its readers.
#[derive(Debug)]
pub struct Journal {
    config: config::Journal,
    /// The kernel's id of this boot.
    boot: String,
    /// The last collector on this journal did not end in order.
    unclean: bool,
    /// Ended streams without a record that are remembered.
    remembered: usize,
    totals: Arc<Totals>,
    head: Head,
    state: Mutex<State>,
    looked: Mutex<retain::Looked>,
    /// It lies on a tmpfs, once that was asked.
    in_memory: OnceLock<bool>,
    /// Number behind the newest entry; told to readers that wait.
    grown: watch::Sender<u64>,
    /// Held as long as the journal is ours.
    _lock: Flock<fs::File>,
}

/// Which head of the journal it is.
#[derive(Clone, Debug)]
struct Head {
    store: Store,
    /// Gives frames of both heads their times, each later than any before: so that it is known which came first, whatever the
    /// system's clock does. Not needed where there is one.
    order: Option<Arc<Clock>>,
}

/// What changes.
#[derive(Debug)]
struct State {
    table: Table,
    /// Oldest first; the last one is appended to.
    parts: VecDeque<Part>,
    tail: Tail,
    /// Number of the next entry.
    next: u64,
    /// Raw bytes of all output that was appended, ever.
    output: u64,
    /// Where each reader is.
    readers: HashMap<u64, u64>,
    /// Of sinks, by name.
    cursors: Vec<(&'static str, Arc<Cursor>)>,
    /// How often something was dropped: readers at the end look for what they missed.
    drops: u64,
    /// The boot that a file which begins now is of: an earlier one, as long as the ends of its streams are not appended.
    boot: String,
    /// Nothing goes into the newest file any more: the next frame begins another.
    is_newest_done: bool,
    /// Nothing will be appended any more.
    closed: bool,
}

/// What there is to read.
enum Fetch {
    /// A frame in memory.
    Fresh(Arc<Fresh>),
    /// A file that has it.
    Stored {
        /// Its frames from the first.
        frames: part::Frames,
        /// How far it may be read.
        limit: u64,
        /// Number behind its last entry.
        next: u64,
        /// Frames of it were lost.
        damaged: bool,
    },
    /// Nothing: the reader has everything.
    End {
        /// And there will be no more.
        closed: bool,
    },
}

// === impl JournalFault ===

impl JournalFault {
    /// True where the disk is full.
    fn is_out_of_room(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    /// What the system said, as the name of its errno.
    fn errno(&self) -> String {
        match self {
            Self::Io { source, .. } | Self::Thread { source } => errno_name(source),
            Self::InUse { .. } | Self::Version { .. } => "other".to_owned(),
        }
    }
}

// === impl Head ===

#[cfg(test)]
impl Head {
    /// The only one.
    const ALONE: Self = Self { store: Store::Memory, order: None };
}

// === impl Journal ===

impl Journal {
    /// How far a stream is in it; `None` where it never had it.
    #[must_use]
    pub fn stream(&self, name: &StreamName) -> Option<Row> {
        self.state().table.find(name).cloned()
    }

    /// Its counters.
    fn counts(&self) -> &JournalTotals {
        self.totals.journal(self.head.store)
    }

    /// The time of a frame that is written now.
    fn frame_time(&self) -> u64 {
        let now = now_ns();
        self.head.order.as_ref().map_or(now, |order| order.stamp(now))
    }

    /// Every stream that has not ended.
    #[must_use]
    pub fn open_streams(&self) -> Vec<Row> {
        self.state().table.rows().filter(|row| row.ending.is_none()).cloned().collect()
    }

    /// Gives the counters of this process what earlier processes on this journal counted.
    pub fn count_the_past(&self) {
        self.state().table.count(&self.totals);
    }

    /// The stream ends, and a line of it has no end: it is one all the same, as the table will have it.
    fn count_unfinished(&self, origin: &Origin) {
        let state = self.state();
        let is_within = state.table.find(&origin.name).is_some_and(|row| matches!(row.edge, Edge::Within(_)));
        self.totals.log_lines.add(origin.name.stream, u64::from(is_within));
    }

    /// Writes how far each sink is that has nothing to do before, after bringing to the disk what has come, if something
    /// `has_grown`.
    fn settle(&self, has_grown: bool) {
        let file = self.state().parts.back().map(|part| Arc::clone(&part.file));
        if let Some(Err(error)) = file.filter(|_| has_grown).map(|file| self.sync(&file)) {
            static SAID: Limited = Limited::new();
            self.counts().error(&errno_name(&error));
            // Not tried again: the kernel takes what failed for written from here on, and would say that all is well.
            SAID.say(|hidden| {
                warn!(
                    dir = %self.dir().display(), %error, hidden,
                    "the journal was not brought to its disk; what was acknowledged since the last time may not outlive a power cut. \
                     The disk under dir is full or out of order"
                );
            });
        }
        self.write_places(|cursor| !cursor.waits());
    }

    /// Writes how far each sink is that has something to bring to a disk of its own before.
    fn settle_sinks(&self) {
        self.write_places(Cursor::waits);
    }

    /// Is there a sink that has?
    fn has_waiting_sinks(&self) -> bool {
        self.state().cursors.iter().any(|(_, cursor)| cursor.waits())
    }

    fn write_places(&self, of: impl Fn(&Cursor) -> bool) {
        let cursors = self.state().cursors.clone();
        for (sink, cursor) in cursors.into_iter().filter(|(_, cursor)| of(cursor)) {
            let written = cursor.write(|stream| self.state().table.get(stream).is_some());
            if let Err(error) = written {
                static SAID: Limited = Limited::new();
                self.counts().error(&errno_name(&error));
                SAID.say(|hidden| {
                    warn!(
                        sink, dir = %self.dir().display(), %error, hidden,
                        "writing down how far a sink is; after a restart it gets again what it had since. The disk under dir \
                         is full or out of order"
                    );
                });
            }
        }
    }

    /// Nothing will be appended any more: readers end when they have what is there.
    fn close(&self) {
        self.state().closed = true;
        self.grown.send_modify(|_| {});
    }

    /// What reader `id`, which has everything below `position`, finds next.
    fn fetch(&self, id: u64, position: u64) -> Fetch {
        let mut state = self.state();
        state.readers.insert(id, position);
        let slowest = state.readers.values().min().copied().unwrap_or(position);
        state.tail.release(slowest);
        if position >= state.next {
            return Fetch::End { closed: state.closed };
        }
        if let Some(frame) = state.tail.get(position) {
            return Fetch::Fresh(frame);
        }
        let part = state.parts.iter().find(|part| part.next > position);
        part.map_or(Fetch::End { closed: state.closed }, |part| Fetch::Stored {
            frames: part.frames(),
            limit: part.size,
            next: part.next,
            damaged: part.damaged,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self) -> &Path {
        &self.config.dir
    }
}

#[cfg(test)]
mod tests;
