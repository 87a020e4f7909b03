//! What containerd's records say of containers, as series whose value is always 1, for joins; and what pods were promised to
//! cost at most beside their containers.

use std::sync::Arc;

use super::{
    container::Container,
    families as f, labels,
    registry::Registry,
    text::{Text, Value},
};
use crate::enrich::{Details, Role};

/// Writes the families, for containers that run and of which containerd's records are known.
pub(super) fn render(text: &mut Text, registry: &Registry) {
    let containers: Vec<Arc<Container>> =
        registry.shown().into_iter().filter(|container| container.live().is_running()).collect();
    let mut writer = text.family(&f::CONTAINER_INFO);
    for container in &containers {
        let Some(details) = container.extra.get() else { continue };
        writer.sample(&row(registry, container, details), Value::Whole(1), None);
    }
    let overheads = || {
        let sandboxes = containers.iter().filter(|container| container.identity.role == Role::Sandbox);
        sandboxes.filter_map(|container| Some((container, container.extra.get()?.overhead)))
    };
    let mut writer = text.family(&f::OVERHEAD_MEMORY);
    for (container, overhead) in overheads() {
        if let Some(bytes) = overhead.memory_bytes {
            writer.sample(&of_sandbox(registry, container), Value::Whole(bytes), None);
        }
    }
    let mut writer = text.family(&f::OVERHEAD_CPU);
    for (container, overhead) in overheads() {
        if let Some(millis) = overhead.cpu_millis {
            // Thousandths of a core are written as nanoseconds are: with nine places behind the point.
            let cores = Value::Ns(millis.saturating_mul(1_000_000));
            writer.sample(&of_sandbox(registry, container), cores, None);
        }
    }
}

/// The labels of what is shown of sandboxes, so that what one costs can be held against what it was promised to.
fn of_sandbox(registry: &Registry, container: &Container) -> String {
    let identity = &container.identity;
    let mut row = String::new();
    for (key, value) in [
        ("namespace", identity.namespace.as_deref()),
        ("pod", identity.pod.as_deref()),
        ("sandbox", Some(identity.container_id.as_str())),
    ] {
        labels::push(&mut row, key, Some(&registry.bounds.value(value.unwrap_or_default())));
    }
    row
}

fn row(registry: &Registry, container: &Container, details: &Details) -> String {
    let mut row = labels::own(&container.identity, &registry.bounds);
    let attempt = details.attempt.map(|attempt| attempt.to_string());
    for (key, value) in [
        ("handler", details.handler.as_deref()),
        ("shim", Some(container.shim.label())),
        ("image", container.identity.image.as_deref()),
        ("image_id", details.image_id.as_deref()),
        ("attempt", attempt.as_deref()),
    ] {
        labels::push(&mut row, key, Some(&registry.bounds.value(value.unwrap_or_default())));
    }
    for (label, shown) in &registry.pod_labels {
        if let Some(value) = details.pod_labels.get(label) {
            labels::push(&mut row, shown, Some(&registry.bounds.value(value)));
        }
    }
    row
}
