//! What must hold of a site when all trouble is over: the statements, each with its equation (docs/judge.md).
//!
//! What was written is computed, what is kept is read from files by the oracle, and the collector's word is taken for nothing
//! but its counters, which are held against what the files say.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::held::{Held, LIMITED, covered, held, says_its_lines, unaccounted};
use super::site::{LIMIT, Site, sum};
use super::spoken::{Spoken, without_cr};
use super::trouble::Terms;
use crate::oracle::{Journal, Kept, StreamKey, Tape, Tapes, sink, sink_text, stretches};
use crate::rig::eventually;

/// What a verdict has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Streams judged.
    pub streams: u64,
    /// Bytes written on them.
    pub written: u64,
    /// Bytes of lines in the journal.
    pub kept: u64,
    /// Bytes of holes in it, by reason.
    pub holes: BTreeMap<String, u64>,
    /// Bytes that stood in it and do not any more.
    pub missing: u64,
    /// Per sink: bytes of lines that it has.
    pub delivered: BTreeMap<&'static str, u64>,
    /// Per sink: bytes that it was told it does not get, and bytes that it refused.
    pub counted: BTreeMap<&'static str, u64>,
    /// How often a stream was moved between the journal's heads.
    pub moves: u64,
    /// Bytes that containerd's own logs have.
    pub logged: u64,
}

/// Everything that is compared.
struct Evidence<'a> {
    terms: &'a Terms,
    page: String,
    journal: Journal,
    sinks: [(&'static str, Tapes); 2],
    shown: Tapes,
}

/// Waits until nothing is on its way any more: every stream has ended in the journal, and every sink has everything.
///
/// # Errors
/// It takes too long; says what is still to come.
pub fn settle(site: &Site<'_>, spoken: &[Spoken]) -> Result<()> {
    let mut waits = String::new();
    let settled = eventually(LIMIT, "everything to be where it belongs", || {
        waits = match open_streams(site, spoken) {
            // A file that is being written or dropped is read again.
            Err(fault) => format!("{fault:#}"),
            Ok(open) if !open.is_empty() => format!("{} streams are open: {open:?}", open.len()),
            Ok(_) => {
                let page = site.page()?;
                let lag = sum(&page, "shimtap_sink_lag_bytes", "")?;
                let flying = sum(&page, "shimtap_sink_in_flight", "")?;
                if lag == 0 && flying == 0 {
                    return Ok(Some(()));
                }
                // One that did not understand a request never takes it.
                site.endpoint.understands()?;
                format!("{lag} bytes are not delivered, {flying} attempts on their way")
            }
        };
        Ok(None)
    });
    settled.with_context(|| waits)
}

fn open_streams(site: &Site<'_>, spoken: &[Spoken]) -> Result<Vec<String>> {
    let journal = site.journal()?;
    let mut open = Vec::new();
    for one in spoken {
        for (stream, _) in one.streams() {
            let kept = of(&journal, &one.container, stream)?;
            if kept.is_none_or(|(_, kept)| kept.ending.is_none()) {
                open.push(format!("{} {stream}", one.what));
            }
        }
    }
    Ok(open)
}

/// Ends the collector and judges.
///
/// # Errors
/// Names what does not hold, all of it.
pub fn verdict(site: &Site<'_>, spoken: &[Spoken], terms: &Terms) -> Result<Seen> {
    let page = site.page()?;
    let shown = site.node.collector(|collector| collector.shimtap(&["logs", "--output", "json"]))?;
    let shown = sink_text(shown.as_bytes()).context("read what shimtap logs prints")?;
    site.node.take_collector()?.stop()?;
    let journal = site.journal().context("read the journal")?;
    let sinks = [("file", sink(&site.file())?), ("otlp", site.endpoint.tapes()?)];
    let evidence = Evidence { terms, page, journal, sinks, shown };
    let mut seen = Seen { moves: evidence.journal.moves, ..Seen::default() };
    let mut faults = Vec::new();
    for one in spoken {
        for (stream, written) in one.streams() {
            let judged = evidence.stream(one, stream, written, &mut seen);
            faults.extend(judged.err().map(|fault| format!("{} {stream}: {fault:#}", one.what)));
        }
    }
    let whole = [evidence.files(), evidence.counters(), evidence.times(), evidence.sums(&seen)];
    faults.extend(whole.into_iter().filter_map(Result::err).map(|fault| format!("{fault:#}")));
    ensure!(faults.is_empty(), "{} statements do not hold:\n{}", faults.len(), faults.join("\n"));
    Ok(seen)
}

/// The one stream of that container and output.
fn of<'a>(journal: &'a Journal, container: &str, stream: &str) -> Result<Option<(&'a StreamKey, &'a Kept)>> {
    let mut all = journal
        .streams
        .iter()
        .filter(|(key, _)| key.container == container && key.stream == stream && key.process.is_empty());
    let first = all.next();
    ensure!(all.next().is_none(), "{container} has more than one {stream}");
    Ok(first)
}

// === impl Evidence ===

