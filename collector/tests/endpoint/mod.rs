//! An OTLP endpoint that does what it is told: takes, refuses, holds back, or cuts the line.
//!
//! Plain HTTP/1.1 on threads, with or without TLS, and a record of every request: what a real server would not let us
//! provoke. That real servers understand us is asked in tests/tests/otlp.rs.

#![allow(
    dead_code,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file uses its part, and this is no test function to clippy"
)]

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Instant,
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
};
use prost::Message;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Do {
    /// Take it.
    Take,
    /// Take it, but for so many of its records.
    TakePart(i64),
    /// Refuse it with a status, more headers and a body.
    Answer(u16, String, String),
    /// Never answer.
    Hang,
    /// Take it, and end the connection in the middle of saying so.
    CutAnswer,
    /// End the connection in the middle of the request.
    CutRequest,
    /// Take it once the gate is open.
    Wait,
    /// Refuse requests of more than so many records as too large, take others.
    Most(usize),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When its last byte was there.
    pub at: Instant,
    /// In lower case, but for values.
    pub head: String,
    pub path: String,
    pub request: ExportLogsServiceRequest,
    /// Whether its records were taken.
    pub taken: bool,
}

/// A record that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    pub container: String,
    pub id: String,
    pub record: LogRecord,
}

#[derive(Default)]
struct State {
    script: VecDeque<Do>,
    otherwise: Option<Do>,
    asked: Vec<Asked>,
    connections: usize,
    open: bool,
}

/// The endpoint.
pub struct Endpoint {
    port: u16,
    state: Arc<(Mutex<State>, Condvar)>,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

impl Endpoint {
    /// One that takes everything.
    pub fn start() -> Self {
        Self::with(None)
    }

    /// One that speaks TLS.
    pub fn start_tls(config: ServerConfig) -> Self {
        Self::with(Some(Arc::new(config)))
    }

    fn with(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let state: Shared = Arc::default();
        let shared = Arc::clone(&state);
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                shared.0.lock().expect("no panic under it").connections += 1;
                thread::spawn(move || match tls {
                    None => serve(stream, &shared),
                    Some(config) => {
                        let connection = ServerConnection::new(config).expect("a usable configuration");
                        serve(StreamOwned::new(connection, stream), &shared);
                    }
                });
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What to do with the next requests, one after the other.
    pub fn script(&self, script: impl IntoIterator<Item = Do>) {
        self.state.0.lock().expect("no panic under it").script.extend(script);
    }

    /// What to do with all others.
    pub fn otherwise(&self, what: Do) {
        self.state.0.lock().expect("no panic under it").otherwise = Some(what);
    }

    /// Lets those go on that wait.
    pub fn open_gate(&self) {
        self.state.0.lock().expect("no panic under it").open = true;
        self.state.1.notify_all();
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.0.lock().expect("no panic under it").asked.clone()
    }

    pub fn connections(&self) -> usize {
        self.state.0.lock().expect("no panic under it").connections
    }

    /// Every record that was taken, in the order of arrival, repeats included.
    pub fn got(&self) -> Vec<Got> {
        self.asked().iter().filter(|asked| asked.taken).flat_map(|asked| records(&asked.request)).collect()
    }
}

/// The records of a request.
pub fn records(request: &ExportLogsServiceRequest) -> Vec<Got> {
    let mut all = Vec::new();
    for logs in &request.resource_logs {
        let resource = &logs.resource.as_ref().expect("a resource").attributes;
        let container = text(resource, "container.id").expect("container.id");
        for record in logs.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            let id = text(&record.attributes, "log.record.uid").expect("log.record.uid");
            all.push(Got { container: container.clone(), id, record: record.clone() });
        }
    }
    all
}

/// An attribute's text.
pub fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match attribute(attributes, key)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// An attribute.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

/// Requests of one connection, until it ends.
fn serve(mut stream: impl Read + Write + Cut, shared: &Shared) {
    while let Some((path, head, body)) = read(&mut stream) {
        let what = {
            let mut state = shared.0.lock().expect("no panic under it");
            let what = state.script.pop_front();
            what.or_else(|| state.otherwise.clone()).unwrap_or(Do::Take)
        };
        if matches!(what, Do::CutRequest) {
            return stream.cut();
        }
        let request = ExportLogsServiceRequest::decode(&*unpack(&head, &body)).expect("a request");
        let count = records(&request).len();
        let taken = match what {
            Do::Take | Do::TakePart(_) | Do::CutAnswer | Do::Wait => true,
            Do::Most(most) => count <= most,
            Do::Answer(..) | Do::Hang | Do::CutRequest => false,
        };
        if matches!(what, Do::Wait) {
            let state = shared.0.lock().expect("no panic under it");
            drop(shared.1.wait_while(state, |state| !state.open).expect("no panic under it"));
        }
        let asked = Asked { at: Instant::now(), head, path, request, taken };
        shared.0.lock().expect("no panic under it").asked.push(asked);
        let sent = match what {
            Do::Take | Do::Wait => success(&mut stream, None),
            Do::TakePart(rejected) => success(&mut stream, Some(rejected)),
            Do::Most(_) if taken => success(&mut stream, None),
            Do::Most(_) => answer(&mut stream, 413, "", b"too much"),
            Do::Answer(code, headers, body) => answer(&mut stream, code, &headers, body.as_bytes()),
            Do::CutAnswer => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-proto");
                return stream.cut();
            }
            // Until the other end has had enough.
            Do::Hang => return drop(stream.read(&mut [0])),
            Do::CutRequest => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn success(stream: &mut impl Write, rejected: Option<i64>) -> std::io::Result<()> {
    let partial_success = rejected.map(|rejected_log_records| ExportLogsPartialSuccess {
        rejected_log_records,
        error_message: "some were too old".into(),
    });
    let body = ExportLogsServiceResponse { partial_success }.encode_to_vec();
    answer(stream, 200, "Content-Type: application/x-protobuf\r\n", &body)
}

fn answer(stream: &mut impl Write, code: u16, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())?;
    stream.flush()
}

/// Path, head and body of the next request; `None` where there is none any more.
fn read(stream: &mut impl Read) -> Option<(String, String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut block = vec![0; 64 << 10];
    let split = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut block) {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&block[..n]),
        }
    };
    let head = String::from_utf8(bytes[..split].to_vec()).expect("a head of text");
    let length: usize = header(&head, "content-length").and_then(|n| n.parse().ok()).expect("a length");
    let mut body = bytes.split_off(split);
    while body.len() < length {
        match stream.read(&mut block) {
            Ok(0) | Err(_) => return None,
            Ok(n) => body.extend_from_slice(&block[..n]),
        }
    }
    let path = head.split(' ').nth(1).expect("a path").to_owned();
    Some((path, head, body))
}

/// A header's value.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn unpack(head: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match header(head, "content-encoding") {
        None => out.extend_from_slice(body),
        Some("gzip") => {
            flate2::read::GzDecoder::new(body).read_to_end(&mut out).expect("gzip");
        }
        Some("zstd") => out = zstd::stream::decode_all(body).expect("zstd"),
        Some(other) => panic!("an unknown encoding {other}"),
    }
    out
}

/// Ending a connection without a word.
trait Cut {
    fn cut(&mut self);
}

impl Cut for TcpStream {
    fn cut(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Cut for StreamOwned<ServerConnection, TcpStream> {
    fn cut(&mut self) {
        self.sock.cut();
    }
}
