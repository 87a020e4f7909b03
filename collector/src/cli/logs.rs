//! `shimtap logs`: what the collector's journal holds of containers' output, and what comes.
//!
//! It asks and passes on; which lines, and how they look, is settled by `admin::logs`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Exit;
use crate::config::DEFAULT_CONTROL_SOCKET;

/// For the head of the answer; lines may be far apart.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum LogsFault {
    #[error("asking the collector at {path}: {source}; is it running, and are you root?")]
    Ask { path: PathBuf, source: io::Error },
    #[error("asking the collector at {path}: it said {said}")]
    Refused { path: PathBuf, said: String },
    #[error("reading the collector's answer at {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
}

/// Prints to stdout until there is no more, or nobody reads.
pub(super) fn run(parameters: &[(&'static str, String)], socket: Option<&Path>) -> Exit {
    let socket = socket.unwrap_or_else(|| Path::new(DEFAULT_CONTROL_SOCKET));
    match show(parameters, socket) {
        Ok(()) => Exit::Done,
        Err(fault) => {
            eprintln!("shimtap logs: {fault}");
            Exit::Failed
        }
    }
}

fn show(parameters: &[(&'static str, String)], path: &Path) -> Result<(), LogsFault> {
    let ask = |source| LogsFault::Ask { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(ask)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(ask)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(ask)?;
    let query: Vec<_> = parameters.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
    // HTTP/1.0, so that the answer is not sent in chunks and ends with the connection.
    let request = format!("GET /v1/logs?{} HTTP/1.0\r\nHost: shimtap\r\n\r\n", query.join("&"));
    stream.write_all(request.as_bytes()).map_err(ask)?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status).map_err(ask)?;
    let mut line = String::new();
    while answer.read_line(&mut line).map_err(ask)? > 2 {
        line.clear();
    }
    if !status.contains(" 200 ") {
        let mut said = String::new();
        answer.take(4_096).read_to_string(&mut said).map_err(ask)?;
        return Err(LogsFault::Refused { path: path.to_owned(), said: said.trim().to_owned() });
    }
    let read = |source| LogsFault::Read { path: path.to_owned(), source };
    answer.get_ref().set_read_timeout(None).map_err(read)?;
    let mut stdout = io::stdout().lock();
    loop {
        let piece = answer.fill_buf().map_err(read)?;
        let length = piece.len();
        // A reader that went away (as `head` does) is no failure of ours.
        if length == 0 || stdout.write_all(piece).and_then(|()| stdout.flush()).is_err() {
            return Ok(());
        }
        answer.consume(length);
    }
}

/// As a value in an address has to be.
fn encoded(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_survive_the_address() {
        assert_eq!(super::encoded("^a b+&\u{e4}/x"), "%5Ea%20b%2B%26%C3%A4/x");
    }
}
