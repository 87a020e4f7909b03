//! What each container has written and what of it is not here, under the container's names.
//!
//! A stream that is not captured, or that a rule switched off, has no rows: how much it writes is not known, and that is not 0.
//! Bytes and gaps of an exec's streams are not its container's. No sample has a time of its own, and what ended stays as long as
//! the registry knows it, so that a scraper gets the final values.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use super::super::{
    container::Container,
    families as f,
    families::Family,
    labels,
    registry::Registry,
    stream::StreamCounts,
    text::{Text, Value},
};
use crate::event::StreamKind;

/// One stream's figures.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    bytes: u64,
    lines: u64,
    gap_bytes: u64,
    /// Not known where its wrapper does not say.
    stalled_ns: Option<u64>,
}

type Pick = fn(&Figures) -> Option<Value>;

static FAMILIES: [(&Family, Pick); 4] = [
    (&f::CONTAINER_LOG_BYTES, |figures| Some(Value::Whole(figures.bytes))),
    (&f::CONTAINER_LOG_LINES, |figures| Some(Value::Whole(figures.lines))),
    (&f::CONTAINER_LOG_GAP_BYTES, |figures| Some(Value::Whole(figures.gap_bytes))),
    (&f::CONTAINER_LOG_STALLED, |figures| figures.stalled_ns.map(Value::Ns)),
];

/// Writes the families.
pub(super) fn render(text: &mut Text, registry: &Registry) {
    let rows = rows(registry);
    for (family, pick) in FAMILIES {
        let mut writer = text.family(family);
        for (labels, (_, figures)) in &rows {
            if let Some(value) = pick(figures) {
                writer.sample(labels, value, None);
            }
        }
    }
}

/// By labels, with the time of Create. Of two tasks with the same names (docker restarts one under its id) the newer one is
/// shown, which to Prometheus is a counter that starts again.
fn rows(registry: &Registry) -> BTreeMap<String, (u64, Figures)> {
    let mut rows: BTreeMap<String, (u64, Figures)> = BTreeMap::new();
    for container in registry.containers() {
        let (created_ns, streams) = shown(&container);
        if streams.is_empty() {
            continue;
        }
        let names = labels::own(&container.identity, &registry.bounds);
        for (stream, figures) in streams {
            let mut labels = names.clone();
            labels::push(&mut labels, "stream", Some(stream.label()));
            let known = rows.entry(labels).or_insert((created_ns, figures));
            if known.0 < created_ns {
                *known = (created_ns, figures);
            }
        }
    }
    rows
}

/// The time of a container's Create, and what its streams have delivered: those that have rows.
fn shown(container: &Container) -> (u64, Vec<(StreamKind, Figures)>) {
    let live = container.live();
    let streams = live.streams.iter().filter(|counts| counts.process.is_empty() && counts.silent().is_none());
    (live.created_ns, streams.map(|counts| (counts.stream, Figures::of(counts))).collect())
}

// === impl Figures ===

impl Figures {
    fn of(counts: &StreamCounts) -> Self {
        Self {
            bytes: counts.bytes.load(Ordering::Relaxed),
            lines: counts.lines.load(Ordering::Relaxed),
            gap_bytes: counts.gap_bytes.total(),
            stalled_ns: counts.stalled_ns(),
        }
    }
}
