//! What a doctor looks at, gathered at one time.
//!
//! Only reads. What is not there is a reason in words, not a failure: a node without a collector is looked at all the same.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::tasks::{self, Task};
use crate::{
    admin::{Explained, Health, Ps, PsContainer},
    install::{self, Node, Record, Standing, Where},
    time::now_ns,
};

/// Where things are on this node.
#[derive(Clone, Debug)]
pub struct Places {
    /// Which containerd.
    pub containerd: Where,
    /// The wrappers' folder.
    pub run_dir: PathBuf,
    /// The wrapper's configuration.
    pub shim_toml: PathBuf,
    /// Where an installation keeps its record.
    pub state: PathBuf,
}

/// What the collector said.
#[derive(Debug, Default)]
pub struct Told {
    /// Its wrappers and containers.
    pub ps: Ps,
    /// What rules do with each container.
    pub explained: Vec<Explained>,
    /// How it is itself.
    pub health: Health,
}

/// A process of this node.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// What it calls itself (`comm`).
    pub name: String,
}

/// All of it.
#[derive(Debug)]
pub struct Evidence {
    /// Unix ns.
    pub now_ns: u64,
    /// Where it was looked.
    pub places: Places,
    /// The daemon, or why it could not be asked.
    pub containerd: Result<Node, String>,
    /// Handlers that an installation would wrap otherwise today; none where that could not be asked.
    pub unlike_today: Vec<(String, Standing)>,
    /// Its tasks.
    pub tasks: Vec<Task>,
    /// The collector, or why it could not be asked.
    pub collector: Result<Told, String>,
    /// Every process.
    pub processes: Vec<Process>,
    /// When files of containerd were last changed by an installation.
    pub installed: Option<SystemTime>,
    /// Folders of Kata sandboxes whose monitor socket is served by the Rust shim.
    pub rust_sandboxes: Vec<PathBuf>,
}

/// Where Kata's Rust shim keeps a folder per sandbox.
const RUST_SANDBOXES: &str = "/run/kata";

// === impl Evidence ===

impl Evidence {
    /// Looks at the node. `collector` is what it said when it was asked, or why it did not.
    pub fn gather(places: Places, collector: Result<Told, String>) -> Self {
        let containerd = Node::look(&places.containerd).map_err(|fault| fault.to_string());
        let tasks = containerd.as_ref().map(|node| tasks::read(&node.effective.bundles)).unwrap_or_default();
        let unlike_today = containerd
            .as_ref()
            .ok()
            .and_then(|node| install::unlike_today(node, &places.state, &places.shim_toml).ok())
            .unwrap_or_default();
        let record = Record::path(&places.state);
        Self {
            now_ns: now_ns(),
            containerd,
            unlike_today,
            tasks,
            collector,
            processes: processes(),
            installed: fs::metadata(record).ok().and_then(|about| about.modified().ok()),
            rust_sandboxes: rust_sandboxes(Path::new(RUST_SANDBOXES)),
            places,
        }
    }

    /// Whether a wrapper serves it.
    pub fn is_wrapped(&self, task: &Task) -> bool {
        task.address.as_ref().is_some_and(|address| address.starts_with(&self.places.run_dir))
    }

    /// What the collector shows of it; none where it does not know it.
    pub fn seen(&self, task: &Task) -> Option<&PsContainer> {
        let all = &self.collector.as_ref().ok()?.ps.containers;
        all.iter().find(|one| {
            one.containerd_namespace == task.namespace && one.id == task.id && one.state != "lost"
        })
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim_end().to_owned();
        Some(Process { pid, name })
    };
    entries.filter_map(one).collect()
}

fn rust_sandboxes(below: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.join("shim-monitor.sock").exists()).collect()
}

/// Whose a path is and what others may do with it: owner and permission bits; none where it is not there.
pub(super) fn guard(path: &Path) -> Option<(u32, u32)> {
    let about = fs::symlink_metadata(path).ok()?;
    Some((about.uid(), about.mode() & 0o777))
}

#[cfg(test)]
impl Evidence {
    /// A node with folders below `dir`, of which nobody could be asked.
    pub(super) fn pretended(dir: &Path) -> Self {
        let places = Places {
            containerd: Where::default(),
            run_dir: dir.join("run"),
            shim_toml: dir.join("shim.toml"),
            state: dir.join("state"),
        };
        Self {
            now_ns: 1_000_000_000_000,
            places,
            containerd: Err("nobody".to_owned()),
            unlike_today: Vec::new(),
            tasks: Vec::new(),
            collector: Err("nobody".to_owned()),
            processes: Vec::new(),
            installed: None,
            rust_sandboxes: Vec::new(),
        }
    }
}

/// A wrapper of this release, as the collector tells of it.
#[cfg(test)]
pub(super) fn wrapper(version: &str) -> crate::admin::PsWrapper {
    crate::admin::PsWrapper {
        id: "w".to_owned(),
        version: version.to_owned(),
        inner: "/bin/containerd-shim-runc-v2".to_owned(),
        inner_pid: 1,
        keeper_pid: 1,
        worker_pid: 1,
        generation: 1,
        safe_mode: false,
        deaths: Default::default(),
        namespace: "k8s.io".to_owned(),
        pod: "p".to_owned(),
    }
}
