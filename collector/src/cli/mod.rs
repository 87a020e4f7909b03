//! The command line: one file per subcommand, and what exit statuses mean.

mod args;
mod check;
mod collector;
mod logs;
mod ps;

use std::{
    io::{self, Write},
    process::{ExitCode, Termination},
};

pub use args::Command;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: the configuration is faulty, or what was asked for cannot be done; stderr says why.
    Failed,
    /// 64: the command line is wrong (EX_USAGE of sysexits.h).
    Usage,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 64,
        })
    }
}

/// Writes to stdout. A reader that went away (as `head` does) is no failure of ours.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Runs a command to its end.
pub fn run(command: &Command) -> Exit {
    match command {
        Command::Help => {
            say(args::HELP);
            Exit::Done
        }
        Command::Version => {
            say(concat!("shimtap ", env!("CARGO_PKG_VERSION"), "\n"));
            Exit::Done
        }
        Command::Check { config } => check::run(config.as_deref()),
        Command::Collector { config } => collector::run(config.as_deref()),
        Command::Logs { parameters, socket } => logs::run(parameters, socket.as_deref()),
        Command::Ps { json, socket } => ps::run(*json, socket.as_deref()),
    }
}
