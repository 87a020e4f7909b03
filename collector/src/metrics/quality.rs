//! What is wrong with the statistics that shims give: how many containers, by kind of shim and fault.
//!
//! A fault that no container has is not shown, so that a node without Kata has no rows of it.

use std::collections::BTreeMap;

use super::{
    families as f, labels,
    registry::Registry,
    text::{Text, Value},
};

/// Writes the family.
pub(super) fn render(text: &mut Text, registry: &Registry) {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for container in registry.containers() {
        let live = container.live();
        if live.stats_refused && live.is_running() {
            *counts.entry((container.shim.label(), "stats_denied")).or_default() += 1;
        }
        let Some(sample) = live.sample.as_ref().filter(|_| live.is_running()) else { continue };
        for fault in sample.faults.iter() {
            *counts.entry((container.shim.label(), fault.label())).or_default() += 1;
        }
    }
    let mut writer = text.family(&f::STATS_QUALITY);
    for ((shim, reason), count) in counts {
        let mut row = String::new();
        labels::push(&mut row, "shim", Some(shim));
        labels::push(&mut row, "reason", Some(reason));
        writer.sample(&row, Value::Whole(count), None);
    }
}
