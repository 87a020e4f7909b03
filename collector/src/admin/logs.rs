//! `GET /v1/logs` on the control socket: what the journal holds, and what comes, of the streams that were asked for.
//!
//! Reading files and matching take time, so each request has a thread of its own, few at a time, and waits for its
//! client. A client that falls behind retention is told what it missed, as any reader is.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    thread,
};

use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};
use tokio::sync::mpsc;

use super::body::{Answer, Piece};
use crate::{
    event::{Batch, Body, Origin, Record, StreamKind},
    journal::Heads,
    priority,
    sinks::{
        Source,
        lines::{cri, json},
    },
    time::write_rfc3339,
};

/// Requests at a time.
const QUERIES: usize = 8;
/// Bytes after which a piece of the answer is sent on.
const PIECE: usize = 64 << 10;
/// Pieces that wait for a client.
const PIECES: usize = 2;
/// Most lines and bytes that `tail` keeps.
const TAIL_LINES: usize = 100_000;
const TAIL_BYTES: usize = 8 << 20;
/// Most memory of a compiled expression.
const REGEX_BYTES: usize = 1 << 20;

/// How lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Time, whose, which output, message.
    Text,
    /// As the file sink writes them.
    Json,
    /// As containerd's CRI plugin writes them.
    Cri,
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Query {
    namespace: Option<String>,
    pod: Option<String>,
    container: Option<String>,
    stream: Option<StreamKind>,
    grep: Option<Regex>,
    format: Format,
    tail: Option<usize>,
    follow: bool,
}

/// Why it cannot be answered. The client is at fault, unless it says else.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryFault {
    /// A parameter that makes no sense.
    #[error("{0} is not understood")]
    Parameter(String),
    /// The expression.
    #[error("grep is no expression that can be used: {source}")]
    Grep {
        /// What is wrong with it.
        source: regex::Error,
    },
    /// Others are being answered.
    #[error("too many clients read logs; try again when one has ended")]
    Busy,
    /// No thread.
    #[error("starting a thread: {source}")]
    Thread {
        /// What the system said.
        source: std::io::Error,
    },
}

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// One of the places, given back when it is dropped.
struct Place;

/// Writes lines in one format.
struct Writer {
    format: Format,
    json: json::Encoder,
    cri: cri::Encoder,
    out: Vec<u8>,
}

// === impl Query ===

impl Query {
    /// Reads the part of a request's address behind the question mark.
    pub(super) fn parse(query: &str) -> Result<Self, QueryFault> {
        let mut asked = Self {
            namespace: None,
            pod: None,
            container: None,
            stream: None,
            grep: None,
            format: Format::Text,
            tail: None,
            follow: false,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let not_understood = || QueryFault::Parameter(pair.chars().take(64).collect());
            let value = decoded(value).ok_or_else(not_understood)?;
            match (key, value.as_str()) {
                ("namespace", _) => asked.namespace = Some(value),
                ("pod", _) => asked.pod = Some(value),
                ("container", _) => asked.container = Some(value),
                ("stream", "stdout") => asked.stream = Some(StreamKind::Stdout),
                ("stream", "stderr") => asked.stream = Some(StreamKind::Stderr),
                ("grep", _) => {
                    let made = RegexBuilder::new(&value).size_limit(REGEX_BYTES).build();
                    asked.grep = Some(made.map_err(|source| QueryFault::Grep { source })?);
                }
                ("output", "text") => asked.format = Format::Text,
                ("output", "json") => asked.format = Format::Json,
                ("output", "cri") => asked.format = Format::Cri,
                ("tail", _) => asked.tail = Some(value.parse().map_err(|_| not_understood())?),
                ("follow", "1") => asked.follow = true,
                ("follow", "0") => asked.follow = false,
                _ => return Err(not_understood()),
            }
        }
        Ok(asked)
    }

