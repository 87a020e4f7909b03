//! What a sandbox left behind: a hypervisor or virtiofsd without a shim, an overhead's cgroup without a process.
//!
//! A shim that dies leaves them running, and nobody ends them (seen). They are listed with what proves it, and never touched:
//! whoever reads the list decides. An orphan has been without a shim for a minute (`[ingest] orphan_secs`) of our own looks, of whatever age it is; a
//! machine that is nobody's sandbox is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    cgroups::has_id,
    facts,
    household::{Component, component},
    table::{Process, Table, is_plain_id},
};
use crate::closed::closed;

closed! {
    /// What was left behind.
    pub enum OrphanKind {
        /// A hypervisor.
        Vmm => "vmm",
        /// A file server of a guest.
        Virtiofsd => "virtiofsd",
        /// A cgroup of Kata's, outside of any pod's.
        Cgroup => "cgroup",
    }
}

/// One thing that was left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// What it is.
    pub kind: OrphanKind,
    /// The sandbox that it was of.
    pub sandbox: String,
    /// Its process; `None` of a cgroup.
    pub pid: Option<u32>,
    /// What it is called: a program, or a path below the cgroup hierarchy.
    pub name: String,
    /// Why it is one, a sentence each.
    pub proof: Vec<String>,
}

/// What was seen in an earlier look: a process by number and birth, or a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Process(u32, u64),
    Cgroup(PathBuf),
}

/// Those that were suspected in the last look, and since when.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    since: BTreeMap<Seen, Duration>,
}

/// More than these are as alarming as these.
const MOST: usize = 256;

/// Where Kata makes cgroups outside of a pod's, below a hierarchy's root.
const PLACES: [&str; 3] = ["kata_overhead", "kata-overhead.slice", "kata_sandboxed_pod"];

// === impl Suspects ===

impl Suspects {
    /// Orphans at `now`, of a clock that never goes back. `served` are the sandboxes that wrappers serve. A pod that is being
    /// started or ended may look like one that was left, but not for as long as `patience`.
    pub(super) fn look(
        &mut self,
        root: &Path,
        table: &Table,
        served: &BTreeSet<String>,
        now: Duration,
        patience: Duration,
    ) -> Vec<Orphan> {
        let shims: Vec<&Process> =
            table.all().filter(|process| process.program().starts_with("containerd-shim")).collect();
        let lives = |sandbox: &str| {
            served.contains(sandbox) || shims.iter().any(|shim| shim.value_of("-id") == Some(sandbox))
        };
        let mut suspects = processes(table, &shims, &lives);
        suspects.extend(cgroups(root, &lives));
        let mut found = Vec::new();
        let mut since = BTreeMap::new();
        for (seen, mut orphan) in suspects {
            let first = self.since.get(&seen).copied().unwrap_or(now);
            let alone = now.saturating_sub(first);
            since.insert(seen, first);
            if alone >= patience && found.len() < MOST {
                orphan.proof.push(format!("all of that has been so for {} s", alone.as_secs()));
                found.push(orphan);
            }
        }
        self.since = since;
        found
    }
}

fn processes(table: &Table, shims: &[&Process], lives: &dyn Fn(&str) -> bool) -> Vec<(Seen, Orphan)> {
    let one = |process: &Process| {
        let kind = match component(process.program())? {
            Component::Vmm => OrphanKind::Vmm,
            Component::Virtiofsd => OrphanKind::Virtiofsd,
            _ => return None,
        };
        let sandbox = process.kata_sandbox()?;
        let held = shims.iter().any(|shim| table.descends(process.pid, shim.pid));
        if held || lives(sandbox) {
            return None;
        }
        let proof = vec![
            format!("its parent is process {}, and no shim is above it", process.stat.parent),
            format!("its arguments name the sandbox {sandbox}, and no shim runs with -id {sandbox}"),
            "no wrapper serves that sandbox".to_owned(),
        ];
        let orphan = Orphan {
            kind,
            sandbox: sandbox.to_owned(),
            pid: Some(process.pid),
            // Its own word, which goes to somebody's terminal.
            name: facts::text(process.program()).unwrap_or_default(),
            proof,
        };
        Some((Seen::Process(process.pid, process.stat.born.ticks()), orphan))
    };
    table.all().filter_map(one).collect()
}

