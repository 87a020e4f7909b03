//! One raw connection to a shim: frames go out as told, answers are collected by stream id.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use containerd_shim_protos::protobuf::Message;

use super::{
    PATIENCE,
    frame::{Answer, Frame, HEADER, flag, kind, parse_header},
};
use crate::standin::journal::hash;

/// What has arrived.
#[derive(Debug, Default)]
struct Inbox {
    frames: Vec<Frame>,
    ended: Option<String>,
}

/// A request that was prepared, to be compared with what arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Stream id.
    pub stream: u32,
    /// Method of the task service.
    pub method: String,
    /// Fingerprint of the body.
    pub hash: String,
}

/// A connection as containerd holds one per task.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    service: String,
    next: AtomicU32,
    sent: Mutex<Vec<Sent>>,
    inbox: Arc<(Mutex<Inbox>, Condvar)>,
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Dials once, as containerd does, and starts to listen for answers. `service` is the task service to ask.
    ///
    /// # Errors
    /// Nobody listens at `path`.
    pub fn open(path: &Path, service: &str) -> Result<Self> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))?;
        let inbox = Arc::new((Mutex::default(), Condvar::new()));
        let (mut reader, theirs) = (stream.try_clone().context("connection")?, Arc::clone(&inbox));
        thread::spawn(move || {
            let why = loop {
                match read_frame(&mut reader) {
                    Ok(Some(frame)) => lock(&theirs.0).frames.push(frame),
                    Ok(None) => break "end of file".to_owned(),
                    Err(e) => break format!("{e:#}"),
                }
                theirs.1.notify_all();
            };
            lock(&theirs.0).ended = Some(why);
            theirs.1.notify_all();
        });
        Ok(Self {
            stream,
            service: service.to_owned(),
            next: AtomicU32::new(1),
            sent: Mutex::default(),
            inbox,
        })
    }

    /// The stream id of the next request: odd, and larger than all before.
    #[must_use]
    pub fn next_stream(&self) -> u32 {
        self.next.fetch_add(2, Ordering::Relaxed)
    }

    /// A request of the task service under the next stream id, not sent yet.
    ///
    /// # Errors
    /// The message does not encode.
    pub fn prepare<M: Message>(&self, method: &str, message: &M) -> Result<Frame> {
        let payload = message.write_to_bytes().context("request message")?;
        let frame = Frame::request(self.next_stream(), &self.service, method, payload)?;
        self.note(method, &frame);
        Ok(frame)
    }

    fn note(&self, method: &str, frame: &Frame) {
        let sent = Sent { stream: frame.stream, method: method.to_owned(), hash: hash(&frame.body) };
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
    }

    /// Every request that was prepared, in order.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends bytes, whatever they are.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        (&self.stream).write_all(bytes).with_context(|| format!("sending {} bytes", bytes.len()))
    }

    /// Sends bytes in pieces of the given sizes, the last size repeated until nothing is left; one write each.
    ///
    /// # Errors
    /// The peer is gone, or there is no size.
    pub fn send_pieces(&self, bytes: &[u8], sizes: &[usize]) -> Result<()> {
        let mut rest = bytes;
        let mut sizes = sizes.iter().copied();
        let mut size = sizes.next().context("no size of a piece")?;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(size.clamp(1, rest.len()));
            self.send_bytes(piece)?;
            rest = after;
            size = sizes.next().unwrap_or(size);
        }
        Ok(())
    }

    /// Sends a request of the task service; gives its stream id.
    ///
    /// # Errors
    /// As [`Connection::send_bytes`].
    pub fn send<M: Message>(&self, method: &str, message: &M) -> Result<u32> {
        let frame = self.prepare(method, message)?;
        self.send_bytes(&frame.bytes())?;
        Ok(frame.stream)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`Connection::send`] and [`Connection::answer`].
    pub fn call<M: Message>(&self, method: &str, message: &M) -> Result<Answer> {
        let stream = self.send(method, message)?;
        self.answer(stream, PATIENCE).with_context(|| format!("{method} on stream {stream}"))
    }

    /// Waits for the answer on a stream.
    ///
    /// # Errors
    /// The connection ended, or the answer did not come in time.
    pub fn answer(&self, stream: u32, patience: Duration) -> Result<Answer> {
        // What is waited for came last, if it has come.
        let found =
            self.wait_for(patience, |frames| frames.iter().rev().find(|f| f.stream == stream).cloned());
        found.context("waiting for the answer")?.answer()
    }

    /// A ttrpc stream to a service that sends back what it gets: `count` data frames of 0, `step`, 2 × `step` … bytes go and
    /// come back as they went, and so does the end, all of it within `patience`.
    ///
    /// # Errors
    /// They do not, or not in time.
    pub fn is_echoed(&self, service: &str, count: u8, step: usize, patience: Duration) -> Result<()> {
        let mut open = Frame::request(self.next_stream(), service, "Stream", Vec::new())?;
        open.flags = flag::REMOTE_OPEN;
        self.note("Stream", &open);
        self.send_bytes(&open.bytes())?;
        let data = |n: u8| Frame::data(open.stream, 0, vec![n; usize::from(n) * step]);
        let last = Frame::data(open.stream, flag::REMOTE_CLOSED | flag::NO_DATA, Vec::new());
        let sent: Vec<Frame> = (0..count).map(data).chain([last]).collect();
        for frame in &sent {
            self.send_bytes(&frame.bytes())?;
        }
        let back = self.wait_for(patience, |f| (f.len() == sent.len()).then(|| f.to_vec()))?;
        ensure!(back == sent, "frames do not come back as they went");
        Ok(())
    }

    /// Waits until `find` finds something in the frames that have come so far.
    ///
    /// # Errors
    /// The connection ended, or nothing was found in time.
    pub fn wait_for<T>(&self, patience: Duration, find: impl Fn(&[Frame]) -> Option<T>) -> Result<T> {
        let until = Instant::now() + patience;
        let mut inbox = lock(&self.inbox.0);
        loop {
            if let Some(found) = find(&inbox.frames) {
                return Ok(found);
            }
            if let Some(why) = &inbox.ended {
                bail!("connection ended: {why}");
            }
            let left = until.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "nothing within {patience:?}; {} frames have come", inbox.frames.len());
            inbox = self.inbox.1.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything that has arrived so far, in order.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.inbox.0).frames.clone()
    }

    /// Why the connection ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        lock(&self.inbox.0).ended.clone()
    }

    /// Waits for the end of the connection and says how it ended.
    ///
    /// # Errors
    /// It is still open when the patience ends.
    pub fn wait_end(&self, patience: Duration) -> Result<String> {
        let until = Instant::now() + patience;
        let mut inbox = lock(&self.inbox.0);
        loop {
            if let Some(why) = &inbox.ended {
                return Ok(why.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "connection still open after {patience:?}");
            inbox = self.inbox.1.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Says that every answer came once: no stream has two responses.
    ///
    /// # Errors
    /// Names the stream that was answered twice.
    pub fn check_single_answers(&self) -> Result<()> {
        let inbox = lock(&self.inbox.0);
        let responses = inbox.frames.iter().filter(|f| f.kind == kind::RESPONSE);
        let mut streams: Vec<u32> = responses.map(|f| f.stream).collect();
        streams.sort_unstable();
        let twice = streams.iter().zip(streams.iter().skip(1)).find(|(a, b)| a == b);
        ensure!(twice.is_none(), "stream {:?} was answered twice", twice.map(|t| t.0));
        Ok(())
    }

    /// Says that no more will be sent, and goes on listening.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn shutdown_write(&self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("half-close")
    }
}

impl Drop for Connection {
    /// Ends the connection at once, whatever the listening thread holds.
    fn drop(&mut self) {
        let _peer_gone = self.stream.shutdown(Shutdown::Both);
    }
}

fn read_frame(from: &mut impl Read) -> Result<Option<Frame>> {
    let mut header = [0; HEADER];
    let (first, rest) = header.split_at_mut(1);
    if from.read(first).context("reading")? == 0 {
        return Ok(None);
    }
    from.read_exact(rest).context("header cut off")?;
    let (length, stream, kind, flags) = parse_header(header);
    let mut body = vec![0; usize::try_from(length)?];
    from.read_exact(&mut body)
        .with_context(|| format!("body of {length} bytes on stream {stream} cut off"))?;
    Ok(Some(Frame { stream, kind, flags, body }))
}
