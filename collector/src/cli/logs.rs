//! `shimtap logs`: what the collector's journal holds of containers' output, and what comes.
//!
//! It asks and passes on; which lines, and how they look, is settled by `admin::logs`. It must never end with status 0 where
//! what it printed is not all, unless its reader wanted no more.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{
    Exit,
    ask::{AskFault, Collector},
};

/// Bytes that are passed on at a time.
const PIECE: usize = 64 << 10;

/// Why not all was printed.
#[derive(Debug, thiserror::Error)]
enum LogsFault {
    #[error(transparent)]
    Ask(#[from] AskFault),
    #[error("writing to standard output: {source}; what was written is not all")]
    Write { source: io::Error },
    #[error("the collector at {path} stopped, and nothing more comes: ask again when it runs")]
    Stopped { path: PathBuf },
}

/// Prints to stdout until there is no more, or nobody reads.
pub(super) fn run(parameters: &[(&'static str, String)], socket: Option<&Path>) -> Exit {
    match show(parameters, &Collector::at(socket)) {
        Ok(()) => Exit::Done,
        Err(fault) => {
            eprintln!("shimtap logs: {fault}");
            Exit::Failed
        }
    }
}

fn show(parameters: &[(&'static str, String)], collector: &Collector) -> Result<(), LogsFault> {
    let mut answer = collector.stream("/v1/logs", parameters)?;
    let mut stdout = io::stdout().lock();
    let mut piece = vec![0; PIECE];
    loop {
        let length = match answer.read(&mut piece) {
            Ok(length) => length,
            Err(fault) => return Err(collector.unread(fault).into()),
        };
        if length == 0 {
            break;
        }
        let piece = piece.get(..length).unwrap_or_default();
        match stdout.write_all(piece).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            Err(fault) => return super::unless_gone(fault).map_err(|source| LogsFault::Write { source }),
        }
    }
    // What is followed has no end of its own.
    let follows = parameters.iter().any(|(key, value)| *key == "follow" && value == "1");
    if follows { Err(LogsFault::Stopped { path: collector.path().to_owned() }) } else { Ok(()) }
}
