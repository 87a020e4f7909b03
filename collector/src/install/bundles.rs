//! The bundles of containerd's tasks: a folder for each, below its state folder. It need not run.
//!
//! A folder that vanishes while it is read is a container that has ended.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Below containerd's state folder, all releases.
const TASKS: &str = "io.containerd.runtime.v2.task";

/// One task's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// containerd's namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// The folder.
    pub path: PathBuf,
}

/// All of them. Hidden ones are being removed and are none.
pub fn bundles(state: &Path) -> Vec<Bundle> {
    let mut all = Vec::new();
    for (namespace, folder) in folders(&state.join(TASKS)) {
        let bundles = folders(&folder).into_iter().filter(|(id, _)| !id.starts_with('.'));
        all.extend(bundles.map(|(id, path)| Bundle { namespace: namespace.clone(), id, path }));
    }
    all
}

// === impl Bundle ===

impl Bundle {
    /// The binary that its shim was started by; none where it does not say.
    pub fn shim(&self) -> Option<PathBuf> {
        let said = fs::read_to_string(self.path.join("shim-binary-path")).ok()?;
        Some(PathBuf::from(said.trim()))
    }
}

/// Folders with their names.
fn folders(of: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named.filter(|(_, path)| path.is_dir()).collect()
}
