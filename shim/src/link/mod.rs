//! The link to the collector, and our own Stats requests: the worker's second thread.
//!
//! It may be slow, stuck or panicking; the relay thread never waits for it. The two meet in the block (ring, events,
//! words marked "link:") and on the [`Switchboard`].

mod alarm;
mod announce;
mod bell;
mod client;
mod inner;
mod pulse;
mod refusals;
pub(crate) mod report;
mod session;
pub(crate) mod stalls;
mod stats;
mod streams;
mod wait;
mod wire;

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use shimtap_proto::link::StatsSource;

use self::{alarm::Alarm, bell::Bell, pulse::Pulse, stalls::Stalls};
use crate::{
    block::{Block, Stream, StreamState, TaskState, linked},
    keeper::FD_FLOOR,
    sys::{Kernel, epoll, fd, monotonic_ns, process, unix_ns},
};

/// Unsent bytes of a stream from which on the link thread is woken whatever it waits for.
const BACKLOG: u64 = 64 << 10;
/// Samples that may wait for the link thread; more than any pod has containers.
const SAMPLES_MAX: usize = 256;

/// A turn of the link thread that takes longer waits for the collector.
const TURN_NS: u64 = 100_000_000;

/// Where relay and link thread leave word for each other.
pub struct Switchboard {
    relay: OwnedFd,
    link: Bell,
    /// Whether a collector is attached, and whether the link thread wants to be woken by the next byte.
    alarm: Alarm,
    /// Whether the link thread still turns.
    pub(crate) pulse: Pulse,
    /// Since when the link thread has been at something (CLOCK_MONOTONIC ns); 0 while it waits for something to do.
    busy_since: AtomicU64,
    /// A collector is about: it was attached at some time, or its socket is there.
    about: AtomicBool,
    /// How long containerd took nothing.
    pub(crate) stalls: Stalls,
    samples: Mutex<Vec<Sample>>,
    /// When we asked for a task's statistics last, by its handle: a new connection to a collector is no reason to ask again.
    asked: Mutex<BTreeMap<u32, Instant>>,
}

/// A Stats answer as it came.
pub struct Sample {
    pub task: u32,
    pub time_ns: u64,
    pub source: StatsSource,
    pub type_url: String,
    pub value: Vec<u8>,
}

pub use announce::look as look_at;
pub use client::{hello, tell_unwrapped, up};
pub use inner::{pid as inner_pid, runs as runs_inner};
pub use streams::{Cursors, Next, Towards};

/// Starts the thread; one that panics is started again.
pub fn spawn(block: &'static Block, board: &'static Switchboard) {
    let body = move || {
        // On a machine without a free cycle the container comes first; what does not fit the ring is counted.
        process::yield_to_others();
        board.pulse.begin();
        loop {
            board.set_attached(false);
            if catch_unwind(AssertUnwindSafe(|| client::run(block, board))).is_ok() {
                return;
            }
            board.pause_after_panic();
        }
    };
    // Without the thread the pod is relayed and teed all the same; its bytes stay in the ring.
    let _ = thread::Builder::new().name("tap-link".to_owned()).stack_size(256 << 10).spawn(body);
}

// === impl Switchboard ===

