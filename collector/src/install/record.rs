//! What an installation has done, kept on disk, so that it can be undone to the byte by a later `shimtap` after any number of
//! restarts: the content of each file without us and with us.
//!
//! Written before the first file is touched: whoever is ended in the middle leaves a record that says how to go back.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Bundle, Change, InstallFault, Node, Plan, bundles, edit,
    files::{self, Stands},
    read_if_there, text_of,
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
    pub fn after(last: Option<&Self>, node: &Node, plan: &Plan) -> Result<Self, InstallFault> {
        let is_new = |old: &&Change| plan.changes.iter().all(|change| change.path() != old.path());
        let kept = last.into_iter().flat_map(|last| last.changes.iter()).filter(is_new).cloned();
        let mut changes: Vec<Change> = kept.collect();
        for change in &plan.changes {
            changes.push(last.map_or_else(|| Ok(change.clone()), |last| last.original(change))?);
        }
        let before = last.into_iter().flat_map(|last| last.handlers.clone());
        let now = plan.covered.iter().map(|(name, _)| name.clone());
        let mut handlers: Vec<String> =
            before.chain(now).filter(|name| !plan.dropped.contains(name)).collect();
        handlers.sort();
        handlers.dedup();
        let shimtap = env!("CARGO_PKG_VERSION").to_owned();
        let bundles = node.effective.bundles.clone();
        Ok(Self { format: FORMAT, shimtap, config: node.config.clone(), bundles, handlers, changes })
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

    /// Keeps it, in place of the last. Not to be read by others: containerd's file may hold passwords of registries.
    pub fn keep(&self, state: &Path) -> Result<(), InstallFault> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        files::put_private(&Self::path(state), &text)
    }

    /// Forgets it, once everything is undone.
    pub fn forget(state: &Path) -> Result<(), InstallFault> {
        files::put(&Self::path(state), None)
    }

    /// A new change of a file that we have changed before, with what it was before that; where somebody has changed it since, with
    /// what that would be without us.
    fn original(&self, new: &Change) -> Result<Change, InstallFault> {
        let old = self.changes.iter().find(|old| old.path() == new.path());
        let (Some(old), Change::Content { path, before: Some(now), after }) = (old, new) else {
            return Ok(new.clone());
        };
        let Change::Content { before: first, .. } = old else { return Ok(new.clone()) };
        let before = match old.stands()? {
            Stands::After => first.clone(),
            Stands::Before => Some(now.clone()),
            // A drop-in is ours whatever it says.
            Stands::Otherwise if first.is_none() && edit::is_drop_in(path) => None,
            Stands::Otherwise => Some(self.without_us(path, now)?),
        };
        Ok(Change::Content { path: path.clone(), before, after: after.clone() })
    }

    /// What a file that holds `now` would hold without what is ours in it.
    pub fn without_us(&self, path: &Path, now: &str) -> Result<String, InstallFault> {
        match self.changes.iter().find(|change| change.path() == path) {
            Some(Change::Content { before, after, .. }) => edit::cut(path, now, before.as_deref(), after),
            _ => Ok(now.to_owned()),
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
        changes
            .map(|change| {
                let undone = files::tidy(change.path()).and_then(|()| self.undo_one(change, &needed));
                (change.path().to_owned(), undone)
            })
            .collect()
    }

    /// What `plan` has done alone, the last that this record is of: what each file held before it is what an earlier installation left.
    pub fn step(&self, plan: &Plan) -> Self {
        Self { changes: plan.changes.clone(), ..self.clone() }
    }

    /// What there is still to be undone when all is undone that was done since `last`, but for these files, which had to stay; none
    /// where that is nothing.
    pub fn left(&self, last: Option<&Self>, stayed: &[PathBuf]) -> Option<Self> {
        let stays = |change: &&Change| stayed.iter().any(|path| path == change.path());
        let handlers = last.map_or(&self.handlers, |last| &last.handlers).clone();
        let mut changes = last.map(|last| last.changes.clone()).unwrap_or_default();
        for change in self.changes.iter().filter(stays) {
            changes.retain(|old| old.path() != change.path());
            changes.push(change.clone());
        }
        (!changes.is_empty()).then(|| Self { handlers, changes, ..self.clone() })
    }

    /// Links of ours that bundles name.
    fn needed(&self) -> Vec<&Path> {
        let named: Vec<PathBuf> = bundles(&self.bundles).iter().filter_map(Bundle::shim).collect();
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
            (Stands::Otherwise, Change::Content { path, .. }) => {
                let Some(now) = text_of(path)? else { return Ok(Undo::Is) };
                let without = self.without_us(path, &now)?;
                if without == now {
                    return Ok(Undo::Is);
                }
                files::put(path, Some(&without)).map(|()| Undo::Cut)
            }
        }
    }

    /// Whether a file is one that containerd reads.
    fn is_containerd_s(&self, path: &Path) -> bool {
        path == self.config || edit::is_drop_in(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::install::{carry_out, effective::Release};

    const RUNC: &str =
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"r\"\n";

    /// What the file holds, is changed by `with`, and is put into a record's plan.
    fn changing(path: &Path, with: impl FnOnce(&str) -> String) -> Plan {
        let before = fs::read_to_string(path).expect("the file");
        let after = with(&before);
        fs::write(path, &after).expect("the file");
        let change = Change::Content { path: path.to_owned(), before: Some(before), after };
        Plan { changes: vec![change], ..Plan::default() }
    }

    #[test]
    fn what_somebody_changes_between_two_installations_stays_and_ours_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let main = dir.path().join("config.toml");
        let node = Node::pretended(Release(1, 7, 1), dir.path(), RUNC);
        fs::write(&main, RUNC).expect("the file");
        let hook = |text: &str| format!("{text}runtime_path = \"/tap\"\n");
        let plan = changing(&main, hook);
        let first = Record::after(None, &node, &plan).expect("a record");
        // Somebody adds a handler, which the next installation wraps as well.
        let kata =
            "\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\nruntime_type = \"k\"\n";
        changing(&main, |text| format!("{text}{kata}"));
        let plan = changing(&main, hook);
        let second = Record::after(Some(&first), &node, &plan).expect("a record");
        let undone: Vec<_> = second.undo().into_iter().map(|(_, how)| how.expect("undone")).collect();
        assert_eq!(undone, [Undo::Restored]);
        assert_eq!(fs::read_to_string(&main).expect("the file"), format!("{RUNC}{kata}"));
        // Written anew by its program: nothing of ours is in it, whatever else is as we had it.
        let plan = changing(&main, |_| hook(RUNC));
        let third = Record::after(None, &node, &plan).expect("a record");
        changing(&main, |_| format!("# anew\n{RUNC}"));
        let undone: Vec<_> = third.undo().into_iter().map(|(_, how)| how.expect("undone")).collect();
        assert_eq!(undone, [Undo::Is]);
    }

    /// Ended before the first file, between any two, in the middle of one: the record says how to go back.
    #[test]
    fn who_is_ended_in_the_middle_leaves_the_way_back() {
        for made in 0..=3 {
            let dir = tempfile::tempdir().expect("a folder");
            let at = |name: &str| dir.path().join(name);
            let node = Node::pretended(Release(1, 7, 1), dir.path(), RUNC);
            fs::write(at("config.toml"), RUNC).expect("the file");
            let link = Change::Link { path: at("link"), target: "/tap".into(), before: None, stood: false };
            let content = |name: &str, before: Option<&str>, after: &str| Change::Content {
                path: at(name),
                before: before.map(str::to_owned),
                after: after.to_owned(),
            };
            let main = content("config.toml", Some(RUNC), "runtime_path = \"/tap\"\n");
            let plan = Plan {
                changes: vec![link, content("shim.toml", None, "[inner]\n"), main],
                ..Plan::default()
            };
            Record::after(None, &node, &plan).expect("a record").keep(&at("state")).expect("kept");
            let (done, next) = plan.changes.split_at(made);
            files::make_all(done, dir.path()).expect("made");
            if let Some(next) = next.first() {
                fs::write(format!("{}.shimtap-new", next.path().display()), "hal").expect("half of it");
            }
            let record = Record::read(&at("state")).expect("a record").expect("it is there");
            for (path, how) in record.undo() {
                how.unwrap_or_else(|fault| panic!("{made} made, {}: {fault}", path.display()));
            }
            Record::forget(&at("state")).expect("forgotten");
            let left = fs::read_dir(dir.path()).expect("the folder").flatten().map(|entry| entry.file_name());
            let mut left: Vec<_> = left.collect();
            left.sort();
            assert_eq!(left, ["config.toml", "state"], "{made} made");
            assert_eq!(fs::read_to_string(at("config.toml")).expect("the file"), RUNC, "{made} made");
        }
    }

    /// What can be neither made nor taken back shows what is there by then.
    #[test]
    fn the_record_is_there_before_the_first_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let node = Node::pretended(Release(1, 7, 1), dir.path(), RUNC);
        fs::write(dir.path().join("file"), "").expect("a file");
        let path = dir.path().join("file/no/folder");
        let change = Change::Content { path, before: None, after: String::new() };
        let plan = Plan { changes: vec![change], ..Plan::default() };
        let state = dir.path().join("state");
        let fault = carry_out(&node, &plan, &state).expect_err("no such folder");
        assert!(matches!(fault, InstallFault::NotUndone { .. }), "{fault}");
        assert!(Record::read(&state).expect("a record").is_some(), "no record");
    }
}
