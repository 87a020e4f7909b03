//! A container's names, from the OCI annotations that are there from its first byte.
//!
//! What is not known stays `None` and is left out of labels and records; nothing is guessed from an id. The names
//! are frozen when the container is first seen, so that a series never changes its labels.

use std::{collections::BTreeMap, path::Path};

use shimtap_proto::link;

use super::shim::is_host_visible;
use crate::closed::closed;

closed! {
    /// What a container is to its client.
    pub enum Role {
        /// A CRI pod sandbox (the pause container).
        Sandbox => "sandbox",
        /// A container of a CRI pod.
        PodContainer => "pod_container",
        /// Anything else: ctr, nerdctl, docker.
        Plain => "plain",
    }
}

/// The names of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// containerd's namespace: `k8s.io`, `default`, `moby`.
    pub runtime_namespace: String,
    /// Container id.
    pub container_id: String,
    /// What it is.
    pub role: Role,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Pod name.
    pub pod: Option<String>,
    /// Pod UID.
    pub pod_uid: Option<String>,
    /// Id of the pod's sandbox.
    pub sandbox_id: Option<String>,
    /// The container's name; `None` for a sandbox.
    pub container: Option<String>,
    /// Image reference as the client gave it.
    pub image: Option<String>,
    /// cAdvisor's `name`: the id, except where a client gave a readable one.
    pub name: String,
    /// cAdvisor's `id`: the cgroup path on this host, or a path that cannot be taken for one.
    pub path: String,
    /// Base name of the shim inside; empty = not known.
    pub shim: String,
    /// Annotations of the OCI spec that are no names of Kubernetes': those that containerd was told to pass on
    /// (`pod_annotations`), and what other clients set.
    pub annotations: BTreeMap<String, String>,
    /// True where this host's cgroups show the container (runc, crun), false where a VM or a sandbox hides it.
    pub host_visible: bool,
}

const CRI: &str = "io.kubernetes.cri.";
const CRI_TYPE: &str = "io.kubernetes.cri.container-type";
const CRI_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
const CRI_POD: &str = "io.kubernetes.cri.sandbox-name";
const CRI_UID: &str = "io.kubernetes.cri.sandbox-uid";
const CRI_SANDBOX: &str = "io.kubernetes.cri.sandbox-id";
const CRI_CONTAINER: &str = "io.kubernetes.cri.container-name";
const CRI_IMAGE: &str = "io.kubernetes.cri.image-name";
const CRI_SANDBOX_IMAGE: &str = "io.kubernetes.cri.podsandbox.image-name";
const NERDCTL_NAME: &str = "nerdctl/name";

// === impl Identity ===

impl Identity {
    /// Of which nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            runtime_namespace: String::new(),
            container_id: String::new(),
            role: Role::Plain,
            namespace: None,
            pod: None,
            pod_uid: None,
            sandbox_id: None,
            container: None,
            image: None,
            name: String::new(),
            path: String::new(),
            shim: String::new(),
            annotations: BTreeMap::new(),
            host_visible: false,
        }
    }

    /// From what the wrapper said of a task and of its shim.
    #[must_use]
    pub fn new(open: &link::Open, inner: &link::InnerShim) -> Self {
        let note = |key: &str| open.annotations.get(key).filter(|value| !value.is_empty()).cloned();
        let role = match open.annotations.get(CRI_TYPE).map(String::as_str) {
            Some("sandbox") => Role::Sandbox,
            Some("container") => Role::PodContainer,
            _ => Role::Plain,
        };
        let nerdctl = note(NERDCTL_NAME);
        let container = match role {
            Role::Sandbox => None,
            Role::PodContainer => note(CRI_CONTAINER),
            Role::Plain => Some(nerdctl.clone().unwrap_or_else(|| open.container.clone())),
        };
        let image = if role == Role::Sandbox { note(CRI_SANDBOX_IMAGE) } else { note(CRI_IMAGE) };
        let shim = Path::new(&inner.binary).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let host_visible = is_host_visible(shim);
        let sandbox_id = note(CRI_SANDBOX);
        let path = if host_visible {
            cgroup_id(&open.cgroups_path)
        } else {
            format!("/sandbox/{}/{}", sandbox_id.as_deref().unwrap_or(&open.container), open.container)
        };
        Self {
            runtime_namespace: open.namespace.clone(),
            container_id: open.container.clone(),
            role,
            namespace: note(CRI_NAMESPACE),
            pod: note(CRI_POD),
            pod_uid: note(CRI_UID),
            sandbox_id,
            container,
            image,
            name: nerdctl.filter(|_| role == Role::Plain).unwrap_or_else(|| open.container.clone()),
            path,
            shim: shim.to_owned(),
            annotations: own_annotations(open),
            host_visible,
        }
    }

    /// The shim inside as people name it; empty = not known.
    #[must_use]
    pub fn runtime(&self) -> &str {
        short_shim(&self.shim)
    }
}

/// The part of a shim's name that tells it from others: `runc-v2` of `containerd-shim-runc-v2`.
#[must_use]
pub fn short_shim(name: &str) -> &str {
    name.strip_prefix("containerd-shim-").unwrap_or(name)
}

fn own_annotations(open: &link::Open) -> BTreeMap<String, String> {
    let own = open.annotations.iter().filter(|(key, _)| !key.starts_with(CRI));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The path below the cgroup root for the OCI spec's `cgroupsPath`: itself, or for systemd's
/// `slice:prefix:name` the nested slices and the scope, as cAdvisor shows them.
fn cgroup_id(cgroups_path: &str) -> String {
    let mut parts = cgroups_path.split(':');
    let (Some(slice), Some(prefix), Some(name), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return cgroups_path.to_owned();
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let mut path = String::new();
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut name_so_far = String::new();
    for part in stem.split('-').filter(|part| !part.is_empty()) {
        if !name_so_far.is_empty() {
            name_so_far.push('-');
        }
        name_so_far.push_str(part);
        path.push('/');
        path.push_str(&name_so_far);
        path.push_str(".slice");
    }
    path.push('/');
    if name.ends_with(".slice") {
        path.push_str(name);
    } else {
        if !prefix.is_empty() {
            path.push_str(prefix);
            path.push('-');
        }
        path.push_str(name);
        path.push_str(".scope");
    }
    path.shrink_to_fit();
    path
}
