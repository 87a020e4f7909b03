//! The collector's configuration: `/etc/shimtap/collector.toml`, one file here per section.
//!
//! Two types each: `Raw`, what the file says and where, and the resolved one, which alone reaches the code. No
//! file is needed: every option has a default. All faults are reported at once, each with file, line and key, and
//! a file with a fault is not used at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

mod control;
mod fault;
mod file;
mod ingest;
mod metrics;
mod section;
mod spool;
mod stats;

pub use control::{Control, DEFAULT_SOCKET as DEFAULT_CONTROL_SOCKET};
pub use fault::Faults;
pub use file::File;
pub use ingest::Ingest;
pub use metrics::{Metrics, Scope};
pub use spool::Spool;
pub use stats::Stats;

use section::Document;

/// Where the configuration is looked for unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/shimtap/collector.toml";

/// A configuration that can be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where wrappers connect, and what they may do.
    pub ingest: Ingest,
    /// The metrics listener.
    pub metrics: Metrics,
    /// The control socket.
    pub control: Control,
    /// The file sink; `None` = none.
    pub file: Option<File>,
    /// What wrappers are told about statistics.
    pub stats: Stats,
    /// What wrappers keep in files.
    pub spool: Spool,
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

impl Config {
    /// Reads `path`, or the default path where that is `None`; only then may the file be absent.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigFault> {
        let file = path.unwrap_or_else(|| Path::new(DEFAULT_PATH));
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(file, &text).map_err(ConfigFault::Faults),
            Err(source) if path.is_none() && source.kind() == io::ErrorKind::NotFound => {
                Self::parse(file, "").map_err(ConfigFault::Faults)
            }
            Err(source) => Err(ConfigFault::Unreadable { path: file.to_owned(), source }),
        }
    }

    /// Reads `text`, which came from `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Faults> {
        let mut document = Document::new(file, text);
        let ingest = ingest::Raw::read(&mut document);
        let metrics = metrics::Raw::read(&mut document);
        let control = control::Raw::read(&mut document);
        let sink = file::Raw::read(&mut document);
        let stats = stats::Raw::read(&mut document);
        let spool = spool::Raw::read(&mut document);
        document.reject_unknown_sections();
        let mut faults = document.into_faults();
        let config = Self {
            ingest: ingest.resolve(&mut faults),
            metrics: metrics.resolve(&mut faults),
            control: control.resolve(&mut faults),
            file: sink.and_then(|raw| raw.resolve(&mut faults)),
            stats: stats.resolve(&mut faults),
            spool: spool.resolve(&mut faults),
        };
        if config.ingest.socket == config.control.socket {
            faults.push(None, "control.socket", "is the same path as ingest.socket; give it one of its own");
        }
        if faults.is_empty() { Ok(config) } else { Err(faults.sorted()) }
    }
}

#[cfg(test)]
mod tests;
