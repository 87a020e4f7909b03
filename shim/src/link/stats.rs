//! Our own Stats requests: on a connection of their own, one at a time, with a deadline and a back-off.
//!
//! Some shims (Kata's in Go) do one call at a time, whatever connection it comes on. So while somebody else's has gone
//! unanswered for longer than a healthy shim takes, ours are left out: they would wait behind it, and the next one behind ours.
//!
//! A container's last sample is worth no more than that: who is left alone while it lives is not asked in the moment of its end either,
//! in which an agent before 4.1 is busiest (kata-containers#13452).

use std::{
    collections::VecDeque,
    io,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use shimtap_proto::{
    link::StatsSource,
    ttrpc::{
        BODY_MAX, Code, Kind, Method, ResponseView, TaskApi,
        task::{StatsAnswer, TaskRef},
    },
};

use super::{
    Switchboard,
    refusals::Refusals,
    wire::{Frame, Wire},
};
use crate::{
    block::{Block, Pending, PendingState, Task, TaskState},
    sys::monotonic_ns,
};

/// A polled Stats has this long.
const DEADLINE: Duration = Duration::from_secs(2);
/// The last one of a container less: its Wait answer waits for it.
const FINAL_DEADLINE: Duration = Duration::from_millis(200);
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);
/// Another call that has been in flight for longer than this may hold up every other one.
const BUSY_NS: u64 = 1_000_000_000;
/// More requests than a pod has containers mean that the shim does not keep up: the newest are dropped.
const QUEUE: usize = 256;

/// One request to make.
#[derive(Debug, Clone, Copy)]
pub struct Poll {
    /// Index of the task.
    pub task: usize,
    /// Why.
    pub source: StatsSource,
}

/// Who asks: one request at a time, in the order in which they were wanted.
pub struct Poller {
    block: &'static Block,
    board: &'static Switchboard,
    queue: VecDeque<Poll>,
    refusals: Refusals,
    /// No polls before this instant.
    pause: Option<Instant>,
    back_off: Duration,
    wire: Option<Wire>,
    asked: Option<Asked>,
}

/// A request whose answer is to come.
struct Asked {
    poll: Poll,
    /// Whose statistics they are: by the time of the answer the entry may be another task's.
    task: u32,
    stream_id: u32,
    until: Instant,
}

// === impl Poller ===

impl Poller {
    /// Nothing asked yet, and not connected.
    pub fn new(block: &'static Block, board: &'static Switchboard) -> Self {
        Self {
            block,
            board,
            queue: VecDeque::new(),
            refusals: Refusals::default(),
            pause: None,
            back_off: FIRST_BACK_OFF,
            wire: None,
            asked: None,
        }
    }

    /// Asks, unless the shim was mute lately or refuses this task.
    pub fn ask(&mut self, poll: Poll) {
        let _ = self.try_ask(poll);
    }

    /// Asks for a last sample, where a sample may be asked for at any time and the shim would be asked now; else its exit waits for none.
    pub fn ask_final(&mut self, index: usize, floor: Duration) {
        let poll = Poll { task: index, source: StatsSource::STATS_SOURCE_FINAL };
        if (!floor.is_zero() || !self.try_ask(poll))
            && let Some(task) = self.block.tables().tasks.get(index)
        {
            let_go(task, self.board);
        }
    }

    /// False where it is not asked.
    fn try_ask(&mut self, poll: Poll) -> bool {
        let paused = self.pause.is_some_and(|until| Instant::now() < until);
        let task = self.block.tables().tasks.get(poll.task).map(|task| task.handle.load(Ordering::Relaxed));
        let rests = task.is_some_and(|task| self.refusals.rests(task));
        let takes = !paused && !rests && self.queue.len() < QUEUE;
        if takes {
            self.queue.push_back(poll);
        }
        takes
    }

    /// Tasks whose Stats is refused again and again.
    pub fn refused(&self) -> Vec<u32> {
        self.refusals.tasks()
    }

    /// The task is gone.
    pub fn forget(&mut self, task: u32) {
        self.refusals.forget(task);
    }

    /// The connection, once there is one.
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// When somebody has to look whatever the shim does.
    pub fn due(&self) -> Option<Instant> {
        self.asked.as_ref().map(|asked| asked.until)
    }

    /// Takes in what has come of the shim, once it can be read, and asks what is next. Samples are on the board then.
    pub fn turn(&mut self, is_ready: bool) {
        // It closed the connection, or does not speak ttrpc.
        let is_broken = is_ready && self.hear().is_err();
        if is_broken || self.due().is_some_and(|until| Instant::now() >= until) {
            self.give_up();
        }
        while self.asked.is_none()
            && let Some(poll) = self.queue.pop_front()
        {
            self.begin(poll);
        }
    }

