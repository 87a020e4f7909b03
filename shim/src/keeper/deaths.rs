//! What follows from a worker's end: it is written down with its cause, and five in ten seconds mean safe mode.
//!
//! The record is in the block: a keeper may die too, and its successor goes on counting. To leave safe mode the worker
//! begins anew in place: nobody ends for it.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::Ordering,
};

use nix::{
    sys::signalfd::SignalFd,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};

use super::Keeper;
use crate::{
    block::{
        care::{Care, DEATHS, Mode, Reason},
        trial,
    },
    sys::{
        ends::{self, End},
        monotonic_ns, process, unix_ns,
    },
};

/// Within this time so many deaths (`deaths_max`) are a loop.
const LOOP_NS: u64 = 10_000_000_000;
/// A hung worker takes seconds to be found out, so fewer of them in a longer time are one too.
const HUNG_LOOP_NS: u64 = 30_000_000_000;
const HUNG_MAX: usize = 3;
/// How long safe mode lasts the first time; each further time twice as long, up to 64 times.
const SAFE_NS: u64 = 600_000_000_000;
const SAFE_DOUBLINGS: u32 = 6;

/// What the kernel (or whoever ended it) says of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    pub reason: Reason,
    pub signal: u32,
    pub exit_status: u32,
}

impl Keeper {
    /// A worker's end: first everything it had asked for, then the next one may come.
    pub(super) fn bury(&mut self) {
        self.serve();
        let Some(worker) = self.worker.take() else { return };
        self.note_life();
        let tables = self.block.tables();
        let cause = cause(worker.pid, Some(worker.pidfd.as_fd()), tables.care.take_announced());
        tables.care.stand_in.store(0, Ordering::Release);
        if tables.over.load(Ordering::Acquire) == 0 {
            tables.care.note_death(worker.pid, cause, monotonic_ns(), unix_ns());
            self.judge_image(cause.reason);
        }
    }

    /// Before the next worker begins: a block that says what no worker writes was damaged, and who knows what else of it is not
    /// true. So nothing is looked into by it.
    pub(super) fn mind_damage(&self) {
        if !trial::is_sound(self.block.tables()) {
            self.block.sign();
            self.block.tables().care.distrust(monotonic_ns());
        }
    }

    /// Safe mode has lasted long enough.
    pub(super) fn tend_mode(&mut self) {
        if self.mode_due_ns().is_some_and(|due| monotonic_ns() >= due) {
            self.leave_safe_mode();
        }
    }

    /// SIGUSR2 was sent: an administrator has seen to the cause of safe mode.
    pub(super) fn hear_signal(&mut self) {
        if !matches!(self.asked.as_ref().map(SignalFd::read_signal), Some(Ok(Some(_)))) {
            return;
        }
        let care = &self.block.tables().care;
        if Mode::load(&care.mode) != Mode::Normal {
            care.entries.store(0, Ordering::Release);
            self.leave_safe_mode();
        }
    }

    fn leave_safe_mode(&mut self) {
        let care = &self.block.tables().care;
        care.since_ns.store(monotonic_ns(), Ordering::Release);
        Mode::Normal.store(&care.mode);
        self.wake_worker();
    }

    /// Ends the worker by its pidfd; the next one comes when it is gone, never before.
    pub(super) fn end_worker(&mut self, reason: Reason) {
        let Some(worker) = self.worker.as_mut().filter(|w| !w.doomed) else { return };
        self.block.tables().care.announce(reason);
        // Only a worker that is gone already cannot be sent a signal by us.
        let _ = process::kill(worker.pidfd.as_fd());
        worker.doomed = true;
    }

    /// When safe mode ends by itself.
    pub(super) fn mode_due_ns(&self) -> Option<u64> {
        let care = &self.block.tables().care;
        let until = care.until_ns.load(Ordering::Acquire);
        (Mode::load(&care.mode) != Mode::Normal && until != 0).then_some(until)
    }
}

/// A worker that had ended before its keeper could begin, so that its number may be another process's by now.
pub(super) fn found_dead(care: &Care, pid: Pid) {
    care.note_death(pid, cause(pid, None, care.take_announced()), monotonic_ns(), unix_ns());
}

