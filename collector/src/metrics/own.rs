//! Our own families.

use std::io;

use shimtap_proto::link;

use super::{
    containerd, families as f,
    families::Family,
    info,
    journal::JournalTotals,
    labels, lifecycle, open_ended, process, quality,
    registry::Registry,
    report::{Rpc, WrapperCount},
    restarts::{RestartLabel, Survival},
    sandbox, sink,
    text::{Packing, Text, Value},
    usage,
};
use crate::{
    closed::{Closed, Counts},
    event::{Store, StreamKind},
    journal::{Figures, SinkFigures},
    time::now_ns,
};

mod output;

/// The exposition of `/metrics`.
///
/// # Errors
/// It cannot be compressed.
pub fn render(registry: &Registry, packing: Packing) -> io::Result<Vec<u8>> {
    let mut text = Text::new(packing, registry.bounds.limits.series, None);
    write(&mut text, registry);
    registry.bounds.series_cut(text.cut());
    text.finish()
}

fn write(text: &mut Text, registry: &Registry) {
    let version = label("version", env!("CARGO_PKG_VERSION"));
    text.family(&f::BUILD_INFO).sample(&version, Value::Whole(1), None);
    let wrappers = u64::try_from(registry.attached().len()).unwrap_or(u64::MAX);
    text.family(&f::WRAPPERS).sample("", Value::Whole(wrappers), None);
    by_label(text, &f::CONTAINERS, "state", &registry.states());
    logs(text, registry);
    lifecycle::render(text, registry);
    usage::render(text, registry);
    containerd::render(text, registry);
    by_label(text, &f::CUTS, "reason", &registry.totals.cuts);
    rpcs(text, registry);
    ingest(text, registry);
    sink::render(text, registry);
    journal(text, registry);
    open_ended::render(text, registry);
    sandbox::render(text, registry);
    process::render(text);
    // Those with a row per container come last, so that a node of too many keeps all others.
    output::render(text, registry);
    info::render(text, registry);
}

fn logs(text: &mut Text, registry: &Registry) {
    let totals = &registry.totals;
    by_label(text, &f::LOG_BYTES, "stream", &totals.log_bytes);
    by_label(text, &f::LOG_LINES, "stream", &totals.log_lines);
    by_label(text, &f::LOG_REPEATED, "stream", &totals.log_repeated);
    text.family(&f::LOG_REDACTIONS).sample("", Value::Whole(totals.redactions.get()), None);
    let unsearched = Value::Whole(totals.redacted_unsearched.get());
    text.family(&f::LOG_REDACTED_UNSEARCHED).sample("", unsearched, None);
    text.family(&f::LOG_LIMITED).sample("", Value::Whole(totals.limited_lines.get()), None);
    for (family, counts) in [(&f::LOG_GAP_BYTES, &totals.gap_bytes), (&f::LOG_HOLES, &totals.holes)] {
        let mut writer = text.family(family);
        for stream in StreamKind::ALL {
            for (reason, n) in counts.of(*stream).iter() {
                let mut labels = label("stream", stream.label());
                labels::push(&mut labels, "reason", Some(reason.label()));
                writer.sample(&labels, Value::Whole(n), None);
            }
        }
    }
}

fn rpcs(text: &mut Text, registry: &Registry) {
    let mut rpcs = registry.rpcs();
    // Each such start tells of itself, once, as a wrapper of its own: none told is none known of, and that is a figure of ours,
    // not one that waits for a wrapper. A row that came with the first of them would begin at 1, and nobody would see it grow.
    rpcs.counts.entry(WrapperCount::UnwrappedStarts).or_default();
    let methods: Vec<_> =
        rpcs.methods.iter().map(|(method, rpc)| (label("method", method.label()), rpc)).collect();
    let mut writer = text.family(&f::RPC_DURATION);
    for (labels, rpc) in &methods {
        writer.histogram(labels, &link::BUCKETS_NS, &rpc.buckets, rpc.sum_ns);
    }
    let mut each = |family: &'static Family, pick: &dyn Fn(&Rpc) -> Option<Value>| {
        let mut writer = text.family(family);
        for (labels, rpc) in &methods {
            if let Some(value) = pick(rpc) {
                writer.sample(labels, value, None);
            }
        }
    };
    each(&f::RPC_ERRORS, &|rpc| Some(Value::Whole(rpc.errors)));
    each(&f::RPC_IN_FLIGHT, &|rpc| Some(Value::Whole(rpc.in_flight)));
    each(&f::RPC_OLDEST, &|rpc| {
        rpc.oldest.map(|age| Value::Ns(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)))
    });
    let mut writer = text.family(&f::WRAPPER_COUNTS);
    for (name, n) in &rpcs.counts {
        writer.sample(&label("name", name.label()), Value::Whole(*n), None);
    }
    survival(text, registry, &rpcs.survival);
}

