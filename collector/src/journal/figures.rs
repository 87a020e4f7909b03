//! What the journal shows of itself.

use super::Journal;
use crate::event::HoleReason;

/// Sizes and ages, as of now.
#[derive(Debug)]
pub struct Figures {
    /// Bytes of its files.
    pub bytes: u64,
    /// How many there are.
    pub files: u64,
    /// When the oldest frame was appended, Unix ns; `None` where there is none.
    pub oldest_ns: Option<u64>,
    /// The collector before did not end in order.
    pub unclean: bool,
    /// Every sink.
    pub sinks: Vec<SinkFigures>,
}

/// How far a sink is behind.
#[derive(Clone, Debug)]
pub struct SinkFigures {
    /// Its name.
    pub name: &'static str,
    /// Raw bytes of output that it has not acknowledged.
    pub lag_bytes: u64,
    /// When the oldest of them was appended, Unix ns.
    pub oldest_ns: Option<u64>,
    /// Raw bytes that were gone before it came to them, since this process began.
    pub lost: Vec<(HoleReason, u64)>,
}

// === impl SinkFigures ===

impl SinkFigures {
    /// Those of several heads of the journal as of one.
    pub fn of_all<'f>(heads: impl Iterator<Item = &'f Figures>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for sink in heads.flat_map(|figures| &figures.sinks) {
            match all.iter_mut().find(|known| known.name == sink.name) {
                Some(known) => known.add(sink),
                None => all.push(sink.clone()),
            }
        }
        all
    }

    fn add(&mut self, other: &Self) {
        self.lag_bytes = self.lag_bytes.saturating_add(other.lag_bytes);
        self.oldest_ns = [self.oldest_ns, other.oldest_ns].into_iter().flatten().min();
        // Every head has every reason, in one order.
        for ((_, bytes), (_, more)) in self.lost.iter_mut().zip(&other.lost) {
            *bytes = bytes.saturating_add(*more);
        }
    }
}

// === impl Journal ===

impl Journal {
    /// What it shows of itself.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let state = self.state();
        let mut sinks = Vec::new();
        for (name, cursor) in &state.cursors {
            let (lag_bytes, open_ns) = cursor.lag(state.output);
            let position = cursor.given();
            let part = state.parts.iter().find(|part| part.next > position);
            let unread_ns = part.and_then(|part| part.time_of(position));
            let lost = [HoleReason::Retention, HoleReason::JournalDamaged, HoleReason::JournalLost];
            let lost = lost.map(|reason| (reason, cursor.lost.get(reason))).to_vec();
            let oldest_ns = [open_ns, unread_ns].into_iter().flatten().min();
            sinks.push(SinkFigures { name, lag_bytes, oldest_ns, lost });
        }
        Figures {
            bytes: state.parts.iter().fold(0, |sum, part| sum.saturating_add(part.size)),
            files: u64::try_from(state.parts.len()).unwrap_or(u64::MAX),
            oldest_ns: state.parts.iter().map(|part| part.oldest_ns).find(|ns| *ns > 0),
            unclean: self.unclean,
            sinks,
        }
    }
}