/// Reaps where the dead one was our child; of one that was older than this keeper its pidfd tells, where the kernel does
/// (`sys::ends`).
fn cause(pid: Pid, pidfd: Option<BorrowedFd<'_>>, announced: Option<Reason>) -> Cause {
    let end = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(End::Signal(signal as i32)),
        Ok(WaitStatus::Exited(_, status)) => Some(End::Exit(status)),
        _ => pidfd.and_then(|pidfd| ends::of(pidfd, pid)),
    };
    let (reason, signal, exit_status) = match end {
        Some(End::Signal(signal)) => (Reason::of_signal(signal), signal, 0),
        Some(End::Exit(status)) => (Reason::Failed, 0, status),
        None => (Reason::Unknown, 0, 0),
    };
    Cause {
        reason: announced.unwrap_or(reason),
        signal: u32::try_from(signal).unwrap_or(0),
        exit_status: u32::try_from(exit_status).unwrap_or(0),
    }
}

// === impl Care ===

impl Care {
    /// Writes a death down and decides how the next worker begins.
    pub fn note_death(&self, pid: Pid, cause: Cause, now: u64, unix: u64) {
        self.count(cause.reason);
        let number = self.died.load(Ordering::Acquire);
        let death = self.death(number);
        death.pid.store(u32::try_from(pid.as_raw()).unwrap_or(0), Ordering::Relaxed);
        death.signal.store(cause.signal, Ordering::Relaxed);
        death.exit_status.store(cause.exit_status, Ordering::Relaxed);
        death.died_ns.store(now, Ordering::Relaxed);
        death.time_ns.store(unix, Ordering::Relaxed);
        for word in [&death.ready_ns, &death.event_at] {
            word.store(0, Ordering::Relaxed);
        }
        cause.reason.store(&death.reason);
        self.died.store(number.wrapping_add(1), Ordering::Release);
        if self.is_loop(now) {
            self.dare_less(now);
        }
    }

    /// A worker is at work: until now there was none.
    pub fn note_ready(&self, now: u64) {
        let Some(last) = self.died.load(Ordering::Acquire).checked_sub(1) else { return };
        let death = self.death(last);
        if death.ready_ns.load(Ordering::Acquire) == 0 {
            let died = death.died_ns.load(Ordering::Acquire);
            self.without_worker_ns.fetch_add(now.saturating_sub(died), Ordering::Relaxed);
            death.ready_ns.store(now.max(1), Ordering::Release);
        }
    }

    fn is_loop(&self, now: u64) -> bool {
        let max = usize::try_from(self.deaths_max.load(Ordering::Relaxed)).unwrap_or(DEATHS).min(DEATHS);
        let died = self.died.load(Ordering::Acquire);
        let since = self.since_ns.load(Ordering::Acquire);
        let within = |span: u64, counts: fn(Reason) -> bool| {
            let from = since.max(now.saturating_sub(span));
            let recent = (died.saturating_sub(DEATHS as u64)..died).map(|n| self.death(n));
            recent
                .filter(|d| counts(Reason::load(&d.reason)) && d.died_ns.load(Ordering::Acquire) >= from)
                .count()
        };
        max > 0
            && (within(LOOP_NS, |reason| reason != Reason::Replaced) >= max
                || within(HUNG_LOOP_NS, |reason| reason == Reason::Hung) >= HUNG_MAX)
    }

    /// What was remembered is not to be believed: safe mode, unless that holds.
    pub fn distrust(&self, now: u64) {
        if Mode::load(&self.mode) == Mode::Normal {
            self.dare_less(now);
        }
    }

