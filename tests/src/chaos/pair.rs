//! Keeper and worker of one wrapper: found, struck one at a time, and waited for until both are there again.
//!
//! Knows the two by what /proc says and by nothing else.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::schedule::{Moment, Role, Strike};
use crate::{
    fault::Fault,
    rig::eventually,
    standin::{
        procs::{self, Process},
        stall::{self, Held},
        tracer,
    },
};

/// A hung worker is found out within 5.5 s, its successor is there in milliseconds; the rest is for a busy machine.
pub const RENEWAL: Duration = Duration::from_secs(30);
/// So long a named point is waited for: a process with nothing to do never comes to it. Well below the second after which a
/// worker takes a keeper that does not answer for hung, and ends it: tracing makes it slow, and must not be a fault of its own.
const POINT: Duration = Duration::from_millis(300);

/// Where pairs are looked for: the living keepers of a place.
pub type Keepers<'a> = dyn Fn() -> Result<Vec<Process>> + Sync + 'a;

/// A keeper with its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The one that holds.
    pub keeper: Process,
    /// The one that works.
    pub worker: Process,
}

/// What became of a strike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Struck {
    /// The victim is gone, and both are there again.
    Renewed {
        /// The two that there are now.
        pair: Pair,
        /// The system call it was struck at, where one was chosen.
        place: Option<String>,
        /// From the strike until both were there again.
        took: Duration,
        /// The worker's link thread stood still meanwhile.
        link_held: bool,
    },
    /// The victim is gone, and the other one too: the pod has ended, or was ended.
    Ended {
        /// As above.
        place: Option<String>,
    },
    /// It was not struck: it or the other one had gone by itself, or it never came to the point.
    Missed,
}

impl Pair {
    /// The pair of a keeper that has a worker.
    #[must_use]
    pub fn of(keeper: Process) -> Option<Self> {
        let worker = procs::worker(keeper.pid).ok()?;
        Some(Self { keeper, worker })
    }

    /// All whole pairs.
    ///
    /// # Errors
    /// Keepers cannot be listed.
    pub fn all(keepers: &Keepers<'_>) -> Result<Vec<Self>> {
        Ok(keepers()?.into_iter().filter_map(Self::of).collect())
    }

    /// Whose they are: the command line, which successors have too.
    #[must_use]
    pub fn name(&self) -> &[String] {
        &self.keeper.argv
    }

    /// Strikes, and waits until both are there again or none is.
    ///
    /// # Errors
    /// The victim lives on beyond all limits, or has no successor.
    pub fn strike(&self, strike: Strike, keepers: &Keepers<'_>) -> Result<Struck> {
        let (victim, other) = match strike.role {
            Role::Worker => (&self.worker, &self.keeper),
            Role::Keeper => (&self.keeper, &self.worker),
        };
        let held = if strike.link_held { self.hold_link() } else { None };
        let place = match strike.moment {
            Moment::After(pause) => {
                // Not waiting for anything: the moment is what is random here.
                thread::sleep(pause);
                if !victim.alive() || !other.alive() || !strike.fault.befall(victim.pid)? {
                    return Ok(Struck::Missed);
                }
                None
            }
            Moment::Call(at) => match at_call(victim, at, strike.fault)? {
                Some(place) => Some(place),
                None => return Ok(Struck::Missed),
            },
        };
        let began = Instant::now();
        match self.renewed(victim, keepers).with_context(|| format!("{strike:?} on {self:?}"))? {
            Some(pair) => {
                Ok(Struck::Renewed { pair, place, took: began.elapsed(), link_held: held.is_some() })
            }
            None => Ok(Struck::Ended { place }),
        }
    }

    /// Holds the thread that speaks to the collector; none where there is no such thread, as in safe mode or before it has begun.
    fn hold_link(&self) -> Option<Held> {
        let thread = stall::threads(self.worker.pid, "tap-link").ok()?.pop()?;
        stall::hold(thread).ok()
    }

    /// The next whole pair, once the victim is dead; none where all of it is gone.
    ///
    /// One that is dying still looks like a worker, so nothing is taken for a successor before.
    fn renewed(&self, victim: &Process, keepers: &Keepers<'_>) -> Result<Option<Self>> {
        let renewed = eventually(RENEWAL, "its end and its successor", || {
            if victim.alive() {
                return Ok(None);
            }
            if victim.pid == self.worker.pid && self.keeper.alive() {
                return Ok(Self::of(self.keeper.clone()).map(Some));
            }
            let mut mine = keepers()?;
            mine.retain(|keeper| keeper.argv == self.keeper.argv);
            // The worker by what it is, for it has no command line while it begins anew; and any other, for it may have
            // been replaced since it was looked up.
            let all_gone = mine.is_empty() && !self.worker.alive() && !procs::wrapper_lives(&self.keeper)?;
            let whole = mine.into_iter().find_map(Self::of);
            Ok(whole.map(Some).or(all_gone.then_some(None)))
        });
        renewed.with_context(|| format!("of {victim:?}; there are {:?}", keepers()))
    }
}

/// Lets it happen at the `at`-th entry or exit of a system call; gives where, or none where that was not reached.
fn at_call(victim: &Process, at: u32, fault: Fault) -> Result<Option<String>> {
    let traced = || -> Result<_> {
        let armed = tracer::arm_with(victim.pid, at, fault)?;
        armed.go()?;
        // Where the time is over, the thread never came to the point, and is let go.
        let _reached = eventually(POINT, "the point", || Ok(armed.is_over().then_some(())));
        armed.finish()
    };
    match traced() {
        Ok(outcome) => Ok(outcome.place()),
        // It ended by itself, or was ended, while it was being traced.
        Err(_) if !victim.alive() => Ok(None),
        Err(e) => Err(e),
    }
}
