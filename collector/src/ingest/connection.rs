//! One connection: the request, the hello, then both directions until one of them ends.
//!
//! Reading and acknowledging are two futures of one task. Reading may wait for the sink; acknowledging never waits
//! for reading, so that a wrapper whose bytes are durable always learns it: they share nothing but the right to write one
//! message.

use std::{pin::Pin, sync::Arc, time::Duration};

use protobuf::Message;
use shimtap_proto::{
    link::{self, from_collector, from_wrapper},
    ttrpc::{Code, FLAG_NO_DATA, Kind, RequestView, status_frame},
};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    Ingest,
    acks::{Acks, Outstanding},
    data::Data,
    fault::IngestFault,
    frames::{self, Frame, FrameReader},
    session::{Session, answer, millis},
};

/// How long what is durable may go unacknowledged where nobody waits for it; the protocol promises 500 ms. Each
/// acknowledgement wakes a wrapper, and there is one per pod.
const ACK_DELAY: Duration = Duration::from_millis(450);
/// The same where an event is among it: a wrapper whose pod is over stays until its events were taken.
const EVENT_DELAY: Duration = Duration::from_millis(50);
/// The same where only acknowledgements keep us: the sink works on the last bytes.
const LAST_DELAY: Duration = Duration::from_millis(5);
/// A peer that takes nothing for this long is not there. Answers are a few hundred bytes.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long a connection is kept open at the collector's end, for the acknowledgements of what it has taken.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// How a connection ended without a fault.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The wrapper closed it.
    Closed,
    /// We are to stop.
    Stopped,
}

/// What a wrapper is told again when it changes.
struct Told {
    /// Its share of what spool files may hold.
    share: watch::Receiver<u64>,
    /// Least time between two Stats of its own.
    floor: watch::Receiver<Duration>,
}

type Reader = FrameReader<OwnedReadHalf>;

/// The writing half of a connection.
struct Writer {
    to: OwnedWriteHalf,
    /// The stream that all messages are of.
    stream_id: u32,
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    stream: UnixStream,
    ingest: Arc<Ingest>,
    id: u64,
    mut stop: watch::Receiver<bool>,
) -> Result<End, IngestFault> {
    let limits = &ingest.config;
    let (read, write) = stream.into_split();
    let mut reader = FrameReader::new(read, limits.message_bytes, limits.message);
    let mut writer = Writer { to: write, stream_id: 0 };
    // What happens once, or while a message is taken, has memory of its own: a connection waits nearly always, there is one
    // per pod, and it holds what its largest step needs for as long as it is there.
    let greeting = Box::pin(timeout_at(Instant::now() + limits.hello, greet(&mut reader, &mut writer)));
    let greeted = tokio::select! {
        greeted = greeting => greeted.map_err(|_| IngestFault::HelloTimeout(limits.hello))??,
        _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
    };
    let Some(hello) = greeted else { return Ok(End::Closed) };
    let wrapper = hello.wrapper;
    let (session, told) = Box::pin(welcome(&ingest, id, hello, &mut writer)).await?;
    let (acks, stream_id) = (session.acks(), writer.stream_id);
    // Both directions write: answers, and acknowledgements. Who waits for the other waits for the peer to take a message.
    let writer = Mutex::new(writer);
    let writing = write_all(&writer, Arc::clone(&acks), told);
    let spooled = Box::pin(spooled_first(Arc::clone(&ingest), wrapper));
    let reading = async {
        let end = read_all(reader, stream_id, session, spooled, &writer, stop).await;
        acks.finish();
        end
    };
    tokio::pin!(reading, writing);
    tokio::select! {
        // Neither loses anything by being dropped when the other has ended: the connection is over then.
        read = &mut reading => match read? {
            // `writing` ends by itself now, when everything taken is acknowledged.
            End::Stopped => timeout(DRAIN_TIME, writing).await.unwrap_or(Ok(())).map(|()| End::Stopped),
            End::Closed => Ok(End::Closed),
        },
        wrote = &mut writing => wrote.map(|()| End::Closed),
    }
}

