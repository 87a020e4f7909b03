//! Which frame comes next, and whether it is looked at.
//!
//! Only the first bytes are ever peeked: ten of header, then service and method. Whole frames are read into the block
//! only where their method is in the table below; everything else goes over unseen.

use shimtap_proto::ttrpc::{
    BODY_MAX, HEADER_LEN, Header, HeaderFault, Kind, Method, PEEK_MAX, Peek, TaskApi, peek_method,
};

use super::{REQUESTS, Want};
use crate::{
    block::{DirState, Slot, counters::Counter},
    sys::{Errno, Kernel, fd},
    worker::Worker,
};

/// What is at the source.
pub(super) enum Taken {
    /// Not enough yet.
    Wait(Want),
    /// Nothing more will come.
    End,
    /// No frame: from here on bytes are moved as they come.
    Raw,
    /// A frame of `len` bytes, header included; `state` says how it goes over.
    Frame { len: usize, state: DirState },
}

/// Methods whose requests and answers are looked at.
pub(super) fn is_watched(method: Method) -> bool {
    match method {
        Method::Create
        | Method::Exec
        | Method::Start
        | Method::Kill
        | Method::Delete
        | Method::Pause
        | Method::Resume
        | Method::Update
        | Method::Shutdown
        | Method::Wait
        | Method::State
        | Method::Stats
        | Method::Connect => true,
        Method::Pids | Method::Checkpoint | Method::ResizePty | Method::CloseIo => false,
    }
}

impl Worker {
    pub(super) fn take(&mut self, conn: usize, dir: usize) -> Kernel<Taken> {
        if self.is_safe() {
            return self.take_unseen(conn, dir);
        }
        let mut head = [0u8; HEADER_LEN + PEEK_MAX];
        let head = match self.peek(conn, dir, &mut head)? {
            Ok(head) => head,
            Err(taken) => return Ok(taken),
        };
        let (header, body) = match Header::decode(head) {
            Ok(header) => (header, head.get(HEADER_LEN..).unwrap_or(&[])),
            Err(HeaderFault::Incomplete) => return Ok(self.wait_for_more(conn, dir)),
            Err(_) => {
                self.block.tables().counters.add(Counter::RawConnections);
                return Ok(Taken::Raw);
            }
        };
        let state = if header.length > BODY_MAX {
            self.block.tables().counters.add(Counter::FramesOversize);
            Some(DirState::Pass)
        } else if dir == REQUESTS {
            way_of_request(&header, body)
        } else {
            Some(self.way_of_answer(conn, &header))
        };
        let Some(state) = state else { return Ok(self.wait_for_more(conn, dir)) };
        self.block.tables().counters.add(Counter::Frames);
        let len = usize::try_from(header.length).unwrap_or(usize::MAX).saturating_add(HEADER_LEN);
        Ok(Taken::Frame { len, state })
    }

    /// What is at the source, as far as `head` has room for it; else what there is to do without.
    pub(super) fn peek<'a>(
        &self,
        conn: usize,
        dir: usize,
        head: &'a mut [u8],
    ) -> Kernel<Result<&'a [u8], Taken>> {
        let source = self.hands.get(if dir == REQUESTS { Slot::outer(conn) } else { Slot::inner(conn) })?;
        // Peeking moves the offset, so it is put back on both sides: before, in case a predecessor died in between.
        fd::set_peek_off(source, 0)?;
        let peeked = fd::peek(source, head);
        fd::set_peek_off(source, 0)?;
        match peeked {
            Ok(None) => Ok(Err(Taken::Wait(Want::Source))),
            Ok(Some(0)) | Err(Errno::ECONNRESET) => Ok(Err(Taken::End)),
            Ok(Some(n)) => Ok(Ok(head.get(..n).unwrap_or(&[]))),
            Err(e) => Err(e),
        }
    }

    /// The peer has begun a frame; if it will never end it, the rest goes over as it is.
    pub(super) fn wait_for_more(&self, conn: usize, dir: usize) -> Taken {
        let done = self.relay.lines.get(&conn).and_then(|l| l.source_done.get(dir)).copied().unwrap_or(true);
        if done { Taken::Raw } else { Taken::Wait(Want::SourceChange) }
    }

    fn way_of_answer(&self, conn: usize, header: &Header) -> DirState {
        let known = header.kind == Kind::Response && self.pending_of(conn, header.stream_id).is_some();
        if known { DirState::Assemble } else { DirState::Pass }
    }
}

/// `None`: the method cannot be told yet.
fn way_of_request(header: &Header, body: &[u8]) -> Option<DirState> {
    if header.kind != Kind::Request {
        return Some(DirState::Pass);
    }
    match peek_method(body, usize::try_from(header.length).unwrap_or(usize::MAX)) {
        Peek::Incomplete => None,
        Peek::Task(_, method) if is_watched(method) => Some(DirState::Assemble),
        Peek::Task(..) | Peek::Other => Some(DirState::Pass),
    }
}

/// 2 or 3, as the block stores it.
pub(super) fn api_number(api: TaskApi) -> u32 {
    match api {
        TaskApi::V2 => 2,
        TaskApi::V3 => 3,
    }
}
