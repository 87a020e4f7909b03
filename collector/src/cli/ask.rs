//! Asking a running collector over its control socket.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::config::DEFAULT_CONTROL_SOCKET;

/// The collector answers from memory; longer means that it does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Far more than a node's containers need.
const ANSWER_MAX: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskFault {
    #[error("asking the collector at {path}: {source}; is it running, and are you root?")]
    Ask { path: PathBuf, source: io::Error },
    #[error("the collector at {path} refused: {said}")]
    Refused { path: PathBuf, said: String },
    #[error("reading the collector's answer at {path}: {source}; are both of one release?")]
    Decode { path: PathBuf, source: serde_json::Error },
}

/// A control socket.
pub(super) struct Collector<'a> {
    path: &'a Path,
}

// === impl Collector ===

impl<'a> Collector<'a> {
    /// At `socket`, else where it is by default.
    pub(super) fn at(socket: Option<&'a Path>) -> Self {
        Self { path: socket.unwrap_or_else(|| Path::new(DEFAULT_CONTROL_SOCKET)) }
    }

    /// What it says at `page`: as text, and understood.
    pub(super) fn get<T: DeserializeOwned>(&self, page: &str) -> Result<(String, T), AskFault> {
        let body = self.exchange("GET", page)?;
        let value = serde_json::from_str(&body)
            .map_err(|source| AskFault::Decode { path: self.path.to_owned(), source })?;
        Ok((body, value))
    }

    /// Has it do what `page` stands for; what it says of that.
    pub(super) fn post(&self, page: &str) -> Result<String, AskFault> {
        self.exchange("POST", page)
    }

    fn exchange(&self, method: &str, page: &str) -> Result<String, AskFault> {
        let answer = talk(self.path, method, page)
            .map_err(|source| AskFault::Ask { path: self.path.to_owned(), source })?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200") {
            return Ok(body.to_owned());
        }
        let status = head.lines().next().unwrap_or_default();
        let said = if body.is_empty() { status } else { body.trim_end() };
        Err(AskFault::Refused { path: self.path.to_owned(), said: said.to_owned() })
    }
}

/// One request whose answer ends with the connection (HTTP/1.0, so that it is not sent in chunks).
fn talk(path: &Path, method: &str, page: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("{method} {page} HTTP/1.0\r\nHost: shimtap\r\nContent-Length: 0\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
