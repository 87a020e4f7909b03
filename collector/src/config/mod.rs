//! The collector's configuration: `/etc/shimtap/collector.toml`, one file here per section.
//!
//! Each states its options (`option`) and reads them into the type that reaches the code. No file is needed: what has no
//! default may be absent. All faults are reported at once, each with file, line and key, and a file with a fault is not used at
//! all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

mod containerd;
mod control;
mod fault;
mod file;
mod ingest;
mod journal;
mod kind;
mod metrics;
mod node;
mod option;
mod otlp;
mod page;
mod rule;
mod section;
mod spool;
mod stats;
mod stdout;

pub use containerd::Containerd;
pub use control::{Control, DEFAULT_SOCKET as DEFAULT_CONTROL_SOCKET};
pub use fault::Faults;
pub use file::File;
pub use ingest::Ingest;
pub use journal::{Fsync, Journal};
pub use metrics::{Limits, Metrics, Profile, Scope};
pub use node::Node;
pub use otlp::{Header, HeaderValue, Otlp, Proxy, Tls};
pub use page::defaults;
pub use spool::Spool;
pub use stats::Stats;
pub use stdout::Stdout;

use kind::SinkKind;
use option::Heading;
use section::Document;

use crate::{closed::Closed, rules::Rules};

/// Where the configuration is looked for unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/shimtap/collector.toml";

/// A configuration that can be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where wrappers connect, and what they may do.
    pub ingest: Ingest,
    /// Where output is kept until every sink has it.
    pub journal: Journal,
    /// The same on a disk, for what rules have there.
    pub journal_disk: Option<Journal>,
    /// The metrics listener.
    pub metrics: Metrics,
    /// The control socket.
    pub control: Control,
    /// What containerd is asked.
    pub containerd: Containerd,
    /// What the node is called.
    pub node: Node,
    /// Where records go.
    pub sinks: Vec<Sink>,
    /// What wrappers are told about statistics.
    pub stats: Stats,
    /// What wrappers keep in files.
    pub spool: Spool,
    /// What is collected of whom.
    pub rules: Rules,
}

/// A configuration that was read.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// False where there was no file, and none is needed.
    pub was_there: bool,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// `[file]`
    File(File),
    /// `[stdout]`
    Stdout(Stdout),
    /// `[otlp]`
    Otlp(Box<Otlp>),
}

impl Sink {
    /// The name of its section, and the value of the label `sink`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kind().label()
    }

    const fn kind(&self) -> SinkKind {
        match self {
            Self::File(_) => SinkKind::File,
            Self::Stdout(_) => SinkKind::Stdout,
            Self::Otlp(_) => SinkKind::Otlp,
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    /// The file is there (or was asked for) and cannot be read.
    #[error("reading the configuration {path}: {source}; check that the file is there and readable")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file says something that cannot be used.
    #[error("{0}")]
    Faults(Faults),
}

// === impl Config ===

/// All sections that are tables, in the order in which they are shown.
const HEADINGS: [&Heading; 14] = {
    let [otlp, headers, tls] = otlp::HEADINGS;
    [
        &ingest::HEADING,
        &journal::HEADING,
        &journal::DISK_HEADING,
        &metrics::HEADING,
        &control::HEADING,
        &containerd::HEADING,
        &node::HEADING,
        &file::HEADING,
        &stdout::HEADING,
        otlp,
        headers,
        tls,
        &stats::HEADING,
        &spool::HEADING,
    ]
};

impl Config {
    /// Reads `path`, or the default path where that is `None`; only then may the file be absent.
    pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigFault> {
        Self::load_at(path.unwrap_or_else(|| Path::new(DEFAULT_PATH)), path.is_none())
    }

    /// Reads `file`; where that may be absent and is, nothing is said.
    pub fn load_at(file: &Path, may_be_absent: bool) -> Result<Loaded, ConfigFault> {
        let (text, was_there) = match fs::read_to_string(file) {
            Ok(text) => (text, true),
            Err(source) if may_be_absent && source.kind() == io::ErrorKind::NotFound => {
                (String::new(), false)
            }
            Err(source) => return Err(ConfigFault::Unreadable { path: file.to_owned(), source }),
        };
        let config = Self::parse(file, &text).map_err(ConfigFault::Faults)?;
        Ok(Loaded { config, was_there })
    }

    /// Reads `text`, which came from `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Faults> {
        let mut document = Document::new(file, text);
        let file = File::read(&mut document);
        let stdout = Stdout::read(&mut document);
        let otlp = Otlp::read(&mut document);
        let sections = SinkKind::ALL.iter().map(|kind| kind.label());
        let there: Vec<_> = sections.filter(|name| document.has_had(name)).collect();
        let (journal, journal_disk) = Journal::read(&mut document);
        let has_disk = journal_disk.is_some();
        let config = Self {
            ingest: Ingest::read(&mut document),
            journal,
            journal_disk,
            metrics: Metrics::read(&mut document),
            control: Control::read(&mut document),
            containerd: Containerd::read(&mut document),
            node: Node::read(&mut document),
            sinks: {
                let (file, stdout) = (file.map(Sink::File), stdout.map(Sink::Stdout));
                let otlp = otlp.map(|otlp| Sink::Otlp(Box::new(otlp)));
                [file, stdout, otlp].into_iter().flatten().collect()
            },
            stats: Stats::read(&mut document),
            spool: Spool::read(&mut document),
            rules: rule::read(&mut document, &there, has_disk),
        };
        document.reject_unknown_sections();
        let mut faults = document.into_faults();
        let spool = [&config.spool.disk_dir, &config.spool.memory_dir];
        if spool.contains(&&config.journal.dir) {
            faults.push(None, "journal.dir", "is a directory of spool files; give it one of its own");
        }
        if let Some(disk) = &config.journal_disk {
            if spool.contains(&&disk.dir) {
                faults.push(
                    None,
                    "journal.disk.dir",
                    "is a directory of spool files; give it one of its own",
                );
            }
            if disk.dir == config.journal.dir {
                faults.push(None, "journal.disk.dir", "is the same as journal.dir; give it one of its own");
            }
        }
        if config.ingest.socket == config.control.socket {
            faults.push(None, "control.socket", "is the same path as ingest.socket; give it one of its own");
        }
        if faults.is_empty() { Ok(config) } else { Err(faults.sorted()) }
    }
}

impl Config {
    /// Sections in which the two differ, of those that cannot be changed while the collector runs.
    #[must_use]
    pub fn sections_unlike(&self, other: &Self) -> Vec<&'static str> {
        // All fields, so that a new section is not forgotten here.
        let Self {
            ingest,
            journal,
            journal_disk,
            metrics,
            control,
            containerd,
            node,
            sinks,
            stats,
            spool,
            rules: _,
        } = self;
        let of = |sinks: &[Sink], kind| sinks.iter().find(|sink| sink.kind() == kind).cloned();
        let same_sinks =
            SinkKind::ALL.iter().map(|kind| (kind.label(), of(sinks, *kind) == of(&other.sinks, *kind)));
        let same = [
            ("ingest", *ingest == other.ingest),
            ("journal", *journal == other.journal),
            ("journal.disk", *journal_disk == other.journal_disk),
            ("metrics", *metrics == other.metrics),
            ("control", *control == other.control),
            ("containerd", *containerd == other.containerd),
            ("node", *node == other.node),
            ("stats", *stats == other.stats),
            ("spool", *spool == other.spool),
        ];
        same.into_iter().chain(same_sinks).filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests;
