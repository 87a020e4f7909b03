//! The part of the block about the two processes themselves: who died of what, whether safe mode holds, and how long there
//! was nobody to relay.
//!
//! The keeper writes it, except where a word says otherwise; the worker turns deaths into events and the link into a report.

use std::sync::atomic::Ordering;

use super::states::states;
use crate::sys::{
    atomic::{AtomicU32, AtomicU64},
    shared::shared_layout,
};

/// Deaths that are remembered; the counts by reason go on for ever.
pub const DEATHS: usize = 8;

states! {
    /// Why a worker or a keeper was replaced.
    pub enum Reason {
        /// Nobody could read how it ended: it was older than its keeper, and the kernel did not tell (`sys::ends`).
        Unknown,
        /// SIGKILL or another signal from outside; the kernel's OOM killer uses it too.
        Killed,
        /// A signal that a fault of the program itself raises.
        Crashed,
        /// It ended by itself with an error.
        Failed,
        /// The relay thread gave no sign of life; ended by the keeper.
        Hung,
        /// The link thread gave none; the worker ended itself.
        LinkHung,
        /// Replaced on purpose: safe mode was left, or a stand-in was relieved.
        Replaced,
        /// A keeper that was gone.
        KeeperLost,
        /// A keeper that did not answer.
        KeeperHung,
    }
}

states! {
    /// How much the worker dares (docs/adr/0007).
    pub enum Mode {
        Normal,
        /// Bytes are moved; nothing is looked into, nothing is copied.
        Safe,
        /// The same, and no link thread.
        Bare,
    }
}

shared_layout! {
    /// One death of a worker.
    pub struct Death {
        /// [`Reason`].
        pub reason: AtomicU32,
        pub pid: AtomicU32,
        /// 0 = none, or not known.
        pub signal: AtomicU32,
        pub exit_status: AtomicU32,
        /// CLOCK_MONOTONIC ns of the end, and of the successor's readiness (0 = not yet).
        pub died_ns: AtomicU64,
        pub ready_ns: AtomicU64,
        /// Unix ns of the end.
        pub time_ns: AtomicU64,
        /// worker: `events_head` + 1 before this death's event was pushed.
        pub event_at: AtomicU64,
    }
}

shared_layout! {
    /// Deaths, and what follows from them.
    pub struct Care {
        /// [`Mode`] of the next worker; a living one keeps what it began with.
        pub mode: AtomicU32,
        /// How often safe mode was entered.
        pub entries: AtomicU32,
        /// CLOCK_MONOTONIC ns: deaths before it do not count towards the next mode; and when safe mode is left (0 = never).
        pub since_ns: AtomicU64,
        pub until_ns: AtomicU64,
        /// Deaths within ten seconds that mean safe mode; 0 = never.
        pub deaths_max: AtomicU32,
        /// [`Reason`] + 1 of an end that is about to be brought about on purpose; whoever does it writes it.
        pub ending: AtomicU32,
        /// 1: the worker stands in for a keeper that could not fork, in the keeper's own process.
        pub stand_in: AtomicU32,
        _reserved: AtomicU32,
        /// Time without a worker that was ready, in ns, over all deaths.
        pub without_worker_ns: AtomicU64,
        /// worker: CLOCK_MONOTONIC ns when it last ended itself because of its link thread.
        pub link_hung_ns: AtomicU64,
        /// By [`Reason`].
        pub restarts: [AtomicU64; 16],
        /// Deaths so far, and (worker) how many of them have become events.
        pub died: AtomicU64,
        pub told: AtomicU64,
        pub deaths: [Death; DEATHS],
    }
}

// === impl Reason ===

impl Reason {
    /// From the signal that ended a process.
    pub fn of_signal(signal: i32) -> Self {
        const FAULTS: [i32; 7] = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGABRT,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGSYS,
            libc::SIGTRAP,
        ];
        if FAULTS.contains(&signal) { Self::Crashed } else { Self::Killed }
    }
}

// === impl Care ===

impl Care {
    /// Counts a replacement.
    pub fn count(&self, reason: Reason) {
        if let Some(word) = self.restarts.get(reason as usize) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The entry of death number `n` (from 0); the newest [`DEATHS`] are there.
    pub fn death(&self, n: u64) -> &Death {
        let place = usize::try_from(n % DEATHS as u64).unwrap_or(0);
        self.deaths.get(place).unwrap_or(&self.deaths[0])
    }

    /// Says why the process at hand is about to end.
    pub fn announce(&self, reason: Reason) {
        self.ending.store((reason as u32).saturating_add(1), Ordering::Release);
    }

    /// What was announced, once.
    pub fn take_announced(&self) -> Option<Reason> {
        let raw = self.ending.swap(0, Ordering::AcqRel).checked_sub(1)?;
        Reason::ALL.iter().copied().find(|r| *r as u32 == raw)
    }
}