impl Switchboard {
    /// A wake-up for either side and nothing else.
    pub fn new() -> Kernel<Self> {
        let relay = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            relay: fd::raise(OwnedFd::from(relay), FD_FLOOR)?,
            link: Bell::new()?,
            alarm: Alarm::new(),
            pulse: Pulse::new()?,
            busy_since: AtomicU64::new(1),
            about: AtomicBool::new(false),
            stalls: Stalls::default(),
            samples: Mutex::new(Vec::new()),
            asked: Mutex::new(BTreeMap::new()),
        })
    }

    /// Is a collector attached?
    pub fn is_attached(&self) -> bool {
        self.alarm.is_attached()
    }

    /// Would the link thread do soon what it is asked for? It is at work whenever something has just happened, such as the kill
    /// before an exit; but a hung collector must not cost an exit its time.
    pub fn is_listening(&self) -> bool {
        let since = self.busy_since.load(Ordering::Acquire);
        self.is_attached() && (since == 0 || monotonic_ns().saturating_sub(since) < TURN_NS)
    }

    /// Link thread: it has something to do from now on, or nothing.
    fn set_busy(&self, busy: bool) {
        self.busy_since.store(if busy { monotonic_ns() } else { 0 }, Ordering::Release);
    }

    /// Is a collector about, though it may not be attached? A successor in a pod's last moments has not had the time.
    pub fn expects_collector(&self) -> bool {
        self.about.load(Ordering::Acquire)
    }

    fn expect_collector(&self) {
        self.about.store(true, Ordering::Release);
    }

    pub(crate) fn set_attached(&self, attached: bool) {
        self.set_busy(true);
        self.alarm.attach(attached);
    }

    /// Readable when the link thread has something for the relay.
    pub fn relay_wake(&self) -> &OwnedFd {
        &self.relay
    }

    /// The relay has come.
    pub fn clear_relay_wake(&self) {
        let _ = nix::unistd::read(&self.relay, &mut [0u8; 8]);
    }

    /// The link has changed a word that the relay should see soon.
    pub fn wake_relay(&self) {
        let _ = nix::unistd::write(&self.relay, &1u64.to_ne_bytes());
    }

    /// Something other than output is there for the link. Without a collector nobody would do anything about it: who attaches
    /// looks at everything first.
    pub fn wake_link(&self) {
        if self.alarm.is_heard() {
            self.link.ring();
        }
    }

    /// A task has begun: what is known of it is written down, also where there is no collector.
    pub fn wake_link_for_task(&self) {
        self.link.ring();
    }

    /// Output moved: the link is woken if it sleeps, or if it has let much gather.
    pub fn output_moved(&self, stream: &Stream) {
        let unsent = stream.pos.load(Ordering::Relaxed).saturating_sub(stream.sent.load(Ordering::Relaxed));
        if self.alarm.goes_off(unsent >= BACKLOG) {
            self.link.ring();
        }
    }

    /// A Stats answer passed by. Never waits: a board that is in use loses the sample, the next one comes soon.
    pub fn sample(&self, task: u32, source: StatsSource, type_url: &str, value: &[u8]) {
        if !self.is_attached() || type_url.is_empty() {
            return;
        }
        if let Ok(mut samples) = self.samples.try_lock() {
            // Newest wins.
            samples.retain(|s| s.task != task || s.source == StatsSource::STATS_SOURCE_FINAL);
            if samples.len() < SAMPLES_MAX {
                let (type_url, value) = (type_url.to_owned(), value.to_vec());
                samples.push(Sample { task, time_ns: unix_ns(), source, type_url, value });
            }
        }
    }

    /// May a task's statistics be asked for, `floor` after the last time? If so, that was now.
    fn may_ask(&self, task: u32, floor: Duration) -> bool {
        let Ok(mut asked) = self.asked.lock() else { return true };
        let now = Instant::now();
        if asked.get(&task).is_some_and(|at| now.saturating_duration_since(*at) < floor) {
            return false;
        }
        asked.insert(task, now);
        // Whose last time is longest ago makes room: most likely it is gone, and a task that lives on is not the oldest to
        // have been asked because it is the oldest.
        if asked.len() > SAMPLES_MAX
            && let Some(oldest) = asked.iter().min_by_key(|(_, at)| **at).map(|(task, _)| *task)
        {
            asked.remove(&oldest);
        }
        true
    }

    fn take_samples(&self) -> Vec<Sample> {
        self.samples.lock().map(|mut s| std::mem::take(&mut *s)).unwrap_or_default()
    }

    /// Has the collector everything that this wrapper will ever say?
    pub fn has_said_everything(&self, block: &Block) -> bool {
        let tables = block.tables();
        let taken = tables.events_head.load(Ordering::Acquire) == tables.events_tail.load(Ordering::Acquire);
        let nothing = tables.tasks().iter().all(|t| TaskState::load(&t.state) == TaskState::Free);
        let all_acked = || {
            tables.tasks().iter().filter(|t| TaskState::load(&t.state) != TaskState::Free).all(|t| {
                t.streams.iter().filter_map(linked).filter_map(|s| tables.streams.get(s)).all(|s| {
                    match StreamState::load(&s.state) {
                        StreamState::Live => false,
                        StreamState::Ended => s.is_end_acked(),
                        // Nothing was ever written to it.
                        StreamState::Free | StreamState::Setup => true,
                    }
                })
            })
        };
        // Without a collector at any time there is nobody to wait for; a first worker knows whether there was one.
        let is_first = tables.generation.load(Ordering::Acquire) <= 1;
        (nothing && is_first && !self.expects_collector())
            || (taken && (nothing || (self.is_attached() && all_acked())))
    }

    fn pause_after_panic(&self) {
        let _ = epoll::readable_within(self.link.as_fd(), 1000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{link_to, note_used};

    #[test]
    fn who_is_at_work_listens_and_who_is_held_up_does_not() {
        let board = Switchboard::new().expect("a board");
        board.set_busy(false);
        assert!(!board.is_listening(), "no collector");
        board.set_attached(true);
        assert!(board.is_listening(), "it has just attached");
        board.set_busy(false);
        assert!(board.is_listening(), "it waits for something to do");
        board.set_busy(true);
        assert!(board.is_listening(), "it has just begun");
        board.busy_since.store(monotonic_ns().saturating_sub(TURN_NS), Ordering::Release);
        assert!(!board.is_listening(), "it does not come back");
        board.set_busy(false);
        board.set_attached(false);
        assert!(!board.is_listening(), "the collector has gone");
    }

    /// A pod is over when its ends are durable, not when the bytes before them are.
    #[test]
    fn all_is_said_when_the_end_of_each_stream_is_acknowledged() {
        let (block, board) = (Block::create().expect("a block"), Switchboard::new().expect("a board"));
        let tables = block.tables();
        let (task, stream) = (&tables.tasks[0], &tables.streams[0]);
        note_used(&tables.tasks_used, 0);
        note_used(&tables.streams_used, 0);
        task.streams[0].store(link_to(Some(0)), Ordering::Release);
        TaskState::Deleted.store(&task.state);
        stream.handle.store(7, Ordering::Relaxed);
        StreamState::Live.store(&stream.state);
        board.set_attached(true);
        assert!(!board.has_said_everything(&block), "it may write more");
        StreamState::Ended.store(&stream.state);
        assert!(!board.has_said_everything(&block), "all of its bytes are taken, its end is not");
        stream.end_acked.store(stream.handle.load(Ordering::Relaxed), Ordering::Release);
        assert!(board.has_said_everything(&block));
    }

    #[test]
    fn without_a_collector_nobody_is_woken_but_for_a_task_that_begins() {
        let block = Block::create().expect("a block");
        let wakes = |attached, wake: fn(&Switchboard, &Stream)| {
            let board = Switchboard::new().expect("a board");
            board.set_attached(attached);
            board.alarm.arm();
            wake(&board, &block.tables().streams[0]);
            epoll::readable_within(board.link.as_fd(), 0) == Ok(true)
        };
        assert!(!wakes(false, Switchboard::output_moved) && wakes(true, Switchboard::output_moved));
        assert!(!wakes(false, |board, _| board.wake_link()) && wakes(true, |board, _| board.wake_link()));
        assert!(wakes(false, |board, _| board.wake_link_for_task()), "nobody may know of it later");
    }
}
