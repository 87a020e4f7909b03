//! One end of a ttrpc connection, played by the test: bytes leave when and as far as they are told to, and come in whole
//! frames.

use std::{os::fd::OwnedFd, vec::Vec};

use nix::errno::Errno;
use shimtap_proto::ttrpc::{HEADER_LEN, Header};

pub struct Wire {
    socket: OwnedFd,
    out: Vec<u8>,
    inbox: Vec<u8>,
}

// === impl Wire ===

impl Wire {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, out: Vec::new(), inbox: Vec::new() }
    }

    /// To leave when it is told to.
    pub fn put(&mut self, frame: &[u8]) {
        self.out.extend(frame);
    }

    /// At most so many bytes leave; how many did.
    pub fn flow(&mut self, most: usize) -> usize {
        let piece = &self.out[..most.min(self.out.len())];
        if piece.is_empty() {
            return 0;
        }
        match nix::unistd::write(&self.socket, piece) {
            Ok(n) => {
                self.out.drain(..n);
                n
            }
            Err(Errno::EAGAIN) => 0,
            Err(errno) => panic!("the wrapper broke a connection: {errno}"),
        }
    }

    /// Whole frames that have come; a rest waits for more.
    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut piece = vec![0; 64 << 10];
        loop {
            match nix::unistd::read(&self.socket, &mut piece) {
                Ok(0) => panic!("the wrapper ended a connection"),
                Ok(n) => self.inbox.extend(&piece[..n]),
                Err(Errno::EAGAIN) => break,
                Err(errno) => panic!("the wrapper broke a connection: {errno}"),
            }
        }
        let mut frames = Vec::new();
        while let Ok(header) = Header::decode(&self.inbox) {
            let len = HEADER_LEN + usize::try_from(header.length).unwrap();
            if self.inbox.len() < len {
                break;
            }
            frames.push(self.inbox.drain(..len).collect());
        }
        frames
    }

    pub fn is_idle(&self) -> bool {
        self.out.is_empty() && self.inbox.is_empty()
    }
}
