//! One attachment: what is sent when, and what the collector's messages change.
//!
//! State here is only about this connection. What must outlive it (offsets, acknowledgements, events) is in the block.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use shimtap_proto::link::{
    Ack, FromCollector, Open, Ready, Settings, StatsSource, from_collector, from_wrapper,
};
use thiserror::Error;

use super::{
    Switchboard, announce,
    client::{Attachment, Link},
    report::Reporter,
    stats::{Poll, Poller},
    streams::{Cursors, Rest, Towards},
    wait,
};
use crate::{
    block::{Block, Task, TaskState},
    events::EventRing,
};

/// Why a session ended; the next one goes on where it stopped.
#[derive(Debug, Error)]
pub enum SessionEnd {
    /// The collector went away or broke the stream.
    #[error("the collector's stream ended")]
    Stream(#[from] io::Error),
    /// The kernel refused a mapping or a descriptor.
    #[error("reaching the memory block")]
    Block(#[from] nix::errno::Errno),
}

/// What has been said of a task on this connection, until the last word on it.
#[derive(Default)]
struct Said {
    opened: bool,
    polled: bool,
    /// When its newest sample was taken or sent.
    sampled: Option<Instant>,
    /// A last sample was asked for.
    final_asked: bool,
}

/// One attachment.
pub struct Session {
    block: &'static Block,
    board: &'static Switchboard,
    link: Link,
    events: EventRing,
    /// Sent and not yet acknowledged events: sequence number and position behind it.
    events_sent: VecDeque<(u64, u64)>,
    events_at: u64,
    known_event: u64,
    said: BTreeMap<u32, Said>,
    cursors: Cursors,
    reporter: Reporter,
    poller: Poller,
    /// When the next round of samples and reports is due.
    round: Instant,
    /// Least time between two Stats of ours for one task.
    poll_floor: Duration,
}

// === impl Session ===

impl Session {
    /// On a greeted attachment.
    pub fn new(
        block: &'static Block,
        board: &'static Switchboard,
        attachment: Attachment,
    ) -> Result<Self, SessionEnd> {
        let events = EventRing::new(block)?;
        let welcome = attachment.welcome;
        if let Some(settings) = welcome.settings.as_ref() {
            apply(block, settings);
        }
        let floor = welcome.settings.as_ref().and_then(poll_floor);
        let mut cursors = Cursors::new(block, Towards::Link);
        if let Some(ms) = welcome.settings.as_ref().and_then(|s| s.gather_ms) {
            cursors.gather(ms);
        }
        Ok(Self {
            block,
            board,
            link: attachment.link,
            events_at: events.tail(),
            known_event: welcome.event_seq.unwrap_or(0),
            events,
            events_sent: VecDeque::new(),
            said: BTreeMap::new(),
            cursors,
            reporter: Reporter::new(),
            poller: Poller::new(block, board),
            round: Instant::now(),
            poll_floor: floor.unwrap_or_default(),
        })
    }

    /// Until the stream ends or the wrapper's life is over.
    pub fn run(mut self) -> Result<(), SessionEnd> {
        while self.block.tables().over.load(Ordering::Acquire) == 0 {
            self.board.pulse.beat();
            let until = self.turn()?;
            // Who waits for the collector to take what was said would not do soon what it is asked for.
            let is_free = !self.is_held_up();
            if is_free {
                self.board.set_busy(false);
            }
            let heard = wait::sleep(self.board, [Some(&self.link.wire), self.poller.wire()], until)?;
            if is_free {
                self.board.set_busy(true);
            }
            let [link, inner] = heard.wires;
            if link {
                self.link.wire.exchange()?;
            }
            self.poller.turn(inner);
        }
        Ok(())
    }

    /// Hears and says what there is; when there will be more, unless something comes before that.
    fn turn(&mut self) -> Result<Option<Instant>, SessionEnd> {
        while let Some(message) = self.link.heard()? {
            self.hear(message);
        }
        // Armed before looking: what moves while we look wakes us.
        self.board.alarm.arm();
        let rest = self.say()?;
        match rest {
            Rest::Idle => {}
            Rest::Until(_) => self.board.alarm.only_much(),
            Rest::Asleep(_) | Rest::Full => self.board.alarm.disarm(),
        }
        self.poller.turn(false);
        // A round is something to say: it waits like all else.
        let round = (!self.is_held_up()).then_some(self.round);
        Ok([rest.until(), self.poller.due(), round].into_iter().flatten().min())
    }

    /// Does the collector not take what was said? Then nothing more is said: it would be kept in our memory.
    fn is_held_up(&self) -> bool {
        self.link.wire.is_held_up()
    }

    /// Says what there is to say, as long as the collector takes it; what the next output waits for.
    fn say(&mut self) -> Result<Rest, SessionEnd> {
        self.ask_final_samples();
        self.open_tasks()?;
        self.send_events()?;
        self.send_samples()?;
        if Instant::now() >= self.round && !self.is_held_up() {
            self.begin_round()?;
        }
        if self.is_held_up() {
            return Ok(Rest::Full);
        }
        let rest = self.cursors.send(&mut self.link)?;
        self.send_gone()?;
        Ok(rest)
    }

    /// Those of which there is more to say.
    fn tasks(&self) -> impl Iterator<Item = (usize, &'static Task)> + use<> {
        let tasks = self.block.tables().tasks().iter().enumerate();
        tasks.filter(|(_, t)| {
            let is_there = !matches!(TaskState::load(&t.state), TaskState::Free | TaskState::Creating);
            is_there && t.link_done.load(Ordering::Acquire) == 0
        })
    }

    fn open_tasks(&mut self) -> Result<(), SessionEnd> {
        for (index, task) in self.tasks() {
            if self.is_held_up() {
                break;
            }
            let said = self.said.entry(task.handle.load(Ordering::Relaxed)).or_default();
            if !said.opened {
                said.opened = true;
                let open = announce::open(self.block, index, task);
                let open = with_exit(open, task, &self.events, self.known_event);
                self.link.say(from_wrapper::Body::Open(open))?;
            }
            // A container that has just begun need not wait for the next round to be seen.
            if !said.polled && TaskState::load(&task.state) == TaskState::Running {
                said.polled = true;
                if self.board.may_ask(task.handle.load(Ordering::Relaxed), self.poll_floor) {
                    self.poller.ask(Poll { task: index, source: StatsSource::STATS_SOURCE_POLLED });
                }
            }
        }
        Ok(())
    }

    fn send_events(&mut self) -> Result<(), SessionEnd> {
        while !self.is_held_up()
            && let Some((event, behind)) = self.events.at(self.events_at)
        {
            self.events_at = behind;
            if event.seq <= self.known_event {
                self.events.taken(behind);
                continue;
            }
            self.events_sent.push_back((event.seq, behind));
            self.link.say(from_wrapper::Body::Event(event))?;
        }
        Ok(())
    }

    fn ask_final_samples(&mut self) {
        for (index, task) in self.tasks() {
            let said = self.said.entry(task.handle.load(Ordering::Relaxed)).or_default();
            if task.final_stats.load(Ordering::Acquire) == 1 && !said.final_asked {
                said.final_asked = true;
                self.poller.ask_final(index, self.poll_floor);
            }
        }
    }

    /// At most one sample per container and interval goes, unless it is the last.
    fn send_samples(&mut self) -> Result<(), SessionEnd> {
        let interval = self.interval();
        let samples = if self.is_held_up() { Vec::new() } else { self.board.take_samples() };
        for sample in samples {
            // Behind the last word on its task it would be of a task that nobody knows.
            let Some(said) = self.said.get_mut(&sample.task) else { continue };
            let last = sample.source == StatsSource::STATS_SOURCE_FINAL;
            let fresh = said.sampled.is_some_and(|at| at.elapsed() < interval.mul_f32(0.9));
            if !said.opened || (fresh && !last) {
                continue;
            }
            said.sampled = Some(Instant::now());
            let stats = shimtap_proto::link::Stats {
                task: sample.task,
                time_ns: sample.time_ns,
                type_url: sample.type_url,
                value: sample.value,
                source: sample.source.into(),
                ..Default::default()
            };
            self.link.say(from_wrapper::Body::Stats(stats))?;
        }
        Ok(())
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(
            u64::from(self.block.tables().stats_interval_ms.load(Ordering::Relaxed)).max(100),
        )
    }

    /// Once an interval: polls for containers whose newest sample is too old, and the counters.
    fn begin_round(&mut self) -> Result<(), SessionEnd> {
        let interval = self.interval();
        self.round = Instant::now() + interval;
        self.forget_evicted();
        for (index, task) in self.tasks() {
            let said = self.said.entry(task.handle.load(Ordering::Relaxed)).or_default();
            let lives = match TaskState::load(&task.state) {
                TaskState::Running => true,
                // Where we may not ask again soon, it is asked when there is something to tell.
                TaskState::Created => self.poll_floor.is_zero(),
                _ => false,
            };
            let old = |at: Instant| at.elapsed() >= interval.mul_f32(0.9);
            let handle = task.handle.load(Ordering::Relaxed);
            if lives && said.sampled.is_none_or(old) && self.board.may_ask(handle, self.poll_floor) {
                self.poller.ask(Poll { task: index, source: StatsSource::STATS_SOURCE_POLLED });
            }
        }
        self.reporter.note_refused(self.poller.refused());
        if let Some(report) = self.reporter.changed(self.block, &self.board.stalls) {
            self.link.say(from_wrapper::Body::Report(report))?;
        }
        Ok(())
    }

    /// A deleted task of which the collector has acknowledged everything, ends too, and of whose exit it was told, is done with.
    fn send_gone(&mut self) -> Result<(), SessionEnd> {
        for (index, task) in self.tasks() {
            let handle = task.handle.load(Ordering::Relaxed);
            let deleted = TaskState::load(&task.state) == TaskState::Deleted;
            if !deleted || !self.said.get(&handle).is_some_and(|said| said.opened) {
                continue;
            }
            // In this order: the event that an answer makes is there before its request is not.
            if !self.cursors.is_task_finished(index, task) || self.events.at(self.events_at).is_some() {
                continue;
            }
            self.cursors.forget_task(task);
            let gone = shimtap_proto::link::Gone {
                task: handle,
                time_ns: task.deleted_ns.load(Ordering::Relaxed),
                ..Default::default()
            };
            self.link.say(from_wrapper::Body::Gone(gone))?;
            // Whatever crosses it finds this word, and begins nothing.
            task.link_done.store(1, Ordering::Release);
            self.forget(handle);
            self.board.wake_relay();
        }
        Ok(())
    }

    fn forget(&mut self, handle: u32) {
        self.said.remove(&handle);
        self.poller.forget(handle);
    }

    /// A full table gives a deleted task's entry to the next one, without a last word.
    fn forget_evicted(&mut self) {
        let tasks = self.block.tables().tasks();
        let is_there = |handle: u32| {
            tasks.iter().any(|t| {
                TaskState::load(&t.state) != TaskState::Free && t.handle.load(Ordering::Relaxed) == handle
            })
        };
        let evicted: Vec<u32> = self.said.keys().copied().filter(|handle| !is_there(*handle)).collect();
        evicted.into_iter().for_each(|handle| self.forget(handle));
    }

    fn hear(&mut self, message: FromCollector) {
        match message.body {
            Some(from_collector::Body::Ready(ready)) => self.ready(&ready),
            Some(from_collector::Body::Ack(ack)) => self.acknowledged(&ack),
            Some(from_collector::Body::Settings(settings)) => {
                apply(self.block, &settings);
                self.poll_floor = poll_floor(&settings).unwrap_or(self.poll_floor);
                if let Some(ms) = settings.gather_ms {
                    self.cursors.gather(ms);
                }
            }
            // A second greeting, or something of a later release.
            _ => {}
        }
    }

    fn ready(&mut self, ready: &Ready) {
        for position in &ready.streams {
            self.cursors.begin(position);
        }
    }

    fn acknowledged(&mut self, ack: &Ack) {
        for stream in &ack.streams {
            self.cursors.acknowledged(stream.handle, stream.offset, stream.end);
        }
        let Some(seq) = ack.event_seq else { return };
        while let Some((_, behind)) = self.events_sent.front().copied().filter(|(s, _)| *s <= seq) {
            self.events.taken(behind);
            self.events_sent.pop_front();
        }
    }
}

/// With the exit, where no event that is to come tells of it: the collector before this one had that. In a file it is not said, since a
/// wrapper that lives says it after that, and one that does not has nothing to say of what was left.
fn with_exit(open: Open, task: &Task, events: &EventRing, known_event: u64) -> Open {
    // It is known when its event is there.
    if task.exit_known.load(Ordering::Acquire) == 0 || events.tells_of_exit(open.task, known_event) {
        return open;
    }
    let exited_ns = task.exited_ns.load(Ordering::Relaxed);
    Open { exited_ns, exit_status: task.exit_status.load(Ordering::Relaxed), ..open }
}

/// Only for this connection: without a collector nobody is asked.
fn poll_floor(settings: &Settings) -> Option<Duration> {
    settings.stats_poll_floor_ms.map(|ms| Duration::from_millis(ms.min(3_600_000).into()))
}

fn apply(block: &Block, settings: &Settings) {
    let tables = block.tables();
    if settings.stats_interval_ms != 0 {
        tables.stats_interval_ms.store(settings.stats_interval_ms.clamp(100, 3_600_000), Ordering::Relaxed);
    }
    if let Some(ms) = settings.coalesce_ms {
        tables.coalesce_ms.store(ms.min(1000), Ordering::Relaxed);
    }
    if let Some(ms) = settings.foreign_stats_bound_ms {
        tables.stats_bound_ms.store(ms, Ordering::Relaxed);
    }
    if settings.spool_bytes != 0 {
        tables.spool.share_bytes.store(settings.spool_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