/// Of v1 one hierarchy is enough: Kata makes and removes them together.
fn cgroups(root: &Path, lives: &dyn Fn(&str) -> bool) -> Vec<(Seen, Orphan)> {
    let top = root.join("sys/fs/cgroup");
    let mount = if top.join("cgroup.controllers").exists() { top } else { top.join("memory") };
    let mut found = Vec::new();
    for place in PLACES {
        for entry in fs::read_dir(mount.join(place)).into_iter().flatten().flatten().take(MOST) {
            let name = entry.file_name();
            let Some(sandbox) = name.to_str().and_then(sandbox_of) else { continue };
            if !is_plain_id(sandbox) || lives(sandbox) || !is_empty(&entry.path()) {
                continue;
            }
            let path = format!("{place}/{}", name.to_string_lossy());
            let proof = vec![
                "it has no process, and no cgroup below it has one".to_owned(),
                format!("no shim runs with -id {sandbox}, and no wrapper serves that sandbox"),
            ];
            let orphan = Orphan {
                kind: OrphanKind::Cgroup,
                sandbox: sandbox.to_owned(),
                pid: None,
                name: path,
                proof,
            };
            found.push((Seen::Cgroup(entry.path()), orphan));
        }
    }
    found
}

/// `ID`, or `runtime-rs-ID.scope`; none of the files of a cgroup itself.
fn sandbox_of(name: &str) -> Option<&str> {
    let id = match name.strip_suffix(".scope") {
        Some(scope) => scope.strip_prefix("runtime-rs-")?,
        None if name.contains('.') => return None,
        None => name,
    };
    let its = has_id(Path::new(name), id);
    its.then_some(id)
}

fn is_empty(cgroup: &Path) -> bool {
    let alone = fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|text| text.trim().is_empty());
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    alone && below.filter(|entry| entry.path().is_dir()).all(|entry| is_empty(&entry.path()))
}

#[cfg(test)]
mod tests {
    use super::{super::table::tests::process, *};

    const QEMU: &str = "/opt/kata/bin/qemu-system-x86_64";
    const FILES: &str = "/opt/kata/bin/virtiofsd";

    const PATIENCE: Duration = Duration::from_secs(60);
    const NONE: BTreeSet<String> = BTreeSet::new();

