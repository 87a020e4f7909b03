//! The ground of a case: a node, its collector with both sinks, disks of its own where the case fills or damages them.
//!
//! It does what it is told and judges nothing. What it mounts it unmounts, whatever came of the case.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::Case;
use crate::oracle::{Journal, exposition::family, journal};
use crate::rig::collector::Settings;
use crate::rig::cri::Cri;
use crate::rig::disk::Disk;
use crate::rig::endpoint::{Endpoint, Mood};
use crate::rig::{Node, eventually, process};

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Disks that a case wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// Bytes of a file system for the file sink alone; 0: it lies with everything else.
    pub file_bytes: u64,
    /// The same for the journal.
    pub journal_bytes: u64,
    /// The same for the wrappers' spool on the disk.
    pub spool_bytes: u64,
    /// Of a real file system for the journal's second head alone, which can be frozen.
    pub head_bytes: u64,
}

/// A node under trouble.
#[derive(Debug)]
pub struct Site<'a> {
    /// Its containerd, and what runs on it.
    pub node: &'a Node,
    /// Its CRI.
    pub cri: &'a Cri,
    /// Where the OTLP sink delivers to.
    pub endpoint: &'a Endpoint,
    disks: Vec<Disk>,
}

/// What a case's collector is told, with an endpoint that may be in any mood: all that waits waits for a second at most, and
/// a stream whose wrapper is gone is given up soon.
#[must_use]
pub fn settings(endpoint: &Endpoint, case: &Case) -> Settings {
    Settings {
        ingest: "orphan_secs = 8\n".to_owned(),
        journal: format!("fsync_interval_ms = 200\n{}", case.journal),
        journal_disk: case.head.map(|head| format!("fsync_interval_ms = 200\n{head}")),
        sinks: Some(endpoint.section("retry_most_secs = 1\ntimeout_secs = 2\n")),
        file_too: true,
        sections: case.rules.to_owned(),
        ..Settings::default()
    }
}

impl<'a> Site<'a> {
    /// Mounts the disks and starts the collector, which the node has not got yet.
    pub fn start(node: &'a Node, endpoint: &'a Endpoint, disks: Disks) -> Result<Self> {
        let kept = node.dir().join("kept");
        let mut mounted = Vec::new();
        let wanted = [
            (disks.file_bytes, kept.clone(), Disk::in_memory as fn(&Path, u64) -> Result<Disk>),
            (disks.journal_bytes, kept.join("journal"), Disk::in_memory),
            (disks.spool_bytes, node.spool_dir().join("disk"), Disk::in_memory),
            (disks.head_bytes, kept.join("disk"), Disk::on_loop),
        ];
        for (bytes, dir, mount) in wanted {
            if bytes == 0 {
                continue;
            }
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
            mounted.push(mount(&dir, bytes)?);
        }
        node.start_collector()?;
        Ok(Self { node, cri: node.cri()?, endpoint, disks: mounted })
    }

    /// The collector dies without a chance to say anything.
    pub fn kill_collector(&self) -> Result<()> {
        self.node.collector(|collector| collector.end(Signal::SIGKILL))
    }

    /// It is told to end, and ends.
    pub fn end_collector(&self) -> Result<()> {
        self.node.collector(|collector| collector.end(Signal::SIGTERM))
    }

    /// Sends it a signal that does not end it.
    pub fn signal_collector(&self, signal: Signal) -> Result<()> {
        self.node.collector(|collector| process::signal(collector.pid(), signal))
    }

    /// Its metrics.
    pub fn page(&self) -> Result<String> {
        self.node.collector(|collector| collector.get("/metrics"))
    }

    /// The sum of a family's rows whose labels contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> Result<u64> {
        sum(&self.page()?, name, label)
    }

    /// What the journal's files hold, in both heads where there are two.
    pub fn journal(&self) -> Result<Journal> {
        let memory = journal(&self.journal_dir())?;
        let disk = self.head_dir();
        if disk.exists() { memory.with(journal(&disk)?) } else { Ok(memory) }
    }

    /// Where they are.
    #[must_use]
    pub fn journal_dir(&self) -> PathBuf {
        self.node.dir().join("kept/journal")
    }

    /// Where those of its second head are.
    #[must_use]
    pub fn head_dir(&self) -> PathBuf {
        self.node.dir().join("kept/disk/journal")
    }

    /// Other rules beside the case's, at once; a collector that starts later does not know them.
    pub fn judge_by(&self, rules: &str) -> Result<()> {
        self.node.collector(|collector| {
            collector.configure(rules)?;
            collector.shimtap(&["reload"]).map(drop)
        })
    }

    /// The file sink's file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.node.dir().join("kept/lines.jsonl")
    }

    /// Waits until a metric is at least `least`.
    pub fn until(&self, name: &str, label: &str, least: u64) -> Result<()> {
        eventually(LIMIT, &format!("{name}{{{label}}} to be {least}"), || {
            Ok((self.metric(name, label)? >= least).then_some(()))
        })
    }

    /// Waits until a metric is 0.
    pub fn until_none(&self, name: &str, label: &str) -> Result<()> {
        eventually(LIMIT, &format!("{name}{{{label}}} to be 0"), || {
            Ok((self.metric(name, label)? == 0).then_some(()))
        })
    }

    /// The disk of this case that is mounted there.
    pub fn disk(&self, dir: &Path) -> Result<&Disk> {
        let found = self.disks.iter().find(|disk| disk.dir() == dir);
        found.with_context(|| format!("{} is no disk of this case", dir.display()))
    }

    /// Fills the file system of `dir` to its last block; the ballast goes when it is dropped.
    pub fn fill(&self, dir: &Path) -> Result<Ballast> {
        self.disk(dir)?;
        let ballast = Ballast(dir.join("ballast"));
        ballast.grow()?;
        Ok(ballast)
    }

    /// Lets everything be well again.
    pub fn calm(&self) {
        self.endpoint.be(Mood::Take);
    }

    /// Unmounts its disks, where everything that used them has ended.
    pub fn close(self) {
        drop(self.disks);
    }
}

/// The sum of a family's rows whose labels contain `label`, on this page.
pub fn sum(page: &str, name: &str, label: &str) -> Result<u64> {
    let rows = family(page, name)?;
    let rows = rows.iter().filter(|(labels, _)| labels.contains(label));
    Ok(rows.map(|(_, value)| Duration::try_from_secs_f64(*value).map_or(0, |whole| whole.as_secs())).sum())
}

/// A file that takes all the room there is.
#[derive(Debug)]
pub struct Ballast(PathBuf);

impl Ballast {
    /// Takes what room there is by now.
    pub fn grow(&self) -> Result<()> {
        use std::io::Write;
        let file = fs::File::options().create(true).append(true).open(&self.0);
        let mut file = file.context("make the ballast")?;
        // By blocks, and the rest by bytes: a file system in memory has whole pages only.
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(())
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _gone_with_its_disk = fs::remove_file(&self.0);
    }
}
