//! CPU time that a sandbox costs its host beyond what its containers used, since it was first seen.
//!
//! Signed: host and guest are read at different moments, so that the difference may be below 0 for a while. Containers that
//! were started later count from their first cycle, those that ran already from what they had when they were first heard of (a wrapper
//! that has just attached may not have told of them at the first look); the figures of those that ended stay.
//! While one of them is not known there is no figure: what it used meanwhile would be taken for overhead.

use std::collections::BTreeMap;

/// Containers that are remembered beside each other; their sum stays when one makes room.
const CONTAINERS: usize = 512;

/// What host and guest have used, from the first look on.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    host: Option<Host>,
    /// By incarnation: what a container had when it was first seen, and what it has now.
    guest: BTreeMap<u64, (u64, u64)>,
    folded_ns: u64,
}

/// CPU time of the host's cgroup in ns.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// Unix ns of the first look.
    since_ns: u64,
    base_ns: u64,
    last_ns: u64,
}

/// A container as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) incarnation: u64,
    /// Unix ns; 0 = not known.
    pub(super) started_ns: u64,
    /// CPU time in ns, where it is known.
    pub(super) used_ns: Option<u64>,
}

// === impl Ledger ===

impl Ledger {
    /// Takes CPU time of the host's, at `now_ns` by the wall clock, and of containers; gives the overhead in ns. `None` without a figure
    /// of each.
    pub(super) fn take(&mut self, now_ns: u64, host_ns: Option<u64>, guests: &[Guest]) -> Option<i64> {
        let host_ns = host_ns?;
        let all_known = guests.iter().all(|guest| guest.used_ns.is_some());
        // A host's cgroup that was made anew begins at 0, and so does what is compared with it.
        if self.host.is_some_and(|host| host_ns < host.last_ns) {
            *self = Self::default();
        }
        if self.host.is_none() && !all_known {
            return None;
        }
        let host = self.host.get_or_insert(Host { since_ns: now_ns, base_ns: host_ns, last_ns: host_ns });
        host.last_ns = host_ns;
        let (since_ns, host) = (host.since_ns, host_ns.saturating_sub(host.base_ns));
        for guest in guests {
            let Some(used) = guest.used_ns else { continue };
            let before = if guest.started_ns <= since_ns { used } else { 0 };
            let entry = self.guest.entry(guest.incarnation).or_insert((before, used));
            entry.1 = entry.1.max(used);
        }
        self.make_room(guests);
        let used = self.guest.values().map(|(base, now)| now.saturating_sub(*base));
        let guest = used.fold(self.folded_ns, u64::saturating_add);
        i64::try_from(i128::from(host) - i128::from(guest)).ok().filter(|_| all_known)
    }

    /// Those that nobody speaks of any more become part of the sum.
    fn make_room(&mut self, guests: &[Guest]) {
        if self.guest.len() <= CONTAINERS {
            return;
        }
        let folded = &mut self.folded_ns;
        self.guest.retain(|incarnation, (base, now)| {
            let known = guests.iter().any(|guest| guest.incarnation == *incarnation);
            if !known {
                *folded = folded.saturating_add(now.saturating_sub(*base));
            }
            known
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment after the first look; containers that were started before it are those of `old`.
    fn guest(incarnation: u64, used_ns: Option<u64>) -> Guest {
        Guest { incarnation, started_ns: 20, used_ns }
    }

    fn old(incarnation: u64, used_ns: Option<u64>) -> Guest {
        Guest { started_ns: 5, ..guest(incarnation, used_ns) }
    }

    #[test]
    fn the_difference_is_what_was_used_since_both_were_seen() {
        let mut ledger = Ledger::default();
        let mut take = |host, guests: &[Guest]| ledger.take(10, host, guests);
        assert_eq!(take(Some(1_000), &[old(1, None)]), None, "nothing is known of the guest");
        assert_eq!(take(None, &[old(1, Some(5))]), None, "nor of the host");
        assert_eq!(take(Some(1_000), &[old(1, Some(600))]), Some(0));
        assert_eq!(take(Some(1_500), &[old(1, Some(900))]), Some(200));
        // A new container counts from its first cycle, but not before it is known.
        assert_eq!(take(Some(1_600), &[old(1, Some(900)), guest(2, None)]), None);
        assert_eq!(take(Some(1_700), &[old(1, Some(900)), guest(2, Some(100))]), Some(300));
        // What ended stays; a guest may be ahead of its host.
        assert_eq!(take(Some(1_700), &[old(1, Some(2_000))]), Some(-800));
        // Another cgroup: both begin anew.
        assert_eq!(take(Some(10), &[old(1, Some(2_000))]), Some(0));
        assert_eq!(take(Some(70), &[old(1, Some(2_040))]), Some(20));
    }

    #[test]
    fn what_ran_before_the_first_look_and_was_told_after_it_counts_from_then() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.take(10, Some(1_000), &[]), Some(0), "its wrapper has just attached");
        let unknown = Guest { started_ns: 0, ..old(3, Some(70_000)) };
        let told = [old(1, Some(90_000)), guest(2, Some(5)), unknown];
        assert_eq!(ledger.take(30, Some(1_100), &told), Some(95));
        let later = [old(1, Some(90_040)), guest(2, Some(5)), unknown];
        assert_eq!(ledger.take(40, Some(1_200), &later), Some(155));
    }

    #[test]
    fn the_work_of_a_guest_that_is_mute_is_no_overhead() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.take(10, Some(0), &[old(1, Some(0))]), Some(0));
        assert_eq!(ledger.take(20, Some(900), &[old(1, None)]), None, "it may have used all of it");
        assert_eq!(ledger.take(30, Some(1_000), &[old(1, Some(950))]), Some(50), "and it had");
    }

    #[test]
    fn thousands_of_restarts_are_one_figure() {
        let mut ledger = Ledger::default();
        let mut host = 0;
        assert_eq!(ledger.take(10, Some(host), &[]), Some(0));
        for incarnation in 0..5_000 {
            host += 11;
            assert_eq!(
                ledger.take(30, Some(host), &[guest(incarnation, Some(10))]),
                i64::try_from(incarnation + 1).ok(),
                "{incarnation}"
            );
            assert!(ledger.guest.len() <= CONTAINERS + 1);
        }
    }
}
