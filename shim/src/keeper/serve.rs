//! Doing what the worker asks for.
//!
//! What waits is heard first and done in its order, each answered by itself: what is asked for together is done together where that
//! costs less. Nothing here is refused for having been done before.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    Keeper, beside, open,
    protocol::{Answer, Operation, Request},
};
use crate::{
    block::Slot,
    sys::{
        Errno, Kernel, fd, monotonic_ns,
        pair::{self, Received},
    },
};

impl Keeper {
    /// Does what the worker has asked for, all of it.
    pub(super) fn serve(&mut self) {
        let mut asked = self.hear();
        while let Some((bytes, fds)) = asked.pop_front() {
            let Some(request) = Request::decode(&bytes) else { continue };
            if !self.lacks_writer(&request) {
                let done = self.perform(&request, fds);
                self.answer(&request, done);
                continue;
            }
            // Those of one task's streams are asked for together.
            let mut writers = vec![(request.serial, request.slot)];
            while let Some(next) = asked.front().and_then(|(bytes, _)| Request::decode(bytes))
                && self.lacks_writer(&next)
                && writers.iter().all(|(_, slot)| *slot != next.slot)
            {
                writers.push((next.serial, next.slot));
                asked.pop_front();
            }
            self.make_outer_writers(&writers);
        }
    }

    /// All that the worker has asked for by now.
    fn hear(&mut self) -> VecDeque<(Vec<u8>, Vec<OwnedFd>)> {
        let mut asked = VecDeque::new();
        while let Some(worker) = &mut self.worker {
            match pair::receive(worker.pair.as_fd()) {
                Ok(Received::Message(bytes, fds)) => asked.push_back((bytes, fds)),
                Ok(Received::Nothing) | Err(_) => break,
                Ok(Received::Closed) => {
                    worker.closed = true;
                    break;
                }
            }
        }
        asked
    }

    fn answer(&self, request: &Request<'_>, done: Kernel<()>) {
        let errno = done.err().map_or(0, |e| e as i32);
        let answer = Answer { serial: request.serial, errno };
        let fds: Vec<_> = if errno == 0 { self.results(request) } else { Vec::new() };
        if let Some(worker) = &self.worker {
            // A full queue can only mean a worker that does not read: it will ask again, or be replaced.
            let _ = pair::send(worker.pair.as_fd(), &answer.encode(), &fds);
        }
    }

    fn results(&self, request: &Request<'_>) -> Vec<BorrowedFd<'_>> {
        (0..request.operation.makes())
            .filter_map(|n| self.slots.get(&request.slot.plus(n)).map(OwnedFd::as_fd))
            .collect()
    }

    /// Is it a writer of containerd's FIFO that is asked for, and not there yet?
    fn lacks_writer(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::OuterWriter
            && !self.slots.contains_key(&request.slot)
            && self.slots.contains_key(&request.slot.minus_one())
    }

    /// Their readers, which may be containerd's, are let in by them; if they were lost then, the log would end there. By serial
    /// and slot.
    fn make_outer_writers(&mut self, asked: &[(u32, Slot)]) {
        let mut rest = asked;
        while !rest.is_empty() {
            let mut made = self.make_writers_beside(rest).into_iter();
            let (now, later) = rest.split_at(made.len().clamp(1, rest.len()));
            for (serial, slot) in now {
                let made = made.next().unwrap_or(Err(Errno::EBADF));
                let held = made.and_then(|(writer, told)| self.hold(*slot, writer).map(|()| told));
                if held != Ok(true) {
                    let operation = Operation::OuterWriter;
                    let request = Request { serial: *serial, operation, slot: *slot, count: 0, path: b"" };
                    self.answer(&request, held.map(drop));
                }
            }
            rest = later;
        }
    }

    /// See [`beside::make_all`].
    fn make_writers_beside(&self, asked: &[(u32, Slot)]) -> Vec<beside::Made> {
        let reader = |n: usize| asked.get(n).and_then(|(_, slot)| self.slots.get(&slot.minus_one()));
        let Some(template) = reader(0) else { return Vec::new() };
        let worker = self.worker.as_ref().map(|w| w.pair.as_fd());
        let answers: Vec<_> =
            asked.iter().map(|(serial, _)| Answer { serial: *serial, errno: 0 }.encode()).collect();
        beside::make_all(
            template,
            asked.len(),
            |n| reader(n).ok_or(Errno::EBADF).and_then(|reader| open::outer_writer(reader.as_fd())),
            |n, writer| {
                let answer = worker.zip(answers.get(n));
                answer.is_some_and(|(worker, answer)| pair::send(worker, answer, &[writer.as_fd()]).is_ok())
            },
        )
    }

    /// What a first worker asks for before anything else, made before it is born. What cannot be made now it asks for itself.
    pub(super) fn provide(&mut self) {
        for (operation, slot) in [(Operation::Pipe, Slot::TAP), (Operation::Connect, Slot::WATCH)] {
            let request = Request { serial: 0, operation, slot, count: 0, path: b"" };
            let _ = self.perform(&request, Vec::new());
        }
    }

    fn perform(&mut self, request: &Request<'_>, fds: Vec<OwnedFd>) -> Kernel<()> {
        match request.operation {
            Operation::Become => fds.into_iter().next().ok_or(Errno::EBADF).and_then(|i| self.take_image(i)),
            Operation::Ready => {
                self.block.tables().care.note_ready(monotonic_ns());
                // Said by the worker itself; a first one that does not live to say it leaves this to the next.
                self.ready = None;
                Ok(())
            }
            Operation::Ping => Ok(()),
            Operation::Spool => self.begin_spool(),
            Operation::Drop => {
                for n in 0..request.count {
                    self.release(request.slot.plus(n));
                }
                Ok(())
            }
            Operation::Fetch => self.slots.get(&request.slot).map(drop).ok_or(Errno::EBADF),
            // Asked for before by a worker that died: it is there.
            _ if self.slots.contains_key(&request.slot) => Ok(()),
            Operation::Hold => {
                fds.into_iter().next().ok_or(Errno::EBADF).and_then(|fd| self.hold(request.slot, fd))
            }
            Operation::InnerFifo => {
                open::inner_fifo(request.path()?).and_then(|fd| self.hold(request.slot, fd))
            }
            Operation::OuterReader => {
                open::outer_reader(request.path()?).and_then(|fd| self.hold(request.slot, fd))
            }
            // Without its reader: see `make_outer_writers`.
            Operation::OuterWriter => Err(Errno::EBADF),
            Operation::Connect => {
                open::inner_socket(&self.block.tables().identity).and_then(|fd| self.hold(request.slot, fd))
            }
            Operation::Pipe => {
                let (reader, writer) = fd::pipe()?;
                self.hold(request.slot.plus(1), writer)?;
                self.hold(request.slot, reader)
            }
        }
    }
}