    fn node() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("proc")).expect("a folder");
        root
    }

    /// What looks over a minute find, as kind and process.
    fn found(root: &Path, served: &[&str]) -> Vec<(OrphanKind, Option<u32>, String)> {
        let served = served.iter().map(|id| (*id).to_owned()).collect();
        let mut suspects = Suspects::default();
        let begin = Duration::from_secs(7);
        for early in [begin, begin + PATIENCE - Duration::from_millis(1)] {
            assert_eq!(suspects.look(root, &Table::look(root), &served, early, PATIENCE), [], "not proven");
        }
        let all = suspects.look(root, &Table::look(root), &served, begin + PATIENCE, PATIENCE);
        assert!(all.iter().all(|orphan| orphan.proof.len() >= 3));
        all.into_iter().map(|orphan| (orphan.kind, orphan.pid, orphan.sandbox)).collect()
    }

    #[test]
    fn what_a_dead_shim_left_is_listed() {
        let root = node();
        let at = root.path();
        process(at, 23, 1, &[QEMU, "-name", "sandbox-p1", "-qmp", "unix:path=/run/kata/p1/root/qmp.sock"]);
        process(at, 24, 1, &[FILES, "--socket-path", "/run/kata/p1/root/virtiofsd.sock"]);
        process(at, 25, 24, &[FILES, "--socket-path", "/run/kata/p1/root/virtiofsd.sock"]);
        // Somebody's own machine, and one of a sandbox that lives.
        process(at, 26, 1, &["/usr/bin/qemu-system-x86_64", "-name", "build"]);
        process(at, 30, 1, &["/opt/kata/bin/containerd-shim-kata-v2", "-id", "p2"]);
        process(at, 31, 30, &[QEMU, "-qmp", "unix:path=/run/kata/p2/root/qmp.sock"]);
        process(at, 32, 1, &[QEMU, "-qmp", "unix:path=/run/kata/p2/root/qmp.sock"]);
        let p1 = || "p1".to_owned();
        let all = [
            (OrphanKind::Vmm, Some(23), p1()),
            (OrphanKind::Virtiofsd, Some(24), p1()),
            (OrphanKind::Virtiofsd, Some(25), p1()),
        ];
        assert_eq!(found(at, &[]), all);
        assert_eq!(found(at, &["p1"]), [], "a wrapper serves it: its shim may run by another name");
    }

    #[test]
    fn an_old_process_whose_shim_died_just_now_is_none() {
        let root = node();
        let at = root.path();
        process(at, 20, 1, &["/opt/kata/bin/containerd-shim-kata-v2", "-id", "p1"]);
        process(at, 23, 20, &[QEMU, "-qmp", "unix:path=/run/kata/p1/root/qmp.sock"]);
        let mut suspects = Suspects::default();
        let mut look =
            |secs| suspects.look(at, &Table::look(at), &NONE, Duration::from_secs(secs), PATIENCE).len();
        assert_eq!([look(0), look(100)], [0, 0]);
        fs::remove_dir_all(at.join("proc/20")).expect("it is there");
        assert_eq!([look(110), look(169), look(170)], [0, 0, 1]);
        // Another with its number is suspected anew.
        let stat = fs::read_to_string(at.join("proc/23/stat")).expect("a file");
        fs::write(at.join("proc/23/stat"), stat.replace(" 2300 ", " 2400 ")).expect("a file");
        assert_eq!([look(171), look(230), look(231)], [0, 0, 1]);
    }

    #[test]
    fn foreign_words_do_nothing_to_a_terminal() {
        let root = node();
        let at = root.path();
        let qemu = "/x/qemu-system-\x1b[2J\u{202e}x";
        process(at, 23, 1, &[qemu, "-qmp", "unix:path=/run/kata/p1/qmp.sock"]);
        process(at, 24, 1, &[QEMU, "-qmp", "unix:path=/run/kata/p\x1b[2J1/qmp.sock"]);
        process(at, 25, 1, &[&format!("/x/qemu-system-{}", "y".repeat(5_000)), "/run/kata/p1/x"]);
        let mut suspects = Suspects::default();
        suspects.look(at, &Table::look(at), &NONE, Duration::ZERO, PATIENCE);
        let all = suspects.look(at, &Table::look(at), &NONE, PATIENCE, PATIENCE);
        assert_eq!(all.iter().map(|orphan| orphan.pid).collect::<Vec<_>>(), [Some(23), Some(25)]);
        for orphan in all {
            let words = [&orphan.name, &orphan.sandbox].into_iter().chain(&orphan.proof);
            for word in words {
                assert!(word.len() <= 400 && word.chars().all(|c| c.is_ascii() && !c.is_ascii_control()));
            }
        }
    }

    #[test]
    fn an_empty_overhead_is_listed() {
        for unified in [true, false] {
            let root = node();
            let top = root.path().join("sys/fs/cgroup");
            let mount = if unified { top.clone() } else { top.join("memory") };
            fs::create_dir_all(&mount).expect("a folder");
            if unified {
                fs::write(top.join("cgroup.controllers"), "memory").expect("a file");
            }
            for (path, procs) in [
                ("kata_overhead/p1", ""),
                ("kata-overhead.slice/runtime-rs-p2.scope", ""),
                ("kata_overhead/busy", "7\n"),
                ("kata_overhead/below", ""),
                ("kata_overhead/below/x", "8\n"),
                ("kata_overhead/served", ""),
                ("kubepods/kata_p3", ""),
            ] {
                fs::create_dir_all(mount.join(path)).expect("a folder");
                fs::write(mount.join(path).join("cgroup.procs"), procs).expect("a file");
            }
            let left = |id: &str| (OrphanKind::Cgroup, None, id.to_owned());
            let mut all = found(root.path(), &["served"]);
            all.sort_by(|a, b| a.2.cmp(&b.2));
            assert_eq!(all, [left("p1"), left("p2")], "{unified}");
        }
    }
}
