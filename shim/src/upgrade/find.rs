//! Which wrappers there are: by their own directory, so without the collector.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{keeper::TASK_LINK, run_dir::RunDir, verbs::Description};

/// A wrapper by its files; whether it lives is found out by asking it.
pub struct Found {
    /// containerd namespace.
    pub namespace: String,
    /// The id whose `start` made it.
    pub id: String,
    /// Its socket.
    pub socket: PathBuf,
    /// Ids of its tasks.
    tasks: BTreeSet<String>,
}

/// All of them, by namespace and id.
pub fn all(run_dir: &RunDir) -> Vec<Found> {
    let mut found: Vec<Found> = entries(&run_dir.path().join("s"))
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter_map(|key| one(run_dir, &key))
        .collect();
    found.sort_by(|a, b| (&a.namespace, &a.id).cmp(&(&b.namespace, &b.id)));
    found
}

fn one(run_dir: &RunDir, key: &str) -> Option<Found> {
    let text = fs::read(run_dir.description(key)).ok()?;
    let Description { namespace, id, .. } = serde_json::from_slice(&text).ok()?;
    let dir = run_dir.tasks(&namespace).ok()?;
    let is_its = |id: &String| {
        fs::read_link(dir.join(id).join(TASK_LINK)).is_ok_and(|to| to.file_name().is_some_and(|n| n == key))
    };
    let tasks = entries(&dir).filter(is_its).collect();
    Some(Found { namespace, id, socket: run_dir.socket(key), tasks })
}

fn entries(dir: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok())
}

// === impl Found ===

impl Found {
    /// An id that names none.
    pub fn nobody(id: &str) -> Self {
        let (namespace, socket) = (String::new(), PathBuf::new());
        Self { namespace, id: id.to_owned(), socket, tasks: BTreeSet::new() }
    }

    /// Is it the wrapper of this pod or container, or of one whose id begins so?
    pub fn is_of(&self, id: &str) -> bool {
        !id.is_empty() && (self.id.starts_with(id) || self.tasks.iter().any(|task| task.starts_with(id)))
    }
}
