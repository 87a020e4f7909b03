//! CPU time that a sandbox costs its host beyond what its containers used, since it was first seen.
//!
//! Signed: host and guest are read at different moments, so that the difference may be below 0 for a while. Containers that
//! came later count from their first cycle, those that were there from what they had; the figures of those that ended stay.
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
    base_ns: u64,
    last_ns: u64,
}

// === impl Ledger ===

impl Ledger {
    /// Takes CPU time of the host's, and of containers by incarnation; gives the overhead in ns. `None` without a figure of
    /// each.
    pub(super) fn take(&mut self, host_ns: Option<u64>, guests: &[(u64, Option<u64>)]) -> Option<i64> {
        let host_ns = host_ns?;
        let all_known = guests.iter().all(|(_, used)| used.is_some());
        // A host's cgroup that was made anew begins at 0, and so does what is compared with it.
        if self.host.is_some_and(|host| host_ns < host.last_ns) {
            *self = Self::default();
        }
        let first = self.host.is_none();
        if first && !all_known {
            return None;
        }
        let host = self.host.get_or_insert(Host { base_ns: host_ns, last_ns: host_ns });
        host.last_ns = host_ns;
        let host = host_ns.saturating_sub(host.base_ns);
        for (incarnation, used) in guests {
            let Some(used) = *used else { continue };
            let before = if first { used } else { 0 };
            let entry = self.guest.entry(*incarnation).or_insert((before, used));
            entry.1 = entry.1.max(used);
        }
        self.make_room(guests);
        let used = self.guest.values().map(|(base, now)| now.saturating_sub(*base));
        let guest = used.fold(self.folded_ns, u64::saturating_add);
        i64::try_from(i128::from(host) - i128::from(guest)).ok().filter(|_| all_known)
    }

    /// Those that nobody speaks of any more become part of the sum.
    fn make_room(&mut self, guests: &[(u64, Option<u64>)]) {
        if self.guest.len() <= CONTAINERS {
            return;
        }
        let folded = &mut self.folded_ns;
        self.guest.retain(|incarnation, (base, now)| {
            let known = guests.iter().any(|(one, _)| one == incarnation);
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

    #[test]
    fn the_difference_is_what_was_used_since_both_were_seen() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.take(Some(1_000), &[(1, None)]), None, "nothing is known of the guest");
        assert_eq!(ledger.take(None, &[(1, Some(5))]), None, "nor of the host");
        assert_eq!(ledger.take(Some(1_000), &[(1, Some(600))]), Some(0));
        assert_eq!(ledger.take(Some(1_500), &[(1, Some(900))]), Some(200));
        // A new container counts from its first cycle, but not before it is known.
        assert_eq!(ledger.take(Some(1_600), &[(1, Some(900)), (2, None)]), None);
        assert_eq!(ledger.take(Some(1_700), &[(1, Some(900)), (2, Some(100))]), Some(300));
        // What ended stays; a guest may be ahead of its host.
        assert_eq!(ledger.take(Some(1_700), &[(1, Some(2_000))]), Some(-800));
        // Another cgroup: both begin anew.
        assert_eq!(ledger.take(Some(10), &[(1, Some(2_000))]), Some(0));
        assert_eq!(ledger.take(Some(70), &[(1, Some(2_040))]), Some(20));
    }

    #[test]
    fn the_work_of_a_guest_that_is_mute_is_no_overhead() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.take(Some(0), &[(1, Some(0))]), Some(0));
        assert_eq!(ledger.take(Some(900), &[(1, None)]), None, "it may have used all of it");
        assert_eq!(ledger.take(Some(1_000), &[(1, Some(950))]), Some(50), "and it had");
    }

    #[test]
    fn thousands_of_restarts_are_one_figure() {
        let mut ledger = Ledger::default();
        let mut host = 0;
        assert_eq!(ledger.take(Some(host), &[]), Some(0));
        for incarnation in 0..5_000 {
            host += 11;
            assert_eq!(
                ledger.take(Some(host), &[(incarnation, Some(10))]),
                i64::try_from(incarnation + 1).ok(),
                "{incarnation}"
            );
            assert!(ledger.guest.len() <= CONTAINERS + 1);
        }
    }
}