fn survival(text: &mut Text, registry: &Registry, survival: &Survival) {
    let mut writer = text.family(&f::WRAPPER_RESTARTS);
    for reason in RestartLabel::ALL {
        let count = survival.restarts.get(reason).copied().unwrap_or(0);
        writer.sample(&label("reason", reason.label()), Value::Whole(count), None);
    }
    let about: Vec<_> = registry.attached().iter().map(|wrapper| wrapper.about()).collect();
    let safe = about.iter().filter(|about| about.safe_mode).count();
    let safe = u64::try_from(safe).unwrap_or(u64::MAX);
    text.family(&f::WRAPPER_SAFE_MODE).sample("", Value::Whole(safe), None);
    let mut writer = text.family(&f::WRAPPER_GENERATION);
    if let Some(most) = about.iter().map(|about| about.generation).max() {
        writer.sample("", Value::Whole(most), None);
    }
    let without = Value::Ns(survival.without_worker_ns);
    text.family(&f::WRAPPER_WITHOUT_WORKER).sample("", without, None);
}

fn ingest(text: &mut Text, registry: &Registry) {
    let totals = &registry.totals;
    text.family(&f::CONNECTIONS).sample("", Value::Whole(totals.connections.get()), None);
    text.family(&f::CONNECTIONS_TOTAL).sample("", Value::Whole(totals.connections_accepted.get()), None);
    by_label(text, &f::INGEST_FAULTS, "fault", &totals.ingest_faults);
    by_label(text, &f::EVENTS, "kind", &totals.events);
    text.family(&f::EVENTS_MISSED).sample("", Value::Whole(totals.events_missed.get()), None);
    text.family(&f::SPOOL_FILES).sample("", Value::Whole(totals.spool_files.get()), None);
    text.family(&f::SPOOL_RECORDS).sample("", Value::Whole(totals.spool_records.get()), None);
    by_label(text, &f::SPOOL_ASIDE, "reason", &totals.spool_aside);
    by_label(text, &f::SAMPLES, "source", &totals.samples);
    by_label(text, &f::SAMPLES_UNUSED, "reason", &totals.samples_undecoded);
    quality::render(text, registry);
}

/// One head of the journal: that of `[journal]` has no label of its own, as long as there was no other.
fn head_label(store: Store) -> String {
    match store {
        Store::Memory => String::new(),
        Store::Disk => label("store", store.label()),
    }
}

fn journal(text: &mut Text, registry: &Registry) {
    journal_files(text, registry);
    journal_writers(text, registry);
    let (counts, sum_ns) = registry.totals.ack_delay.read();
    text.family(&f::ACK_DELAY).histogram("", &link::BUCKETS_NS, &counts, sum_ns);
}

/// What lies in each head, and how far sinks are behind it; absent while it is being opened.
fn journal_files(text: &mut Text, registry: &Registry) {
    let figures = registry.journal.get().map(|heads| heads.figures()).unwrap_or_default();
    let figures: Vec<_> = figures.iter().map(|(store, figures)| (head_label(*store), figures)).collect();
    if figures.is_empty() {
        return;
    }
    let age = |then_ns: u64| Value::Ns(now_ns().saturating_sub(then_ns));
    sinks_behind(text, &figures, &age);
    let mut each = |family: &'static Family, pick: &dyn Fn(&Figures) -> Option<Value>| {
        let mut writer = text.family(family);
        for (labels, figures) in &figures {
            if let Some(value) = pick(figures) {
                writer.sample(labels, value, None);
            }
        }
    };
    each(&f::JOURNAL_BYTES, &|figures| Some(Value::Whole(figures.bytes)));
    each(&f::JOURNAL_FILES, &|figures| Some(Value::Whole(figures.files)));
    each(&f::JOURNAL_OLDEST, &|figures| figures.oldest_ns.map(&age));
    each(&f::JOURNAL_UNCLEAN, &|figures| Some(Value::Whole(u64::from(figures.unclean))));
}

