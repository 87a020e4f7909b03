//! `shimtap check`: says everything that is wrong with a configuration, before anything runs with it. What it says is well, a collector
//! starts with: files that it names (secrets, certificates) are read as well.

use std::path::Path;

use super::Exit;
use crate::{
    config::{self, Config, DEFAULT_PATH},
    sinks,
};

/// Prints the faults, one a line, to stderr.
pub(super) fn run(path: Option<&Path>) -> Exit {
    let config = match Config::load(path) {
        Ok(loaded) => loaded.config,
        Err(fault) => {
            eprintln!("{fault}");
            return Exit::Failed;
        }
    };
    let name = path.unwrap_or_else(|| Path::new(DEFAULT_PATH)).display();
    let faults: Vec<_> = config.sinks.iter().filter_map(|sink| sinks::check(sink).err()).collect();
    for fault in &faults {
        eprintln!("{name}: {fault}");
    }
    if !faults.is_empty() {
        return Exit::Failed;
    }
    super::say(&format!("{name}: ok\n"));
    Exit::Done
}

/// Prints a configuration that says nothing new.
pub(super) fn defaults() -> Exit {
    super::say(&config::defaults());
    Exit::Done
}
