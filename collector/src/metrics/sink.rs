//! What one sink counts, and how that is shown. A sink that is not configured has no series.
//!
//! Records are what the pipeline made; bytes sent are what went out, encoded and compressed. Each record that a sink
//! took ends up exactly once as sent or as rejected.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use shimtap_proto::link;

use super::{
    families as f,
    families::Family,
    labels,
    registry::Registry,
    text::{Text, Value},
    totals::{Counter, Gauge, Histogram},
};
use crate::{
    closed::{Closed, Counts, closed},
    sinks::Trouble,
};

closed! {
    /// What a request was answered with.
    pub enum Status {
        /// Taken, perhaps in part.
        Success => "2xx",
        /// Sent elsewhere, where nobody follows.
        Redirect => "3xx",
        /// Refused.
        Client => "4xx",
        /// The other end failed.
        Server => "5xx",
        /// No answer: not connected, cut off, or too late.
        None => "none",
    }
}

/// Everything that one sink counts.
#[derive(Debug)]
pub struct SinkTotals {
    /// Its name, the value of the label `sink`.
    pub name: &'static str,
    /// Records that are where they belong.
    pub records: Counter,
    /// Bytes that went out, repeats included.
    pub bytes: Counter,
    /// Writes that came back without an error.
    pub writes: Counter,
    /// Requests by what they were answered with.
    pub requests: Counts<Status>,
    /// Records refused for good.
    pub rejected: Counts<Trouble>,
    /// Bytes of container output in them, where the whole request was refused.
    pub rejected_bytes: Counts<Trouble>,
    /// Records of attempts that failed and are made again.
    pub retried: Counts<Trouble>,
    /// Bytes of container output in them.
    pub retried_bytes: Counts<Trouble>,
    /// Bytes of container output that rules send to other sinks.
    pub elsewhere_bytes: Counter,
    /// Requests that were split because they were too large.
    pub splits: Counter,
    /// Attempts on their way.
    pub in_flight: Gauge,
    /// From the beginning of an attempt to its end.
    pub duration: Histogram,
    /// From the arrival of a batch to its delivery.
    pub delay: Histogram,
    /// 0 while all is well, 1 while it pauses after failures in a row, 2 while it tries whether it is well again.
    pub breaker: Gauge,
    /// 1 while nothing gets through.
    pub stalled: Gauge,
    /// 1 once its disk has failed to take what was written: how far it is, is not written down any more.
    pub unsettled: Gauge,
    errors: Mutex<BTreeMap<String, u64>>,
}

// === impl Status ===

impl Status {
    /// Of an HTTP status code.
    #[must_use]
    pub fn of(code: u16) -> Self {
        match code {
            200..=299 => Self::Success,
            300..=399 => Self::Redirect,
            400..=499 => Self::Client,
            _ => Self::Server,
        }
    }
}

// === impl SinkTotals ===

impl SinkTotals {
    /// All at nought.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            records: Counter::default(),
            bytes: Counter::default(),
            writes: Counter::default(),
            requests: Counts::default(),
            rejected: Counts::default(),
            rejected_bytes: Counts::default(),
            retried: Counts::default(),
            retried_bytes: Counts::default(),
            elsewhere_bytes: Counter::default(),
            splits: Counter::default(),
            in_flight: Gauge::default(),
            duration: Histogram::default(),
            delay: Histogram::default(),
            breaker: Gauge::default(),
            stalled: Gauge::default(),
            unsettled: Gauge::default(),
            errors: Mutex::default(),
        }
    }

    /// Counts a failed attempt by its errno's name, or by what the trouble was.
    pub fn error(&self, label: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let count = errors.entry(label.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    /// Attempts that failed, by errno or reason.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn label(&self) -> String {
        let mut out = String::new();
        labels::push(&mut out, "sink", Some(self.name));
        out
    }
}

/// A number of a sink.
type Figure<'f> = &'f dyn Fn(&SinkTotals) -> u64;

/// Shows all sinks.
pub(super) fn render(text: &mut Text, registry: &Registry) {
    let singles: [(&'static Family, Figure<'_>); 9] = [
        (&f::SINK_RECORDS, &|sink| sink.records.get()),
        (&f::SINK_BYTES, &|sink| sink.bytes.get()),
        (&f::SINK_WRITES, &|sink| sink.writes.get()),
        (&f::SINK_ELSEWHERE, &|sink| sink.elsewhere_bytes.get()),
        (&f::SINK_SPLITS, &|sink| sink.splits.get()),
        (&f::SINK_IN_FLIGHT, &|sink| sink.in_flight.get()),
        (&f::SINK_BREAKER, &|sink| sink.breaker.get()),
        (&f::SINK_STALLED, &|sink| sink.stalled.get()),
        (&f::SINK_UNSETTLED, &|sink| sink.unsettled.get()),
    ];
    for (family, value) in singles {
        let mut writer = text.family(family);
        for sink in &registry.sinks {
            writer.sample(&sink.label(), Value::Whole(value(sink)), None);
        }
    }
    by_label(text, registry, &f::SINK_REQUESTS, "status", |sink| &sink.requests);
    by_label(text, registry, &f::SINK_REJECTED, "reason", |sink| &sink.rejected);
    by_label(text, registry, &f::SINK_REJECTED_BYTES, "reason", |sink| &sink.rejected_bytes);
    by_label(text, registry, &f::SINK_RETRIED, "reason", |sink| &sink.retried);
    by_label(text, registry, &f::SINK_RETRIED_BYTES, "reason", |sink| &sink.retried_bytes);
    let mut writer = text.family(&f::SINK_ERRORS);
    for sink in &registry.sinks {
        for (error, n) in sink.errors() {
            let mut labels = sink.label();
            labels::push(&mut labels, "error", Some(&error));
            writer.sample(&labels, Value::Whole(n), None);
        }
    }
    histogram(text, registry, &f::SINK_DURATION, |sink| &sink.duration);
    histogram(text, registry, &f::SINK_DELAY, |sink| &sink.delay);
}

fn histogram(
    text: &mut Text,
    registry: &Registry,
    family: &'static Family,
    durations: impl Fn(&SinkTotals) -> &Histogram,
) {
    let mut writer = text.family(family);
    for sink in &registry.sinks {
        let (counts, sum_ns) = durations(sink).read();
        writer.histogram(&sink.label(), &link::BUCKETS_NS, &counts, sum_ns);
    }
}

/// All variants of all sinks, those at nought too: an alert on the first rejected record needs the 0 before it.
fn by_label<L: Closed>(
    text: &mut Text,
    registry: &Registry,
    family: &'static Family,
    key: &str,
    counts: impl Fn(&SinkTotals) -> &Counts<L>,
) {
    let mut writer = text.family(family);
    for sink in &registry.sinks {
        for (variant, n) in counts(sink).iter() {
            let mut labels = sink.label();
            labels::push(&mut labels, key, Some(variant.name()));
            writer.sample(&labels, Value::Whole(n), None);
        }
    }
}
