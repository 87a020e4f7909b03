//! Deaths as events: the keeper writes down what a worker died of, its successor tells; of a keeper that it has replaced a worker
//! tells what the kernel says.

use std::sync::atomic::Ordering;

use shimtap_proto::link::{Event, EventKind, RestartReason};

use super::{Worker, watched::Replaced};
use crate::{
    block::care::{DEATHS, Reason},
    sys::{ends::End, unix_ns},
};

/// As the link says it.
pub fn on_the_wire(reason: Reason) -> RestartReason {
    match reason {
        Reason::Unknown => RestartReason::RESTART_REASON_UNKNOWN,
        Reason::Killed => RestartReason::RESTART_REASON_KILLED,
        Reason::Crashed => RestartReason::RESTART_REASON_CRASHED,
        Reason::Failed => RestartReason::RESTART_REASON_FAILED,
        Reason::Hung => RestartReason::RESTART_REASON_HUNG,
        Reason::LinkHung => RestartReason::RESTART_REASON_LINK_HUNG,
        Reason::Replaced => RestartReason::RESTART_REASON_REPLACED,
        Reason::KeeperLost => RestartReason::RESTART_REASON_KEEPER_LOST,
        Reason::KeeperHung => RestartReason::RESTART_REASON_KEEPER_HUNG,
    }
}

impl Worker {
    /// An event for each death that has none yet; of many in a row the newest [`DEATHS`], the rest is in the counts.
    pub(super) fn tell_deaths(&self) {
        let tables = self.block.tables();
        let care = &tables.care;
        let died = care.died.load(Ordering::Acquire);
        let first = care.told.load(Ordering::Acquire).max(died.saturating_sub(DEATHS as u64));
        for number in first..died {
            let death = care.death(number);
            let head = tables.events_head.load(Ordering::Acquire);
            let at = death.event_at.load(Ordering::Acquire);
            // A predecessor died while it pushed it: it was pushed, if the head has moved since.
            if at == 0 || at == head.wrapping_add(1) {
                death.event_at.store(head.wrapping_add(1), Ordering::Release);
                let died_ns = death.died_ns.load(Ordering::Acquire);
                self.events.push(Event {
                    time_ns: death.time_ns.load(Ordering::Relaxed),
                    kind: EventKind::EVENT_KIND_WORKER_RESTART.into(),
                    restart: on_the_wire(Reason::load(&death.reason)).into(),
                    pid: death.pid.load(Ordering::Relaxed),
                    signal: death.signal.load(Ordering::Relaxed),
                    exit_status: death.exit_status.load(Ordering::Relaxed),
                    duration_ns: death.ready_ns.load(Ordering::Acquire).saturating_sub(died_ns),
                    ..Default::default()
                });
            }
            care.told.store(number.wrapping_add(1), Ordering::Release);
        }
    }

    /// And for each keeper that this worker has replaced.
    pub(super) fn tell_replaced_keepers(&mut self) {
        while let Some(Replaced { reason, keeper }) = self.hands.next_replaced() {
            let (signal, exit_status) = match keeper.end() {
                Some(End::Signal(signal)) => (signal, 0),
                Some(End::Exit(status)) => (0, status),
                None => (0, 0),
            };
            self.events.push(Event {
                time_ns: unix_ns(),
                kind: EventKind::EVENT_KIND_WORKER_RESTART.into(),
                restart: on_the_wire(reason).into(),
                pid: keeper.number(),
                signal: u32::try_from(signal).unwrap_or(0),
                exit_status: u32::try_from(exit_status).unwrap_or(0),
                ..Default::default()
            });
            self.board.wake_link();
        }
    }
}
