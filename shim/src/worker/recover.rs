//! How a worker begins: with what its predecessor left, or with nothing.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use super::{Hands, Pipes, Worker, beat::Beat, spool::Spooling};
use crate::{
    block::{Block, Slot},
    events::EventRing,
    keeper::{Inheritance, protocol::Operation},
    link::Switchboard,
    relay::Relay,
    sys::{Kernel, epoll::Poller},
    tee::Tee,
};

impl Worker {
    /// From the keeper's fork. Both lives of a wrapper start here: a first worker finds empty tables.
    pub(super) fn recover(inheritance: Inheritance) -> Kernel<Self> {
        let block: &'static Block = Box::leak(Box::new(inheritance.block));
        block.tables().worker_pid.store(std::process::id(), Ordering::Release);
        let mut hands = Hands::new(block, inheritance.pair, inheritance.slots);
        hands.ensure(Operation::Pipe, Slot::TAP, "")?;
        let board: &'static Switchboard = Box::leak(Box::new(Switchboard::new()?));
        let pipes = Pipes::recover(block, &mut hands);
        let mut worker = Self {
            block,
            hands,
            poller: Poller::new()?,
            pipes,
            relay: Relay::new(),
            tee: Tee::recover(block)?,
            events: EventRing::new(block)?,
            board,
            unfinished: BTreeSet::new(),
            inner_gone_ns: None,
            watch_again_ns: None,
            mode: inheritance.mode,
            stands_in: inheritance.stands_in,
            beat: Beat::default(),
            spooling: Spooling::default(),
        };
        worker.watch_link(board.relay_wake())?;
        worker.finish_tap();
        worker.finish_event();
        if worker.is_safe() {
            worker.let_go();
        }
        Ok(worker)
    }
}
