//! How a worker begins: with what its predecessor left, or with nothing.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use super::{Hands, Pipes, Worker, beat::Beat, image::Wait, inner::Inner, spool::Spooling};
use crate::{
    block::{Block, Slot, care::Mode},
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
        let Inheritance { block, slots, pair, ready, mode, stands_in } = inheritance;
        let block: &'static Block = Box::leak(Box::new(block));
        block.make_ours()?;
        block.tables().worker_pid.store(std::process::id(), Ordering::Release);
        #[cfg(next_layout)]
        block.tables().workers.fetch_add(1, Ordering::AcqRel);
        let hands = Hands::new(block, pair, slots);
        let board: &'static Switchboard = Box::leak(Box::new(Switchboard::new()?));
        let mut worker = Self::on(block, board, hands, mode, stands_in)?;
        worker.awaited = ready;
        Ok(worker)
    }

    /// With a block and descriptors.
    pub(super) fn on(
        block: &'static Block,
        board: &'static Switchboard,
        mut hands: Hands,
        mode: Mode,
        stands_in: bool,
    ) -> Kernel<Self> {
        hands.ensure(Operation::Pipe, Slot::TAP, "")?;
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
            inner: Inner::default(),
            mode,
            unled: Vec::new(),
            stands_in,
            awaited: None,
            beat: Beat::default(),
            upgrade: Wait::default(),
            spooling: Spooling::default(),
        };
        worker.watch_link(board.relay_wake())?;
        worker.finish_tap();
        worker.events.finish();
        worker.finish_event();
        worker.finish_count();
        if worker.is_safe() {
            worker.let_go();
        }
        Ok(worker)
    }
}
