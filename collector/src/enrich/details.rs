//! What containerd's own records say of a container beside its OCI annotations.
//!
//! It is learnt once, a moment after the container, and does not change afterwards. Nothing waits for it: who needs it
//! before it is there goes on without.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// What is known. `None` = it is not said there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The pod's runtime handler, as its RuntimeClass names it.
    pub handler: Option<String>,
    /// The image as its digest names it, e.g. `sha256:…`.
    pub image_id: Option<String>,
    /// Where containerd writes the container's log.
    pub log_path: Option<String>,
    /// How often the container (of a sandbox: the pod) was made before, as its client counts.
    pub attempt: Option<u32>,
    /// Labels of the pod.
    pub pod_labels: Arc<BTreeMap<String, String>>,
    /// What its RuntimeClass says that the pod costs beside its containers.
    pub overhead: Overhead,
}

/// `podFixed` of a RuntimeClass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU in thousandths of a core.
    pub cpu_millis: Option<u64>,
}

/// Details that may be still to come.
#[derive(Debug, Default)]
pub struct Later(OnceLock<Details>);

// === impl Later ===

impl Later {
    /// What is known, once it is.
    #[must_use]
    pub fn get(&self) -> Option<&Details> {
        self.0.get()
    }

    /// Will nothing more become known?
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.0.get().is_some()
    }

    /// This is what there is to know; what was said first stays.
    pub fn settle(&self, details: Details) {
        // The second of two answers says the same.
        let _ = self.0.set(details);
    }
}
