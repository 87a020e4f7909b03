//! What an installation has done, kept on disk, so that it can be undone to the byte by a later `shimtap` after any number of
//! restarts: the content of each file without us and with us.
//!
//! Written before the first file is touched: whoever is ended in the middle leaves a record that says how to go back.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Change, InstallFault, Node, edit,
    files::{self, Stands},
    read_if_there,
};

const NAME: &str = "install.json";
const FORMAT: u32 = 1;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// The release that did it.
    pub shimtap: String,
    /// containerd's main configuration file.
    pub config: PathBuf,
    /// The folder of its bundles and other things that do not outlive a boot.
    pub bundles: PathBuf,
    /// Handlers that are wrapped, by name.
    pub handlers: Vec<String>,
    /// Files, in the order in which they were made.
    pub changes: Vec<Change>,
}

/// How one file goes back to what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Nothing to do: it is as without us.
    Is,
    /// To the byte.
    Restored,
    /// Somebody has changed it since: only what is ours was taken out, and the rest stays as they want it.
    Cut,
    /// Not yet: containerd names it in the bundles of containers that run. New ones do not come by it.
    Needed,
}

// === impl Record ===

impl Record {
    /// Of what is about to be done, on top of what was done before: what a file was before the first of all installations is
    /// what an undo goes back to, as long as nobody else has changed it since.
    pub fn after(
        last: Option<&Self>,
        node: &Node,
        handlers: impl IntoIterator<Item = String>,
        changes: &[Change],
    ) -> Self {
        let original =
            |change: &Change| last.and_then(|last| last.original(change)).unwrap_or_else(|| change.clone());
        let is_new = |old: &&Change| changes.iter().all(|change| change.path() != old.path());
        let kept = last.into_iter().flat_map(|last| last.changes.iter()).filter(is_new).cloned();
        let changes = kept.chain(changes.iter().map(original)).collect();
        let mut all: Vec<String> =
            last.into_iter().flat_map(|last| last.handlers.clone()).chain(handlers).collect();
        all.sort();
        all.dedup();
        let shimtap = env!("CARGO_PKG_VERSION").to_owned();
        let bundles = node.effective.bundles.clone();
        Self { format: FORMAT, shimtap, config: node.config.clone(), bundles, handlers: all, changes }
    }

    /// Where it is kept below the state's folder.
    pub fn path(state: &Path) -> PathBuf {
        state.join(NAME)
    }

    /// The last one; none where nothing is installed.
    pub fn read(state: &Path) -> Result<Option<Self>, InstallFault> {
        let path = Self::path(state);
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let fault = |why: String| InstallFault::Record { path: path.clone(), why };
        let record: Self = serde_json::from_slice(&bytes).map_err(|source| fault(source.to_string()))?;
        if record.format != FORMAT {
            return Err(fault(format!("its format is {}, and {FORMAT} is known", record.format)));
        }
        Ok(Some(record))
    }

    /// Keeps it, in place of the last.
    pub fn keep(&self, state: &Path) -> Result<(), InstallFault> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        files::put(&Self::path(state), Some(&text))
    }

    /// Forgets it, once everything is undone.
    pub fn forget(state: &Path) -> Result<(), InstallFault> {
        files::put(&Self::path(state), None)
    }

    /// A new change of a file that still is as we left it, with what it was before we first touched it.
    fn original(&self, new: &Change) -> Option<Change> {
        let old = self.changes.iter().find(|old| old.path() == new.path())?;
        match (old, new) {
            (Change::Content { before, .. }, Change::Content { path, after, .. })
                if old.stands().is_ok_and(|stands| stands == Stands::After) =>
            {
                Some(Change::Content { path: path.clone(), before: before.clone(), after: after.clone() })
            }
            _ => None,
        }
    }

    /// Each file as it was, the last one first. Goes on past a fault.
    ///
    /// A bundle of a running container names the path that its shim was started by, and a containerd that is restarted and does
    /// not find that file ends the container (seen on 1.6.20). So links that bundles name stay until those containers have
    /// ended, and with them what the wrapper needs to clean up after them.
    pub fn undo(&self) -> Vec<(PathBuf, Result<Undo, InstallFault>)> {
        let needed = self.needed();
        let changes = self.changes.iter().rev();
        changes.map(|change| (change.path().to_owned(), self.undo_one(change, &needed))).collect()
    }

    /// What is left to be undone once nothing is [`Undo::Needed`] any more.
    pub fn left(&self, paths: &[PathBuf]) -> Self {
        let changes = self.changes.iter().filter(|change| paths.iter().any(|path| path == change.path()));
        Self { changes: changes.cloned().collect(), ..self.clone() }
    }

    /// Links of ours that bundles name.
    fn needed(&self) -> Vec<&Path> {
        let named = shims_of_bundles(&self.bundles);
        let links = self.changes.iter().filter(|change| matches!(change, Change::Link { .. }));
        links.map(Change::path).filter(|link| named.iter().any(|name| name == link)).collect()
    }

    fn undo_one(&self, change: &Change, needed: &[&Path]) -> Result<Undo, InstallFault> {
        match (change.stands()?, change) {
            (Stands::Before, _) => Ok(Undo::Is),
            (Stands::After, Change::Link { path, before: Some(real), .. })
                if needed.contains(&path.as_path()) =>
            {
                // For new containers it is as if it were not there.
                files::turn(path, real).map(|()| Undo::Needed)
            }
            (Stands::After, Change::Link { path, .. }) if needed.contains(&path.as_path()) => {
                Ok(Undo::Needed)
            }
            // The wrapper reads there which shim is behind such a link.
            (Stands::After | Stands::Otherwise, Change::Content { path, .. })
                if !needed.is_empty() && !self.is_containerd_s(path) =>
            {
                Ok(Undo::Needed)
            }
            (Stands::After, _) => change.take_back().map(|()| Undo::Restored),
            // A link that leads elsewhere now is somebody else's.
            (Stands::Otherwise, Change::Link { .. }) => Ok(Undo::Is),
            // A drop-in is ours whatever it says.
            (Stands::Otherwise, Change::Content { path, before: None, .. }) if edit::is_drop_in(path) => {
                change.take_back().map(|()| Undo::Restored)
            }
            (Stands::Otherwise, Change::Content { path, before, after }) => {
                let Some(now) = read_if_there(path)? else { return Ok(Undo::Is) };
                let now = String::from_utf8_lossy(&now);
                let cut = edit::cut(path, &now, before.as_deref(), after.as_deref())?;
                files::put(path, Some(&cut)).map(|()| Undo::Cut)
            }
        }
    }

    /// Whether a file is one that containerd reads.
    fn is_containerd_s(&self, path: &Path) -> bool {
        path == self.config || edit::is_drop_in(path)
    }
}

/// The shims that running containers were started by: `shim-binary-path` of each bundle.
fn shims_of_bundles(state: &Path) -> Vec<PathBuf> {
    let folders = |of: &Path| fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path());
    let tasks = state.join("io.containerd.runtime.v2.task");
    let bundles = folders(&tasks).flat_map(|namespace| folders(&namespace).collect::<Vec<_>>());
    let named = bundles.filter_map(|bundle| fs::read_to_string(bundle.join("shim-binary-path")).ok());
    named.map(|path| PathBuf::from(path.trim())).collect()
}
