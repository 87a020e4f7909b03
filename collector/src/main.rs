//! `shimtap`: the collector of a node, and the command line that looks at it.
//!
//! Wiring only: arguments in, exit status out. What a subcommand does stands in its file under `cli/`.

#![forbid(unsafe_code)]

mod admin;
mod cli;
mod closed;
mod config;
mod containerd;
mod doctor;
mod enrich;
mod event;
mod few;
mod ingest;
mod install;
mod journal;
mod limited;
mod metrics;
mod node;
mod priority;
mod process;
mod reload;
mod rules;
mod sinks;
mod socket;
mod time;
mod units;
mod wrapper;

use clap::Parser;
use cli::{Cli, Exit};

fn main() -> Exit {
    match Cli::try_parse() {
        Ok(cli) => cli::run(&cli.command),
        Err(fault) => cli::explain_usage(&fault),
    }
}