/// What each head's writer has done, and what waits for it.
fn journal_writers(text: &mut Text, registry: &Registry) {
    let totals = &registry.totals;
    let disk = registry.disk_backlog.as_ref().map(|backlog| (Store::Disk, backlog));
    let backlogs = [(Store::Memory, &registry.backlog)].into_iter().chain(disk);
    let backlogs: Vec<_> = backlogs.map(|(store, backlog)| (head_label(store), store, backlog)).collect();
    let heads: Vec<_> = backlogs.iter().map(|(labels, store, _)| (labels, totals.journal(*store))).collect();
    let mut each = |family: &'static Family, pick: &dyn Fn(&JournalTotals) -> u64| {
        let mut writer = text.family(family);
        for (labels, head) in &heads {
            writer.sample(labels, Value::Whole(pick(head)), None);
        }
    };
    each(&f::JOURNAL_FRAMES, &|head| head.frames.get());
    each(&f::JOURNAL_WRITTEN, &|head| head.bytes.get());
    each(&f::JOURNAL_STALLED, &|head| head.stalled.get());
    let and = |labels: &str, key: &str, value: &str| {
        let mut labels = labels.to_owned();
        labels::push(&mut labels, key, Some(value));
        labels
    };
    let mut writer = text.family(&f::JOURNAL_DROPPED);
    for (labels, head) in &heads {
        for (reason, n) in head.dropped.iter() {
            writer.sample(&and(labels, "reason", reason.label()), Value::Whole(n), None);
        }
    }
    let mut writer = text.family(&f::JOURNAL_FSYNC);
    for (labels, head) in &heads {
        let (counts, sum_ns) = head.fsync.read();
        writer.histogram(labels, &link::BUCKETS_NS, &counts, sum_ns);
    }
    let mut writer = text.family(&f::JOURNAL_ERRORS);
    for (labels, head) in &heads {
        for (errno, n) in head.errors() {
            writer.sample(&and(labels, "error", &errno), Value::Whole(n), None);
        }
    }
    let mut writer = text.family(&f::JOURNAL_QUEUE);
    for (labels, _, backlog) in &backlogs {
        let waiting = u64::try_from(backlog.bytes()).unwrap_or(u64::MAX);
        writer.sample(labels, Value::Whole(waiting), None);
    }
}

/// How far each sink is behind the journal, all heads together.
fn sinks_behind(text: &mut Text, figures: &[(String, &Figures)], age: &dyn Fn(u64) -> Value) {
    let sinks = SinkFigures::of_all(figures.iter().map(|(_, figures)| *figures));
    let sinks: Vec<_> = sinks.iter().map(|sink| (label("sink", sink.name), sink)).collect();
    let mut writer = text.family(&f::SINK_LAG_BYTES);
    for (labels, sink) in &sinks {
        writer.sample(labels, Value::Whole(sink.lag_bytes), None);
    }
    let mut writer = text.family(&f::SINK_LAG);
    for (labels, sink) in &sinks {
        writer.sample(labels, sink.oldest_ns.map_or(Value::Whole(0), age), None);
    }
    let mut writer = text.family(&f::SINK_GAP_BYTES);
    for (labels, sink) in &sinks {
        for (reason, bytes) in &sink.lost {
            let mut labels = labels.clone();
            labels::push(&mut labels, "reason", Some(reason.label()));
            writer.sample(&labels, Value::Whole(*bytes), None);
        }
    }
}

/// One sample per variant.
fn by_label<L: Closed>(text: &mut Text, family: &'static Family, key: &str, counts: &Counts<L>) {
    let mut writer = text.family(family);
    for (variant, n) in counts.iter() {
        writer.sample(&label(key, variant.name()), Value::Whole(n), None);
    }
}

fn label(key: &str, value: &str) -> String {
    let mut out = String::new();
    labels::push(&mut out, key, Some(value));
    out
}

#[cfg(test)]
mod everything;
#[cfg(test)]
mod moved;
#[cfg(test)]
mod sandboxes;
#[cfg(test)]
mod tests;