    fn begin(&mut self, poll: Poll) {
        let Some(task) = self.block.tables().tasks.get(poll.task) else { return };
        let is_last = poll.source == StatsSource::STATS_SOURCE_FINAL;
        let over = matches!(TaskState::load(&task.state), TaskState::Free | TaskState::Deleted);
        if over || is_busy(self.block, monotonic_ns()) {
            if is_last {
                let_go(task, self.board);
            }
            return;
        }
        let deadline = if is_last { FINAL_DEADLINE } else { DEADLINE };
        let until = Instant::now() + deadline;
        match self.call(task, deadline) {
            Ok(stream_id) => {
                let task = task.handle.load(Ordering::Relaxed);
                self.asked = Some(Asked { poll, task, stream_id, until });
            }
            Err(_) => {
                self.wire = None;
                self.conclude(poll, false);
            }
        }
    }

    fn call(&mut self, task: &Task, deadline: Duration) -> io::Result<u32> {
        let wire = match &mut self.wire {
            Some(wire) => wire,
            None => {
                let path = self.block.tables().identity.inner_path.get();
                let body_max = usize::try_from(BODY_MAX).unwrap_or(usize::MAX);
                self.wire.insert(Wire::connect(&path, body_max)?)
            }
        };
        let api = if task.api.load(Ordering::Relaxed) == 3 { TaskApi::V3 } else { TaskApi::V2 };
        let of = TaskRef { id: &task.id.get(), exec_id: "" }.encode();
        wire.call(api.service(), "Stats", &of, i64::try_from(deadline.as_nanos()).unwrap_or(0))
    }

    fn hear(&mut self) -> io::Result<()> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        wire.exchange()?;
        while let Some(frame) = self.wire.as_mut().map(Wire::frame).transpose()?.flatten() {
            let is_its = self.asked.as_ref().is_some_and(|asked| asked.stream_id == frame.header.stream_id);
            if frame.header.kind == Kind::Response && is_its {
                self.answered(&frame)?;
            }
        }
        Ok(())
    }

    fn answered(&mut self, frame: &Frame) -> io::Result<()> {
        let answer = ResponseView::decode(&frame.body).map_err(io::Error::other)?;
        let Some(asked) = self.asked.take() else { return Ok(()) };
        let (task, source) = (asked.task, asked.poll.source);
        if answer.code == Code::OK {
            if let Ok(stats) = StatsAnswer::decode(answer.payload) {
                self.board.sample(task, source, stats.type_url, stats.value);
            }
            self.refusals.answered(task);
        // The shim lives. Where the task has gone there is nothing to measure; anything else is a refusal.
        } else if ![Code::NOT_FOUND, Code::DEADLINE_EXCEEDED].contains(&answer.code)
            && source == StatsSource::STATS_SOURCE_POLLED
        {
            self.refusals.refused(task);
        }
        self.conclude(asked.poll, true);
        Ok(())
    }

    /// There is no answer; one that came later would be taken for that to another request.
    fn give_up(&mut self) {
        self.wire = None;
        if let Some(asked) = self.asked.take() {
            self.conclude(asked.poll, false);
        }
    }

    /// Nothing more comes of what was asked; was there an answer at all (also a refusal)?
    fn conclude(&mut self, poll: Poll, is_answered: bool) {
        if poll.source != StatsSource::STATS_SOURCE_FINAL {
            self.note(is_answered);
        } else if let Some(task) = self.block.tables().tasks.get(poll.task) {
            let_go(task, self.board);
        }
    }

    fn note(&mut self, is_answered: bool) {
        self.pause = (!is_answered).then(|| Instant::now() + self.back_off);
        self.back_off = if is_answered { FIRST_BACK_OFF } else { (self.back_off * 2).min(LONGEST_BACK_OFF) };
    }
}

impl Drop for Poller {
    /// The session is over: no exit waits for an answer that nobody would hear.
    fn drop(&mut self) {
        let left = self.asked.take().map(|asked| asked.poll).into_iter().chain(self.queue.drain(..));
        let last = left.filter(|poll| poll.source == StatsSource::STATS_SOURCE_FINAL);
        last.filter_map(|poll| self.block.tables().tasks.get(poll.task))
            .for_each(|task| let_go(task, self.board));
    }
}

/// This task's exit waits for no sample, or no longer.
fn let_go(task: &Task, board: &Switchboard) {
    task.final_stats.store(2, Ordering::Release);
    board.wake_relay();
}

