//! Asking a running collector over its control socket.
//!
//! HTTP/1.1, where an answer says itself where it ends: one that broke off must never be taken for whole.

use std::{
    future::Future,
    io::{self, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{runtime::Runtime, time::timeout};

use crate::config::DEFAULT_CONTROL_SOCKET;

/// The collector answers from memory; longer means that it does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Far more than a node's containers need.
const ANSWER_MAX: usize = 64 << 20;
/// Of a refusal: more than any of ours.
const REFUSAL_MAX: usize = 16 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskFault {
    #[error("asking the collector at {path}: {source}; is it running, and are you root?")]
    Ask { path: PathBuf, source: io::Error },
    #[error("the collector at {path} refused: {said}")]
    Refused { path: PathBuf, said: String },
    #[error(
        "reading the answer of the collector at {path}: {source}; it broke off, as where the collector is stopped, restarted or \
         killed: what came is not all, ask again when it runs"
    )]
    Read { path: PathBuf, source: io::Error },
    #[error("reading the collector's answer at {path}: {source}; are both of one release?")]
    Decode { path: PathBuf, source: serde_json::Error },
}

/// A control socket.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    path: PathBuf,
}

/// An answer that is on its way. Reading ends where it ends; where it breaks off, that is an error.
#[derive(Debug)]
pub(super) struct Answer {
    runtime: Runtime,
    body: Incoming,
    /// What came and was not read yet.
    piece: Bytes,
    /// How long to wait for the next piece. `None` = for ever.
    patience: Option<Duration>,
    /// The connection once more.
    socket: UnixStream,
}

// === impl Collector ===

impl Collector {
    /// At `socket`, else where it is by default.
    pub(super) fn at(socket: Option<&Path>) -> Self {
        Self { path: socket.unwrap_or_else(|| Path::new(DEFAULT_CONTROL_SOCKET)).to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says at `page`: as text, and understood.
    pub(super) fn get<T: DeserializeOwned>(&self, page: &str) -> Result<(String, T), AskFault> {
        let body = self.whole(Method::GET, page)?;
        let value = serde_json::from_str(&body)
            .map_err(|source| AskFault::Decode { path: self.path.clone(), source })?;
        Ok((body, value))
    }

    /// Has it do what `page` stands for; what it says of that.
    pub(super) fn post(&self, page: &str) -> Result<String, AskFault> {
        self.whole(Method::POST, page)
    }

    /// What it says at `page`, which may go on for ever and pause for as long.
    pub(super) fn stream(&self, page: &str, parameters: &[(&str, String)]) -> Result<Answer, AskFault> {
        let query: Vec<_> =
            parameters.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        let answer = self.begin(Method::GET, &format!("{page}?{}", query.join("&")))?;
        Ok(Answer { patience: None, ..answer })
    }

    /// That an answer broke off.
    pub(super) fn unread(&self, source: io::Error) -> AskFault {
        AskFault::Read { path: self.path.clone(), source }
    }

    fn whole(&self, method: Method, page: &str) -> Result<String, AskFault> {
        self.begin(method, page)?.text(ANSWER_MAX).map_err(|source| self.unread(source))
    }

    /// Asks, and reads the head of the answer; an answer that is not 200 is a refusal.
    fn begin(&self, method: Method, page: &str) -> Result<Answer, AskFault> {
        let fault = |source| AskFault::Ask { path: self.path.clone(), source };
        let (status, answer) = self.ask(method, page).map_err(fault)?;
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let said = answer.text(REFUSAL_MAX).map_err(fault)?;
        let said = if said.is_empty() { status.to_string() } else { said };
        Err(AskFault::Refused { path: self.path.clone(), said: said.trim().to_owned() })
    }

    fn ask(&self, method: Method, page: &str) -> io::Result<(StatusCode, Answer)> {
        let request = Request::builder().method(method).uri(page);
        let request = request.header(HOST, "shimtap").header(CONNECTION, "close");
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let stream = UnixStream::connect(&self.path)?;
        let socket = stream.try_clone()?;
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let response = runtime.block_on(in_time(PATIENCE, async {
            let stream = TokioIo::new(tokio::net::UnixStream::from_std(stream)?);
            let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
            // What it ends with is told to whoever waits for the answer.
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(io::Error::other)
        }))?;
        let (head, body) = response.into_parts();
        Ok((head.status, Answer { runtime, body, piece: Bytes::new(), patience: Some(PATIENCE), socket }))
    }
}

// === impl Answer ===

impl Answer {
    /// The connection: whoever shuts it down ends the answer, also while nothing comes.
    pub(super) fn connection(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// All of it.
    fn text(mut self, most: usize) -> io::Result<String> {
        let mut all = Vec::new();
        while let Some(piece) = self.next()? {
            if all.len().saturating_add(piece.len()) > most {
                return Err(io::Error::other(format!("more than {most} bytes")));
            }
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))
    }

    /// The next piece; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let frame = self.body.frame();
            let frame = match self.patience {
                Some(patience) => self.runtime.block_on(in_time(patience, async { Ok(frame.await) }))?,
                None => self.runtime.block_on(frame),
            };
            let Some(frame) = frame else { return Ok(None) };
            // Trailers are none of ours.
            if let Ok(piece) = frame.map_err(io::Error::other)?.into_data() {
                return Ok(Some(piece));
            }
        }
    }
}

