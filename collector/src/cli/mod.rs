//! The command line: one file per subcommand, and what exit statuses mean.

mod args;
mod ask;
mod check;
mod collector;
mod doctor;
mod explain;
mod install;
mod logs;
mod ps;
mod reload;
mod uninstall;
mod upgrade;

use std::{
    fmt::Write as _,
    io::{self, Write},
    process::{ExitCode, Termination},
};

use args::Configured;
pub use args::{Cli, Command};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: the configuration is faulty, or what was asked for cannot be done; stderr says why.
    Failed,
    /// 2: done, and what was looked at is not as it should be.
    Found,
    /// 64: the command line is wrong (EX_USAGE of sysexits.h).
    Usage,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Found => 2,
            Self::Usage => 64,
        })
    }
}

/// Writes to stdout. A reader that went away (as `head` does) is no failure of ours.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// A table: each column as wide as its widest cell.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// What to say of arguments that make no command, or that only ask for help or the version.
pub fn explain_usage(fault: &clap::Error) -> Exit {
    // Nobody is left to tell where this fails.
    let _ = fault.print();
    if fault.use_stderr() { Exit::Usage } else { Exit::Done }
}

/// Runs a command to its end.
pub fn run(command: &Command) -> Exit {
    match command {
        Command::Check(Configured { config }) => check::run(config.as_deref()),
        Command::Collector(Configured { config }) => collector::run(config.as_deref()),
        Command::Doctor(wanted) => doctor::run(wanted),
        Command::Explain { whose, json, at } => explain::run(whose, *json, at.socket.as_deref()),
        Command::Install(wanted) => install::run(wanted),
        Command::Logs(logs) => logs::run(&logs.parameters(), logs.at.socket.as_deref()),
        Command::Ps { json, at } => ps::run(*json, at.socket.as_deref()),
        Command::Reload(at) => reload::run(at.socket.as_deref()),
        Command::Uninstall(wanted) => uninstall::run(wanted),
        Command::Upgrade(wanted) => upgrade::run(wanted),
    }
}
