//! Several descriptors at once: all questions first, then all answers, so that keeper and worker change places once and not
//! once for each.
//!
//! Each question is the one that would be asked alone, idempotent and answered by itself: a keeper that dies in the middle has
//! answered some of them, whose descriptors are here, and its successor is asked for the others.

use super::{Hands, PATIENCE_NS, Reply};
use crate::{
    block::Slot,
    keeper::protocol::Operation,
    sys::{Errno, Kernel, monotonic_ns},
};

/// What a slot is to hold.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// How that is made.
    pub operation: Operation,
    /// Where it is held.
    pub slot: Slot,
    /// Of which path, where the operation has one.
    pub path: &'a str,
}

/// A wish and what became of it; `None`: not answered yet.
struct Asked<'a> {
    wish: Wish<'a>,
    serial: u32,
    came: Option<Kernel<()>>,
}

impl Hands {
    /// As [`Hands::ensure`] for each of them; what became of each, in their order.
    pub fn ensure_all(&mut self, wishes: &[Wish<'_>]) -> Vec<Kernel<()>> {
        let there = |wish: &Wish<'_>| self.is_filled(wish.operation, wish.slot).then_some(Ok(()));
        let mut asked: Vec<Asked<'_>> =
            wishes.iter().map(|wish| Asked { wish: *wish, serial: 0, came: there(wish) }).collect();
        for _ in 0..2 {
            if asked.iter().all(|a| a.came.is_some()) {
                break;
            }
            if self.orphaned
                && let Err(errno) = self.replace_keeper()
            {
                asked.iter_mut().for_each(|a| a.came = a.came.or(Some(Err(errno))));
                break;
            }
            match self.ask_for_all(&mut asked) {
                Ok(()) => {}
                Err(Reply::KeeperMute) => (self.orphaned, self.mute) = (true, true),
                Err(_) => self.orphaned = true,
            }
        }
        self.late.clear();
        asked.into_iter().map(|a| a.came.unwrap_or(Err(Errno::EOWNERDEAD))).collect()
    }

    /// Asks for what was not answered yet, once. What became of the keeper, where not all of it was answered.
    fn ask_for_all(&mut self, asked: &mut [Asked<'_>]) -> Result<(), Reply> {
        let deadline = monotonic_ns().saturating_add(PATIENCE_NS);
        for a in asked.iter_mut().filter(|a| a.came.is_none()) {
            let request = self.question(a.wish.operation, a.wish.slot, 0, a.wish.path);
            a.serial = request.serial;
            match self.put_question(&request, None, deadline) {
                Ok(()) => {}
                Err(Reply::Refused(errno)) => a.came = Some(Err(errno)),
                Err(reply) => return Err(reply),
            }
        }
        while asked.iter().any(|a| a.came.is_none()) {
            let (answer, fds) = self.next_answer(deadline)?;
            // Any other is the late answer to a question that was asked again.
            let a = asked.iter_mut().find(|a| a.came.is_none() && a.serial == answer.serial);
            if let Some(a) = a {
                a.came = Some(match Reply::of(&answer, fds) {
                    Reply::Done(fds) => self.fill(a.wish.operation, a.wish.slot, fds),
                    _ => Err(Errno::from_raw(answer.errno)),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        os::fd::{AsFd, OwnedFd},
        thread,
    };

    use super::*;
    use crate::{
        block::Block,
        keeper::protocol::{Answer, Request},
        sys::{
            epoll, fd,
            pair::{self, Received},
        },
    };

    /// Questions that wait at a keeper's end.
    fn questions(keeper: &OwnedFd, count: usize) -> Vec<(u32, Slot)> {
        let mut got = Vec::new();
        while got.len() < count {
            let _ = epoll::readable_within(keeper.as_fd(), 10_000);
            let Ok(Received::Message(bytes, _)) = pair::receive(keeper.as_fd()) else { panic!("a question") };
            let request = Request::decode(&bytes).unwrap();
            got.push((request.serial, request.slot));
        }
        got
    }

    #[test]
    fn all_are_asked_before_one_is_answered_and_each_has_its_own_answer() {
        let block: &'static Block = Box::leak(Box::new(Block::create().unwrap()));
        let (ours, theirs) = pair::pair().unwrap();
        let mut hands = Hands::new(block, ours, BTreeMap::new());
        let keeper = thread::spawn(move || {
            // None of them answered before the last of them is there.
            let asked = questions(&theirs, 3);
            let (reader, _writer) = fd::pipe().unwrap();
            // In another order, one refused, and one that nobody has asked.
            for (serial, slot) in asked.iter().rev().chain([&(77, Slot::stream(9))]) {
                let errno = if *slot == Slot::stream(1) { Errno::ENOENT as i32 } else { 0 };
                let along = [reader.as_fd()];
                let along = if errno == 0 { &along[..] } else { &[] };
                pair::send(theirs.as_fd(), &Answer { serial: *serial, errno }.encode(), along).unwrap();
            }
            theirs
        });
        let wish = |n, path| Wish { operation: Operation::InnerFifo, slot: Slot::stream(n), path };
        let came = hands.ensure_all(&[wish(0, "/a"), wish(1, "/b"), wish(2, "/c")]);
        assert_eq!(came, [Ok(()), Err(Errno::ENOENT), Ok(())]);
        assert!(hands.has(Slot::stream(0)) && !hands.has(Slot::stream(1)) && hands.has(Slot::stream(2)));
        assert_eq!(hands.ensure_all(&[wish(0, "/a")]), [Ok(())], "what is there is not asked for");
        keeper.join().unwrap();
    }
}
