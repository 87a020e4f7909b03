//! When stamped lines can be read at the other end: in the file that a sink writes, or in requests that an endpoint takes.
//!
//! A look at a file costs a wake-up of ours, an endpoint reads a request whole: both are in the figures, and both are short
//! against what is asked. What comes while nobody counts is forgotten.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::spread::float64;
use crate::stamp::{self, WRITERS, Writer};

/// A watcher that has nothing to read looks this often whether it is still wanted.
const LOOK_MS: u16 = 200;

/// What has arrived, and after how long.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counts: AtomicBool,
    over: AtomicBool,
    bytes: AtomicU64,
    took_ms: Mutex<[Vec<f64>; WRITERS.len()]>,
}

/// Where they arrive; it ends when it is dropped.
#[derive(Debug)]
pub struct Place {
    arrivals: Arrivals,
    port: Option<u16>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

// === impl Arrivals ===

impl Arrivals {
    /// From here on what arrives is noted; what was noted is forgotten.
    pub fn begin(&self) {
        *self.took() = Default::default();
        self.0.counts.store(true, Ordering::Relaxed);
    }

    /// What has arrived since, of that writer: ms from its stamp to now. What comes later is not noted.
    pub fn end(&self, writer: Writer) -> Vec<f64> {
        self.0.counts.store(false, Ordering::Relaxed);
        self.took().get_mut(index(writer)).map(std::mem::take).unwrap_or_default()
    }

    /// How much of that writer has arrived since it was asked to note.
    pub fn count(&self, writer: Writer) -> usize {
        self.took().get(index(writer)).map_or(0, Vec::len)
    }

    /// Bytes that have arrived at all.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn note(&self, bytes: &[u8]) {
        let now = stamp::now_ns();
        self.0.bytes.fetch_add(u64::try_from(bytes.len()).unwrap_or(0), Ordering::Relaxed);
        if !self.0.counts.load(Ordering::Relaxed) {
            return;
        }
        let mut took = self.took();
        for (writer, then) in stamp::all(bytes) {
            if let Some(took) = took.get_mut(index(writer)) {
                took.push(float64(now.saturating_sub(then)) / 1e6);
            }
        }
    }

    fn took(&self) -> MutexGuard<'_, [Vec<f64>; WRITERS.len()]> {
        self.0.took_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }
}

fn index(writer: Writer) -> usize {
    WRITERS.iter().position(|one| *one == writer).unwrap_or_default()
}

// === impl Place ===

impl Place {
    /// The end of a file that grows and is there already.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn file(path: &Path, arrivals: &Arrivals) -> Result<Place> {
        let path = path.to_owned();
        let file = fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let shared = arrivals.clone();
        let thread = thread::spawn(move || watch(file, &path, &shared));
        Ok(Place { arrivals: arrivals.clone(), port: None, thread: Some(thread) })
    }

    /// An endpoint of HTTP that takes whatever it is sent, packed or not; stamps are found in what is not packed.
    ///
    /// # Errors
    /// No port is free.
    pub fn endpoint(arrivals: &Arrivals) -> Result<Place> {
        Place::listen(arrivals, serve)
    }

    /// An endpoint of TCP that takes bytes.
    ///
    /// # Errors
    /// No port is free.
    pub fn bytes(arrivals: &Arrivals) -> Result<Place> {
        Place::listen(arrivals, |mut stream, arrivals| {
            let mut bytes = vec![0; 256 << 10];
            loop {
                let count = stream.read(&mut bytes).context("read what is sent")?;
                if count == 0 {
                    return Ok(());
                }
                arrivals.note(bytes.get(..count).unwrap_or_default());
            }
        })
    }

    fn listen(arrivals: &Arrivals, take: fn(&TcpStream, &Arrivals) -> Result<()>) -> Result<Place> {
        let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
        let port = listener.local_addr().context("its address")?.port();
        let shared = arrivals.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.is_over() {
                    break;
                }
                let shared = shared.clone();
                // It ends with its connection; one that breaks off has nothing to say.
                thread::spawn(move || take(&stream, &shared));
            }
            Ok(())
        });
        Ok(Place { arrivals: arrivals.clone(), port: Some(port), thread: Some(thread) })
    }

    /// Its port; 0 for a file.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(0)
    }

    /// For a sink's configuration.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// Ends it.
    ///
    /// # Errors
    /// It could not go on with what it had to read.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.arrivals.0.over.store(true, Ordering::Relaxed);
        if let Some(port) = self.port {
            // Wakes who listens.
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
        let ended = self.thread.take().map(thread::JoinHandle::join);
        ended.map_or(Ok(()), |ended| ended.unwrap_or_else(|_| anyhow::bail!("a watcher panicked")))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whoever wants to know what went wrong closes it.
        let _ = self.end();
    }
}

/// Reads what a file gets, as it gets it.
fn watch(mut file: fs::File, path: &PathBuf, arrivals: &Arrivals) -> Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("watch files")?;
    inotify.add_watch(path, AddWatchFlags::IN_MODIFY).with_context(|| format!("watch {}", path.display()))?;
    let (mut block, mut left) = (vec![0; 1 << 20], Vec::new());
    while !arrivals.is_over() {
        let mut ready = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(LOOK_MS)).context("wait for a file")?;
        // Empty where the time was up.
        let _ = inotify.read_events();
        loop {
            let count = file.read(&mut block).with_context(|| format!("read {}", path.display()))?;
            if count == 0 {
                break;
            }
            left.extend_from_slice(block.get(..count).unwrap_or_default());
            // A line that is not whole yet may end within its stamp.
            let whole = left.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            arrivals.note(left.get(..whole).unwrap_or_default());
            left.drain(..whole);
        }
    }
    Ok(())
}

/// Takes the requests of one connection.
fn serve(mut stream: &TcpStream, arrivals: &Arrivals) -> Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut body = Vec::new();
    loop {
        let (mut length, mut line) = (0_usize, String::new());
        let mut first = true;
        loop {
            line.clear();
            if reader.read_line(&mut line).context("read a head")? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            ensure!(!first || line.starts_with("post "), "asked for {line}");
            first = false;
            if line.is_empty() {
                break;
            }
            ensure!(!line.starts_with("transfer-encoding"), "a body without a length");
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse().context("a length")?;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body).context("read a body")?;
        arrivals.note(&body);
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).context("answer")?;
    }
}
