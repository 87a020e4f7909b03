//! What the messages of one wrapper mean. No IO: it takes decoded messages and says what goes back.

mod heads;
mod output;

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::Arc,
    time::Duration,
};

use protobuf::MessageField;
use shimtap_proto::link::{self, from_collector, from_wrapper};
use tokio::{sync::watch, time::Instant};

use self::heads::stream_of;
use super::{
    Ingest,
    acks::Acks,
    event_label::EventLabel,
    fault::IngestFault,
    happened::happened,
    stream_counts::{not_captured, show},
    streams::{Place, Slot},
};
use crate::{
    enrich::ShimKind,
    event::{Origin, StreamName},
    metrics::{About, Container, Death, Notice, Sample, SampleSource, Undecoded, Unwrapped, Update, Wrapper},
    rules::Rules,
    time::now_ns,
};

/// One wrapper on one connection.
#[derive(Debug)]
pub(super) struct Session {
    ingest: Arc<Ingest>,
    /// The connection's number; streams know their owner by it.
    id: u64,
    wrapper: Arc<Wrapper>,
    /// How often the wrapper may ask for statistics; a change since the welcome is one to whoever gets this.
    floor: watch::Receiver<Duration>,
    /// A connection carries it; else it comes from a file.
    attached: bool,
    tasks: HashMap<u32, Task>,
    streams: HashMap<u32, Stream>,
    /// The last tasks that are over: what comes of them now came too late, and waits for nothing.
    over: VecDeque<u32>,
    acks: Arc<Acks>,
    /// Bytes of unfinished lines of all streams. They are not acknowledged, so they take up the wrapper's window.
    held: usize,
    /// Streams with an unfinished line, and since when it waits.
    unfinished: HashMap<u32, Instant>,
    /// From a file: every stream that it spoke of.
    carried: Vec<Arc<Slot>>,
}

/// The version of the link that this release speaks; `next_link` is the tests' next one and set by no build of ours.
const PROTOCOL: u32 = if cfg!(next_link) { link::PROTOCOL + 1 } else { link::PROTOCOL };
/// Most of tasks that are over; an answer that is overtaken by the last word on its task is on its way by then.
const OVER: usize = 64;

#[derive(Debug)]
struct Task {
    container: Arc<Container>,
    handles: Vec<u32>,
}

#[derive(Debug)]
struct Stream {
    slot: Arc<Slot>,
}

// === impl Session ===

impl Session {
    /// A wrapper said hello; gives what it is answered.
    pub(super) fn begin(
        ingest: &Arc<Ingest>,
        id: u64,
        hello: &link::Hello,
    ) -> Result<(Self, link::FromCollector), IngestFault> {
        if hello.protocol == 0 {
            return Err(IngestFault::Order("a hello must name the protocol's version"));
        }
        let wrapper = ingest.registry.attach(hello);
        wrapper.machine.is_of(ShimKind::of(&hello.inner.binary, &hello.id, Path::new("/")));
        ingest.spools.share_among(ingest.registry.attached_count());
        let floor = wrapper.machine.floor();
        let interval = millis(ingest.stats.interval);
        let settings = link::Settings {
            stats_interval_ms: interval,
            spool_bytes: *ingest.spools.share().borrow(),
            stats_poll_floor_ms: Some(millis(*floor.borrow())),
            gather_ms: Some(millis(ingest.config.gather)),
            ..link::Settings::default()
        };
        let welcome = link::Welcome {
            protocol: hello.protocol.min(PROTOCOL),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: MessageField::some(settings),
            event_seq: wrapper.event_seq(),
            ..link::Welcome::default()
        };
        let mut session = Self::new(ingest, id, wrapper, true);
        session.floor = floor;
        Ok((session, answer(from_collector::Body::Welcome(welcome))))
    }

    /// The same for what a wrapper wrote to a file: nobody is there to be answered.
    pub(super) fn replay(ingest: &Arc<Ingest>, id: u64, hello: &link::Hello) -> Self {
        Self::new(ingest, id, ingest.registry.wrapper(hello), false)
    }

    fn new(ingest: &Arc<Ingest>, id: u64, wrapper: Arc<Wrapper>, attached: bool) -> Self {
        Self {
            ingest: Arc::clone(ingest),
            id,
            floor: wrapper.machine.floor(),
            wrapper,
            attached,
            tasks: HashMap::new(),
            streams: HashMap::new(),
            over: VecDeque::new(),
            acks: Arc::default(),
            held: 0,
            unfinished: HashMap::new(),
            carried: Vec::new(),
        }
    }

    /// Every stream that was announced, also by now deleted ones, and the next byte that is wanted of it.
    pub(super) fn reached(&self) -> Vec<(Arc<Slot>, u64)> {
        self.carried.iter().map(|slot| (Arc::clone(slot), slot.next())).collect()
    }

    /// How often the wrapper may ask for statistics, and word of its changes.
    pub(super) fn poll_floor(&self) -> watch::Receiver<Duration> {
        self.floor.clone()
    }

    /// What is to be acknowledged.
    pub(super) fn acks(&self) -> Arc<Acks> {
        Arc::clone(&self.acks)
    }

