//! `shimtap reload`: has a running collector read its configuration again.

use std::path::Path;

use super::{Exit, ask::Collector};

/// Says what came of it.
pub(super) fn run(socket: Option<&Path>) -> Exit {
    match Collector::at(socket).post("/v1/reload") {
        Ok(said) => {
            super::say(&said);
            Exit::Done
        }
        Err(fault) => {
            eprintln!("shimtap reload: {fault}");
            Exit::Failed
        }
    }
}
