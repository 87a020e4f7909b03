//! Asking a running collector over its control socket.
//!
//! HTTP/1.0, so that an answer is not sent in chunks and ends with its connection.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
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
/// Of a head or of a refusal: more than any of ours.
const HEAD_MAX: u64 = 16 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskFault {
    #[error("asking the collector at {path}: {source}; is it running, and are you root?")]
    Ask { path: PathBuf, source: io::Error },
    #[error("the collector at {path} refused: {said}")]
    Refused { path: PathBuf, said: String },
    #[error("reading the collector's answer at {path}: {source}; did it end?")]
    Read { path: PathBuf, source: io::Error },
    #[error("reading the collector's answer at {path}: {source}; are both of one release?")]
    Decode { path: PathBuf, source: serde_json::Error },
}

/// A control socket.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    path: PathBuf,
}

// === impl Collector ===

impl Collector {
    /// At `socket`, else where it is by default.
    pub(super) fn at(socket: Option<&Path>) -> Self {
        Self { path: socket.unwrap_or_else(|| Path::new(DEFAULT_CONTROL_SOCKET)).to_owned() }
    }

    /// What it says at `page`: as text, and understood.
    pub(super) fn get<T: DeserializeOwned>(&self, page: &str) -> Result<(String, T), AskFault> {
        let body = self.whole("GET", page)?;
        let value = serde_json::from_str(&body)
            .map_err(|source| AskFault::Decode { path: self.path.clone(), source })?;
        Ok((body, value))
    }

    /// Has it do what `page` stands for; what it says of that.
    pub(super) fn post(&self, page: &str) -> Result<String, AskFault> {
        self.whole("POST", page)
    }

    /// What it says at `page`, which may go on for ever and pause for as long.
    pub(super) fn stream(
        &self,
        page: &str,
        parameters: &[(&str, String)],
    ) -> Result<BufReader<UnixStream>, AskFault> {
        let query: Vec<_> =
            parameters.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        let answer = self.begin("GET", &format!("{page}?{}", query.join("&")))?;
        answer.get_ref().set_read_timeout(None).map_err(|source| self.unread(source))?;
        Ok(answer)
    }

    /// That an answer broke off.
    pub(super) fn unread(&self, source: io::Error) -> AskFault {
        AskFault::Read { path: self.path.clone(), source }
    }

    fn whole(&self, method: &str, page: &str) -> Result<String, AskFault> {
        let mut body = String::new();
        let answer = self.begin(method, page)?;
        answer.take(ANSWER_MAX).read_to_string(&mut body).map_err(|source| self.unread(source))?;
        Ok(body)
    }

    /// Asks, and reads the head of the answer; an answer that is not 200 is a refusal.
    fn begin(&self, method: &str, page: &str) -> Result<BufReader<UnixStream>, AskFault> {
        let ask = |source| AskFault::Ask { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).map_err(ask)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(ask)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(ask)?;
        let request = format!("{method} {page} HTTP/1.0\r\nHost: shimtap\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(ask)?;
        let mut answer = BufReader::new(stream);
        let status = line(&mut answer).map_err(ask)?;
        while line(&mut answer).map_err(ask)?.len() > 2 {}
        if status.split(' ').nth(1) == Some("200") {
            return Ok(answer);
        }
        let mut said = String::new();
        answer.take(HEAD_MAX).read_to_string(&mut said).map_err(ask)?;
        let said = if said.is_empty() { status } else { said };
        Err(AskFault::Refused { path: self.path.clone(), said: said.trim().to_owned() })
    }
}

/// One line of a head, with its end; empty at the end of the answer.
fn line(answer: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    answer.take(HEAD_MAX).read_line(&mut line)?;
    Ok(line)
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
