//! Which head of the journal a stream's records go to, and when another one may take over.
//!
//! A move is made between two lines, and only when everything before it is durable: else an acknowledgement of what the new
//! head has could speak of what the old one has not written yet. Until then the stream stays where it is, so that nothing is
//! ever reordered, and a head that cannot write keeps its streams.

use crate::{event::Store, journal::Known};

/// One stream's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    /// The head that has its last record; `None` before the first.
    now: Option<Store>,
    /// The head that rules want the next one in.
    pub(super) wanted: Store,
    /// How far the other head has it.
    elsewhere: u64,
}

// === impl Home ===

impl Default for Home {
    fn default() -> Self {
        Self { now: None, wanted: Store::Memory, elsewhere: 0 }
    }
}

impl Home {
    /// Of a stream that an earlier process kept. It stays where it is unless somebody says else.
    pub(super) const fn resumed(known: &Known) -> Self {
        Self { now: Some(known.store), wanted: known.store, elsewhere: known.elsewhere }
    }

    /// The head that the next record goes to, where a move `may` be made before it or not.
    pub(super) fn next(&self, may: bool) -> Store {
        self.now.filter(|_| !may).unwrap_or(self.wanted)
    }

    /// True where it is to be moved.
    pub(super) fn is_moving(&self) -> bool {
        self.now.is_some_and(|now| now != self.wanted)
    }

    /// A record that begins at raw offset `at` goes to `store`: gives from where on that lacks what was before, if it does.
    pub(super) fn go(&mut self, store: Store, at: u64) -> Option<u64> {
        let before = self.now.replace(store);
        if before.is_none_or(|before| before == store) {
            return None;
        }
        let from = std::mem::replace(&mut self.elsewhere, at);
        (from < at).then_some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_head_is_told_what_it_lacks_and_nothing_moves_before_it_may() {
        let mut home = Home::default();
        assert_eq!((home.next(true), home.is_moving()), (Store::Memory, false));
        assert_eq!(home.go(Store::Memory, 0), None);
        home.wanted = Store::Disk;
        assert!(home.is_moving());
        assert_eq!((home.next(false), home.next(true)), (Store::Memory, Store::Disk));
        assert_eq!(home.go(Store::Disk, 10), Some(0));
        assert_eq!(home.go(Store::Disk, 20), None);
        home.wanted = Store::Memory;
        assert_eq!(home.go(Store::Memory, 30), Some(10));
        home.wanted = Store::Disk;
        assert_eq!(home.go(Store::Disk, 40), Some(30));
        // A stream that begins on the disk lacks nothing there.
        let mut home = Home { wanted: Store::Disk, ..Home::default() };
        assert_eq!((home.next(false), home.go(Store::Disk, 0)), (Store::Disk, None));
    }
}
