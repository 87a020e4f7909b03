//! `[node]`: what this node is called, for sinks whose records travel.

use nix::unistd::gethostname;

use super::{
    fault::Faults,
    section::{At, Document},
};

/// Resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What the kernel calls the host; `None` where that is no text.
    pub host: Option<String>,
    /// What Kubernetes calls the node.
    pub name: Option<String>,
    /// What its cluster is called.
    pub cluster: Option<String>,
}

/// As the file has it.
#[derive(Default)]
pub(super) struct Raw {
    name: Option<At<String>>,
    cluster: Option<At<String>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let Some(mut section) = document.section("node") else { return Self::default() };
        let raw = Self { name: section.string("name"), cluster: section.string("cluster") };
        section.finish();
        raw
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Node {
        Node {
            host: gethostname().ok().and_then(|name| name.into_string().ok()).filter(|name| !name.is_empty()),
            name: named(self.name, "node.name", faults),
            cluster: named(self.cluster, "node.cluster", faults),
        }
    }
}

fn named(raw: Option<At<String>>, key: &str, faults: &mut Faults) -> Option<String> {
    let At { line, value } = raw?;
    if value.is_empty() {
        faults.push(Some(line), key, "must not be empty; leave it out where it is not known");
        return None;
    }
    Some(value)
}
