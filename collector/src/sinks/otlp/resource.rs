//! A container as an OTLP resource, in the names of the semantic conventions. What is not known is absent.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    resource::v1::Resource,
};

use crate::{config::Node, enrich::Identity};

/// An image reference, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Image<'r> {
    /// Registry and repository.
    name: Option<&'r str>,
    /// Behind the last colon of the name.
    tag: Option<&'r str>,
    /// `sha256:…`, behind an `@`.
    digest: Option<&'r str>,
    /// Where the reference is nothing but an id.
    id: Option<&'r str>,
}

/// An attribute whose value is text.
pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// An attribute.
pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

/// What all containers of this node have alike.
pub(super) fn node(node: &Node) -> Vec<KeyValue> {
    let named =
        [("k8s.cluster.name", &node.cluster), ("k8s.node.name", &node.name), ("host.name", &node.host)];
    named.into_iter().filter_map(|(key, value)| Some(text(key, value.clone()?))).collect()
}

/// The resource of a container.
pub(super) fn of(node: &[KeyValue], identity: &Identity) -> Resource {
    let mut attributes = node.to_vec();
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            attributes.push(text(key, value));
        }
    };
    put("k8s.namespace.name", identity.namespace.as_deref());
    put("k8s.pod.name", identity.pod.as_deref());
    put("k8s.pod.uid", identity.pod_uid.as_deref());
    // Only Kubernetes' own name: for others it is the id, or nerdctl's name.
    put("k8s.container.name", identity.container.as_deref().filter(|_| identity.pod.is_some()));
    put("container.id", Some(&identity.container_id));
    put("container.name", Some(identity.name.as_str()).filter(|name| *name != identity.container_id));
    put("container.runtime.name", Some("containerd"));
    let image = identity.image.as_deref().map(Image::of).unwrap_or_default();
    put("container.image.name", image.name);
    put("container.image.id", image.id);
    put("shimtap.containerd.namespace", Some(&identity.runtime_namespace));
    put("shimtap.sandbox.id", identity.sandbox_id.as_deref());
    if let Some(tag) = image.tag {
        attributes.push(list("container.image.tags", tag.to_owned()));
    }
    if let (Some(name), Some(digest)) = (image.name, image.digest) {
        attributes.push(list("container.image.repo_digests", format!("{name}@{digest}")));
    }
    Resource { attributes, ..Default::default() }
}

/// A list of one.
fn list(key: &str, value: String) -> KeyValue {
    let values = vec![AnyValue { value: Some(Value::StringValue(value)) }];
    attribute(key, Value::ArrayValue(ArrayValue { values }))
}

// === impl Image ===

impl<'r> Image<'r> {
    fn of(reference: &'r str) -> Self {
        if reference.starts_with("sha256:") {
            return Self { id: Some(reference), ..Self::default() };
        }
        let (rest, digest) = match reference.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (reference, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        Self { name: Some(name), tag, digest, id: None }
    }
}

#[cfg(test)]
mod tests {
    use super::Image;

    #[test]
    fn references_come_apart_where_they_should() {
        for (reference, name, tag, digest) in [
            ("docker.io/library/nginx:1.25", "docker.io/library/nginx", Some("1.25"), None),
            ("registry:5000/a/b", "registry:5000/a/b", None, None),
            ("registry:5000/a/b:v1@sha256:ab", "registry:5000/a/b", Some("v1"), Some("sha256:ab")),
            ("nginx", "nginx", None, None),
        ] {
            let expected = Image { name: Some(name), tag, digest, id: None };
            assert_eq!(Image::of(reference), expected, "{reference}");
        }
        assert_eq!(Image::of("sha256:ab"), Image { id: Some("sha256:ab"), ..Image::default() });
    }
}
