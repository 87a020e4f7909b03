//! An OTLP endpoint in the test's own process that is in a mood: it takes, dawdles, hangs, is busy, or refuses.
//!
//! Plain HTTP/1.1, requests that are not compressed. What it took it keeps as tapes, and a repeat must say the same. Real
//! servers are in `backend`; none of them can be told to misbehave.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;

use crate::oracle::{Tapes, otlp_request};

/// What it does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes them.
    Take,
    /// Takes them after this time.
    Dawdle(Duration),
    /// Reads them and never answers; what hangs then is over when the mood changes.
    Hang,
    /// 503: not now.
    Busy,
    /// 400: never.
    Refuse,
    /// Takes them and ends the connection in the midst of saying so.
    CutAnswer,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    tapes: Tapes,
    asked: u64,
    fault: Option<String>,
}

/// The endpoint; it ends when it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    port: u16,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
}

impl Endpoint {
    /// One that takes everything.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
        let port = listener.local_addr().context("its address")?.port();
        let state = State { mood: Mood::Take, tapes: Tapes::new(), asked: 0, fault: None };
        let (state, over) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (shared, ended) = (Arc::clone(&state), Arc::clone(&over));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, ended) = (Arc::clone(&shared), Arc::clone(&ended));
                thread::spawn(move || {
                    if let Err(fault) = serve(&stream, &shared, &ended) {
                        locked(&shared).fault = Some(format!("{fault:#}"));
                    }
                    let _gone_already = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { port, state, over })
    }

    /// What `[otlp] endpoint` has to be.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A collector's `[otlp]` that names it, with these lines behind.
    #[must_use]
    pub fn section(&self, lines: &str) -> String {
        format!("[otlp]\nendpoint = \"{}\"\ncompression = \"none\"\n{lines}", self.url())
    }

    /// Changes its mood.
    pub fn be(&self, mood: Mood) {
        locked(&self.state).mood = mood;
    }

    /// Requests so far, whatever became of them.
    #[must_use]
    pub fn asked(&self) -> u64 {
        locked(&self.state).asked
    }

    /// What it took. An error where a request was none, or a repeat said something else.
    pub fn tapes(&self) -> Result<Tapes> {
        self.understands()?;
        Ok(locked(&self.state).tapes.clone())
    }

    /// An error where it did not understand what it was sent.
    pub fn understands(&self) -> Result<()> {
        match &locked(&self.state).fault {
            Some(fault) => bail!("the endpoint did not understand what it was sent: {fault}"),
            None => Ok(()),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes who listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests of one connection, until it ends.
fn serve(mut stream: &TcpStream, shared: &Mutex<State>, over: &AtomicBool) -> Result<()> {
    while let Some(body) = read(stream)? {
        let request = ExportLogsServiceRequest::decode(body.as_slice()).context("read a request")?;
        let mood = {
            let mut state = locked(shared);
            state.asked += 1;
            state.mood
        };
        match mood {
            Mood::Dawdle(time) => thread::sleep(time),
            Mood::Hang => {
                // Not a wait for a condition of the test: this is how it hangs.
                while locked(shared).mood == Mood::Hang && !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
            Mood::Take | Mood::Busy | Mood::Refuse | Mood::CutAnswer => {}
        }
        if matches!(mood, Mood::Take | Mood::Dawdle(_) | Mood::CutAnswer) {
            otlp_request(&mut locked(shared).tapes, &request)?;
        }
        let answer = match mood {
            Mood::Busy => "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n",
            Mood::Refuse => "HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n",
            Mood::CutAnswer => "HTTP/1.1 200 OK\r\nContent-Ty",
            _ => "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n",
        };
        // The other end may be dead by now.
        if stream.write_all(answer.as_bytes()).is_err() || mood == Mood::CutAnswer {
            return Ok(());
        }
    }
    Ok(())
}

/// The next request's body; none where the other end has gone, be it in the midst of one.
fn read(mut stream: &TcpStream) -> Result<Option<Vec<u8>>> {
    let (mut bytes, mut block) = (Vec::new(), vec![0; 64 << 10]);
    let mut more = |bytes: &mut Vec<u8>| {
        let count = stream.read(&mut block).unwrap_or(0);
        bytes.extend_from_slice(block.get(..count).unwrap_or_default());
        count > 0
    };
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if !more(&mut bytes) {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(head);
    let head = String::from_utf8(bytes).context("a head is no text")?.to_ascii_lowercase();
    ensure!(head.starts_with("post /v1/logs "), "asked for {head}");
    ensure!(!head.contains("content-encoding"), "a request is compressed: {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let length: usize = length.with_context(|| format!("no length: {head}"))?;
    while body.len() < length {
        if !more(&mut body) {
            return Ok(None);
        }
    }
    Ok(Some(body))
}