    /// The answers to all announcements so far were sent.
    pub(super) fn announced(&self) {
        self.acks.announced();
    }

    /// Takes a message; gives what it is answered, if anything. Waits for room in the sink's queue and for nothing
    /// else; giving up meanwhile loses nothing, for no position has moved then.
    pub(super) async fn take(
        &mut self,
        message: link::FromWrapper,
    ) -> Result<Option<link::FromCollector>, IngestFault> {
        match message.body {
            Some(from_wrapper::Body::Data(data)) => self.data(data.into()).await?,
            Some(from_wrapper::Body::Gap(gap)) => self.gap(&gap).await?,
            Some(from_wrapper::Body::Close(close)) => self.close(&close).await?,
            Some(from_wrapper::Body::Open(open)) => return self.open(&open).map(Some),
            Some(from_wrapper::Body::Stats(stats)) => self.stats(&stats)?,
            Some(from_wrapper::Body::Event(event)) => self.event(event),
            Some(from_wrapper::Body::Report(report)) => self.report(report),
            Some(from_wrapper::Body::Gone(gone)) => self.gone(&gone)?,
            Some(from_wrapper::Body::Hello(_)) => return Err(IngestFault::Order("a second hello")),
            // A body of a later release: ignored, as the protocol says.
            _ => {}
        }
        Ok(None)
    }

    fn report(&self, report: link::Report) {
        for (handle, task) in &self.tasks {
            task.container.live().stats_refused = report.stats_refused.contains(handle);
        }
        for stall in &report.stalls {
            if let Some(stream) = self.streams.get(&stall.handle) {
                stream.slot.counts.stalled(stall.ns);
            }
        }
        for notice in self.wrapper.reported(&report) {
            let about = self.wrapper.about();
            notice.say(&about);
            if let Notice::Unwrapped(why) = notice {
                let About { namespace, id, .. } = about;
                self.ingest.registry.note_unwrapped(Unwrapped { time_ns: now_ns(), namespace, id, why });
            }
        }
    }

    fn open(&mut self, open: &link::Open) -> Result<link::FromCollector, IngestFault> {
        let limit = self.ingest.config.tasks;
        // Two streams per process, and some room for captured execs.
        if self.tasks.len() >= limit || open.stdio.len() > 64 {
            return Err(IngestFault::Tasks(limit));
        }
        let early = self.wrapper.take_early(open.task);
        // An exit that is still to be counted here is none that another collector has counted.
        let is_exit =
            |event: &link::Event| EventLabel::of(event) == EventLabel::Exit && event.process.is_empty();
        let exited_ns = if early.iter().any(is_exit) { 0 } else { open.exited_ns };
        let open = &link::Open { exited_ns, ..open.clone() };
        let container = self.ingest.registry.container(open, &self.wrapper.inner());
        container.attach(self.id);
        for event in early {
            happened(&self.ingest.registry, &self.wrapper, &container, &event);
        }
        let rules = self.rules();
        let mut ready = link::Ready { task: open.task, ..link::Ready::default() };
        let mut handles = Vec::new();
        for stdio in &open.stdio {
            let Some(stream) = stream_of(stdio) else { continue };
            if stdio.handle == 0 {
                show(&container, &Arc::new(not_captured(stream, stdio)));
                continue;
            }
            let name = StreamName {
                namespace: open.namespace.clone(),
                container: open.container.clone(),
                incarnation: open.incarnation,
                process: stdio.process.clone(),
                stream,
            };
            let origin = Arc::new(Origin::new(name, Arc::clone(&container.identity)));
            let (clock, budget) = (&container.clock, &container.budget);
            let slot = self.ingest.streams.attach(&origin, clock, budget, self.id);
            slot.judge(self.id, rules.judge(&container.identity, stream));
            slot.acknowledged(stdio.acked);
            show(&container, &slot.counts);
            self.acks.watch(open.task, stdio.handle, &slot);
            ready.streams.push(self.position(stdio.handle, slot.place()));
            handles.push(stdio.handle);
            if slot.held() > 0 {
                self.unfinished.insert(stdio.handle, Instant::now());
            }
            self.held = self.held.saturating_add(slot.held());
            if !self.attached {
                self.carried.push(Arc::clone(&slot));
            }
            if let Some(old) = self.streams.insert(stdio.handle, Stream { slot }) {
                self.held = self.held.saturating_sub(old.slot.held());
            }
        }
        self.tasks.insert(open.task, Task { container, handles });
        Ok(answer(from_collector::Body::Ready(ready)))
    }

    /// Tells when there are other rules.
    pub(super) fn watch_rules(&self) -> watch::Receiver<Arc<Rules>> {
        self.ingest.rules.clone()
    }

