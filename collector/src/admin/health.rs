//! How the collector itself is: its journal, its sinks, where its files are. What `shimtap doctor` asks for.
//!
//! Taken from counters and from one statvfs(2); nothing here waits for the pipeline.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    event::Store,
    journal::{Figures, SinkFigures},
    metrics::{ContainerdState, Registry, SinkTotals},
    time::now_ns,
};

/// How it is. Fields are only ever added; absent = not known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// The collector's release.
    pub version: String,
    /// Where it has what must be root's alone.
    pub places: Vec<HealthPlace>,
    /// Between wrappers and sinks; absent while it is being opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<HealthJournal>,
    /// The same of its head on a disk; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_disk: Option<HealthJournal>,
    /// containerd's API; absent where nobody asks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containerd: Option<HealthContainerd>,
    /// Where records go.
    pub sinks: Vec<HealthSink>,
    /// What wrappers count, all together: the counters of docs/protocol.md.
    pub wrapper_counts: BTreeMap<String, u64>,
}

/// A folder or socket that must be root's alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct HealthPlace {
    /// `socket`, `journal`, `journal_disk`, `spool_disk`, `spool_memory`.
    pub what: String,
    /// Where it is; made by whoever comes first, so it need not be there.
    pub path: PathBuf,
}

/// How we stand with containerd's API.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HealthContainerd {
    /// `absent`, `down`, `up`.
    pub state: String,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Where it is looked for, at first and then every minute or sooner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// The journal.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HealthJournal {
    /// It cannot be written, and acknowledgements are held back.
    pub stalled: bool,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that they may have.
    pub max_bytes: u64,
    /// Bytes that they may have now, without touching the disk's reserve.
    pub budget_bytes: u64,
}

/// One sink. Figures since the collector's start, except where they are of now.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HealthSink {
    /// `file`, `stdout`, `otlp`.
    pub name: String,
    /// It cannot deliver now.
    pub stalled: bool,
    /// Bytes of output that it has not acknowledged.
    pub lag_bytes: u64,
    /// Age of the oldest of them, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_secs: Option<u64>,
    /// Records that were refused for good.
    pub rejected_records: u64,
    /// Bytes of output that were gone before it came to them.
    pub lost_bytes: u64,
    /// Attempts that failed, by errno or reason.
    pub errors: BTreeMap<String, u64>,
}

/// The places of a configuration.
pub(super) fn places(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let sockets =
        [&config.ingest.socket, &config.control.socket].map(|socket| Some(("socket", socket.clone())));
    let journal = ("journal", config.journal.dir.clone());
    let on_disk = config.journal_disk.as_ref().map(|journal| ("journal_disk", journal.dir.clone()));
    let disk = config.spool.disk.then(|| ("spool_disk", config.spool.disk_dir.clone()));
    let memory = ("spool_memory", config.spool.memory_dir.clone());
    sockets.into_iter().chain([Some(journal), on_disk, disk, Some(memory)]).flatten().collect()
}

/// As of now.
pub(super) fn health(registry: &Registry, places: &[(&'static str, PathBuf)]) -> Health {
    let figures = registry.journal.get().map(|heads| heads.figures()).unwrap_or_default();
    let behind = SinkFigures::of_all(figures.iter().map(|(_, figures)| figures));
    let behind = |name: &str| behind.iter().find(|sink| sink.name == name);
    Health {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        places: places
            .iter()
            .map(|(what, path)| HealthPlace { what: (*what).to_owned(), path: path.clone() })
            .collect(),
        journal: journal(registry, Store::Memory, &figures),
        journal_disk: journal(registry, Store::Disk, &figures),
        containerd: containerd(registry),
        sinks: registry.sinks.iter().map(|sink| one(sink, behind(sink.name))).collect(),
        wrapper_counts: registry
            .rpcs()
            .counts
            .iter()
            .map(|(name, n)| (name.label().to_owned(), *n))
            .collect(),
    }
}

fn journal(registry: &Registry, store: Store, figures: &[(Store, Figures)]) -> Option<HealthJournal> {
    let journal = registry.journal.get()?.of(store)?;
    let (_, figures) = figures.iter().find(|(of, _)| *of == store)?;
    Some(HealthJournal {
        stalled: registry.totals.journal(store).stalled.get() > 0,
        bytes: figures.bytes,
        max_bytes: journal.max_bytes(),
        budget_bytes: journal.budget(),
    })
}

fn containerd(registry: &Registry) -> Option<HealthContainerd> {
    let (state, why) = registry.totals.containerd.state();
    let socket = registry.totals.containerd.socket.get().cloned();
    (state != ContainerdState::Off).then(|| HealthContainerd { state: state.label().to_owned(), why, socket })
}

fn one(sink: &Arc<SinkTotals>, behind: Option<&SinkFigures>) -> HealthSink {
    let age = |since: u64| now_ns().saturating_sub(since) / 1_000_000_000;
    HealthSink {
        name: sink.name.to_owned(),
        stalled: sink.stalled.get() > 0,
        lag_bytes: behind.map_or(0, |behind| behind.lag_bytes),
        lag_secs: behind.and_then(|behind| behind.oldest_ns).map(age),
        rejected_records: sink.rejected.total(),
        lost_bytes: behind
            .map_or(0, |behind| behind.lost.iter().fold(0, |sum, (_, n)| n.saturating_add(sum))),
        errors: sink.errors(),
    }
}
