//! Our own Stats requests: on a connection of their own, one at a time, with a deadline and a back-off.
//!
//! Some shims (Kata's in Go) do one call at a time, whatever connection it comes on. So while somebody else's has gone
//! unanswered for longer than a healthy shim takes, ours are left out: they would wait behind it, and the next one behind ours.
//!
//! A container's last sample is worth no more than that: who is left alone while it lives is not asked in the moment of its end either,
//! in which an agent before 4.1 is busiest (kata-containers#13452).

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use shimtap_proto::{
    link::StatsSource,
    ttrpc::{
        Method, TaskApi,
        task::{StatsAnswer, TaskRef},
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use ttrpc::r#async::Client;

use super::{Switchboard, refusals::Refusals};
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

/// The way to the polling task; it ends when this is dropped.
pub struct Poller {
    queue: mpsc::Sender<Poll>,
    /// No polls before this instant.
    pause: Arc<Mutex<Option<Instant>>>,
    refusals: Arc<Mutex<Refusals>>,
    block: &'static Block,
    board: &'static Switchboard,
}

struct Polling {
    block: &'static Block,
    board: &'static Switchboard,
    pause: Arc<Mutex<Option<Instant>>>,
    refusals: Arc<Mutex<Refusals>>,
    client: Option<Client>,
    back_off: Duration,
}

// === impl Poller ===

impl Poller {
    /// Starts the polling task on the current runtime.
    pub fn spawn(block: &'static Block, board: &'static Switchboard) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let pause = Arc::new(Mutex::new(None));
        let refusals: Arc<Mutex<Refusals>> = Arc::default();
        let polling = Polling {
            block,
            board,
            pause: Arc::clone(&pause),
            refusals: Arc::clone(&refusals),
            client: None,
            back_off: FIRST_BACK_OFF,
        };
        tokio::spawn(polling.run(receiver));
        Self { queue, pause, refusals, block, board }
    }

    /// Asks, unless the shim was mute lately or refuses this task.
    pub fn ask(&self, poll: Poll) {
        let _ = self.try_ask(poll);
    }

    /// Asks for a last sample, where a sample may be asked for at any time and the shim would be asked now; else its exit waits for none.
    pub fn ask_final(&self, index: usize, floor: Duration) {
        let poll = Poll { task: index, source: StatsSource::STATS_SOURCE_FINAL };
        if (!floor.is_zero() || !self.try_ask(poll))
            && let Some(task) = self.block.tables().tasks.get(index)
        {
            let_go(task, self.board);
        }
    }

    /// False where it is not asked.
    fn try_ask(&self, poll: Poll) -> bool {
        let paused = self.pause.lock().is_ok_and(|p| p.is_some_and(|until| Instant::now() < until));
        let task = self.block.tables().tasks.get(poll.task).map(|task| task.handle.load(Ordering::Relaxed));
        let rests = task.is_some_and(|task| self.refusals.lock().is_ok_and(|all| all.rests(task)));
        !paused && !rests && self.queue.try_send(poll).is_ok()
    }

    /// Tasks whose Stats is refused again and again.
    pub fn refused(&self) -> Vec<u32> {
        self.refusals.lock().map(|all| all.tasks()).unwrap_or_default()
    }

    /// The task is gone.
    pub fn forget(&self, task: u32) {
        if let Ok(mut all) = self.refusals.lock() {
            all.forget(task);
        }
    }
}

// === impl Polling ===

impl Polling {
    async fn run(mut self, mut queue: mpsc::Receiver<Poll>) {
        while let Some(poll) = queue.recv().await {
            let Some(task) = self.block.tables().tasks.get(poll.task) else { continue };
            let last = poll.source == StatsSource::STATS_SOURCE_FINAL;
            let over = matches!(TaskState::load(&task.state), TaskState::Free | TaskState::Deleted);
            if !over && !is_busy(self.block, monotonic_ns()) {
                let answered =
                    self.poll(task, poll.source, if last { FINAL_DEADLINE } else { DEADLINE }).await;
                if !last {
                    self.note(answered);
                }
            }
            if last {
                let_go(task, self.board);
            }
            self.board.wake_link();
        }
    }

    /// One request; was there an answer at all (also a refusal)?
    async fn poll(&mut self, task: &Task, source: StatsSource, deadline: Duration) -> bool {
        let id = task.id.get();
        let api = if task.api.load(Ordering::Relaxed) == 3 { TaskApi::V3 } else { TaskApi::V2 };
        let request = ttrpc::Request {
            service: api.service().to_owned(),
            method: "Stats".to_owned(),
            payload: TaskRef { id: &id, exec_id: "" }.encode(),
            timeout_nano: i64::try_from(deadline.as_nanos()).unwrap_or(0),
            ..Default::default()
        };
        let handle = task.handle.load(Ordering::Relaxed);
        let Some(client) = self.client().await else { return false };
        match timeout(deadline, client.request(request)).await {
            Ok(Ok(response)) => {
                if let Ok(stats) = StatsAnswer::decode(&response.payload) {
                    self.board.sample(handle, source, stats.type_url, stats.value);
                }
                self.note_refusal(handle, false);
                true
            }
            // The shim lives. Where the task has gone there is nothing to measure; anything else is a refusal.
            Ok(Err(ttrpc::Error::RpcStatus(status))) => {
                let refused =
                    !matches!(status.code(), ttrpc::Code::NOT_FOUND | ttrpc::Code::DEADLINE_EXCEEDED);
                if refused && source == StatsSource::STATS_SOURCE_POLLED {
                    self.note_refusal(handle, true);
                }
                true
            }
            Ok(Err(_)) | Err(_) => {
                self.client = None;
                false
            }
        }
    }

    async fn client(&mut self) -> Option<Client> {
        if self.client.is_none() {
            let address = format!("unix://{}", self.block.tables().identity.inner_path.get());
            self.client = timeout(DEADLINE, Client::connect(&address)).await.ok()?.ok();
        }
        self.client.clone()
    }

    fn note_refusal(&self, task: u32, refused: bool) {
        if let Ok(mut all) = self.refusals.lock() {
            if refused { all.refused(task) } else { all.answered(task) }
        }
    }

    fn note(&mut self, answered: bool) {
        let until = (!answered).then(|| Instant::now() + self.back_off);
        self.back_off = if answered { FIRST_BACK_OFF } else { (self.back_off * 2).min(LONGEST_BACK_OFF) };
        if let Ok(mut pause) = self.pause.lock() {
            *pause = until;
        }
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
        let (pause, refusals) = (Arc::new(Mutex::new(None)), Arc::default());
        let mut polling = Polling { block, board, pause, refusals, client: None, back_off: FIRST_BACK_OFF };
        let mut paused = |answered: bool| {
            polling.note(answered);
            let until = *polling.pause.lock().expect("nobody panics here");
            // Measured a moment after it was set.
            until.map(|until: Instant| until.saturating_duration_since(Instant::now()).as_secs() + 1)
        };
        assert_eq!([false; 7].map(&mut paused), [10, 20, 40, 80, 160, 300, 300].map(Some));
        assert_eq!(paused(true), None);
        assert_eq!(paused(false), Some(10));
    }

    #[test]
    fn who_is_left_alone_is_not_asked_for_a_last_sample_either_and_no_exit_waits_for_it() {
        let block: &'static Block = Box::leak(Box::new(Block::create().expect("a block")));
        let board = Box::leak(Box::new(Switchboard::new().expect("a board")));
        let (queue, mut asked) = mpsc::channel(QUEUE);
        let poller =
            Poller { queue, pause: Arc::new(Mutex::new(None)), refusals: Arc::default(), block, board };
        let task = &block.tables().tasks[3];
        task.handle.store(7, Ordering::Relaxed);
        let mut is_asked = |floor| {
            task.final_stats.store(1, Ordering::Relaxed);
            poller.ask_final(3, floor);
            let is_asked = asked.try_recv().is_ok();
            // 1: the exit waits for the answer.
            assert_eq!(task.final_stats.load(Ordering::Relaxed), if is_asked { 1 } else { 2 });
            is_asked
        };
        assert!(is_asked(Duration::ZERO), "nothing is against it");
        assert!(!is_asked(Duration::from_millis(1)), "a release that must not be asked often");
        *poller.pause.lock().expect("nobody panics here") = Some(Instant::now() + LONGEST_BACK_OFF);
        assert!(!is_asked(Duration::ZERO), "its shim was mute");
        *poller.pause.lock().expect("nobody panics here") = None;
        for _ in 0..3 {
            poller.refusals.lock().expect("nobody panics here").refused(7);
        }
        assert!(!is_asked(Duration::ZERO), "it refuses");
        poller.forget(7);
        assert!(is_asked(Duration::ZERO), "and is asked again");
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
