//! Secrets taken out of a line before anything keeps or sends it.
//!
//! Only our copy: containerd's own log is not ours. A search takes time linear in the line, whatever a pattern says; but there is
//! one behind each find, so that a pattern which finds much and looks far ahead each time (`[0-9]+x|[0-9]`) would take the square of
//! it, in which every pod of the node waits. Such a line has a time, and what was not looked at by then is taken out as well: no
//! secret passes for being hard to find. No preset comes near. They see one record at a time, so a secret that lies across the end of
//! a piece is not found; which lines come in pieces, docs/configuration.md says (those of more than 256 KiB above all).

mod card;
mod presets;

use std::{cmp::Reverse, ops::Range, time::Duration};

use bytes::Bytes;
use nix::time::{ClockId, clock_gettime};
use regex::bytes::{Captures, Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use self::presets::{PRESETS, Within};

/// Groups of a pattern that are taken out instead of the whole match.
const GROUPS: [&str; 4] = ["secret", "secret2", "secret3", "secret4"];
/// Memory of one compiled pattern; the same for all, so that no configuration can make the collector large.
const SIZE_MAX: usize = 1 << 20;

/// Time of the processor for one line. 256 KiB in which each byte is a find take some 5 ms.
const LINE_TIME: Duration = Duration::from_millis(250);
/// After so many finds it is looked how long they took.
const FINDS: u64 = 64;
/// What stands for the part of a line that was not looked at.
const UNSEEN: &[u8] = b"[redacted:the rest, which takes too long to search]";

/// What is taken out, in order.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    all: Vec<Secret>,
    /// Which of them are in a line at all: most lines have none. `None`: nobody knows, and each is asked.
    set: Option<RegexSet>,
}

/// A line as it may be kept.
#[derive(Debug)]
pub struct Redacted<'a> {
    /// The same bytes where nothing was taken out.
    pub line: Bytes,
    /// Secrets that were found in it.
    pub secrets: u64,
    /// The pattern, as it was given, that did not come to the line's end in its time: the rest was taken out unseen.
    pub slow: Option<&'a str>,
}

#[derive(Clone, Debug)]
struct Secret {
    name: String,
    regex: Regex,
    /// What of a find goes; without it all, or the group that is named so.
    within: Option<Within>,
    /// What stands in its place.
    mark: Vec<u8>,
}

/// What is to be taken out of a line, pattern by pattern.
#[derive(Default)]
struct Finds<'a> {
    /// Each with what stands in its place.
    all: Vec<(Range<usize>, &'a [u8])>,
    slow: Option<&'a str>,
}

// === impl Redactor ===

impl Redactor {
    /// Names that may be given instead of a pattern.
    #[must_use]
    pub fn presets() -> String {
        PRESETS.map(|preset| preset.name).join(", ")
    }

    /// A preset's name, or a regular expression.
    ///
    /// # Errors
    /// It is neither; says why.
    pub fn of(what: &str) -> Result<Self, String> {
        if what.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Self::preset(what);
        }
        let regex = compile(what).map_err(|fault| format!("{what:?} is no regular expression: {fault}"))?;
        if regex.is_match(b"") {
            return Err(format!("{what:?} matches where there is nothing, so it would be found everywhere"));
        }
        Ok(Self::one(what, regex, None, "pattern"))
    }

    /// What stands ready under a name.
    ///
    /// # Errors
    /// Nothing does.
    pub fn preset(name: &str) -> Result<Self, String> {
        let preset = PRESETS.iter().find(|preset| preset.name == name);
        let preset =
            preset.ok_or_else(|| format!("there is no {name:?}; the names are {}", Self::presets()))?;
        let regex = compile(preset.pattern).map_err(|fault| fault.to_string())?;
        Ok(Self::one(name, regex, preset.within, name))
    }

    fn one(name: &str, regex: Regex, within: Option<Within>, mark: &str) -> Self {
        let mark = format!("[redacted:{mark}]").into_bytes();
        Self { all: vec![Secret { name: name.to_owned(), regex, within, mark }], set: None }.ready()
    }

    /// Both; what they have in common once.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for secret in &other.all {
            if !self.all.iter().any(|known| known.name == secret.name) {
                self.all.push(secret.clone());
            }
        }
        self.ready()
    }

    /// True where nothing is taken out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The presets and patterns, as they were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|secret| secret.name.as_str())
    }

    /// The line without them. Each pattern sees the line as it was: what one takes out may be what another is known by.
    #[must_use]
    pub fn apply(&self, line: Bytes) -> Redacted<'_> {
        let found = self.set.as_ref().map(|set| set.matches(&line));
        let is_worth = |n| found.as_ref().is_none_or(|found| found.matched(n));
        let (mut finds, until) = (Finds::default(), used().saturating_add(LINE_TIME));
        for (_, secret) in self.all.iter().enumerate().filter(|(n, _)| is_worth(*n)) {
            secret.find(&line, until, &mut finds);
        }
        finds.take_out(line)
    }

    /// With the set that belongs to its patterns. One that cannot be built (all together are too large) is done without.
    fn ready(mut self) -> Self {
        let patterns = self.all.iter().map(|secret| secret.regex.as_str());
        self.set = RegexSetBuilder::new(patterns).size_limit(SIZE_MAX * self.all.len().max(1)).build().ok();
        self
    }
}

