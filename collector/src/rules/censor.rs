//! A verdict at work on the records of one stream.
//!
//! What is dropped stays a hole in the tape, with its reason: records that come in tile a range, and those that go out
//! tile the same range. Nothing is kept between calls but what belongs to an unfinished line.

use tokio::time::Instant;

use super::{Budget, Rate, Redacted, Redactor, Verdict};
use crate::event::{Body, Flags, Hole, HoleReason, Record};

/// One stream's.
#[derive(Debug, Default)]
pub struct Censor {
    /// What the verdict says of its lines.
    off: bool,
    redact: Redactor,
    rate: Option<Rate>,
    /// The pieces of the line at hand are dropped: its first one was.
    dropping: bool,
    /// The next missing bytes are missing because the stream was switched off.
    was_off: bool,
    /// A piece of an unfinished line has gone out or was dropped.
    inside: bool,
}

/// What was taken out of the lines that stay.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TakenOut {
    /// Secrets.
    pub secrets: u64,
    /// Ends of lines that nobody searched, since a pattern had no time left for that line.
    pub unsearched: u64,
    /// The last such pattern, as it was given.
    pub slow: Option<String>,
}

// === impl Censor ===

impl Censor {
    /// Of a stream whose next byte lies inside a line of which a piece has gone out, or not.
    #[must_use]
    pub fn resumed(inside: bool) -> Self {
        Self { inside, ..Self::default() }
    }

    /// A verdict that holds from the next record on; true where it switches the stream on or off.
    pub fn judge(&mut self, verdict: Verdict) -> bool {
        let Verdict { off, redact, rate, .. } = verdict;
        let switched = self.off != off;
        self.was_off |= off;
        (self.off, self.redact, self.rate) = (off, redact, rate);
        switched
    }

    /// True where nothing is to be sent.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// True where something is taken out of lines: a secret could lie across the pieces of one, and none may reach a disk.
    #[must_use]
    pub fn redacts(&self) -> bool {
        !self.redact.is_empty()
    }

    /// True where records pass as they are.
    fn is_idle(&self) -> bool {
        !self.off && !self.was_off && self.redact.is_empty() && self.rate.is_none() && !self.dropping
    }

    /// Does to `records` what the verdict says. `now` is the time by which lines are limited.
    pub fn apply(&mut self, records: &mut Vec<Record>, budget: &Budget, now: Instant) -> TakenOut {
        let mut taken = TakenOut::default();
        if self.is_idle() {
            if let Some(last) = records.last() {
                self.inside = matches!(last.body, Body::Line(_)) && goes_on(last.flags);
            }
            return taken;
        }
        for record in records.iter_mut() {
            let body = std::mem::replace(&mut record.body, Body::hole(HoleReason::Unknown));
            record.body = match body {
                Body::Hole(hole) => Body::Hole(Hole { reason: self.hole(hole.reason), ..hole }),
                Body::Line(line) => match self.drops(record.flags, budget, now) {
                    Some(hole) => Body::Hole(hole),
                    None => {
                        let redacted = self.redact.apply(line);
                        taken.add(&redacted);
                        Body::Line(redacted.line)
                    }
                },
            };
            if matches!(record.body, Body::Hole(_)) {
                record.flags = Flags::NONE;
            }
        }
        records.dedup_by(|next, before| joined(before, next));
        taken
    }

    /// Why bytes are not here: a stream that was switched off has none.
    fn hole(&mut self, reason: HoleReason) -> HoleReason {
        (self.inside, self.dropping) = (false, false);
        let ours = reason == HoleReason::Missing && self.was_off;
        self.was_off = self.off;
        if ours { HoleReason::RuleDrop } else { reason }
    }

    /// What a line leaves that is dropped, or a piece of one: pieces go the way of their first, which is where it is counted.
    fn drops(&mut self, flags: Flags, budget: &Budget, now: Instant) -> Option<Hole> {
        self.was_off = self.off;
        let begins = !std::mem::replace(&mut self.inside, goes_on(flags));
        let lines = Some(u64::from(begins));
        if self.off {
            return Some(Hole { reason: HoleReason::RuleDrop, lines });
        }
        if begins {
            self.dropping = self.rate.is_some_and(|rate| !budget.take(rate, now));
        }
        self.dropping.then_some(Hole { reason: HoleReason::RateLimit, lines })
    }
}

// === impl TakenOut ===

impl TakenOut {
    fn add(&mut self, of: &Redacted<'_>) {
        self.secrets = self.secrets.saturating_add(of.secrets);
        if let Some(pattern) = of.slow {
            self.unsearched = self.unsearched.saturating_add(1);
            self.slow = Some(pattern.to_owned());
        }
    }
}

/// True for a piece of a line whose rest follows.
fn goes_on(flags: Flags) -> bool {
    flags.has(Flags::PARTIAL) || flags.has(Flags::FRAGMENT)
}

