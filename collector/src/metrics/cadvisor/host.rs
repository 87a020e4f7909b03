//! The figures that this host's kernel gives and no shim: processes, and the network of a pod, once and at its sandbox.

use super::{Bounds, Cut, Text, Value, View, f, labels};
use crate::{metrics::families::Family, node::Interface};

type Pick = fn(&Interface) -> u64;

static NETWORK: &[(&Family, Pick)] = &[
    (&f::RECEIVED_BYTES, |i| i.received.bytes),
    (&f::RECEIVED_PACKETS, |i| i.received.packets),
    (&f::RECEIVE_ERRORS, |i| i.received.errors),
    (&f::RECEIVE_DROPPED, |i| i.received.dropped),
    (&f::SENT_BYTES, |i| i.sent.bytes),
    (&f::SENT_PACKETS, |i| i.sent.packets),
    (&f::SEND_ERRORS, |i| i.sent.errors),
    (&f::SEND_DROPPED, |i| i.sent.dropped),
];

/// One interface of a pod.
struct Row<'v> {
    view: &'v View,
    /// `interface="…"`.
    label: String,
    interface: &'v Interface,
}

/// Writes them.
pub(super) fn render(text: &mut Text, views: &[View], bounds: &Bounds) {
    let rows: Vec<Row<'_>> = views.iter().flat_map(|view| interfaces(view, bounds)).collect();
    for (family, pick) in NETWORK {
        let mut writer = text.family(family);
        for Row { view, label, interface } in &rows {
            writer.sample_of(label, &view.container.labels, Value::Whole(pick(interface)), view.host_ms());
        }
    }
    let mut writer = text.family(&f::PROCESSES);
    for view in views.iter().filter(|view| view.running) {
        if let Some(count) = view.host.as_ref().and_then(|host| host.processes) {
            writer.sample(&view.container.labels, Value::Whole(count), view.host_ms());
        }
    }
}

fn interfaces<'v>(view: &'v View, bounds: &Bounds) -> Vec<Row<'v>> {
    let Some(interfaces) = view.host.as_ref().and_then(|host| host.interfaces.as_ref()) else {
        return Vec::new();
    };
    bounds
        .first(interfaces.iter(), Cut::Interfaces)
        .map(|(name, interface)| {
            let mut label = String::new();
            labels::push(&mut label, "interface", Some(name));
            Row { view, label, interface }
        })
        .collect()
}

// === impl View ===

impl View {
    /// When this host was asked, in Unix ms, where times are wanted.
    fn host_ms(&self) -> Option<u64> {
        self.host.as_ref().filter(|_| self.times).map(|host| host.time_ns / 1_000_000)
    }
}