    fn dare_less(&self, now: u64) {
        let next = match Mode::load(&self.mode) {
            Mode::Normal => Mode::Safe,
            Mode::Safe | Mode::Bare => Mode::Bare,
        };
        if next == Mode::Safe {
            self.entries.fetch_add(1, Ordering::AcqRel);
        }
        let times = self.entries.load(Ordering::Acquire).saturating_sub(1).min(SAFE_DOUBLINGS);
        self.until_ns.store(now.saturating_add(SAFE_NS << times), Ordering::Release);
        self.since_ns.store(now.saturating_add(1), Ordering::Release);
        next.store(&self.mode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;

    const SECOND: u64 = 1_000_000_000;

    fn die(care: &Care, reason: Reason, at: u64) -> Mode {
        let cause = Cause { reason, signal: 11, exit_status: 0 };
        care.note_death(Pid::from_raw(7), cause, at, at);
        Mode::load(&care.mode)
    }

    fn modes(times: &[u64]) -> Vec<Mode> {
        let block = Block::create().unwrap();
        let care = &block.tables().care;
        care.deaths_max.store(5, Ordering::Relaxed);
        times.iter().map(|at| die(care, Reason::Crashed, *at)).collect()
    }

    #[test]
    fn five_deaths_in_ten_seconds_and_not_one_less() {
        use Mode::{Normal, Safe};
        let close = [100, 101, 102, 103, 109].map(|s| s * SECOND);
        assert_eq!(modes(&close), [Normal, Normal, Normal, Normal, Safe]);
        let wide = [100, 103, 106, 109, 112, 115, 118, 121, 124].map(|s| s * SECOND);
        assert!(modes(&wide).iter().all(|m| *m == Normal), "four in any ten seconds, for ever");
    }

    #[test]
    fn five_more_in_safe_mode_and_the_link_stays_away_too() {
        let at: Vec<u64> = (0..10).map(|n| 100 * SECOND + n).collect();
        let modes = modes(&at);
        assert_eq!(modes.get(8..), Some(&[Mode::Safe, Mode::Bare][..]));
    }

    #[test]
    fn a_replacement_on_purpose_is_no_death() {
        let block = Block::create().unwrap();
        let care = &block.tables().care;
        care.deaths_max.store(5, Ordering::Relaxed);
        assert!((0..20).all(|n| die(care, Reason::Replaced, 100 * SECOND + n) == Mode::Normal));
        assert_eq!(care.restarts[Reason::Replaced as usize].load(Ordering::Relaxed), 20);
    }

    #[test]
    fn three_hung_ones_in_half_a_minute_are_a_loop_too() {
        let hang = |times: &[u64]| -> Vec<Mode> {
            let block = Block::create().unwrap();
            let care = &block.tables().care;
            care.deaths_max.store(5, Ordering::Relaxed);
            times.iter().map(|at| die(care, Reason::Hung, *at * SECOND)).collect()
        };
        assert_eq!(hang(&[100, 106, 112]), [Mode::Normal, Mode::Normal, Mode::Safe]);
        assert!(hang(&[100, 120, 140, 160]).iter().all(|m| *m == Mode::Normal));
    }

    #[test]
    fn zero_means_never() {
        let block = Block::create().unwrap();
        assert!((0..50).all(|n| die(&block.tables().care, Reason::Crashed, n) == Mode::Normal));
    }

    #[test]
    fn each_entry_lasts_twice_as_long_up_to_a_limit() {
        let block = Block::create().unwrap();
        let care = &block.tables().care;
        care.deaths_max.store(1, Ordering::Relaxed);
        let lasts: Vec<u64> = (1..10)
            .map(|n| {
                let now = n * 100_000 * SECOND;
                Mode::Normal.store(&care.mode);
                die(care, Reason::Crashed, now);
                (care.until_ns.load(Ordering::Relaxed) - now) / SAFE_NS
            })
            .collect();
        assert_eq!(lasts, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn the_time_without_a_worker_is_counted_once_per_death() {
        let block = Block::create().unwrap();
        let care = &block.tables().care;
        care.note_ready(50);
        die(care, Reason::Killed, 100);
        care.note_ready(130);
        care.note_ready(200);
        die(care, Reason::Killed, 300);
        care.note_ready(305);
        assert_eq!(care.without_worker_ns.load(Ordering::Relaxed), 35);
    }

    #[test]
    fn the_kernel_says_what_a_child_died_of_and_what_nobody_says_is_unknown() {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "kill -SEGV $$"]).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let pidfd = process::pidfd(pid).unwrap();
        assert_eq!(crate::sys::epoll::readable_within(pidfd.as_fd(), 10_000), Ok(true));
        let crashed = Cause { reason: Reason::Crashed, signal: 11, exit_status: 0 };
        assert_eq!(cause(pid, None, None), crashed);
        assert_eq!(cause(pid, None, None).reason, Reason::Unknown, "reaped already");
        assert_eq!(cause(pid, None, Some(Reason::Hung)).reason, Reason::Hung, "what was announced holds");
        let _ = child.try_wait();
    }
}
