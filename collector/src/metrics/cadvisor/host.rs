//! The figures that this host's kernel gives and no shim: processes, and the network of a pod, once and at its sandbox.

use super::{Text, Value, View, f, labels};
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

/// Writes them.
pub(super) fn render(text: &mut Text, views: &[View]) {
    for (family, pick) in NETWORK {
        let mut writer = text.family(family);
        for view in views {
            for (name, interface) in view.host.iter().filter_map(|host| host.interfaces.as_ref()).flatten() {
                let mut row = String::new();
                labels::push(&mut row, "interface", Some(name));
                row.push(',');
                row.push_str(&view.container.labels);
                writer.sample(&row, Value::Whole(pick(interface)), view.host_ms());
            }
        }
    }
    let mut writer = text.family(&f::PROCESSES);
    for view in views.iter().filter(|view| view.running) {
        if let Some(count) = view.host.as_ref().and_then(|host| host.processes) {
            writer.sample(&view.container.labels, Value::Whole(count), view.host_ms());
        }
    }
}

// === impl View ===

impl View {
    /// When this host was asked, in Unix ms, where times are wanted.
    fn host_ms(&self) -> Option<u64> {
        self.host.as_ref().filter(|_| self.times).map(|host| host.time_ns / 1_000_000)
    }
}
