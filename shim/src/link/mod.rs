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
pub(crate) mod report;
mod session;
mod stats;
mod streams;

use std::{
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use shimtap_proto::link::StatsSource;

use self::{alarm::Alarm, bell::Bell, pulse::Pulse};
use crate::{
    block::{Block, Stream, StreamState, TaskState, linked},
    keeper::FD_FLOOR,
    sys::{Kernel, fd, process, unix_ns},
};

/// Unsent bytes of a stream from which on the link thread is woken whatever it waits for.
const BACKLOG: u64 = 64 << 10;
/// Samples that may wait for the link thread; more than any pod has containers.
const SAMPLES_MAX: usize = 256;

/// Where relay and link thread leave word for each other.
pub struct Switchboard {
    relay: OwnedFd,
    link: Bell,
    /// The link thread wants to be woken by the next byte.
    alarm: Alarm,
    /// Whether the link thread still turns.
    pub(crate) pulse: Pulse,
    attached: AtomicBool,
    /// The link thread is waiting for something to do, so that what it is asked for is done soon.
    listening: AtomicBool,
    /// A collector is about: it was attached at some time, or its socket is there.
    about: AtomicBool,
    samples: Mutex<Vec<Sample>>,
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
            attached: AtomicBool::new(false),
            listening: AtomicBool::new(false),
            about: AtomicBool::new(false),
            samples: Mutex::new(Vec::new()),
        })
    }

    /// Is a collector attached?
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    /// Would the link thread do now what it is asked for? A hung collector must not cost an exit its time.
    pub fn is_listening(&self) -> bool {
        self.is_attached() && self.listening.load(Ordering::Acquire)
    }

    /// Is a collector about, though it may not be attached? A successor in a pod's last moments has not had the time.
    pub fn expects_collector(&self) -> bool {
        self.about.load(Ordering::Acquire)
    }

    fn expect_collector(&self) {
        self.about.store(true, Ordering::Release);
    }

    fn set_attached(&self, attached: bool) {
        self.listening.store(false, Ordering::Release);
        self.attached.store(attached, Ordering::Release);
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

    /// Something other than output is there for the link.
    pub fn wake_link(&self) {
        self.link.ring();
    }

    /// Output moved: the link is woken if it sleeps, or if it has let much gather.
    pub fn output_moved(&self, stream: &Stream) {
        if !self.is_attached() {
            return;
        }
        let unsent = stream.pos.load(Ordering::Relaxed).saturating_sub(stream.sent.load(Ordering::Relaxed));
        if unsent >= BACKLOG || self.alarm.goes_off() {
            self.wake_link();
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
                    StreamState::load(&s.state) != StreamState::Live
                        && s.acked.load(Ordering::Acquire) >= s.pos.load(Ordering::Acquire)
                })
            })
        };
        // Without a collector at any time there is nobody to wait for; a first worker knows whether there was one.
        let is_first = tables.generation.load(Ordering::Acquire) <= 1;
        (nothing && is_first && !self.expects_collector())
            || (taken && (nothing || (self.is_attached() && all_acked())))
    }

    fn pause_after_panic(&self) {
        let _ = crate::sys::epoll::readable_within(self.link.as_fd(), 1000);
    }
}
