//! `[node]`: what this node is called, for sinks whose records travel.

use nix::unistd::gethostname;

use super::{
    option::{Given, Heading},
    section::{Document, Section},
};

/// As it stands in the file, or is without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What the kernel calls the host; `None` where that is no text.
    pub host: Option<String>,
    /// What Kubernetes calls the node.
    pub name: Option<String>,
    /// What its cluster is called.
    pub cluster: Option<String>,
}

const NAME: Given = Given {
    key: "name",
    says: "What Kubernetes calls this node, for records that leave it.",
    example: "node-7",
};
const CLUSTER: Given = Given { key: "cluster", says: "What its cluster is called.", example: "prod" };

pub(super) const HEADING: Heading =
    Heading { name: "node", says: "", is_comment: true, options: &[&NAME, &CLUSTER] };

// === impl Node ===

impl Node {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let mut section = document.section(&HEADING);
        let node = Self {
            host: gethostname().ok().and_then(|name| name.into_string().ok()).filter(|name| !name.is_empty()),
            name: named(&mut section, &NAME),
            cluster: named(&mut section, &CLUSTER),
        };
        section.finish();
        node
    }
}

fn named(section: &mut Section<'_, '_>, option: &Given) -> Option<String> {
    let at = section.given(option)?;
    if at.value.is_empty() {
        section.refuse(at.line, option.key, "must not be empty; leave it out where it is not known");
        return None;
    }
    Some(at.value)
}
