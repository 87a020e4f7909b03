//! Connecting: again and again with back-off, one session at a time.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::atomic::Ordering,
    time::Duration,
};

use protobuf::MessageField;
use shimtap_proto::link::{
    Count, FromCollector, FromWrapper, Hello, InnerShim, METHOD, PROTOCOL, Report, SERVICE, Welcome,
    from_collector, from_wrapper,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, sleep, timeout, timeout_at},
};
use ttrpc::r#async::{CSReceiver, CSSender, Client, ClientStream};

use super::{Switchboard, announce, inner, session::Session};
use crate::{
    block::{Block, counters::Counter},
    spool::is_written,
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

/// An attached stream, both ways, and what the collector greeted with.
pub struct Attachment {
    pub sender: CSSender<FromWrapper>,
    pub receiver: CSReceiver<FromCollector>,
    pub welcome: Welcome,
    /// Keeps the connection's tasks alive.
    _client: Client,
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

/// Attaches and serves sessions until the wrapper's life is over.
pub fn run(block: &'static Block, board: &'static Switchboard) {
    let Ok(runtime) = runtime() else { return };
    runtime.block_on(async {
        tokio::spawn(board.pulse.answer());
        serve(block, board).await;
    });
}

async fn serve(block: &'static Block, board: &'static Switchboard) {
    let mut pause = FIRST_PAUSE;
    let mut attached_before = block.tables().generation.load(Ordering::Relaxed) > 1;
    while block.tables().over.load(Ordering::Acquire) == 0 {
        if let Some(attachment) = attach(block, board).await {
            if std::mem::replace(&mut attached_before, true) {
                block.tables().counters.add(Counter::LinkReconnects);
            }
            pause = FIRST_PAUSE;
            board.set_attached(true);
            end_spooling(block, board).await;
            // Why a session ended does not matter here: the next one resumes from offsets.
            if let Ok(session) = Session::new(block, board, attachment) {
                let _ = session.run().await;
            }
            board.set_attached(false);
        }
        rest(block, board, with_jitter(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A collector is there: what a spool file has by now it will find there, and the file is its own. It opens it when we go
/// on, so the writer's end is waited for; one that is stuck in its disk is not.
async fn end_spooling(block: &Block, board: &Switchboard) {
    let spool = &block.tables().spool;
    let fold = || {
        block.tables().events_tail.fetch_max(block.tables().events_kept_elsewhere(), Ordering::AcqRel);
    };
    fold();
    spool.begin_generation();
    let until = Instant::now() + WRITER_END;
    while is_written(block).unwrap_or(false) && Instant::now() < until {
        board.pulse.beat();
        sleep(WRITER_LOOK).await;
    }
    spool.again_ns.store(0, Ordering::Release);
}

/// Waits, and meanwhile writes down what is known of new tasks: their bundles may be gone when a collector comes.
async fn rest(block: &Block, board: &Switchboard, pause: Duration) {
    let until = Instant::now() + pause;
    let Ok(wake) = board.link.listen() else { return sleep(pause).await };
    announce::keep_all(block);
    board.pulse.beat();
    while let Ok(Ok(())) = timeout_at(until, wake.rung()).await {
        announce::keep_all(block);
    }
}

/// Between half and all of it, so that a node's wrappers do not come back in step.
fn with_jitter(pause: Duration) -> Duration {
    let mut byte = [0u8; 1];
    let _ = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut byte));
    pause / 2 + pause * u32::from(byte[0]) / 512
}

async fn attach(block: &Block, board: &Switchboard) -> Option<Attachment> {
    let socket = block.tables().identity.collector.get();
    // First: connecting through the library allocates more than an absent collector is worth.
    if !is_there(&socket) {
        return None;
    }
    board.expect_collector();
    greet(&socket, hello(block)).await
}

/// Is there a socket of a collector? A plain look.
fn is_there(socket: &str) -> bool {
    Path::new(socket).exists()
}

async fn greet(socket: &str, hello: Hello) -> Option<Attachment> {
    let client = timeout(GREETING, Client::connect(&format!("unix://{socket}"))).await.ok()?.ok()?;
    let request =
        ttrpc::Request { service: SERVICE.to_owned(), method: METHOD.to_owned(), ..Default::default() };
    let inner = client.new_stream(request, true, true).await.ok()?;
    let (sender, mut receiver) = ClientStream::<FromWrapper, FromCollector>::new(inner).split();
    sender.send(&up(from_wrapper::Body::Hello(hello))).await.ok()?;
    let greeting = timeout(GREETING, receiver.recv()).await.ok()?.ok()?;
    let Some(from_collector::Body::Welcome(welcome)) = greeting.body else { return None };
    Some(Attachment { sender, receiver, welcome, _client: client })
}

/// As [`greet`], again and again as long as there is a socket.
async fn greet_while_there(socket: &str, hello: Hello) -> Option<Attachment> {
    loop {
        let attachment = greet(socket, hello.clone()).await;
        if attachment.is_some() || !is_there(socket) {
            return attachment;
        }
        sleep(FIRST_PAUSE).await;
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
    let Ok(runtime) = runtime() else { return };
    runtime.block_on(async {
        let told = async {
            let attachment = greet_while_there(socket, hello).await?;
            attachment.sender.send(&up(from_wrapper::Body::Report(report))).await.ok()?;
            attachment.sender.close_send().await.ok()?;
            // Its end of the stream says that it has read ours.
            let mut receiver = attachment.receiver;
            while receiver.recv().await.is_ok() {}
            Some(())
        };
        let _ = timeout(TELLING, told).await;
    });
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