/// Reads the request and the hello; `None` where the peer went away before. The writer knows its stream then.
async fn greet(reader: &mut Reader, writer: &mut Writer) -> Result<Option<link::Hello>, IngestFault> {
    let Some(request) = reader.next().await? else { return Ok(None) };
    let stream_id = request.header.stream_id;
    if request.header.kind != Kind::Request || stream_id % 2 != 1 {
        return Err(IngestFault::Frame("a connection begins with a request on an odd stream"));
    }
    let view = RequestView::decode(&request.body).map_err(IngestFault::Envelope)?;
    if view.service != link::SERVICE || view.method != link::METHOD {
        let fault = IngestFault::Service { service: shortened(view.service), method: shortened(view.method) };
        let answer = status_frame(stream_id, Code::UNIMPLEMENTED, &fault.to_string());
        frames::write(&mut writer.to, &answer, WRITE_TIME).await?;
        return Err(fault);
    }
    let body = if view.payload.is_empty() {
        let Some(frame) = reader.next().await? else { return Ok(None) };
        check(&frame, stream_id)?;
        frame.body.to_vec()
    } else {
        view.payload.to_vec()
    };
    match decode(&body)?.body {
        Some(from_wrapper::Body::Hello(hello)) => {
            writer.stream_id = stream_id;
            Ok(Some(hello))
        }
        _ => Err(IngestFault::Order("the first message must be a hello")),
    }
}

/// Begins a session with whoever said hello, and welcomes it.
async fn welcome(
    ingest: &Arc<Ingest>,
    id: u64,
    hello: link::Hello,
    writer: &mut Writer,
) -> Result<(Box<Session>, Told), IngestFault> {
    let (session, welcome) = Session::begin(ingest, id, &hello)?;
    // What it is now stands in the welcome.
    let told = Told { share: ingest.spools.share(), floor: session.poll_floor() };
    writer.send(&welcome).await?;
    #[cfg(next_link)]
    writer.send(&super::next::body()).await?;
    Ok((Box::new(session), told))
}

/// What the wrapper wrote to files comes before what it says now.
async fn spooled_first(ingest: Arc<Ingest>, wrapper: u64) {
    ingest.spools.take_of(&ingest, wrapper).await;
}

/// Takes messages until the wrapper closes the stream or we are to stop.
async fn read_all(
    mut reader: Reader,
    stream_id: u32,
    mut session: Box<Session>,
    spooled: Pin<Box<impl Future<Output = ()>>>,
    writer: &Mutex<Writer>,
    mut stop: watch::Receiver<bool>,
) -> Result<End, IngestFault> {
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    tokio::pin!(stopped);
    let mut rules = session.watch_rules();
    let mut spooled = Some(spooled);
    loop {
        let due = session.fragments_due();
        let next = tokio::select! {
            // In this order: what is written after a reload was answered is judged by what was loaded, and who never pauses does not
            // keep others' beginnings of lines waiting.
            biased;
            () = &mut stopped => return Ok(End::Stopped),
            // Cancel-safe, and ends with an error only where the collector ends.
            Ok(()) = rules.changed() => {
                Box::pin(judge_again(&session, writer)).await?;
                continue;
            }
            // Not polled where nothing waits.
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let fragments = Box::pin(session.fragments());
                tokio::select! {
                    done = fragments => done?,
                    () = &mut stopped => return Ok(End::Stopped),
                }
                continue;
            }
            // Cancel-safe: bytes of an unfinished frame stay in the reader.
            next = reader.next() => next?,
        };
        let Some(frame) = next else { return Ok(End::Closed) };
        check(&frame, stream_id)?;
        // Not before: with its first message the wrapper says that it has seen to the end of whoever writes its files.
        if let Some(spooled) = spooled.take() {
            tokio::select! {
                // Cancel-safe: a file that was not taken to its end stays.
                () = spooled => {}
                () = &mut stopped => return Ok(End::Stopped),
            }
        }
        if frame.header.flags & FLAG_NO_DATA == 0 {
            let taking = Box::pin(take(&mut session, &frame));
            let taken = tokio::select! {
                // Cancel-safe: see `Session::take`.
                taken = taking => taken?,
                () = &mut stopped => return Ok(End::Stopped),
            };
            if let Some(answer) = taken {
                Box::pin(tell(writer, &answer)).await?;
                session.announced();
            }
        }
        if frame.is_last() {
            return Ok(End::Closed);
        }
    }
}

