//! Who is struck next, how, and when: a seeded plan without an end.
//!
//! A strike is on one process of a pair and never on both: the death of keeper and worker at once is the pod's, by design.

use std::{fmt, time::Duration};

use super::dice::Dice;
use crate::fault::Fault;

/// A process of the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Relays and copies.
    Worker,
    /// Holds the descriptors.
    Keeper,
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// At any instant: so long after the process was found.
    After(Duration),
    /// At a named point: at the n-th entry or exit of a system call from then on.
    Call(u32),
}

/// One strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// On whom.
    pub role: Role,
    /// What befalls it.
    pub fault: Fault,
    /// When.
    pub moment: Moment,
    /// The worker's link thread stands still meanwhile.
    pub link_held: bool,
}

/// In how many of a hundred cases.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// The keeper is struck instead of the worker.
    pub keepers: u64,
    /// The victim hangs instead of dying; it takes seconds until that is found out.
    pub hangs: u64,
    /// It is struck at a system call instead of at any instant.
    pub calls: u64,
    /// The worker's link thread stands still while a process dies.
    pub links: u64,
    /// The longest pause before a strike at any instant.
    pub pause: Duration,
}

/// What a run does unless it is told otherwise.
impl Default for Mix {
    fn default() -> Self {
        Self { keepers: 25, hangs: 3, calls: 40, links: 5, pause: Duration::from_millis(15) }
    }
}

/// The plan.
#[derive(Clone, Debug)]
pub struct Schedule {
    dice: Dice,
    mix: Mix,
}

impl Schedule {
    /// The plan of a row of numbers.
    #[must_use]
    pub fn new(dice: Dice, mix: Mix) -> Self {
        Self { dice, mix }
    }

    /// The next strike.
    pub fn next_strike(&mut self) -> Strike {
        // Between two turns a relay makes some ten calls, with output more: up to 80 stops reach into the next turns.
        const STOPS: u64 = 80;
        let role = if self.dice.chance(self.mix.keepers) { Role::Keeper } else { Role::Worker };
        let fault = match (self.dice.chance(self.mix.hangs), self.dice.chance(50)) {
            (true, true) => Fault::Stop,
            (true, false) => Fault::Spin,
            (false, true) => Fault::Kill,
            (false, false) => Fault::Crash,
        };
        let moment = if self.dice.chance(self.mix.calls) {
            Moment::Call(u32::try_from(1 + self.dice.roll(STOPS)).unwrap_or(1))
        } else {
            Moment::After(self.dice.pause(self.mix.pause))
        };
        let link_held = self.dice.chance(self.mix.links) && !fault.hangs();
        Strike { role, fault, moment, link_held }
    }

    /// One of these, by the plan's dice.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        self.dice.pick(all)
    }
}

impl Role {
    /// As the process calls itself.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "tap-worker",
            Self::Keeper => "tap-keeper",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Keeper => "keeper",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_long_plan_has_every_kind_and_is_repeatable() {
        let plan = || {
            let mut schedule = Schedule::new(Dice::new(1, "plan"), Mix::default());
            (0..2000).map(|_| schedule.next_strike()).collect::<Vec<_>>()
        };
        let strikes = plan();
        assert_eq!(strikes, plan());
        let kinds: BTreeSet<_> = strikes.iter().map(|s| (s.role, s.fault)).collect();
        assert_eq!(kinds.len(), 8, "{kinds:?}");
        let hung = strikes.iter().filter(|s| s.fault.hangs()).count();
        assert!((20..120).contains(&hung), "{hung} of 2000 hang");
        let held = strikes.iter().filter(|s| s.link_held).count();
        assert!((40..200).contains(&held), "in {held} of 2000 the link stands still");
    }
}
