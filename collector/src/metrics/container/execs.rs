//! Execs of one container: when each was started, so that its duration is known at its end, which is told once.
//!
//! Bounded, since nobody deletes those of a client that went away.

use std::collections::HashMap;

/// Execs of one container that are timed at once; more are counted and not timed.
const MOST: usize = 256;

/// Those that are not deleted.
#[derive(Debug, Default)]
pub(super) struct Execs(HashMap<String, Exec>);

/// One as far as it was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exec {
    /// It was started at this Unix ns.
    Runs { since_ns: u64 },
    /// It ended.
    Ended,
}

// === impl Execs ===

impl Execs {
    /// One was started; false where so many run that its duration will not be known.
    pub(super) fn started(&mut self, id: &str, at_ns: u64) -> bool {
        // The answers to Start and Wait may come in either order.
        self.0.contains_key(id) || self.note(id, Exec::Runs { since_ns: at_ns })
    }

    /// One ended; gives when it was started where that is known, and `None` where its end was told before: each client that
    /// waits for it is told.
    pub(super) fn ended(&mut self, id: &str) -> Option<Option<u64>> {
        let since_ns = match self.0.get(id) {
            Some(Exec::Ended) => return None,
            Some(Exec::Runs { since_ns }) => Some(*since_ns),
            None => None,
        };
        self.note(id, Exec::Ended);
        Some(since_ns)
    }

    /// One was deleted: nothing more is told of it.
    pub(super) fn deleted(&mut self, id: &str) {
        self.0.remove(id);
        if self.0.is_empty() {
            // Probes come and go in thousands; a container without one holds nothing for them.
            self.0 = HashMap::new();
        }
    }

    fn note(&mut self, id: &str, exec: Exec) -> bool {
        if self.0.len() >= MOST && !self.0.contains_key(id) {
            // Whose deletion did not come by now will not come.
            self.0.retain(|_, exec| matches!(exec, Exec::Runs { .. }));
        }
        let room = self.0.len() < MOST || self.0.contains_key(id);
        if room {
            self.0.insert(id.to_owned(), exec);
        }
        room
    }
}