impl PartialEq for Redactor {
    fn eq(&self, other: &Self) -> bool {
        self.names().eq(other.names())
    }
}

impl Eq for Redactor {}

// === impl Secret ===

impl Secret {
    /// Notes where it is in a line, for which there is time until this thread has used so much.
    fn find<'a>(&'a self, line: &[u8], until: Duration, into: &mut Finds<'a>) {
        for (count, captures) in (1_u64..).zip(self.regex.captures_iter(line)) {
            if count.is_multiple_of(FINDS) && used() > until {
                into.slow = Some(&self.name);
                into.all.extend(captures.get(0).map(|rest| (rest.start()..line.len(), UNSEEN)));
                return;
            }
            self.note(&captures, into);
        }
    }

    fn note<'a>(&'a self, captures: &Captures<'_>, into: &mut Finds<'a>) {
        let group = GROUPS.iter().find_map(|name| captures.name(name));
        let Some(found) = group.or_else(|| captures.get(0)) else { return };
        let mark = self.mark.as_slice();
        match self.within {
            None => into.all.push((found.range(), mark)),
            Some(within) => {
                let start = found.start();
                let place =
                    |part: Range<usize>| part.start.saturating_add(start)..part.end.saturating_add(start);
                into.all.extend(within(found.as_bytes()).into_iter().map(|part| (place(part), mark)));
            }
        }
    }
}

// === impl Finds ===

impl<'a> Finds<'a> {
    /// The line without them. Of what overlaps nothing stays, and there is the mark of each that has a part of its own.
    fn take_out(mut self, line: Bytes) -> Redacted<'a> {
        if self.all.is_empty() {
            return Redacted { line, secrets: 0, slow: self.slow };
        }
        self.all.sort_by_key(|(range, _)| (range.start, Reverse(range.end)));
        let (mut out, mut kept, mut secrets) = (Vec::with_capacity(line.len()), 0, 0);
        let mut last = None;
        for (range, mark) in self.all {
            let is_apart = range.start >= kept;
            if is_apart {
                out.extend_from_slice(line.get(kept..range.start).unwrap_or_default());
            }
            if is_apart || (range.end > kept && last != Some(mark)) {
                out.extend_from_slice(mark);
                secrets += u64::from(mark != UNSEEN);
                last = Some(mark);
            }
            kept = kept.max(range.end);
        }
        out.extend_from_slice(line.get(kept..).unwrap_or_default());
        Redacted { line: Bytes::from(out), secrets, slow: self.slow }
    }
}

