//! Requests that are meant for the wrapper itself, on its own socket: who are you, become that image.
//!
//! They are told from ttrpc by their first byte, in any mode, before a connection to the inner shim is made; nothing of
//! them is ever forwarded. The keeper lets only our own user in, the directory of the socket is 0700, and no container sees
//! it. Answering waits for nobody: an answer that its asker does not take is lost.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use shimtap_proto::control::{Answer, Ask, REQUEST, Step};

use super::Worker;
use crate::{
    block::{LAYOUT, Slot, Upgrade},
    relay::Want,
    sys::{
        Kernel, epoll, fd,
        pair::{self, Received},
    },
};

impl Worker {
    /// A connection whose first byte is no frame's. Without a whole request there is nothing to do but wait for the rest.
    pub(crate) fn hear_request(&mut self, conn: usize) {
        loop {
            match self.next_request(conn) {
                Ok(Heard::Request(Some(ask), fds)) => self.answer_request(conn, ask, fds),
                Ok(Heard::Part) if self.has_hung_up(conn) => return self.conn_end(conn),
                Ok(Heard::Part) => return self.wait_for_source(conn, Want::SourceChange),
                Ok(Heard::Nothing) => return self.wait_for_source(conn, Want::Source),
                // Of a later release, or nobody's; hung up; broken.
                Ok(Heard::Request(None, _) | Heard::End) | Err(_) => return self.conn_end(conn),
            }
        }
    }

    fn next_request(&self, conn: usize) -> Kernel<Heard> {
        let socket = self.hands.get(Slot::outer(conn))?;
        let mut bytes = [0u8; REQUEST];
        fd::set_peek_off(socket, 0)?;
        let peeked = fd::peek(socket, &mut bytes);
        fd::set_peek_off(socket, 0)?;
        match peeked? {
            None => return Ok(Heard::Nothing),
            Some(0) => return Ok(Heard::End),
            Some(n) if n < REQUEST => return Ok(Heard::Part),
            Some(_) => {}
        }
        Ok(match pair::receive_up_to(socket, REQUEST)? {
            Received::Message(bytes, fds) => Heard::Request(Ask::decode(&bytes), fds),
            Received::Nothing => Heard::Nothing,
            Received::Closed => Heard::End,
        })
    }

    fn answer_request(&mut self, conn: usize, ask: Ask, fds: Vec<OwnedFd>) {
        match ask {
            Ask::Who => self.say(conn, None, &[self.block.memfd()]),
            Ask::Become => {
                let refused = self.asked_to_become(conn, fds).err();
                self.say(conn, refused, &[]);
            }
            Ask::Logger(handle) => {
                let taken = self.logger_came(handle, fds);
                let (refused, streams) = match taken {
                    Ok(streams) => (None, streams),
                    Err(why) => (Some(why), Vec::new()),
                };
                let along: Vec<_> = streams.iter().filter_map(|slot| self.hands.get(*slot).ok()).collect();
                self.say(conn, refused, &along);
            }
        }
    }

    fn say(&self, conn: usize, refused: Option<&str>, along: &[BorrowedFd<'_>]) {
        let Ok(mut line) = serde_json::to_vec(&self.about_itself(refused.map(str::to_owned), along.len()))
        else {
            return;
        };
        line.push(b'\n');
        if let Ok(socket) = self.hands.get(Slot::outer(conn)) {
            let _ = pair::send(socket, &line, along);
        }
    }

    fn asked_to_become(&mut self, conn: usize, fds: Vec<OwnedFd>) -> Result<(), &'static str> {
        let tables = self.block.tables();
        let image = fds.into_iter().next().ok_or("the image did not come along; are descriptors short?")?;
        if self.has_hung_up(conn) {
            return Err("nobody waits for it any more");
        }
        if self.is_inner_gone() {
            return Err("its pod is ending");
        }
        if self.stands_in || self.hands.is_orphaned() {
            return Err("the machine refuses it a process at the moment; ask again when it does not");
        }
        if matches!(Upgrade::load(&tables.upgrade), Upgrade::Asked | Upgrade::KeeperDone) {
            return Err("another upgrade of it is under way");
        }
        tables.upgrade_errno.store(0, Ordering::Release);
        Upgrade::Asked.store(&tables.upgrade);
        if self.hands.tell_to_become(image.as_fd()).is_err() {
            Upgrade::Interrupted.store(&tables.upgrade);
            return Err("its keeper could not be told; ask again");
        }
        Ok(())
    }

    fn has_hung_up(&self, conn: usize) -> bool {
        self.hands.get(Slot::outer(conn)).is_ok_and(epoll::has_hung_up)
    }

    fn about_itself(&self, refused: Option<String>, descriptors: usize) -> Answer {
        let tables = self.block.tables();
        Answer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layout: LAYOUT,
            generation: tables.generation.load(Ordering::Relaxed),
            keeper_pid: tables.keeper_pid.load(Ordering::Acquire),
            worker_pid: std::process::id(),
            safe_mode: self.is_safe(),
            upgrade: step(Upgrade::load(&tables.upgrade)),
            errno: i32::try_from(tables.upgrade_errno.load(Ordering::Acquire)).unwrap_or(0),
            refused,
            descriptors,
        }
    }
}

/// What waits at such a connection.
enum Heard {
    Request(Option<Ask>, Vec<OwnedFd>),
    Part,
    Nothing,
    End,
}

fn step(upgrade: Upgrade) -> Step {
    match upgrade {
        Upgrade::None => Step::None,
        Upgrade::Asked => Step::Asked,
        Upgrade::KeeperDone => Step::KeeperDone,
        Upgrade::Done => Step::Done,
        Upgrade::Refused => Step::Refused,
        Upgrade::KeeperLost => Step::KeeperLost,
        Upgrade::Interrupted => Step::Interrupted,
        Upgrade::FellBack => Step::FellBack,
    }
}
