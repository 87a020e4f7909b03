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
        let live = container.live();
        let shown =
            live.streams.iter().filter(|counts| counts.process.is_empty() && counts.silent().is_none());
        for counts in shown {
            let row = (live.created_ns, Figures::of(counts));
            let known = rows.entry(names(registry, &container, counts)).or_insert(row);
            if known.0 < row.0 {
                *known = row;
            }
        }
    }
    rows
}

/// The labels of a stream.
fn names(registry: &Registry, container: &Container, counts: &StreamCounts) -> String {
    let mut out = labels::own(&container.identity, &registry.bounds);
    labels::push(&mut out, "stream", Some(counts.stream.label()));
    out
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
