//! Closed enums that serve as label values, and counters indexed by them.
//!
//! A label value must never come from a peer's string: what is not in such an enum is counted under a variant
//! that says so. That keeps the number of series fixed.

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};

/// An enum whose variants are known as label values.
pub trait Closed: Copy + Eq + 'static {
    /// Every variant, in the order of [`Closed::index`].
    const ALL: &'static [Self];
    /// Position in [`Closed::ALL`].
    fn index(self) -> usize;
    /// The label value: lower case, words joined by underscores.
    fn name(self) -> &'static str;

    /// The variant of that name.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.name() == name)
    }
}

/// Defines a closed enum: `closed! { pub enum Colour { Red => "red" } }`.
macro_rules! closed {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// The label value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }

        impl $crate::closed::Closed for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn index(self) -> usize { self as usize }
            fn name(self) -> &'static str { self.label() }
        }
    };
}
pub(crate) use closed;

/// One counter per variant.
#[derive(Debug)]
pub struct Counts<L: Closed> {
    cells: Box<[AtomicU64]>,
    label: PhantomData<L>,
}

// === impl Counts ===

impl<L: Closed> Default for Counts<L> {
    fn default() -> Self {
        Self { cells: L::ALL.iter().map(|_| AtomicU64::new(0)).collect(), label: PhantomData }
    }
}

impl<L: Closed> Counts<L> {
    /// Adds to the counter of `label`.
    pub fn add(&self, label: L, n: u64) {
        // The index is a variant's position and so always there.
        if let Some(cell) = self.cells.get(label.index()) {
            cell.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The counter of `label`.
    #[must_use]
    pub fn get(&self, label: L) -> u64 {
        self.cells.get(label.index()).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// Every variant with its counter.
    pub fn iter(&self) -> impl Iterator<Item = (L, u64)> + '_ {
        L::ALL.iter().map(|label| (*label, self.get(*label)))
    }

    /// The sum over all variants.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().fold(0, |sum, (_, n)| n.saturating_add(sum))
    }
}