    /// Begins to answer.
    pub(super) fn answer(self, journal: &Arc<Heads>) -> Result<Answer, QueryFault> {
        let place = Place::take().ok_or(QueryFault::Busy)?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let journal = Arc::clone(journal);
        let fault = |source| QueryFault::Thread { source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(fault)?;
        let run = move || {
            let _place = place;
            priority::yield_to_workloads();
            runtime.block_on(self.run(journal.glance(), &sender));
        };
        thread::Builder::new().name("logs".into()).spawn(run).map_err(fault)?;
        Ok(Answer::Pieces(pieces))
    }

    /// Sends all that was asked for, or what a client takes of it.
    async fn run(self, mut reader: impl Source, client: &mpsc::Sender<Piece>) {
        let mut writer = Writer::new(self.format);
        let mut last = Last::new(self.tail);
        loop {
            while let Some(waiting) = reader.try_recv() {
                self.write(&waiting.batch, &mut writer, last.as_mut());
                // A search may find nothing for long, and then nothing is sent that would tell of a client that went away.
                if client.is_closed() {
                    return;
                }
                if writer.out.len() >= PIECE && client.send(writer.take()).await.is_err() {
                    return;
                }
            }
            if let Some(last) = last.take() {
                last.put(&mut writer.out);
            }
            if !writer.out.is_empty() && client.send(writer.take()).await.is_err() {
                return;
            }
            if !self.follow {
                break;
            }
            let next = tokio::select! {
                next = reader.recv() => next,
                // A client that went away is not waited with for the next line.
                () = client.closed() => return,
            };
            let Some(waiting) = next else { break };
            self.write(&waiting.batch, &mut writer, None);
        }
        // Nobody is told where the client is gone.
        let _ = client.send(Piece::End).await;
    }

    fn write(&self, batch: &Batch, writer: &mut Writer, mut last: Option<&mut Last>) {
        if !self.wants(&batch.origin) {
            return;
        }
        for record in batch.records.iter().filter(|record| self.matches(record)) {
            let before = writer.out.len();
            writer.record(&batch.origin, record);
            if let Some(last) = &mut last {
                last.push(writer.out.split_off(before));
            }
        }
    }

    fn wants(&self, origin: &Origin) -> bool {
        let (name, identity) = (&origin.name, &origin.identity);
        let is = |wanted: &Option<String>, candidates: &[Option<&str>]| {
            wanted.as_deref().is_none_or(|wanted| candidates.contains(&Some(wanted)))
        };
        let id = name.container.as_str();
        // As much of an id as `shimtap ps` shows is enough.
        let begins = |wanted: &str| wanted.len() >= 8 && id.starts_with(wanted);
        is(&self.namespace, &[identity.namespace.as_deref(), Some(&name.namespace)])
            && is(&self.pod, &[identity.pod.as_deref(), identity.pod_uid.as_deref()])
            && (is(&self.container, &[identity.container.as_deref(), Some(&identity.name), Some(id)])
                || self.container.as_deref().is_some_and(begins))
            && self.stream.is_none_or(|stream| stream == name.stream)
    }

    /// What is missing is shown whatever is searched for: it might have matched.
    fn matches(&self, record: &Record) -> bool {
        match (&self.grep, &record.body) {
            (Some(grep), Body::Line(message)) => grep.is_match(message),
            _ => true,
        }
    }
}

/// The last lines, until all that is there was read.
struct Last {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    most: usize,
}

// === impl Last ===

impl Last {
    fn new(tail: Option<usize>) -> Option<Self> {
        tail.map(|most| Self { lines: VecDeque::new(), bytes: 0, most: most.min(TAIL_LINES) })
    }

    fn push(&mut self, line: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(line.len());
        self.lines.push_back(line);
        while self.lines.len() > self.most || self.bytes > TAIL_BYTES {
            let Some(first) = self.lines.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(first.len());
        }
    }

