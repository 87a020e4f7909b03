//! Connecting: again and again with back-off, one session at a time.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use protobuf::{Message, MessageField};
use shimtap_proto::{
    link::{
        Count, FromCollector, FromWrapper, Hello, InnerShim, MESSAGE_MAX, METHOD, PROTOCOL, Report, SERVICE,
        Welcome, from_collector, from_wrapper,
    },
    ttrpc::{FLAG_REMOTE_CLOSED, Kind},
};

use super::{Switchboard, announce, inner, session::Session, wait, wire::Wire};
use crate::{
    block::{Block, counters::Counter},
    spool::is_written,
    sys::Kernel,
};

/// The version of the link that this release speaks; `next_layout` is the tests' next one and set by no build of ours.
const SPEAKS: u32 = if cfg!(next_layout) { PROTOCOL + 1 } else { PROTOCOL };
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A collector that does not greet within this time is treated as absent.
const GREETING: Duration = Duration::from_secs(5);
/// How long somebody tries whom nobody waits for.
const TELLING: Duration = Duration::from_secs(60);
/// A spool writer looks before each record whether it is still wanted; its disk may take its time over one.
const WRITER_END: Duration = Duration::from_secs(1);
const WRITER_LOOK: Duration = Duration::from_millis(2);

/// A stream of messages both ways that a collector has greeted on.
pub struct Attachment {
    pub link: Link,
    pub welcome: Welcome,
}

/// A stream of messages both ways.
pub struct Link {
    pub wire: Wire,
    pub stream_id: u32,
}

/// Attaches and serves sessions until the wrapper's life is over.
pub fn run(block: &'static Block, board: &'static Switchboard) {
    let mut pause = FIRST_PAUSE;
    let mut attached_before = block.tables().generation.load(Ordering::Relaxed) > 1;
    while block.tables().over.load(Ordering::Acquire) == 0 {
        if let Some(attachment) = attach(block, board) {
            if std::mem::replace(&mut attached_before, true) {
                block.tables().counters.add(Counter::LinkReconnects);
            }
            pause = FIRST_PAUSE;
            board.set_attached(true);
            end_spooling(block, board);
            // Why a session ended does not matter here: the next one resumes from offsets.
            if let Ok(session) = Session::new(block, board, attachment) {
                let _ = session.run();
            }
            board.set_attached(false);
        }
        rest(block, board, with_jitter(pause));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A collector is there: what a spool file has by now it will find there, and the file is its own. It opens it when we go
/// on, so the writer's end is waited for; one that is stuck in its disk is not.
fn end_spooling(block: &Block, board: &Switchboard) {
    block.tables().begin_generation();
    let until = Instant::now() + WRITER_END;
    while is_written(block).unwrap_or(false) && Instant::now() < until {
        board.pulse.beat();
        thread::sleep(WRITER_LOOK);
    }
    block.tables().spool.try_again();
}

/// Waits, and meanwhile writes down what is known of new tasks: their bundles may be gone when a collector comes.
fn rest(block: &Block, board: &Switchboard, pause: Duration) {
    let until = Instant::now() + pause;
    announce::keep_all(block);
    board.pulse.beat();
    while Instant::now() < until {
        match wait::sleep(board, [None, None], Some(until)) {
            Ok(heard) if heard.rung => announce::keep_all(block),
            Ok(_) => {}
            Err(_) => thread::sleep(until.saturating_duration_since(Instant::now())),
        }
    }
}

/// Between half and all of it, so that a node's wrappers do not come back in step.
fn with_jitter(pause: Duration) -> Duration {
    let mut byte = [0u8; 1];
    let _ = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut byte));
    pause / 2 + pause * u32::from(byte[0]) / 512
}

fn attach(block: &Block, board: &Switchboard) -> Option<Attachment> {
    let socket = block.tables().identity.collector.get();
    // A plain look: an absent collector is worth no more.
    if !is_there(&socket) {
        return None;
    }
    board.expect_collector();
    let sleep = |wire: &Wire, until| wait::sleep(board, [Some(wire), None], Some(until)).map(drop);
    greet(&socket, hello(block), sleep)
}

/// Is there a socket of a collector?
fn is_there(socket: &str) -> bool {
    Path::new(socket).exists()
}

