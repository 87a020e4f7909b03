//! Label sets as text, rendered once per container.
//!
//! A label whose value is not known is left out, which is the same to Prometheus as an empty one.

use super::limits::Bounds;
use crate::enrich::{Identity, Role};

/// cAdvisor's labels of a container: `container`, `id`, `image`, `name`, `namespace`, `pod`.
pub(super) fn cadvisor(identity: &Identity, bounds: &Bounds) -> String {
    let mut out = String::with_capacity(256);
    // A sandbox has the empty name that the kubelet gives it, so that existing rules leave it out.
    let container = match identity.role {
        Role::Sandbox => Some(""),
        _ => identity.container.as_deref(),
    };
    let path = Some(identity.path.as_str()).filter(|path| !path.is_empty());
    for (key, value) in [
        ("container", container),
        ("id", path),
        ("image", identity.image.as_deref()),
        ("name", Some(&identity.name)),
        ("namespace", identity.namespace.as_deref()),
        ("pod", identity.pod.as_deref()),
    ] {
        push(&mut out, key, value.map(|value| bounds.value(value)).as_deref());
    }
    out.shrink_to_fit();
    out
}

/// The labels of our own families about one container: `container`, `id`, `name`, `namespace`, `pod`, empty where not known,
/// so that each row of a family has the same ones. `id` tells two containers with one id in two of containerd's namespaces
/// apart. Made where it is asked for: it is long, and few rows have it.
pub(super) fn own(identity: &Identity, bounds: &Bounds) -> String {
    let mut out = String::with_capacity(256);
    let container = match identity.role {
        Role::Sandbox => None,
        _ => identity.container.as_deref(),
    };
    for (key, value) in [
        ("container", container),
        ("id", Some(identity.path.as_str())),
        ("name", Some(identity.name.as_str())),
        ("namespace", identity.namespace.as_deref()),
        ("pod", identity.pod.as_deref()),
    ] {
        push(&mut out, key, Some(&bounds.known(value.unwrap_or_default())));
    }
    out
}

/// Appends `key="value"`, with a comma in front where something stands before it.
pub(super) fn push(out: &mut String, key: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(key);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}