    fn put(self, out: &mut Vec<u8>) {
        out.extend(self.lines.into_iter().flatten());
    }
}

// === impl Place ===

impl Place {
    fn take() -> Option<Self> {
        let taken = RUNNING.fetch_add(1, Ordering::AcqRel);
        // Dropped where there is none, which gives it back.
        let place = Self;
        (taken < QUERIES).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Writer ===

impl Writer {
    fn new(format: Format) -> Self {
        Self { format, json: json::Encoder::default(), cri: cri::Encoder::default(), out: Vec::new() }
    }

    fn take(&mut self) -> Piece {
        Piece::Some(Bytes::from(std::mem::take(&mut self.out)))
    }

    fn record(&mut self, origin: &Origin, record: &Record) {
        match self.format {
            Format::Json => self.json.record(&mut self.out, origin, record),
            Format::Cri => self.cri.record(&mut self.out, origin, record),
            Format::Text => self.text(origin, record),
        }
    }

    fn text(&mut self, origin: &Origin, record: &Record) {
        let mut head = String::new();
        // Writing to a string cannot fail.
        let _ = write_rfc3339(&mut head, record.time_ns);
        let stream = origin.name.stream.label();
        let identity = &origin.identity;
        let namespace = identity.namespace.as_deref().unwrap_or(&origin.name.namespace);
        let container = identity.container.as_deref().unwrap_or(&identity.name);
        let _ = match &identity.pod {
            Some(pod) => write!(head, " {namespace}/{pod}/{container} {stream} "),
            None => write!(head, " {namespace}/{container} {stream} "),
        };
        self.out.extend_from_slice(head.as_bytes());
        match &record.body {
            Body::Line(message) => self.out.extend_from_slice(message),
            Body::Hole(hole) => {
                let bytes = record.to.saturating_sub(record.from);
                let text = match hole.lines {
                    None => format!("[{bytes} bytes are missing here: {}]", hole.reason.label()),
                    Some(lines) => {
                        format!("[{bytes} bytes are missing here: {}, {lines} lines]", hole.reason.label())
                    }
                };
                self.out.extend_from_slice(text.as_bytes());
            }
        }
        self.out.push(b'\n');
    }
}

/// `%41` is `A`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit()?.checked_mul(16)?.checked_add(digit()?)?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::{
        enrich::Identity,
        event::{Flags, Progress, StreamName},
        sinks::{Settle, Waiting},
    };

    #[test]
    fn a_query_is_understood_or_refused() {
        let asked = Query::parse("container=web&stream=stderr&grep=%5Ea+b%25&output=cri&tail=7&follow=1");
        let asked = asked.expect("understood");
        assert_eq!((asked.container.as_deref(), asked.stream), (Some("web"), Some(StreamKind::Stderr)));
        assert_eq!(asked.grep.expect("one").as_str(), "^a+b%");
        assert_eq!((asked.format, asked.tail, asked.follow), (Format::Cri, Some(7), true));
        for wrong in ["colour=red", "stream=stdin", "grep=(", "tail=x", "pod=%zz", "pod=%f", "follow=maybe"] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_are_given_back() {
        let places: Vec<_> = std::iter::from_fn(Place::take).take(QUERIES + 1).collect();
        assert_eq!(places.len(), QUERIES);
        drop(places);
        assert!(Place::take().is_some());
    }

    fn batch() -> Batch {
        let name = StreamName {
            namespace: "default".into(),
            container: "c".into(),
            incarnation: 1,
            process: String::new(),
            stream: StreamKind::Stdout,
        };
        let origin = Arc::new(Origin::new(name, Arc::new(Identity::unknown())));
        let body = Body::Line(Bytes::from_static(b"line"));
        let records = vec![Record { from: 0, to: 5, time_ns: 1, flags: Flags::NONE, body }];
        let receipt = Arc::new(Progress::default());
        Batch { origin, records, end: 5, ending: None, receipt, received: Instant::now(), last: false }
    }

    /// Of one line, again and again; counts how often it was asked.
    struct Many(Arc<AtomicUsize>);

    const MANY: usize = 1000;

    impl Source for Many {
        async fn recv(&mut self) -> Option<Waiting> {
            None
        }

        fn try_recv(&mut self) -> Option<Waiting> {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            (asked < MANY).then(|| Waiting::without_room(batch()))
        }

        async fn gather(&mut self, _: Duration) {}

        fn settle_first(&mut self, _: Arc<dyn Settle>) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_search_that_finds_nothing_ends_with_its_client() {
        let asked = Arc::new(AtomicUsize::new(0));
        let query = || Query::parse("grep=never").expect("understood");
        let (sender, mut pieces) = mpsc::channel(PIECES);
        query().run(Many(Arc::clone(&asked)), &sender).await;
        assert_eq!(asked.swap(0, Ordering::Relaxed), MANY + 1, "somebody waits for the end");
        assert!(matches!(pieces.try_recv(), Ok(Piece::End)));
        drop(pieces);
        query().run(Many(Arc::clone(&asked)), &sender).await;
        assert!(asked.load(Ordering::Relaxed) <= 1, "nobody waits for it");
    }
}
