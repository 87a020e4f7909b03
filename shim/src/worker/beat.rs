//! Signs of life: the worker's own, and its looks at the keeper and at the link thread (docs/adr/0006).
//!
//! The worker holds a dead man's switch: a timer that it sets anew while it lives, and at whose end the keeper takes it for
//! hung. So a healthy worker costs the keeper no wake-up. In the other direction nobody need wake either: what /proc
//! says of the keeper, and whether connections stay in the listener's queue, tells when to ask it for an answer.

use std::sync::atomic::Ordering;

use super::{Token, Worker};
use crate::{
    block::{
        Slot,
        care::{Mode, Reason},
    },
    keeper::{BEAT_NS, GRACE_NS},
    sys::{Kernel, epoll, process, timer},
};

use nix::sys::epoll::EpollFlags;

/// A turn this long after the last sign gives the next one, so that a worker with something to do is not woken for it.
const REARM_NS: u64 = 2_000_000_000;
/// A connection that the keeper has not accepted by then is asked about.
const ACCEPT_NS: u64 = 1_000_000_000;
/// A link thread that was prodded and has not stirred by then is stuck. It yields to everybody, so it gets more time.
const LINK_GRACE_NS: u64 = 5_000_000_000;
/// It is prodded when it has not stirred by itself for its longest sleep and this.
const LINK_SLACK_NS: u64 = 1_000_000_000;
/// A worker ends itself for its link thread at most this often: the relay matters more than the link.
const LINK_PAUSE_NS: u64 = 60_000_000_000;

/// When was what last seen (CLOCK_MONOTONIC ns).
#[derive(Debug, Default)]
pub struct Beat {
    given_ns: u64,
    /// When connections in the queue are looked at.
    queue_ns: Option<u64>,
    link: LinkBeat,
}

#[derive(Debug, Default)]
struct LinkBeat {
    count: u64,
    changed_ns: u64,
    prodded_ns: Option<u64>,
}

impl Worker {
    /// Gives signs and takes them. True: the link thread is stuck, and the worker is to end for it.
    pub(super) fn tend_beat(&mut self, now: u64) -> bool {
        if self.beat.queue_ns.is_some_and(|at| at <= now) {
            self.look_at_queue(now);
        }
        if now.saturating_sub(self.beat.given_ns) < REARM_NS {
            return false;
        }
        let heard_now = self.beat.given_ns == 0;
        self.give_sign(now);
        // Who has just told us of a connection, or forked us, lives; and is seen at work, so that it would have to answer.
        if !heard_now {
            self.look_at_keeper();
        }
        self.mode != Mode::Bare && self.is_link_stuck(now)
    }

    /// When it next has to do so.
    pub(super) fn beat_due_ns(&self) -> u64 {
        let beat = self.beat.given_ns.saturating_add(BEAT_NS);
        self.beat.queue_ns.map_or(beat, |at| at.min(beat))
    }

    /// The keeper has shortened the switch, and said so: a connection was accepted.
    pub(super) fn sign_is_due(&mut self) {
        self.beat.given_ns = 0;
    }

    fn give_sign(&mut self, now: u64) {
        if let Ok(switch) = self.hands.get(Slot::SWITCH) {
            let _ = timer::set(switch, BEAT_NS.saturating_add(GRACE_NS));
        }
        self.beat.given_ns = now;
    }

    /// A keeper that waits for work is asleep; one that is stopped, spins or is stuck is not. Seen in any other state, it
    /// has to answer.
    fn look_at_keeper(&mut self) {
        let pid = i32::try_from(self.block.tables().keeper_pid.load(Ordering::Acquire)).unwrap_or(0);
        if pid > 1 && process::state_of(nix::unistd::Pid::from_raw(pid)) != Some('S') {
            self.hands.check_keeper();
        }
    }

    /// Waits for connections beside the keeper, to notice one that it leaves alone.
    pub(super) fn watch_queue(&mut self) -> Kernel<()> {
        let listener = self.hands.get(Slot::LISTENER)?;
        // Edge-triggered: one wake-up per connection, and none while they wait.
        self.poller.want(Token::Queue.number(), listener, Some(EpollFlags::EPOLLIN | EpollFlags::EPOLLET))
    }

    /// Somebody connects.
    pub(super) fn queue_has_moved(&mut self, now: u64) {
        self.beat.queue_ns.get_or_insert(now.saturating_add(ACCEPT_NS));
    }

