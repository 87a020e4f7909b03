//! What has come to containerd and to the inner shim, against what had to come.

use std::{
    io::ErrorKind,
    os::fd::{AsFd, OwnedFd},
};

use shimtap_proto::{link::EventKind, ttrpc::Method};

use super::{Call, HOLD, Output, World};
use crate::{
    sys::fd,
    worker::model::{
        calls::{self, Stage as At},
        output,
        wire::Wire,
    },
};

impl World {
    /// What has come, against what had to come; the figures in the block.
    pub fn check(&mut self) {
        // First, since what arrives now left before anybody reads on.
        self.hear_as_containerd();
        self.hear_as_shim();
        self.account();
        let (block, thorough) = (self.stage.block, self.stage.deaths != self.checked);
        self.checked = self.stage.deaths;
        self.outputs().for_each(|o| o.check(block, thorough));
    }

    /// Notes of what the ring may do without by now.
    pub(super) fn account(&mut self) {
        let block = self.stage.block;
        let entries = self.outputs().filter(|o| o.entry(block).is_some()).count();
        let unacked: u64 = self.outputs().map(|o| o.unacked(block)).sum();
        let crowded = unacked > output::room_of(entries);
        let attached = self.collector.was_attached();
        self.outputs().for_each(|o| o.account(block, crowded, attached));
    }

    fn hear_as_containerd(&mut self) {
        for conn in 0..self.clients.len() {
            for frame in self.clients[conn].frames() {
                let id = calls::stream_id_of(&frame);
                let index = self.calls.iter().position(|c| c.stream_id == id && c.conn == conn);
                let index = index.expect("an answer to what was asked here");
                let call = &self.calls[index];
                assert_eq!(call.stage, At::Answered, "{:?} {id} was answered once", call.method);
                assert!(frame == call.answer, "the answer to {:?} {id} as it was given", call.method);
                let earlier = |c: &&Call| {
                    c.conn == conn
                        && c.stage == At::Answered
                        && c.method != Method::Wait
                        && c.answered_as < call.answered_as
                };
                let overtaken = self.calls.iter().find(earlier).filter(|_| call.method != Method::Wait);
                assert!(overtaken.is_none(), "{id} overtook {:?}", overtaken.map(|c| c.stream_id));
                self.take_answer(index);
            }
        }
    }

    fn take_answer(&mut self, index: usize) {
        let call = &mut self.calls[index];
        call.stage = At::Done;
        let (method, ok) = (call.method, call.code == 0);
        let task = &mut self.tasks[call.task];
        let kind = match method {
            Method::Create => Some(EventKind::EVENT_KIND_CREATE),
            Method::Start => Some(EventKind::EVENT_KIND_START),
            Method::Kill => Some(EventKind::EVENT_KIND_KILL),
            Method::Delete => Some(EventKind::EVENT_KIND_DELETE),
            Method::Pause => Some(EventKind::EVENT_KIND_PAUSE),
            Method::Update => Some(EventKind::EVENT_KIND_UPDATE),
            _ => None,
        };
        self.events.extend(kind.map(|kind| (task.id.clone(), kind)));
        match method {
            Method::Create => (task.created, task.over) = (ok, !ok),
            Method::Delete => task.over = true,
            Method::Wait => {
                let held = task.exit_told.is_some_and(|at| at.elapsed() >= HOLD);
                let drained = task.outputs.iter().all(Output::is_delivered);
                assert!(drained || held || task.delete_asked, "a Wait was answered before the last byte");
            }
            _ => {}
        }
    }

    fn hear_as_shim(&mut self) {
        loop {
            match self.stage.inner.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true).unwrap();
                    self.quiet.push(OwnedFd::from(socket));
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        for socket in std::mem::take(&mut self.quiet) {
            if fd::unread(socket.as_fd()).unwrap() < 10 {
                self.quiet.push(socket);
                continue;
            }
            let mut head = [0; 10];
            fd::peek(socket.as_fd(), &mut head).unwrap();
            let id = calls::stream_id_of(&head);
            let conn = self.calls.iter().find(|c| c.stream_id == id).expect("a request's frame").conn;
            assert!(self.shims.insert(conn, Wire::new(socket)).is_none(), "one connection each");
        }
        for conn in self.shims.keys().copied().collect::<Vec<_>>() {
            for frame in self.shims.get_mut(&conn).expect("just named").frames() {
                let next = self.calls.iter_mut().find(|c| c.conn == conn && c.stage == At::Asked);
                let call = next.expect("no more arrives than was sent");
                call.stage = At::There;
                let task = &mut self.tasks[call.task];
                match call.method {
                    Method::Create => {
                        let fifos = calls::changed_create(&call.frame, &frame);
                        task.outputs.iter_mut().zip(&fifos).for_each(|(o, path)| o.open(path.as_ref()));
                    }
                    _ => assert!(frame == call.frame, "{:?} {} as it was sent", call.method, call.stream_id),
                }
                if call.method == Method::Exec {
                    self.events.push((task.id.clone(), EventKind::EVENT_KIND_EXEC));
                }
            }
        }
    }
}
