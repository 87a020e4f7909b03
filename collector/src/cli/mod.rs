//! The command line: one file per subcommand, and what exit statuses mean.

mod args;
mod ask;
mod cells;
mod check;
mod collector;
mod completions;
mod doctor;
mod explain;
mod install;
mod logs;
mod man;
mod ps;
mod reload;
mod top;
mod uninstall;
mod upgrade;

use std::{
    io::{self, Write},
    process::{ExitCode, Termination},
    sync::atomic::{AtomicBool, Ordering},
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

/// Something that was to be printed was not: a command that did what it was asked for has failed all the same.
static UNSAID: AtomicBool = AtomicBool::new(false);

/// Writes to stdout. A reader that went away (as `head` does) is no failure of ours.
fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    let said = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Err(fault) = said.or_else(unless_gone)
        && !UNSAID.swap(true, Ordering::Relaxed)
    {
        eprintln!("shimtap: writing to standard output: {fault}; what was written is not all");
    }
}

/// Whoever reads has had enough.
fn unless_gone(fault: io::Error) -> io::Result<()> {
    if fault.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(fault) }
}

/// What to say of arguments that make no command, or that only ask for help or the version.
pub fn explain_usage(fault: &clap::Error) -> Exit {
    // Nobody is left to tell where this fails.
    let _ = fault.print();
    if fault.use_stderr() { Exit::Usage } else { Exit::Done }
}

/// Runs a command to its end.
pub fn run(command: &Command) -> Exit {
    match done(command) {
        Exit::Done if UNSAID.load(Ordering::Relaxed) => Exit::Failed,
        exit => exit,
    }
}

fn done(command: &Command) -> Exit {
    match command {
        Command::Check { defaults: true, .. } => check::defaults(),
        Command::Check { which: Configured { config }, .. } => check::run(config.as_deref()),
        Command::Collector(Configured { config }) => collector::run(config.as_deref()),
        Command::Completions { shell } => completions::run(*shell),
        Command::Doctor(wanted) => doctor::run(wanted),
        Command::Explain { whose, json, at } => explain::run(whose, *json, at.socket.as_deref()),
        Command::Install(wanted) => install::run(wanted),
        Command::Logs(logs) => logs::run(&logs.parameters(), logs.at.socket.as_deref()),
        Command::Man { dir } => man::run(dir),
        Command::Ps { json, open_ended, orphans, warnings, at } => {
            // No two of them at a time.
            let asked = [
                (*open_ended, ps::Part::OpenEnded),
                (*orphans, ps::Part::Orphans),
                (*warnings, ps::Part::Warnings),
            ];
            let part = asked.iter().find(|(is_asked, _)| *is_asked).map_or(ps::Part::All, |(_, part)| *part);
            ps::run(*json, part, at.socket.as_deref())
        }
        Command::Reload(at) => reload::run(at.socket.as_deref()),
        Command::Top(wanted) => top::run(wanted),
        Command::Uninstall(wanted) => uninstall::run(wanted),
        Command::Upgrade(wanted) => upgrade::run(wanted),
    }
}