/// Opens a stream and says who we are; `sleep` waits for the connection, until then at the latest.
fn greet(socket: &str, hello: Hello, sleep: impl Fn(&Wire, Instant) -> Kernel<()>) -> Option<Attachment> {
    let until = Instant::now() + GREETING;
    let mut link = Link::open(socket).ok()?;
    link.say(from_wrapper::Body::Hello(hello)).ok()?;
    while Instant::now() < until {
        sleep(&link.wire, until).ok()?;
        link.wire.exchange().ok()?;
        if let Some(greeting) = link.heard().ok()? {
            let Some(from_collector::Body::Welcome(welcome)) = greeting.body else { return None };
            return Some(Attachment { link, welcome });
        }
    }
    None
}

// === impl Link ===

impl Link {
    fn open(socket: &str) -> io::Result<Self> {
        let mut wire = Wire::connect(socket, MESSAGE_MAX)?;
        let stream_id = wire.open(SERVICE, METHOD)?;
        Ok(Self { wire, stream_id })
    }

    /// Says this, or keeps it until the collector takes it.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn say(&mut self, body: from_wrapper::Body) -> io::Result<()> {
        self.wire.say(self.stream_id, &up(body))
    }

    /// The next of the collector's messages that has come.
    ///
    /// # Errors
    /// It has ended the stream, or says what is no message of this protocol.
    pub fn heard(&mut self) -> io::Result<Option<FromCollector>> {
        let Some(frame) = self.wire.frame()? else { return Ok(None) };
        if frame.header.kind != Kind::Data || frame.header.flags & FLAG_REMOTE_CLOSED != 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        FromCollector::parse_from_bytes(&frame.body).map(Some).map_err(io::Error::from)
    }
}

/// Attaches to say once that a pod runs unwrapped and why, and leaves. One that does not greet is asked again, for as long as
/// [`TELLING`]; one that is away learns it from nobody.
pub fn tell_unwrapped(socket: &str, namespace: &str, id: &str, why: &str) {
    let hello = Hello {
        protocol: SPEAKS,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // A number of its own: this is nobody who will come again.
        wrapper: crate::sys::unix_ns(),
        namespace: namespace.to_owned(),
        id: id.to_owned(),
        ..Default::default()
    };
    let count = Count { name: "unwrapped_starts".to_owned(), value: 1, ..Default::default() };
    let report = Report { counts: vec![count], unwrapped_why: why.to_owned(), ..Default::default() };
    let until = Instant::now() + TELLING;
    let sleep = |wire: &Wire, until| wait::sleep_on(wire, until).map(drop);
    while Instant::now() < until && is_there(socket) {
        if let Some(attachment) = greet(socket, hello.clone(), sleep) {
            // Once: a collector that ends it in between may have taken it.
            let _ = tell(attachment.link, report, until);
            return;
        }
        thread::sleep(FIRST_PAUSE);
    }
}

/// Until the collector has read it: that is when it ends the stream.
fn tell(mut link: Link, report: Report, until: Instant) -> io::Result<()> {
    link.say(from_wrapper::Body::Report(report))?;
    link.wire.end(link.stream_id)?;
    while Instant::now() < until {
        wait::sleep_on(&link.wire, until)?;
        link.wire.exchange()?;
        while link.heard()?.is_some() {}
    }
    Ok(())
}

/// A message with this body.
pub fn up(body: from_wrapper::Body) -> FromWrapper {
    FromWrapper { body: Some(body), ..Default::default() }
}

/// Who this wrapper is.
pub fn hello(block: &Block) -> Hello {
    let tables = block.tables();
    let who = &tables.identity;
    let shim = InnerShim {
        binary: who.inner_binary.get(),
        address: format!("unix://{}", who.inner_path.get()),
        task_api: who.task_api.load(Ordering::Relaxed),
        pid: inner::pid(tables),
        ..Default::default()
    };
    Hello {
        protocol: SPEAKS,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wrapper: who.wrapper.load(Ordering::Relaxed),
        namespace: who.namespace.get(),
        id: who.id.get(),
        generation: tables.generation.load(Ordering::Relaxed),
        worker_pid: tables.worker_pid.load(Ordering::Relaxed),
        keeper_pid: tables.keeper_pid.load(Ordering::Relaxed),
        inner: MessageField::some(shim),
        ..Default::default()
    }
}
