//! `[containerd]`: asking containerd for what it knows of containers beside us.

use std::path::PathBuf;

use super::{
    option::{Heading, Names, Switch, Text},
    section::{At, Document, Section},
};

/// Each is a label of a series per container.
const MOST_LABELS: usize = 16;

/// As it stands in the file, or is without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containerd {
    /// It is asked, where its socket is there.
    pub enabled: bool,
    /// Its gRPC socket.
    pub socket: PathBuf,
    /// Labels of pods that `shimtap_container_info` shows, each with the name of the label that shows it there.
    pub pod_labels: Vec<(String, String)>,
}

const ENABLED: Switch = Switch {
    key: "enabled",
    says: "Ask containerd, where its socket is there, for what CRI's records say of pods (runtime handler, labels, image id, \
           attempt, log path, overhead) and for kills for want of memory. Without it names come from OCI annotations alone.",
    default: true,
};
const SOCKET: Text =
    Text { key: "socket", says: "containerd's gRPC socket.", default: "/run/containerd/containerd.sock" };
const POD_LABELS: Names = Names {
    key: "pod_labels",
    says: "Labels of pods that shimtap_container_info shows, at most 16: \"app.kubernetes.io/name\" as \
           label_app_kubernetes_io_name.",
};

pub(super) const HEADING: Heading =
    Heading { name: "containerd", says: "", is_comment: false, options: &[&ENABLED, &SOCKET, &POD_LABELS] };

// === impl Containerd ===

impl Containerd {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let mut section = document.section(&HEADING);
        let containerd = Self {
            enabled: section.switch(&ENABLED),
            socket: section.path(&SOCKET),
            pod_labels: pod_labels(&mut section),
        };
        section.finish();
        containerd
    }
}

fn pod_labels(section: &mut Section<'_, '_>) -> Vec<(String, String)> {
    let Some(At { line, value }) = section.strings(POD_LABELS.key) else { return Vec::new() };
    let mut labels: Vec<(String, String)> = Vec::new();
    if value.len() > MOST_LABELS {
        section.refuse(line, POD_LABELS.key, "may name 16 labels at most");
    }
    for label in value {
        let shown = shown(&label);
        if label.is_empty() || labels.iter().any(|(_, other)| *other == shown) {
            let message =
                format!("has {label:?}, which is empty or would be shown as {shown} like another one");
            section.refuse(line, POD_LABELS.key, &message);
        }
        labels.push((label, shown));
    }
    labels
}

/// `app.kubernetes.io/name` as `label_app_kubernetes_io_name`, as kube-state-metrics has it.
fn shown(label: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("label_{}", label.chars().map(plain).collect::<String>())
}
