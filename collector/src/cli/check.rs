//! `shimtap check`: says everything that is wrong with a configuration, before anything runs with it.

use std::path::Path;

use super::Exit;
use crate::config::{self, Config, DEFAULT_PATH};

/// Prints the faults, one a line, to stderr.
pub(super) fn run(path: Option<&Path>) -> Exit {
    match Config::load(path) {
        Ok(_) => {
            super::say(&format!("{}: ok\n", path.unwrap_or_else(|| Path::new(DEFAULT_PATH)).display()));
            Exit::Done
        }
        Err(fault) => {
            eprintln!("{fault}");
            Exit::Failed
        }
    }
}

/// Prints a configuration that says nothing new.
pub(super) fn defaults() -> Exit {
    super::say(&config::defaults());
    Exit::Done
}