    fn position(&self, handle: u32, place: Place) -> link::StreamPosition {
        let Place { next, capture, redacted } = place;
        let spool_to_disk = self.ingest.spools.config.disk && !redacted;
        link::StreamPosition { handle, next, capture, spool_to_disk, ..link::StreamPosition::default() }
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.ingest.rules.borrow())
    }

    /// Other rules hold from here on; gives what the wrapper must know of that.
    pub(super) fn judge_again(&self) -> Vec<link::FromCollector> {
        let rules = self.rules();
        let mut answers = Vec::new();
        for (task, Task { container, handles }) in &self.tasks {
            let changed = handles.iter().filter_map(|handle| {
                let slot = &self.streams.get(handle)?.slot;
                let verdict = rules.judge(&container.identity, slot.origin.name.stream);
                Some(self.position(*handle, slot.judge(self.id, verdict)?))
            });
            let streams: Vec<_> = changed.collect();
            if !streams.is_empty() {
                let ready = link::Ready { task: *task, streams, ..link::Ready::default() };
                answers.push(answer(from_collector::Body::Ready(ready)));
            }
        }
        answers
    }

    fn stats(&self, stats: &link::Stats) -> Result<(), IngestFault> {
        let task = self.tasks.get(&stats.task).ok_or(IngestFault::Handle(stats.task))?;
        let totals = &self.ingest.registry.totals;
        let source = SampleSource::of(stats);
        let taken = Sample::decode(stats).and_then(|sample| {
            if task.container.sampled(sample, source) { Ok(()) } else { Err(Undecoded::Stale) }
        });
        match taken {
            Ok(()) => totals.samples.add(source, 1),
            Err(why) => totals.samples_undecoded.add(why, 1),
        }
        Ok(())
    }

    /// Events may concern a task that was never announced (its creation failed), so an unknown one is no fault.
    fn event(&mut self, event: link::Event) {
        self.acks.event(event.seq);
        let Some(missed) = self.wrapper.take_event(event.seq) else { return };
        let totals = &self.ingest.registry.totals;
        totals.events_missed.add(missed);
        if missed > 0 {
            // One of them may have been an Update.
            self.tasks.values().for_each(|task| task.container.update(Update::Limits(None)));
        }
        let kind = EventLabel::of(&event);
        totals.events.add(kind, 1);
        if kind == EventLabel::WorkerRestart {
            // The wrapper's own, of no task: it must not take a place among those that wait for one.
            let death = Death::of(&event);
            self.wrapper.died(death.clone());
            Notice::Died(death).say(&self.wrapper.about());
            return;
        }
        if kind == EventLabel::Create && event.code != 0 {
            // There will never be a task of it.
            self.note_over(event.task);
            self.refused();
            return;
        }
        match self.tasks.get(&event.task) {
            Some(task) => happened(&self.ingest.registry, &self.wrapper, &task.container, &event),
            // Of no task (its container is not observed), or of one that is over: nobody will announce it.
            None if event.task == 0 || self.over.contains(&event.task) => {}
            None => self.ingest.registry.totals.events_missed.add(self.wrapper.keep_early(event)),
        }
    }

    /// That task will be announced no more, or never.
    fn note_over(&mut self, task: u32) {
        self.wrapper.take_early(task);
        self.over.truncate(OVER - 1);
        self.over.push_front(task);
    }

    /// A Create was refused.
    fn refused(&self) {
        let neighbour = self.tasks.values().next().map(|task| &*task.container);
        let shim = neighbour
            .map_or_else(|| ShimKind::named(&self.wrapper.inner().binary), |container| container.shim);
        self.ingest.registry.lifecycle.refused(shim, neighbour);
    }

    fn gone(&mut self, gone: &link::Gone) -> Result<(), IngestFault> {
        let task = self.tasks.remove(&gone.task).ok_or(IngestFault::Handle(gone.task))?;
        task.container.update(Update::Deleted);
        for handle in task.handles {
            if let Some(stream) = self.streams.remove(&handle) {
                self.held = self.held.saturating_sub(stream.slot.held());
                self.unfinished.remove(&handle);
                stream.slot.detach(self.id);
                // Of one without an end something may still be given: the sweep does that, and then it has ended.
                if stream.slot.end().is_some() {
                    self.ingest.streams.ended(&stream.slot);
                }
            }
        }
        self.acks.forget(gone.task);
        self.note_over(gone.task);
        Ok(())
    }

    fn slot(&self, handle: u32) -> Result<Arc<Slot>, IngestFault> {
        self.streams.get(&handle).map(|stream| Arc::clone(&stream.slot)).ok_or(IngestFault::Handle(handle))
    }
}

/// The connection ended, whatever way: its streams wait for the next one.
impl Drop for Session {
    fn drop(&mut self) {
        for stream in self.streams.values() {
            stream.slot.detach(self.id);
        }
        for task in self.tasks.values() {
            task.container.detach(self.id);
        }
        if self.attached {
            self.ingest.registry.detach(&self.wrapper);
            self.ingest.spools.share_among(self.ingest.registry.attached_count());
        } else {
            self.ingest.registry.part_with(&self.wrapper);
        }
    }
}

/// A message to a wrapper.
pub(super) fn answer(body: from_collector::Body) -> link::FromCollector {
    link::FromCollector { body: Some(body), ..link::FromCollector::default() }
}

/// As the wire has it.
pub(super) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(in crate::ingest) mod tests;
