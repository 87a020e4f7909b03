//! Bounds of what is exposed. What they cut is counted, with the bound that did.

use std::{borrow::Cow, sync::Arc};

use super::totals::{Cut, Totals};
use crate::config::Limits;

/// The bounds, and where what they cut is counted.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) limits: Limits,
    totals: Arc<Totals>,
}

// === impl Bounds ===

impl Bounds {
    pub(super) const fn new(limits: Limits, totals: Arc<Totals>) -> Self {
        Self { limits, totals }
    }

    /// A label's value as it is shown. One that is too long keeps its beginning, and ends in a number made of all of it: two
    /// that differ stay two.
    pub(super) fn value<'v>(&self, value: &'v str) -> Cow<'v, str> {
        let shown = self.known(value);
        if matches!(shown, Cow::Owned(_)) {
            self.totals.cuts.add(Cut::LabelLength, 1);
        }
        shown
    }

    /// The same of a value that is shown elsewhere as well: where it is cut, that was counted there.
    pub(super) fn known<'v>(&self, value: &'v str) -> Cow<'v, str> {
        let most = self.limits.label_value_bytes;
        if value.len() <= most {
            return Cow::Borrowed(value);
        }
        let mark = format!("~{:08x}", crc32fast::hash(value.as_bytes()));
        let mut end = most.saturating_sub(mark.len());
        while !value.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        Cow::Owned(format!("{}{mark}", value.get(..end).unwrap_or_default()))
    }

    /// The first of `items` that there is room for.
    pub(super) fn first<I: ExactSizeIterator>(&self, items: I, cut: Cut) -> std::iter::Take<I> {
        let most = match cut {
            Cut::Interfaces => self.limits.interfaces,
            _ => self.limits.devices,
        };
        let over = items.len().saturating_sub(most);
        self.totals.cuts.add(cut, u64::try_from(over).unwrap_or(u64::MAX));
        items.take(most)
    }

    /// So many series had no room in an exposition.
    pub(super) fn series_cut(&self, series: u64) {
        self.totals.cuts.add(Cut::Series, series);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_at_a_character_and_stay_different() {
        let totals: Arc<Totals> = Arc::default();
        let limits = Limits { label_value_bytes: 16, ..Limits::default() };
        let bounds = Bounds::new(limits, Arc::clone(&totals));
        assert_eq!(bounds.value("exactly 16 bytes"), "exactly 16 bytes");
        let (one, other) = (format!("{}a", "é".repeat(20)), format!("{}b", "é".repeat(20)));
        let (one, other) = (bounds.value(&one).into_owned(), bounds.value(&other).into_owned());
        assert!(one.starts_with("ééé~") && one.len() <= 16 && one != other, "{one} {other}");
        assert_eq!(totals.cuts.get(Cut::LabelLength), 2);
    }

    #[test]
    fn what_is_beyond_a_bound_is_counted() {
        let totals: Arc<Totals> = Arc::default();
        let bounds = Bounds::new(Limits { devices: 2, ..Limits::default() }, Arc::clone(&totals));
        assert_eq!(bounds.first([1, 2, 3, 4].into_iter(), Cut::Devices).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(totals.cuts.get(Cut::Devices), 2);
    }
}
