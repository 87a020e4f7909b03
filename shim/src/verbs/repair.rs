//! After a death of keeper and worker together: containerd has written off every task of that shim (all its
//! connections went through us), so nothing of them may run on unmanaged.
//!
//! Kill, Delete and Shutdown over a connection of our own; where an inner shim does not answer all of it, it is ended itself, and
//! what runs under it.

use std::fs;

use super::{force, last_calls, wrap::Description};
use crate::{
    args::Arguments,
    keeper::{belongs_to, remove_files, remove_tasks},
    run_dir::RunDir,
};

/// Ends what is left of the wrapper `key`: its tasks, its inner shim, its files.
pub fn repair(run_dir: &RunDir, key: &str, namespace: &str) {
    if let Some(description) = &describe(run_dir, key) {
        let ids = tasks_of(run_dir, key, namespace);
        if last_calls::end_tasks(description, &ids).is_err() {
            force::end(description);
        }
        // Only the socket that this wrapper was made for: a later shim's on the same path has another key.
        if RunDir::is_still(&description.inner_socket, key) {
            let _ = fs::remove_file(&description.inner_socket);
        }
    }
    remove_tasks(run_dir, namespace, key);
    remove_files(run_dir, key);
}

/// The wrapper that a `start` for this id made, where no Create ever named it (a sandbox of the Sandbox service).
pub fn key_of_start(run_dir: &RunDir, arguments: &Arguments) -> Option<String> {
    let entries = fs::read_dir(run_dir.path().join("s")).ok()?.flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()?.strip_suffix(".json").map(str::to_owned)).find(
        |key| {
            describe(run_dir, key).is_some_and(|d| d.namespace == arguments.namespace && d.id == arguments.id)
        },
    )
}

/// What `start` wrote down of a wrapper.
fn describe(run_dir: &RunDir, key: &str) -> Option<Description> {
    serde_json::from_slice(&fs::read(run_dir.description(key)).ok()?).ok()
}

fn tasks_of(run_dir: &RunDir, key: &str, namespace: &str) -> Vec<String> {
    let entries = run_dir.tasks(namespace).ok().and_then(|dir| fs::read_dir(dir).ok());
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| belongs_to(&e.path(), key))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}
