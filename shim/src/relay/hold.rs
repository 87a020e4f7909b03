//! Answers that leave later than they came, or come from us: held Wait answers, and Stats that took too long.
//!
//! A Wait answer that overtakes the container's last bytes makes old clients cut them off (reference: 27 of 45 short
//! containers truncated under containerd 1.6.20 without this). It is held until those bytes are with containerd, never
//! longer than [`HOLD_MAX_NS`], never past a Delete or Shutdown of its task.

use std::sync::atomic::Ordering;

use shimtap_proto::ttrpc::{Code, Method, status_frame};

use super::{ANSWERS, Want, pump::Step};
use crate::{
    block::{DirState, Pending, PendingState, counters::Counter, link_to, linked},
    sys::{Errno, Kernel, monotonic_ns},
    worker::{Token, Worker},
};

/// Longest hold: what shims themselves wait for their copiers.
const HOLD_MAX_NS: u64 = 2_000_000_000;
/// Longest wait of a Wait answer for the last Stats sample.
const FINAL_STATS_MAX_NS: u64 = 200_000_000;
/// FIONREAD of containerd's FIFO raises no event, so a hold is looked at this often.
const LOOK_NS: u64 = 2_000_000;

/// Values of `Pending::release`: leaves now; is an answer of ours.
pub(super) const RELEASED: u32 = 1;
/// See [`RELEASED`].
pub(super) const SYNTHETIC: u32 = 2;

impl Worker {
    /// Takes a Wait answer into the block, to leave later; false where it leaves at once.
    pub(super) fn hold(&mut self, pending: &Pending, frame: &[u8]) -> bool {
        let task = self.task_of(pending).filter(|_| pending.exec.is_empty());
        let Some(task) = task else { return false };
        if pending.code.load(Ordering::Relaxed) != Code::OK || !self.has_something_to_wait_for(task) {
            return false;
        }
        if !pending.held.set_bytes(frame) {
            return false;
        }
        pending.held_ns.store(monotonic_ns(), Ordering::Release);
        self.block.tables().counters.add(Counter::WaitHeld);
        PendingState::Held.store(&pending.state);
        self.relay.holding = true;
        // The last bytes may already be in the FIFO; nobody need wake us for them.
        self.pump_task_streams(task);
        true
    }

    fn has_something_to_wait_for(&self, task: usize) -> bool {
        !self.task_is_drained(task) || self.task(task).final_stats.load(Ordering::Acquire) == 1
    }

    /// The next answer of this connection that may leave.
    pub(super) fn releasable(&self, conn: usize) -> Option<usize> {
        if !self.relay.holding {
            return None;
        }
        self.pendings()
            .filter(|(_, p)| linked(&p.conn) == Some(conn))
            .find(|(_, p)| match PendingState::load(&p.state) {
                PendingState::Leaving => true,
                PendingState::Held => self.may_leave(p, monotonic_ns()),
                _ => false,
            })
            .map(|(n, _)| n)
    }

    fn may_leave(&self, pending: &Pending, now: u64) -> bool {
        let held = now.saturating_sub(pending.held_ns.load(Ordering::Acquire));
        let Some(task) = self.task_of(pending) else { return true };
        if pending.release.load(Ordering::Acquire) != 0 || held >= HOLD_MAX_NS {
            return true;
        }
        let sampled = self.task(task).final_stats.load(Ordering::Acquire) != 1 || held >= FINAL_STATS_MAX_NS;
        sampled && self.task_is_drained(task)
    }

    /// Starts sending an answer from the block, at a frame boundary.
    pub(super) fn send_held(&mut self, conn: usize, index: usize) -> Kernel<Step> {
        let pending = self.pending(index);
        let frame = pending.held.bytes();
        if !self.with_pipe(conn, ANSWERS) {
            return Ok(Step::Wait(Want::Nothing));
        }
        let line = self.relay.lines.get(&conn).ok_or(Errno::EBADF)?;
        if !line.area(ANSWERS, false).ok_or(Errno::EFAULT)?.put(0, &frame) {
            return Err(Errno::EFAULT);
        }
        let held = monotonic_ns().saturating_sub(pending.held_ns.load(Ordering::Acquire));
        if PendingState::load(&pending.state) == PendingState::Held && held >= HOLD_MAX_NS {
            self.block.tables().counters.add(Counter::WaitHoldExpired);
        }
        let entry = self.dir(conn, ANSWERS);
        let len = u32::try_from(frame.len()).unwrap_or(0);
        entry.frame_len.store(len, Ordering::Release);
        entry.out_len.store(len, Ordering::Release);
        entry.changed.store(0, Ordering::Release);
        entry.put_start.store(0, Ordering::Release);
        entry.pending.store(link_to(Some(index)), Ordering::Release);
        PendingState::Leaving.store(&pending.state);
        DirState::Put.store(&entry.state);
        Ok(Step::Again)
    }