/// What a message is answered, if anything.
async fn take(session: &mut Session, frame: &Frame) -> Result<Option<link::FromCollector>, IngestFault> {
    match Data::of(&frame.body) {
        Some(data) => session.data(data).await.map(|()| None),
        None => session.take(decode(&frame.body)?).await,
    }
}

/// Other rules hold: tells the wrapper what it must know of that.
async fn judge_again(session: &Session, writer: &Mutex<Writer>) -> Result<(), IngestFault> {
    for answer in session.judge_again() {
        tell(writer, &answer).await?;
    }
    Ok(())
}

/// Sends acknowledgements, and settings that change; ends when nothing more is read and nothing is left to acknowledge.
async fn write_all(writer: &Mutex<Writer>, acks: Arc<Acks>, mut told: Told) -> Result<(), IngestFault> {
    // When what is durable is acknowledged at the latest.
    let mut due: Option<Instant> = None;
    loop {
        let reading = !acks.is_finished();
        due = match acks.outstanding() {
            None if !reading => return Ok(()),
            None => None,
            Some(what) => {
                let latest = Instant::now() + if reading { delay(what) } else { LAST_DELAY };
                Some(due.map_or(latest, |due| due.min(latest)))
            }
        };
        tokio::select! {
            // Each of these only says that it is time to look again.
            () = acks.due.called() => {}
            Ok(settings) = told.changed(), if reading => Box::pin(tell(writer, &settings)).await?,
            // Not polled where nothing is outstanding.
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        if !acks.due.take_call() && due.is_none_or(|due| due > Instant::now()) {
            continue;
        }
        due = None;
        Box::pin(acknowledge(writer, &acks)).await?;
    }
}

/// Sends what can be acknowledged now, if anything.
async fn acknowledge(writer: &Mutex<Writer>, acks: &Acks) -> Result<(), IngestFault> {
    let mut writer = writer.lock().await;
    let Some(ack) = acks.collect() else { return Ok(()) };
    writer.send(&answer(from_collector::Body::Ack(ack))).await
}

/// Sends one message.
async fn tell(writer: &Mutex<Writer>, message: &link::FromCollector) -> Result<(), IngestFault> {
    writer.lock().await.send(message).await
}

/// How long what is outstanding may wait where nothing calls.
const fn delay(what: Outstanding) -> Duration {
    match what {
        Outstanding::Output => ACK_DELAY,
        Outstanding::Event => EVENT_DELAY,
    }
}

fn check(frame: &Frame, stream_id: u32) -> Result<(), IngestFault> {
    if frame.header.kind != Kind::Data {
        return Err(IngestFault::Frame("a second request, or an answer"));
    }
    if frame.header.stream_id != stream_id {
        return Err(IngestFault::Frame("data of another stream"));
    }
    Ok(())
}

fn decode(body: &[u8]) -> Result<link::FromWrapper, IngestFault> {
    link::FromWrapper::parse_from_bytes(body).map_err(IngestFault::Decode)
}

/// A peer's text as far as a log line has room for it.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

// === impl Writer ===

impl Writer {
    async fn send(&mut self, message: &link::FromCollector) -> Result<(), IngestFault> {
        #[cfg(next_link)]
        let message = &super::next::fields(message);
        let message = message.write_to_bytes().map_err(IngestFault::Decode)?;
        frames::write_data(&mut self.to, self.stream_id, &message, WRITE_TIME).await
    }
}

// === impl Told ===

impl Told {
    /// Waits for a change; gives what of the settings is another now. Cancel-safe: a change that was not taken stays one. Ends
    /// with an error only where the collector ends.
    async fn changed(&mut self) -> Result<link::FromCollector, watch::error::RecvError> {
        let settings = tokio::select! {
            changed = self.share.changed() => {
                changed?;
                link::Settings { spool_bytes: *self.share.borrow(), ..Default::default() }
            }
            changed = self.floor.changed() => {
                changed?;
                let floor = Some(millis(*self.floor.borrow()));
                link::Settings { stats_poll_floor_ms: floor, ..Default::default() }
            }
        };
        Ok(answer(from_collector::Body::Settings(settings)))
    }
}
