//! Label sets as text, rendered once per container.
//!
//! A label whose value is not known is left out, which is the same to Prometheus as an empty one.

use crate::enrich::{Identity, Role};

/// cAdvisor's labels of a container: `container`, `id`, `image`, `name`, `namespace`, `pod`.
pub(super) fn cadvisor(identity: &Identity) -> String {
    let mut out = String::with_capacity(256);
    // A sandbox has the empty name that the kubelet gives it, so that existing rules leave it out.
    let container = match identity.role {
        Role::Sandbox => Some(""),
        _ => identity.container.as_deref(),
    };
    push(&mut out, "container", container);
    push(&mut out, "id", Some(identity.path.as_str()).filter(|path| !path.is_empty()));
    push(&mut out, "image", identity.image.as_deref());
    push(&mut out, "name", Some(&identity.name));
    push(&mut out, "namespace", identity.namespace.as_deref());
    push(&mut out, "pod", identity.pod.as_deref());
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