    /// Wait answers of this task leave, now.
    pub(super) fn release_task(&mut self, task: usize) {
        let conns: Vec<usize> = self
            .pendings()
            .filter(|(_, p)| {
                PendingState::load(&p.state) == PendingState::Held && linked(&p.task) == Some(task)
            })
            .filter_map(|(_, p)| {
                p.release.store(RELEASED, Ordering::Release);
                linked(&p.conn)
            })
            // One that is not taken up yet sends its own when it is.
            .filter(|conn| self.relay.lines.contains_key(conn))
            .collect();
        for conn in conns {
            // Before the Delete is forwarded, as far as containerd takes it without our waiting.
            let want = self.dir_pump(conn, ANSWERS);
            self.note_want(conn, ANSWERS, want);
            // What it did not take is seen to, and registered, in that connection's own turn.
            self.unfinished.insert(Token::Outer(conn));
        }
    }

    /// All held answers of a connection whose inner shim has ended.
    pub(super) fn release_all(&self, conn: usize) {
        self.pendings()
            .filter(|(_, p)| {
                PendingState::load(&p.state) == PendingState::Held && linked(&p.conn) == Some(conn)
            })
            .for_each(|(_, p)| p.release.store(RELEASED, Ordering::Release));
    }

    /// Lets go what is due: holds, and Stats of loops that have waited long enough.
    pub(crate) fn tend_held(&mut self, now: u64) {
        if self.relay.bounded.get() {
            self.answer_overdue_stats(now);
        }
        if !self.relay.holding {
            return;
        }
        let mut conns = Vec::new();
        let mut still = false;
        for (_, pending) in self.pendings() {
            match PendingState::load(&pending.state) {
                PendingState::Held if self.may_leave(pending, now) => conns.extend(linked(&pending.conn)),
                PendingState::Held => still = true,
                PendingState::Leaving => {
                    still = true;
                    conns.extend(linked(&pending.conn));
                }
                _ => {}
            }
        }
        self.relay.holding = still || !conns.is_empty();
        conns.into_iter().for_each(|conn| self.conn_pump(conn));
    }

    /// When the holds are looked at again (CLOCK_MONOTONIC ns).
    pub(crate) fn held_due_ns(&self) -> Option<u64> {
        let look = self.relay.holding.then(|| monotonic_ns().saturating_add(LOOK_NS));
        let bounded = self.relay.bounded.get().then(|| self.next_stats_bound()).flatten();
        [look, bounded].into_iter().flatten().min()
    }

    fn bound_ns(&self) -> u64 {
        u64::from(self.block.tables().stats_bound_ms.load(Ordering::Relaxed)).saturating_mul(1_000_000)
    }

    fn bounded_stats(&self) -> impl Iterator<Item = &'static Pending> + use<> {
        self.pendings().map(|(_, p)| p).filter(|p| {
            PendingState::load(&p.state) == PendingState::Open
                && p.bounded.load(Ordering::Acquire) != 0
                && p.method() == Some(Method::Stats)
        })
    }

    fn next_stats_bound(&self) -> Option<u64> {
        let bound = self.bound_ns();
        (bound > 0)
            .then(|| {
                self.bounded_stats().map(|p| p.asked_ns.load(Ordering::Relaxed).saturating_add(bound)).min()
            })
            .flatten()
    }

    /// A mute guest must not freeze a loop over all pods: DeadlineExceeded, and the late answer is swallowed.
    fn answer_overdue_stats(&mut self, now: u64) {
        let bound = self.bound_ns();
        let mut left = false;
        let mut conns = Vec::new();
        for pending in self.bounded_stats() {
            if bound == 0 || now.saturating_sub(pending.asked_ns.load(Ordering::Relaxed)) < bound {
                left = true;
                continue;
            }
            let stream_id = pending.stream_id.load(Ordering::Relaxed);
            let text = "shimtap: the inner shim has not answered Stats within the bound";
            if pending.held.set_bytes(&status_frame(stream_id, Code::DEADLINE_EXCEEDED, text)) {
                if let Some(task) = self.task_of(pending) {
                    self.task(task).stats_mute.store(1, Ordering::Release);
                }
                pending.code.store(Code::DEADLINE_EXCEEDED, Ordering::Relaxed);
                pending.release.store(SYNTHETIC, Ordering::Release);
                PendingState::Leaving.store(&pending.state);
                self.block.tables().counters.add(Counter::SyntheticAnswers);
                conns.extend(linked(&pending.conn));
            }
        }
        self.relay.bounded.set(left);
        if !conns.is_empty() {
            self.relay.holding = true;
        }
        conns.into_iter().for_each(|conn| self.conn_pump(conn));
    }
}