/// Makes one of two neighbouring holes of one reason, of which as much is known.
fn joined(before: &mut Record, next: &mut Record) -> bool {
    let (Body::Hole(first), Body::Hole(second)) = (&before.body, &next.body) else { return false };
    let alike = first.reason == second.reason && first.lines.is_some() == second.lines.is_some();
    if !alike || before.to != next.from {
        return false;
    }
    let lines = first.lines.zip(second.lines).map(|(some, more)| some.saturating_add(more));
    before.body = Body::Hole(Hole { reason: first.reason, lines });
    before.to = next.to;
    true
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn lines(from: u64, texts: &[&str]) -> Vec<Record> {
        let mut at = from;
        let record = |text: &&str| {
            let from = at;
            at += u64::try_from(text.len()).expect("short");
            let flags = match text.chars().last() {
                Some('\\') => Flags::PARTIAL,
                Some('~') => Flags::FRAGMENT,
                _ => Flags::NONE,
            };
            Record {
                from,
                to: at,
                time_ns: 1,
                flags,
                body: Body::Line(Bytes::copy_from_slice(text.as_bytes())),
            }
        };
        texts.iter().map(record).collect()
    }

    fn shown(records: &[Record]) -> Vec<String> {
        let show = |r: &Record| match &r.body {
            Body::Line(line) => format!("{}..{} {}", r.from, r.to, String::from_utf8_lossy(line)),
            Body::Hole(Hole { reason, lines: None }) => format!("{}..{} -{}", r.from, r.to, reason.label()),
            Body::Hole(Hole { reason, lines: Some(lines) }) => {
                format!("{}..{} -{} of {lines}", r.from, r.to, reason.label())
            }
        };
        records.iter().map(show).collect()
    }

    fn hole(from: u64, to: u64, reason: HoleReason) -> Record {
        Record { from, to, time_ns: 1, flags: Flags::NONE, body: Body::hole(reason) }
    }

    #[test]
    fn lines_above_the_rate_are_one_hole_and_pieces_go_with_their_line() {
        let mut censor = Censor::default();
        let rate = Some(Rate { lines_per_sec: 1, burst_lines: 1 });
        censor.judge(Verdict { rate, ..Verdict::default() });
        let (budget, now) = (Budget::default(), Instant::now());
        let mut records = lines(0, &["a\\", "a", "b", "c\\", "c", "d\\"]);
        censor.apply(&mut records, &budget, now);
        assert_eq!(shown(&records), ["0..2 a\\", "2..3 a", "3..9 -rate_limit of 3"]);
        let mut rest = lines(9, &["d", "e"]);
        censor.apply(&mut rest, &budget, now + std::time::Duration::from_secs(1));
        assert_eq!(
            shown(&rest),
            ["9..10 -rate_limit of 0", "10..11 e"],
            "the end of a line that was dropped"
        );
    }

    #[test]
    fn a_line_that_came_in_pieces_is_judged_and_counted_once() {
        let rate = Some(Rate { lines_per_sec: 1, burst_lines: 1 });
        let verdict = Verdict { rate, ..Verdict::default() };
        let (mut censor, budget, now) = (Censor::default(), Budget::default(), Instant::now());
        // Its first piece went out before there was a rule.
        censor.apply(&mut lines(0, &["a~"]), &budget, now);
        censor.judge(verdict.clone());
        let mut records = lines(2, &["a~", "a", "b", "c~", "c"]);
        censor.apply(&mut records, &budget, now);
        assert_eq!(shown(&records), ["2..4 a~", "4..5 a", "5..6 b", "6..9 -rate_limit of 1"]);
        // The same of a stream that an earlier process left within a line.
        let (mut censor, budget) = (Censor::resumed(true), Budget::default());
        censor.judge(verdict);
        let mut records = lines(0, &["z", "a", "b"]);
        censor.apply(&mut records, &budget, now);
        assert_eq!(shown(&records), ["0..1 z", "1..2 a", "2..3 -rate_limit of 1"]);
    }

    #[test]
    fn what_a_switched_off_stream_lacks_is_the_rule_s_doing() {
        let mut censor = Censor::default();
        let (budget, now) = (Budget::default(), Instant::now());
        assert!(censor.judge(Verdict { off: true, ..Verdict::default() }));
        let mut late = lines(0, &["late"]);
        late.push(hole(4, 6, HoleReason::Overflow));
        censor.apply(&mut late, &budget, now);
        assert_eq!(shown(&late), ["0..4 -rule_drop of 1", "4..6 -overflow"]);
        assert!(censor.judge(Verdict::default()));
        let mut back = vec![hole(6, 90, HoleReason::Missing)];
        back.extend(lines(90, &["x"]));
        back.push(hole(91, 95, HoleReason::Missing));
        censor.apply(&mut back, &budget, now);
        assert_eq!(shown(&back), ["6..90 -rule_drop", "90..91 x", "91..95 -missing"]);
        assert!(!censor.judge(Verdict::default()));
    }

    #[test]
    fn offsets_stay_those_of_the_stream_whatever_is_taken_out() {
        let mut censor = Censor::default();
        let redact = Redactor::of("email").expect("preset");
        censor.judge(Verdict { redact, ..Verdict::default() });
        let mut records = lines(7, &["a@b.cd", "plain"]);
        let taken = censor.apply(&mut records, &Budget::default(), Instant::now());
        assert_eq!(shown(&records), ["7..13 [redacted:email]", "13..18 plain"]);
        assert_eq!(taken, TakenOut { secrets: 1, ..TakenOut::default() });
    }
}
