//! Counters of things that come and go: a process's CPU time, a vCPU's run time.
//!
//! A sum over those that are there falls when one of them goes, which whoever reads a counter takes for its new start. So what
//! each had is remembered, and only what was added is. One that is not seen for a while is not forgotten: it would count twice.

use std::collections::BTreeMap;

/// Members that are remembered beside those that are there; more than a pod can have in one look of its life.
const REMEMBERED: usize = 4_096;

/// Who counts: a number, and what tells it from another that has the number later.
pub(super) type Member = (u32, u64);

/// What was counted by now.
#[derive(Debug, Default)]
pub(super) struct Tally {
    last: BTreeMap<Member, u64>,
    sum: u64,
}

// === impl Tally ===

impl Tally {
    /// Takes what is counted now; gives everything that ever was. One that counts less than before is another, from its start.
    pub(super) fn take(&mut self, now: &[(Member, u64)]) -> u64 {
        for (member, count) in now {
            let before = self.last.insert(*member, *count).unwrap_or(0);
            let more = count.checked_sub(before).unwrap_or(*count);
            self.sum = self.sum.saturating_add(more);
        }
        if self.last.len() > REMEMBERED.saturating_add(now.len()) {
            self.last.retain(|member, _| now.iter().any(|(known, _)| known == member));
        }
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_does_not_fall_when_a_member_goes() {
        let mut tally = Tally::default();
        assert_eq!(tally.take(&[((1, 5), 100), ((2, 5), 40)]), 140);
        assert_eq!(tally.take(&[((1, 5), 110)]), 150, "one could not be read");
        assert_eq!(tally.take(&[((1, 5), 110), ((2, 5), 45)]), 155, "it is back, and not new");
        assert_eq!(tally.take(&[((1, 5), 110), ((2, 9), 7)]), 162, "another of its number");
        assert_eq!(tally.take(&[((1, 5), 10)]), 172, "another, from its start");
    }

    #[test]
    fn members_come_and_go_and_do_not_gather() {
        let mut tally = Tally::default();
        for born in 0..10_000 {
            tally.take(&[((1, born), 1)]);
            assert!(tally.last.len() <= REMEMBERED + 1);
        }
        assert_eq!(tally.take(&[]), 10_000);
    }
}
