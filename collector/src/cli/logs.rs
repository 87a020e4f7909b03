//! `shimtap logs`: what the collector's journal holds of containers' output, and what comes.
//!
//! It asks and passes on; which lines, and how they look, is settled by `admin::logs`.

use std::{
    io::{self, BufRead, Write},
    path::Path,
};

use super::{
    Exit,
    ask::{AskFault, Collector},
};

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

fn show(parameters: &[(&'static str, String)], collector: &Collector) -> Result<(), AskFault> {
    let mut answer = collector.stream("/v1/logs", parameters)?;
    let mut stdout = io::stdout().lock();
    loop {
        let piece = answer.fill_buf().map_err(|source| collector.unread(source))?;
        let length = piece.len();
        // A reader that went away (as `head` does) is no failure of ours.
        if length == 0 || stdout.write_all(piece).and_then(|()| stdout.flush()).is_err() {
            return Ok(());
        }
        answer.consume(length);
    }
}
