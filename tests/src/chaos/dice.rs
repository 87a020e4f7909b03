//! Numbers that a seed repeats.
//!
//! The seed fixes what is done, in which order and with which pauses; not what the scheduler makes of it.

use std::{env, time::Duration};

use anyhow::{Context, Result};

use crate::line::mix;

/// The seed of a run that was not told any.
pub const SEED: u64 = 20_261_121;

/// `SHIMTAP_SEED`, or the one that is always taken.
///
/// # Errors
/// It is no number.
pub fn seed() -> Result<u64> {
    match env::var("SHIMTAP_SEED") {
        Ok(text) => text.parse().with_context(|| format!("SHIMTAP_SEED={text}")),
        Err(_) => Ok(SEED),
    }
}

/// A row of numbers (xorshift).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The row of a seed and of who asks, so that two who ask side by side do not get the same.
    #[must_use]
    pub fn new(seed: u64, who: &str) -> Self {
        let mixed = who.bytes().fold(seed, |word, byte| mix(word ^ u64::from(byte)));
        Self(mix(mixed).max(1))
    }

    /// A number from 0 to below `below`, which is not 0.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let n = self.roll(u64::try_from(all.len()).unwrap_or(1));
        all.get(usize::try_from(n).unwrap_or(0))
    }

    /// Another order of these.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for n in (1..all.len()).rev() {
            all.swap(n, self.length(u64::try_from(n + 1).unwrap_or(1)));
        }
    }

    /// A time up to `most`.
    pub fn pause(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.roll(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }

    /// A length from 0 to below `below`.
    pub fn length(&mut self, below: u64) -> usize {
        usize::try_from(self.roll(below)).unwrap_or(0)
    }
}

/// Kinds that are dealt like cards: each comes as often as any other, whatever the dice say of the order.
#[derive(Clone, Debug)]
pub struct Deck<'a, T> {
    all: &'a [T],
    left: Vec<T>,
}

impl<'a, T: Copy> Deck<'a, T> {
    /// One of each.
    #[must_use]
    pub fn new(all: &'a [T]) -> Self {
        Self { all, left: Vec::new() }
    }

    /// The next one; none where there are no kinds.
    pub fn deal(&mut self, dice: &mut Dice) -> Option<T> {
        if self.left.is_empty() {
            self.left = self.all.to_vec();
            dice.shuffle(&mut self.left);
        }
        self.left.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_row_and_two_askers_have_two() {
        let row = |seed, who| -> Vec<u64> {
            let mut dice = Dice::new(seed, who);
            (0..50).map(|_| dice.roll(1000)).collect()
        };
        assert_eq!(row(7, "a"), row(7, "a"));
        assert_ne!(row(7, "a"), row(7, "b"));
        assert_ne!(row(7, "a"), row(8, "a"));
        assert!(row(7, "a").iter().all(|n| *n < 1000));
    }

    #[test]
    fn a_deck_deals_each_kind_before_it_deals_one_again() {
        let (mut deck, mut dice) = (Deck::new(&[1, 2, 3, 4, 5]), Dice::new(3, "deck"));
        for _ in 0..20 {
            let mut round: Vec<i32> = (0..5).filter_map(|_| deck.deal(&mut dice)).collect();
            round.sort_unstable();
            assert_eq!(round, [1, 2, 3, 4, 5]);
        }
    }
}
