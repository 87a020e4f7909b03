//! Streams whose end nobody told: which the journal's table has, with the reason, and what is said when one becomes so.
//!
//! What is read is the table of streams and no file; the writer waits for as long as one pass over it takes. A stream is listed as
//! long as the table remembers it (`ingest.positions`), whatever became of its records.

use std::{collections::HashSet, sync::Arc};

use tracing::{info, warn};

use super::{Heads, Journal, Row, recover::Endings};
use crate::{
    event::{Ending, Origin, Store, StreamName},
    limited::Limited,
};

/// A stream whose end nobody told.
#[derive(Clone, Debug)]
pub struct OpenEnded {
    /// Its name, and whose it is.
    pub origin: Arc<Origin>,
    /// Why; never [`Ending::Exact`].
    pub ending: Ending,
    /// Raw offset behind the last byte that is known of.
    pub reached: u64,
    /// Raw bytes of its lines.
    pub bytes: u64,
    /// Raw bytes of it that are not here.
    pub gap_bytes: u64,
    /// Time of its last record; `None` where it has none.
    pub last_ns: Option<u64>,
}

/// Streams that are given up together, for one line of the log.
#[derive(Debug)]
pub struct GivenUp {
    ending: Ending,
    streams: u64,
    example: Option<StreamName>,
}

// === impl OpenEnded ===

impl OpenEnded {
    fn of(row: &Row) -> Option<Self> {
        let ending = row.ending.filter(|ending| ending.is_open())?;
        Some(Self {
            origin: Arc::clone(&row.origin),
            ending,
            reached: row.end,
            bytes: row.bytes,
            gap_bytes: gaps(row),
            last_ns: Some(row.last_ns).filter(|ns| *ns > 0),
        })
    }

    /// The same with what the other head has of it, where that has not the last word: then it is that one's.
    fn beside(mut self, store: Store, other: &Row) -> Option<Self> {
        let theirs = (other.end, other.ending.is_some());
        // As `Heads::known` decides.
        let is_theirs = match store {
            Store::Memory => theirs > (self.reached, true),
            Store::Disk => theirs >= (self.reached, true),
        };
        if is_theirs {
            return None;
        }
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.gap_bytes = self.gap_bytes.saturating_add(gaps(other));
        self.last_ns = self.last_ns.max(Some(other.last_ns).filter(|ns| *ns > 0));
        Some(self)
    }
}

fn gaps(row: &Row) -> u64 {
    row.holes.iter().fold(0, |sum, hole| sum.saturating_add(hole.bytes))
}

// === impl Journal ===

impl Journal {
    /// Those of this head.
    fn open_ended(&self) -> Vec<OpenEnded> {
        self.state().table.rows().filter_map(OpenEnded::of).collect()
    }
}

// === impl Heads ===

impl Heads {
    /// Every stream whose end nobody told, each once. One that goes on is among them until it has said something.
    #[must_use]
    pub fn open_ended(&self) -> Vec<OpenEnded> {
        let of = |(store, journal): (Store, &Arc<Journal>)| {
            let other = match store {
                Store::Memory => self.of(Store::Disk),
                Store::Disk => self.of(Store::Memory),
            };
            let found = journal.open_ended();
            let Some(other) = other else { return found };
            let state = other.state();
            let merged = found.into_iter().filter_map(|stream| match state.table.find(&stream.origin.name) {
                Some(row) => stream.beside(store, row),
                None => Some(stream),
            });
            merged.collect()
        };
        self.each().flat_map(of).collect()
    }

    /// Says which streams ended with the boot before, one line per reason. `all` is what each head is about to note of them.
    pub(super) fn say_ended_with_the_boot(&self, all: &[(Store, Endings)]) {
        let mut told = HashSet::new();
        for reason in [Ending::PowerCut, Ending::Reboot] {
            let mut given_up = GivenUp::new(reason);
            for (store, endings) in all {
                for (origin, _) in endings.iter().filter(|(_, ending)| *ending == reason) {
                    let known = self.known(&origin.name);
                    // Where the other head has the last word it speaks for both.
                    let is_so = |known: &Ending| *known == reason;
                    let is_its = known
                        .is_some_and(|it| it.store == *store && it.row.ending.as_ref().is_none_or(is_so));
                    if is_its && told.insert(&origin.name) {
                        given_up.note(origin);
                    }
                }
            }
            given_up.say();
        }
    }
}

// === impl GivenUp ===

impl GivenUp {
    /// None so far, of those that end for this reason.
    #[must_use]
    pub const fn new(ending: Ending) -> Self {
        Self { ending, streams: 0, example: None }
    }

    /// One more.
    pub fn note(&mut self, origin: &Origin) {
        self.streams = self.streams.saturating_add(1);
        self.example.get_or_insert_with(|| origin.name.clone());
    }

    /// Says so, if there are any.
    pub fn say(self) {
        static SAID: Limited = Limited::new();
        let Self { ending, streams, example: Some(example) } = self else { return };
        let StreamName { namespace, container, process, stream, .. } = example;
        let (reason, stream) = (ending.label(), stream.label());
        match ending {
            Ending::WrapperLost => SAID.say(|hidden| {
                warn!(
                    streams, reason, namespace, container, process, stream, hidden,
                    "streams whose wrapper went away and did not come back are given up: of their last bytes nothing is known. One of \
                     them is named; shimtap ps --open-ended lists all"
                );
            }),
            // At a start, once.
            _ => info!(
                streams,
                reason,
                namespace,
                container,
                process,
                stream,
                "streams ended with the boot before: of their last bytes nothing is known. One of them is named; \
                 shimtap ps --open-ended lists all"
            ),
        }
    }
}
