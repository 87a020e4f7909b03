//! A map with a bound on its keys: what comes after the last place is counted under one key that stands for the rest.
//!
//! Label values that a client chooses (handlers, namespaces) pass through one of these, so that no client can make the
//! exposition grow without end. Keys are never given up for newer ones: a counter must not come and go.

use std::collections::BTreeMap;

/// Values by key, at most so many of them.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    rows: BTreeMap<K, V>,
    most: usize,
}

// === impl Bounded ===

impl<K: Ord + Clone, V: Default> Bounded<K, V> {
    /// An empty one for `most` keys, and one more for the rest.
    pub(super) const fn new(most: usize) -> Self {
        Self { rows: BTreeMap::new(), most }
    }

    /// The value of `key`, or that of `rest` where there is no place for another one; true = it is the rest's.
    pub(super) fn place(&mut self, key: &K, rest: impl FnOnce() -> K) -> (&mut V, bool) {
        let cut = !self.rows.contains_key(key) && self.rows.len() >= self.most;
        let key = if cut { rest() } else { key.clone() };
        (self.rows.entry(key).or_default(), cut)
    }

    /// All of them, in the order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_beyond_the_last_place_share_one() {
        let mut map: Bounded<String, u64> = Bounded::new(2);
        for (key, cut) in [("a", false), ("b", false), ("c", true), ("a", false), ("d", true)] {
            let (n, was_cut) = map.place(&key.to_owned(), || "rest".to_owned());
            *n += 1;
            assert_eq!(was_cut, cut, "{key}");
        }
        let rows: Vec<_> = map.iter().map(|(key, n)| (key.as_str(), *n)).collect();
        assert_eq!(rows, [("a", 2), ("b", 1), ("rest", 2)]);
    }
}