impl Evidence<'_> {
    /// Everything that must hold of one stream.
    fn stream(&self, one: &Spoken, stream: &str, written: &[u8], seen: &mut Seen) -> Result<()> {
        let end = u64::try_from(written.len())?;
        let (key, kept) =
            of(&self.journal, &one.container, stream)?.context("it is not in the journal at all")?;
        let ending = kept.ending.as_deref().unwrap_or("none");
        ensure!(ending == "exact", "its ending is {ending}, at {} of {end} bytes", kept.end);
        ensure!(kept.end == end, "the journal says that it ends at {}, written were {end} bytes", kept.end);
        let tape = kept.tape();
        let in_journal = held(&tape, written).context("in the journal")?;
        ensure!(
            in_journal.delivered + in_journal.holes.values().sum::<u64>() + kept.missing() == end,
            "{in_journal:?} and {} missing bytes are not {end}",
            kept.missing()
        );
        let may_miss = self.terms.dropped || self.terms.damaged;
        ensure!(may_miss || kept.missing() == 0, "{} bytes are in no record", kept.missing());
        for reason in in_journal.holes.keys() {
            let may = self.terms.holes.contains(reason.as_str())
                || (reason == "overflow" && one.may_overflow(written));
            ensure!(may, "a hole of reason {reason}: {in_journal:?}");
        }
        kept.records.iter().try_for_each(|record| says_its_lines(record, written))?;
        let shown = self.shown.get(key).map(|tape| held(tape, written)).transpose();
        let shown = shown.context("in shimtap logs")?.unwrap_or_default();
        ensure!(
            shown.delivered == in_journal.delivered,
            "shimtap logs shows {} bytes of lines, the journal has {}",
            shown.delivered,
            in_journal.delivered
        );
        let mut told = Vec::new();
        for (name, tapes) in &self.sinks {
            let tape = tapes.get(key).cloned().unwrap_or_default();
            let has = if self.terms.damaged { covered(&tape, written) } else { held(&tape, written) };
            let has = has.with_context(|| format!("in the sink {name}"))?;
            self.sink(name, &has, &in_journal, end).with_context(|| format!("in the sink {name}"))?;
            *seen.delivered.entry(name).or_default() += has.delivered;
            *seen.counted.entry(name).or_default() += end - has.delivered;
            told.push(tape);
        }
        let logged = one.logged(stream)?;
        // What the journal has no more its sinks were told of, the file among them.
        let accounts = told.first().filter(|_| may_miss).unwrap_or(&tape);
        self.logged(&logged, written, accounts).context("containerd's own log")?;
        seen.streams += 1;
        seen.written += end;
        seen.kept += in_journal.delivered;
        seen.missing += kept.missing();
        seen.logged += u64::try_from(logged.len())?;
        for (reason, bytes) in in_journal.holes {
            *seen.holes.entry(reason).or_default() += bytes;
        }
        Ok(())
    }

    /// A sink has what the journal has, or was told that it does not get it. What an endpoint has refused it is not told of:
    /// there the sum over all streams is exact ([`Self::sums`]).
    fn sink(&self, name: &str, has: &Held, in_journal: &Held, end: u64) -> Result<()> {
        let refused = self.terms.refused && name == "otlp";
        ensure!(
            refused || (has.gaps == 0 && has.end == end),
            "{has:?}: between its records {} bytes are not accounted for, and it ends at {} of {end}",
            has.gaps,
            has.end
        );
        ensure!(
            refused || has.delivered >= in_journal.delivered,
            "it has {} bytes of lines, the journal {}",
            has.delivered,
            in_journal.delivered
        );
        if self.terms.dropped || self.terms.damaged {
            return Ok(());
        }
        let of_journal = |reason: &String| in_journal.holes.get(reason).copied().unwrap_or_default();
        let told_right = has.holes.iter().all(|(reason, bytes)| *bytes <= of_journal(reason));
        ensure!(
            has.delivered <= in_journal.delivered && told_right && (refused || has.holes == in_journal.holes),
            "it has {has:?}, the journal {in_journal:?}"
        );
        Ok(())
    }

    /// Without a death of containerd its log has what was written. With one it may have holes, and each byte that it has
    /// lies in a line of these records, or in a hole that they name.
    fn logged(&self, logged: &[u8], written: &[u8], accounts: &Tape) -> Result<()> {
        let kept: Vec<usize> = without_cr(written).collect();
        let written: Vec<u8> = kept.iter().filter_map(|at| written.get(*at)).copied().collect();
        if !self.terms.containerd_died {
            let same = logged.iter().zip(&written).take_while(|(a, b)| a == b).count();
            ensure!(logged == written, "{} of {} bytes, {same} right", logged.len(), written.len());
            return Ok(());
        }
        for range in stretches(logged, &written)? {
            let raw = kept.get(range).context("a range of what was written")?;
            let (Some(first), Some(last)) = (raw.first(), raw.last()) else { continue };
            let (from, to) = (u64::try_from(*first)?, u64::try_from(*last)? + 1);
            let nowhere = unaccounted(accounts, (from, to));
            ensure!(nowhere.is_none(), "it has [{from}, {to}), and {nowhere:?} is in no line and no hole");
        }
        Ok(())
    }

    /// The journal's files are whole and agree with each other, unless somebody damaged or dropped some.
    fn files(&self) -> Result<()> {
        let Journal { damaged, aside, unlike, clean, .. } = &self.journal;
        ensure!(*clean, "the journal does not say that the collector ended in order");
        if self.terms.damaged {
            return Ok(());
        }
        ensure!(damaged.is_empty() && aside.is_empty(), "nobody damaged {damaged:?} {aside:?}");
        ensure!(self.terms.dropped || unlike.is_empty(), "headers and records do not agree: {unlike:#?}");
        Ok(())
    }

    /// Every counter that is a sum over the journal is that sum.
    fn counters(&self) -> Result<()> {
        let of_all =
            self.journal.streams.values().map(|kept| &kept.sums).chain(self.journal.forgotten.values());
        let limited = of_all.filter_map(|sums| sums.lines_in_holes.get(LIMITED)).sum();
        self.counts("shimtap_log_limited_lines_total", "", limited)?;
        for stream in ["stdout", "stderr"] {
            let of_it = self.journal.streams.iter().filter(|(key, _)| key.stream == stream);
            let sums = of_it.map(|(_, kept)| &kept.sums).chain(self.journal.forgotten.get(stream));
            let (mut bytes, mut lines) = (0, 0);
            let mut in_holes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
            for sum in sums {
                (bytes, lines) = (bytes + sum.bytes, lines + sum.lines);
                for (reason, (size, number)) in &sum.holes {
                    let of_reason = in_holes.entry(reason).or_default();
                    *of_reason = (of_reason.0 + size, of_reason.1 + number);
                }
            }
            let label = format!("stream=\"{stream}\"");
            self.counts("shimtap_log_bytes_total", &label, bytes)?;
            self.counts("shimtap_log_lines_total", &label, lines)?;
            let all = in_holes.values().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
            self.counts("shimtap_log_gap_bytes_total", &label, all.0)?;
            self.counts("shimtap_log_holes_total", &label, all.1)?;
            for (reason, (size, number)) in in_holes {
                let label = format!("{label},reason=\"{reason}\"");
                self.counts("shimtap_log_gap_bytes_total", &label, size)?;
                self.counts("shimtap_log_holes_total", &label, number)?;
            }
        }
        Ok(())
    }

    fn counts(&self, name: &str, label: &str, wanted: u64) -> Result<()> {
        let shown = sum(&self.page, name, label)?;
        ensure!(shown == wanted, "{name}{{{label}}} is {shown}, the journal's files say {wanted}");
        Ok(())
    }

    /// The times of a container's records rise, over both of its outputs.
    fn times(&self) -> Result<()> {
        let mut by_container: BTreeMap<(&str, &str), BTreeMap<u64, &str>> = BTreeMap::new();
        for (key, kept) in &self.journal.streams {
            let times = by_container.entry((&key.container, &key.incarnation)).or_default();
            let mut before = 0;
            for record in &kept.records {
                ensure!(record.time_ns > before, "{key:?}: {} is not after {before}", record.time_ns);
                before = record.time_ns;
                let other = times.insert(record.time_ns, &key.stream);
                ensure!(other.is_none(), "{key:?}: two records have the time {before}");
            }
        }
        Ok(())
    }

    /// What went over all streams: per sink the journal's lines are those that it has and those that were counted. A collector
    /// that was started again has counted since; where nothing could be refused or dropped that is nothing, and the sum is
    /// exact all the same.
    fn sums(&self, seen: &Seen) -> Result<()> {
        for reason in &self.terms.must {
            ensure!(seen.holes.contains_key(*reason), "no hole of reason {reason}: the trouble was none");
        }
        ensure!(!self.terms.moved || seen.moves > 0, "no stream was moved: the trouble was none");
        let Terms { refused, unanswered, dropped, damaged, restarted, .. } = self.terms;
        for (name, _) in &self.sinks {
            let label = format!("sink=\"{name}\"");
            let rejected = sum(&self.page, "shimtap_sink_rejected_bytes_total", &label)?;
            let lost = sum(&self.page, "shimtap_sink_gap_bytes_total", &label)?;
            let holes: u64 = seen.holes.values().sum();
            let counted = seen.counted.get(name).copied().unwrap_or_default();
            let told = holes + rejected + lost;
            let refused = *refused && *name == "otlp";
            let unknown = *restarted && (refused || *dropped || *damaged);
            let taken_and_refused = refused && *unanswered && counted < told;
            ensure!(
                unknown || counted == told || taken_and_refused,
                "of {} bytes {name} has not got {counted}; counted are {holes} in holes, {rejected} refused, {lost} dropped \
                 before it came to them",
                seen.written
            );
            ensure!(refused || rejected == 0, "nobody refused, and {rejected} bytes are counted so");
        }
        let dropped = sum(&self.page, "shimtap_journal_dropped_bytes_total", "")?;
        ensure!(
            self.terms.restarted || dropped == seen.missing,
            "{} bytes of the journal are not there any more, {dropped} were counted",
            seen.missing
        );
        Ok(())
    }
}
