//! What a run has done and seen, as numbers; made by many threads, added up at the end.
//!
//! It only counts. What is wrong is an error of the piece in which it was seen, and stands in [`Tally::faults`].

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    pair::Struck,
    schedule::{Role, Strike},
};
use crate::fault::Fault;

/// Lines and bytes of container output on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Lines.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Strikes that were deadly, at once or when they were found out.
    pub deaths: BTreeMap<(Role, Fault), u64>,
    /// Those of them at a named point: the system call, before (`>`) or after (`<`) it.
    pub places: BTreeMap<String, u64>,
    /// Strikes at processes that had gone by themselves, or that never came to the point.
    pub missed: u64,
    /// Those during which the worker's link thread stood still.
    pub links: u64,
    /// What was asked of the wrapper meanwhile: so often each kind of work, judged to its end; each that was meant to be is there.
    pub done: BTreeMap<&'static str, u64>,
    /// Requests that the stand-in shim counted, each once and unchanged.
    pub requests: u64,
    /// Connections on which they came.
    pub connections: u64,
    /// Frames that the wrappers say they relayed.
    pub frames: u64,
    /// Bytes of the largest request.
    pub largest: u64,
    /// What containerd's side read, equal to what was written.
    pub outside: Volume,
    /// Of streams that are captured: what was written.
    pub captured: Volume,
    /// What of that the collector's file holds, equal to what was written.
    pub inside: Volume,
    /// Containers of pods whose wrapper died before `start` was answered: they ran unwrapped, and the collector was told.
    pub unwrapped: u64,
    /// Streams whose container was created while keepers died faster than they can be made, likewise told.
    pub not_captured: u64,
    /// Files that wrappers left behind, with what nobody was there to take; the collector took each.
    pub spooled: u64,
    /// Containers that are not in the file for one of these two reasons.
    pub absent: u64,
    /// Bytes that the file admits to miss, by reason.
    pub gaps: BTreeMap<String, u64>,
    /// Stats that the wrapper answered for a shim that had not within 2 s, as it is to.
    pub bounded: u64,
    /// Calls that containerd itself gave up while something hung, by their name; they were asked again.
    pub given_up: BTreeMap<&'static str, u64>,
    /// The longest wait of each kind.
    pub longest: BTreeMap<&'static str, Duration>,
    /// Replacements that the collector was told of, by reason.
    pub restarts: BTreeMap<String, u64>,
    /// Most workers that one wrapper has had.
    pub generation: u64,
    /// Time in which wrappers had no worker, as they say.
    pub without_worker: Duration,
    /// What went wrong, with the piece it went wrong in.
    pub faults: Vec<String>,
}

impl Tally {
    /// All deaths.
    #[must_use]
    pub fn died(&self) -> u64 {
        self.deaths.values().sum()
    }

    /// Adds another one to it.
    pub fn add(&mut self, other: Self) {
        sum_up(&mut self.deaths, other.deaths);
        sum_up(&mut self.places, other.places);
        sum_up(&mut self.done, other.done);
        sum_up(&mut self.gaps, other.gaps);
        sum_up(&mut self.given_up, other.given_up);
        sum_up(&mut self.restarts, other.restarts);
        self.missed += other.missed;
        self.links += other.links;
        self.unwrapped += other.unwrapped;
        self.not_captured += other.not_captured;
        self.absent += other.absent;
        self.bounded += other.bounded;
        self.spooled += other.spooled;
        self.requests += other.requests;
        self.connections += other.connections;
        self.frames += other.frames;
        self.largest = self.largest.max(other.largest);
        for (mine, theirs) in [
            (&mut self.outside, other.outside),
            (&mut self.captured, other.captured),
            (&mut self.inside, other.inside),
        ] {
            mine.lines += theirs.lines;
            mine.bytes += theirs.bytes;
        }
        for (kind, wait) in other.longest {
            let longest = self.longest.entry(kind).or_default();
            *longest = (*longest).max(wait);
        }
        self.generation = self.generation.max(other.generation);
        self.without_worker += other.without_worker;
        self.faults.extend(other.faults);
    }
}

fn sum_up<K: Ord>(mine: &mut BTreeMap<K, u64>, theirs: BTreeMap<K, u64>) {
    for (key, n) in theirs {
        *mine.entry(key).or_default() += n;
    }
}

/// A tally that many threads write.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Tally>);

impl Ledger {
    /// To read or write all of it.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work of these kinds is going to be done.
    pub fn expects(&self, kinds: &[&'static str]) {
        let mut tally = self.tally();
        for kind in kinds {
            tally.done.entry(kind).or_default();
        }
    }

    /// Whether some kind was not done yet.
    #[must_use]
    pub fn lacks_a_kind(&self) -> bool {
        self.tally().done.values().any(|n| *n == 0)
    }

    /// One more piece of work of this kind is done and was found right.
    pub fn did(&self, kind: &'static str) {
        *self.tally().done.entry(kind).or_default() += 1;
    }

    /// So long something took.
    pub fn waited(&self, kind: &'static str, wait: Duration) {
        let mut tally = self.tally();
        let longest = tally.longest.entry(kind).or_default();
        *longest = (*longest).max(wait);
    }

    /// containerd has given this call up.
    pub fn given_up(&self, call: &'static str) {
        *self.tally().given_up.entry(call).or_default() += 1;
    }

    /// What containerd's side has read of a stream that is right to its last byte.
    pub fn read_outside(&self, bytes: &[u8]) {
        let mut tally = self.tally();
        tally.outside.lines += lines_in(bytes);
        tally.outside.bytes += u64::try_from(bytes.len()).unwrap_or(0);
    }

    /// Enters a strike; gives whether it was a death.
    pub fn struck(&self, strike: Strike, struck: &Struck) -> bool {
        let mut tally = self.tally();
        let place = match struck {
            Struck::Missed => {
                tally.missed += 1;
                return false;
            }
            Struck::Renewed { place, took, link_held, .. } => {
                tally.links += u64::from(*link_held);
                let kind =
                    if strike.fault.hangs() { "successor of a hung one" } else { "successor of a dead one" };
                let longest = tally.longest.entry(kind).or_default();
                *longest = (*longest).max(*took);
                place
            }
            Struck::Ended { place } => place,
        };
        if let Some(place) = place {
            *tally.places.entry(place.clone()).or_default() += 1;
        }
        *tally.deaths.entry((strike.role, strike.fault)).or_default() += 1;
        true
    }

    /// The tally.
    #[must_use]
    pub fn close(self) -> Tally {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends of lines in these bytes.
#[must_use]
pub fn lines_in(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(0)
}
