//! The command line: one file per subcommand, and what exit statuses mean.

mod args;
mod check;
mod collector;
mod ps;

use std::process::{ExitCode, Termination};

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

/// Runs a command to its end.
pub fn run(command: &Command) -> Exit {
    match command {
        Command::Help => {
            print!("{}", args::HELP);
            Exit::Done
        }
        Command::Version => {
            println!("shimtap {}", env!("CARGO_PKG_VERSION"));
            Exit::Done
        }
        Command::Check { config } => check::run(config.as_deref()),
        Command::Collector { config } => collector::run(config.as_deref()),
        Command::Ps { json, socket } => ps::run(*json, socket.as_deref()),
    }
}