impl Read for Answer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.next()? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buf.len());
        buf.split_at_mut(length).0.copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}"));
    timeout(patience, work).await.unwrap_or_else(|_| Err(late()))
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
    use std::{io::Write, os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn values_survive_the_address() {
        assert_eq!(encoded("^a b+&\u{e4}/x"), "%5Ea%20b%2B%26%C3%A4/x");
    }

    /// What is read of an answer of these bytes, and how it ended.
    fn read(answer: &'static str) -> Result<(String, io::Result<()>), AskFault> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a short path");
        let collector = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                request.extend_from_slice(&byte);
            }
            stream.write_all(answer.as_bytes()).expect("taken");
            String::from_utf8(request).expect("text")
        });
        let mut text = Vec::new();
        let answer = Collector::at(Some(&path)).stream("/v1/logs", &[("pod", "p".to_owned())]);
        let read = answer.map(|mut answer| answer.read_to_end(&mut text).map(drop));
        let request = collector.join().expect("it ends");
        assert!(request.starts_with("GET /v1/logs?pod=p HTTP/1.1\r\n"), "{request}");
        read.map(|ended| (String::from_utf8(text).expect("text"), ended))
    }

    #[test]
    fn an_answer_is_whole_or_broken_off() {
        const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        const COUNTED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n";
        let cases = [
            (CHUNKED, "3\r\none\r\n4\r\nmore\r\n0\r\n\r\n", "onemore", true),
            (CHUNKED, "0\r\n\r\n", "", true),
            (CHUNKED, "3\r\none\r\n4\r\nmore\r\n", "onemore", false),
            (CHUNKED, "3\r\none\r\n4\r\nmo", "onemo", false),
            (CHUNKED, "3\r\none\r\n0\r\n", "one", false),
            (CHUNKED, "", "", false),
            (COUNTED, "sixsix", "sixsix", true),
            (COUNTED, "six", "six", false),
        ];
        for (head, body, text, whole) in cases {
            let answer = format!("{head}{body}").leak();
            let (came, ended) = read(answer).expect("an answer");
            assert_eq!((came.as_str(), ended.is_ok()), (text, whole), "{body:?}: {ended:?}");
        }
    }

    #[test]
    fn a_refusal_says_why_and_no_answer_is_none() {
        let refused = read("HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\n\r\nwhy\n");
        assert!(matches!(refused, Err(AskFault::Refused { said, .. }) if said == "why"));
        let refused = read("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
        assert!(matches!(refused, Err(AskFault::Refused { said, .. }) if said.starts_with("503")));
        assert!(matches!(read(""), Err(AskFault::Ask { .. })));
        assert!(matches!(read("HTTP/1.1 20"), Err(AskFault::Ask { .. })));
    }
}