/// Time of the processor that this thread has used. Without a clock nothing takes too long.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(SIZE_MAX).build()
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        sync::{LazyLock, mpsc},
        thread,
        time::Duration,
    };

    use proptest::prelude::*;

    use super::*;

    /// Every preset.
    static ALL: LazyLock<Redactor> = LazyLock::new(|| {
        PRESETS.iter().fold(Redactor::default(), |all, p| all.and(&Redactor::of(p.name).expect(p.name)))
    });

    pub(super) fn without(what: &[&str], line: &str) -> String {
        let all =
            what.iter().fold(Redactor::default(), |all, what| all.and(&Redactor::of(what).expect(what)));
        String::from_utf8(all.apply(Bytes::copy_from_slice(line.as_bytes())).line.to_vec()).expect("text")
    }

    #[test]
    fn what_one_pattern_takes_out_does_not_hide_it_from_another() {
        let line = "amqp://svc:s3cr!et@mq.example.org/v";
        let hidden = "amqp://svc:[redacted:url_password][redacted:email]/v";
        assert_eq!(without(&["email", "url_password"], line), hidden);
        assert_eq!(without(&["url_password", "email"], line), hidden);
        // One that lies in another has no mark of its own.
        assert_eq!(
            without(&["jwt", "authorization"], "Bearer eyJhbGci.eyJzdWIi.c2ln"),
            "Bearer [redacted:jwt]"
        );
        assert_eq!(without(&["[ab]+", "[bc]+"], "xaabccx"), "x[redacted:pattern]x");
    }

    #[test]
    fn a_pattern_of_one_s_own_may_name_the_part_that_goes() {
        assert_eq!(without(&[r"ssn=\d+"], "ssn=123 ok"), "[redacted:pattern] ok");
        assert_eq!(
            without(&[r"ssn=(?P<secret>\d+)"], "ssn=123 ssn=4"),
            "ssn=[redacted:pattern] ssn=[redacted:pattern]"
        );
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let said = |what: &str| Redactor::of(what).expect_err(what);
        assert!(said("e_mail").contains("the names are email"));
        assert!(said("(").contains("is no regular expression"));
        assert!(said("x*").contains("found everywhere"));
        assert!(said(r"\w{1000}{1000}").contains("is no regular expression"));
    }

    #[test]
    fn without_the_set_each_pattern_is_asked() {
        let both = Redactor::of("email").expect("preset").and(&Redactor::of("ipv4").expect("preset"));
        let blind = Redactor { set: None, ..both };
        let line = blind.apply(Bytes::from_static(b"a@b.org at 10.0.0.1")).line;
        assert_eq!(line, "[redacted:email] at [redacted:ipv4]");
    }

    #[test]
    fn a_line_without_secrets_is_not_copied() {
        let line = Bytes::from_static(b"nothing to see here");
        let email = Redactor::of("email").expect("preset");
        let same = email.apply(line.clone());
        assert_eq!((same.line.as_ptr(), same.secrets), (line.as_ptr(), 0));
    }

    #[test]
    fn a_pattern_that_others_try_for_ever_comes_to_an_end() {
        let line = [vec![b'a'; 256 << 10], b"!".to_vec()].concat();
        for (line, taken) in [(line.clone(), 0), (line[..256 << 10].to_vec(), 1)] {
            let redactor = Redactor::of("(a+)+$").expect("a pattern");
            let (tell, told) = mpsc::channel();
            thread::spawn(move || tell.send(redactor.apply(line.into()).secrets));
            // Milliseconds; an engine that goes back takes longer than there is time.
            assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(taken));
        }
    }

    #[test]
    fn what_takes_too_long_to_search_is_taken_out_unseen() {
        // Each find is one digit, and behind each all others are looked at: minutes.
        let line = [vec![b'7'; 256 << 10], b" 1234".to_vec()].concat();
        let redactor = Redactor::of("[0-9]+x|[0-9]").expect("a pattern");
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let Redacted { line, secrets, slow } = redactor.apply(line.into());
            tell.send((line, secrets, slow.map(str::to_owned)))
        });
        let (line, secrets, slow) = told.recv_timeout(Duration::from_secs(60)).expect("in time");
        let text = String::from_utf8(line.to_vec()).expect("text");
        let seen = text.strip_suffix(std::str::from_utf8(UNSEEN).expect("text")).expect("unseen is the end");
        let mark = "[redacted:pattern]";
        let marks = seen.len() / mark.len();
        assert_eq!(seen, mark.repeat(marks));
        assert_eq!((secrets, (secrets + 1) % FINDS), (u64::try_from(marks).expect("few"), 0));
        assert_eq!(slow.as_deref(), Some("[0-9]+x|[0-9]"));
    }

    #[test]
    fn many_finds_that_are_quickly_made_are_not_too_long() {
        let line = "10.0.0.1 ".repeat(1000);
        assert_eq!(without(&["ipv4"], &line), "[redacted:ipv4] ".repeat(1000));
    }

    proptest! {
        #[test]
        fn nothing_of_a_secret_is_left(before in "[ -~]{0,40}", after in "[ -~]{0,40}") {
            let line = format!("{before} joe@example.org {after} bearer 0123456789abcdef {after}");
            let redacted = ALL.apply(Bytes::from(line));
            let out = String::from_utf8_lossy(&redacted.line);
            prop_assert!(!out.contains("joe@example.org"), "{}", out);
            prop_assert!(!out.contains("0123456789abcdef"), "{}", out);
        }

        #[test]
        fn any_bytes_are_taken(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let once = ALL.apply(Bytes::from(line));
            prop_assert!(once.line.len() < 200 * 40);
        }
    }
}