    fn look_at_queue(&mut self, now: u64) {
        self.beat.queue_ns = None;
        let waits = self.hands.get(Slot::LISTENER).is_ok_and(|l| epoll::readable_within(l, 0) == Ok(true));
        if waits {
            self.hands.check_keeper();
            // It may lack descriptors, or room in its table: then it is looked at again.
            self.beat.queue_ns = Some(now.saturating_add(ACCEPT_NS));
        }
    }

    fn is_link_stuck(&mut self, now: u64) -> bool {
        let pulse = &self.board.pulse;
        // None where a thread was refused: the next worker may get one.
        if pulse.thread() == 0 {
            return false;
        }
        let link = &mut self.beat.link;
        let count = pulse.count();
        if count != link.count || link.changed_ns == 0 {
            *link = LinkBeat { count, changed_ns: now, prodded_ns: None };
            return false;
        }
        let longest = u64::from(self.block.tables().stats_interval_ms.load(Ordering::Relaxed));
        let longest_ns = longest.saturating_mul(1_000_000).max(BEAT_NS).saturating_add(LINK_SLACK_NS);
        let Some(prodded) = link.prodded_ns else {
            if now.saturating_sub(link.changed_ns) >= longest_ns {
                pulse.prod();
                link.prodded_ns = Some(now);
            }
            return false;
        };
        let care = &self.block.tables().care;
        let last = care.link_hung_ns.load(Ordering::Acquire);
        let paused = last != 0 && now.saturating_sub(last) < LINK_PAUSE_NS;
        if paused || now.saturating_sub(prodded) < LINK_GRACE_NS {
            return false;
        }
        // A thread in an uninterruptible call outlives SIGKILL, and with it every descriptor of the process: the successor
        // could not begin. The relay goes on without its link.
        if process::state_of_thread(pulse.thread()) == Some('D') {
            return false;
        }
        care.link_hung_ns.store(now, Ordering::Release);
        care.announce(Reason::LinkHung);
        true
    }
}

const _: () = assert!(REARM_NS < BEAT_NS, "a quiet worker gives its sign when it wakes for it");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::Block, keeper::InProcess, link::Switchboard, worker::Hands};

    /// It does not stir for so long before it is prodded.
    const QUIET_NS: u64 = BEAT_NS + LINK_SLACK_NS;

    fn worker(block: &'static Block, board: &'static Switchboard, keeper: &mut InProcess) -> Worker {
        let heirloom = keeper.next_worker();
        let hands = Hands::new(block, heirloom.pair, heirloom.slots);
        Worker::on(block, board, hands, Mode::Normal, false).unwrap()
    }

    #[test]
    fn a_link_thread_that_hangs_ends_its_worker_and_not_the_next_one_within_a_minute() {
        let block: &'static Block = Box::leak(Box::new(Block::create().unwrap()));
        let board: &'static Switchboard = Box::leak(Box::new(Switchboard::new().unwrap()));
        let mut keeper = InProcess::new(Block::open(process::duplicate(block.memfd()).unwrap()).unwrap());
        // This thread is the link's, and turns when it is told to.
        board.pulse.begin();
        let hung_ns = {
            let mut first = worker(block, board, &mut keeper);
            let mut now = 1_000 * LINK_PAUSE_NS;
            assert!(!first.is_link_stuck(now), "seen for the first time");
            now += QUIET_NS;
            assert!(!first.is_link_stuck(now), "it may be asleep, and is prodded");
            board.pulse.beat();
            now += LINK_GRACE_NS;
            assert!(!first.is_link_stuck(now), "it has stirred");
            now += QUIET_NS;
            assert!(!first.is_link_stuck(now), "prodded again");
            assert!(!first.is_link_stuck(now + LINK_GRACE_NS - 1), "it has time");
            now += LINK_GRACE_NS;
            assert!(first.is_link_stuck(now));
            now
        };
        let mut second = worker(block, board, &mut keeper);
        let begun_ns = hung_ns + 1_000_000_000;
        for now in [begun_ns, begun_ns + QUIET_NS, begun_ns + QUIET_NS + LINK_GRACE_NS] {
            assert!(!second.is_link_stuck(now), "the relay matters more than the link");
        }
        assert!(!second.is_link_stuck(hung_ns + LINK_PAUSE_NS - 1), "the minute is not over");
        assert!(second.is_link_stuck(hung_ns + LINK_PAUSE_NS));
    }
}