/// Has a call of somebody else's been in flight for too long to ask on top of it? Wait is meant to take long, and no shim
/// holds up others for it.
fn is_busy(block: &Block, now: u64) -> bool {
    let unanswered = |p: &Pending| {
        matches!(PendingState::load(&p.state), PendingState::Open | PendingState::Swallow)
            && p.method.load(Ordering::Relaxed) != u32::from(Method::Wait.to_u8())
            && now.saturating_sub(p.asked_ns.load(Ordering::Relaxed)) > BUSY_NS
    };
    block.tables().pendings().iter().any(unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::note_used;

    #[test]
    fn no_connection_is_asked_again_below_the_floor() {
        let board = Switchboard::new().expect("a board");
        let floor = Duration::from_secs(3_600);
        assert!(board.may_ask(7, floor) && board.may_ask(8, floor), "each for itself");
        assert!(!board.may_ask(7, floor));
        assert!(board.may_ask(7, Duration::ZERO), "without a floor at any time");
        for task in 9..2_000 {
            board.may_ask(task, floor);
        }
        assert!(
            !board.may_ask(1_999, floor) && board.may_ask(7, floor),
            "those that are long gone make room"
        );
    }

    #[test]
    fn the_oldest_task_is_not_forgotten_for_being_the_oldest() {
        let board = Switchboard::new().expect("a board");
        let floor = Duration::from_secs(3_600);
        for task in 2..2_000 {
            board.may_ask(1, Duration::ZERO);
            board.may_ask(task, floor);
        }
        assert!(!board.may_ask(1, floor), "it was asked a moment ago");
    }

    #[test]
    fn a_mute_shim_is_asked_ever_more_seldom_and_again_when_it_answers() {
        let block = Box::leak(Box::new(Block::create().expect("a block")));
        let board = Box::leak(Box::new(Switchboard::new().expect("a board")));
        let mut poller = Poller::new(block, board);
        let mut paused = |answered: bool| {
            poller.note(answered);
            // Measured a moment after it was set.
            poller.pause.map(|until| until.saturating_duration_since(Instant::now()).as_secs() + 1)
        };
        assert_eq!([false; 7].map(&mut paused), [10, 20, 40, 80, 160, 300, 300].map(Some));
        assert_eq!(paused(true), None);
        assert_eq!(paused(false), Some(10));
    }

    #[test]
    fn who_is_left_alone_is_not_asked_for_a_last_sample_either_and_no_exit_waits_for_it() {
        let block: &'static Block = Box::leak(Box::new(Block::create().expect("a block")));
        let board = Box::leak(Box::new(Switchboard::new().expect("a board")));
        let mut poller = Poller::new(block, board);
        let task = &block.tables().tasks[3];
        task.handle.store(7, Ordering::Relaxed);
        let is_asked = |poller: &mut Poller, floor| {
            task.final_stats.store(1, Ordering::Relaxed);
            poller.ask_final(3, floor);
            let is_asked = poller.queue.pop_front().is_some();
            // 1: the exit waits for the answer.
            assert_eq!(task.final_stats.load(Ordering::Relaxed), if is_asked { 1 } else { 2 });
            is_asked
        };
        assert!(is_asked(&mut poller, Duration::ZERO), "nothing is against it");
        assert!(!is_asked(&mut poller, Duration::from_millis(1)), "a release that must not be asked often");
        poller.pause = Some(Instant::now() + LONGEST_BACK_OFF);
        assert!(!is_asked(&mut poller, Duration::ZERO), "its shim was mute");
        poller.pause = None;
        for _ in 0..3 {
            poller.refusals.refused(7);
        }
        assert!(!is_asked(&mut poller, Duration::ZERO), "it refuses");
        poller.forget(7);
        assert!(is_asked(&mut poller, Duration::ZERO), "and is asked again");
        task.final_stats.store(1, Ordering::Relaxed);
        poller.ask_final(3, Duration::ZERO);
        drop(poller);
        assert_eq!(task.final_stats.load(Ordering::Relaxed), 2, "nor where the collector has gone");
    }

    #[test]
    fn a_call_that_takes_long_holds_ours_back_and_a_wait_does_not() {
        let block = Block::create().expect("a block");
        let entry = &block.tables().pendings[3];
        note_used(&block.tables().pendings_used, 3);
        let at = 5_000_000_000;
        assert!(!is_busy(&block, u64::MAX), "nothing is in flight");
        entry.asked_ns.store(at, Ordering::Relaxed);
        for (method, state, busy) in [
            (Method::Exec, PendingState::Open, true),
            (Method::Kill, PendingState::Open, true),
            (Method::Stats, PendingState::Open, true),
            // We have answered in the shim's place, and it still has not.
            (Method::Stats, PendingState::Swallow, true),
            (Method::Wait, PendingState::Open, false),
            (Method::Wait, PendingState::Held, false),
            (Method::Exec, PendingState::Leaving, false),
            (Method::Exec, PendingState::Free, false),
        ] {
            entry.method.store(u32::from(method.to_u8()), Ordering::Relaxed);
            state.store(&entry.state);
            assert!(!is_busy(&block, at + BUSY_NS), "{method:?} is young");
            assert_eq!(is_busy(&block, at + BUSY_NS + 1), busy, "{method:?} {state:?}");
        }
    }
}
