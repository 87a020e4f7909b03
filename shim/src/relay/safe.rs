//! Safe mode: frames go over by their length alone (docs/adr/0007).
//!
//! What a predecessor began is finished first: a frame half taken goes out as it came, one that was changed goes out
//! changed, an answer that was held leaves. Then nothing is looked into, so nothing can be understood wrongly: no
//! request is entered, no answer observed, no path rewritten.

use std::{fs, os::unix::fs::symlink, path::Path, sync::atomic::Ordering};

use shimtap_proto::ttrpc::{BODY_MAX, HEADER_LEN, Header, HeaderFault, Method};

use super::{REQUESTS, hold::RELEASED, request::Out, take::Taken};
use crate::{
    block::{
        ConnState, DirState, FRAME_AREA, Pending, PendingState, Places, Stream, StreamState, TaskState,
        care::Mode, linked,
    },
    sys::Kernel,
    worker::Worker,
};

impl Worker {
    /// Is nothing looked into?
    pub(crate) fn is_safe(&self) -> bool {
        self.mode != Mode::Normal
    }

    /// The next frame, by its header alone.
    pub(super) fn take_unseen(&mut self, conn: usize, dir: usize) -> Kernel<Taken> {
        let mut head = [0u8; HEADER_LEN];
        let head = match self.peek(conn, dir, &mut head)? {
            Ok(head) => head,
            Err(taken) => return Ok(taken),
        };
        match Header::decode(head) {
            Ok(header) if header.length <= BODY_MAX => {
                let len = usize::try_from(header.length).unwrap_or(usize::MAX).saturating_add(HEADER_LEN);
                Ok(Taken::Frame { len, state: DirState::Pass })
            }
            Err(HeaderFault::Incomplete) => Ok(self.wait_for_more(conn, dir)),
            Ok(_) | Err(_) => Ok(Taken::Raw),
        }
    }

    /// A frame that a predecessor had begun to take in: it leaves unchanged, unless its answer is held (or ours) already.
    pub(super) fn as_it_came(&self, conn: usize, dir: usize, len: usize) -> Option<Out> {
        let answered = dir != REQUESTS
            && self.frame_at_hand(conn, dir).is_some_and(|stream| self.pending_of(conn, stream).is_some());
        (!answered).then_some(Out { changed: false, len })
    }

    /// Before the first move of a safe-mode worker: nothing that a predecessor knew is waited for any more.
    pub(crate) fn let_go(&mut self) {
        let tables = self.block.tables();
        for task in 0..tables.tasks().len() {
            self.settle_create(task);
        }
        for (_, pending) in self.pendings() {
            match PendingState::load(&pending.state) {
                PendingState::Held => pending.release.store(RELEASED, Ordering::Release),
                PendingState::Leaving => {}
                // Its answer passes unobserved; the late one of an answered Stats too, which clients ignore.
                PendingState::Open | PendingState::Swallow | PendingState::Free => {
                    PendingState::Free.store(&pending.state);
                }
            }
        }
        let named = |stream: &Stream| !stream.inner_path.get().is_empty();
        self.unled = (0..tables.streams().len()).filter(|n| named(self.stream(*n))).collect();
        self.lead_streams();
    }

    /// Makes the names of our FIFOs lead to containerd's. Not before the shim has opened ours: a Create that is on its way to it
    /// names them, and what it opened then would be containerd's, of which we hold a writer that nobody would ever close.
    pub(crate) fn lead_streams(&mut self) {
        let mut unled = std::mem::take(&mut self.unled);
        unled.retain(|index| {
            let stream = self.stream(*index);
            if StreamState::load(&stream.state) != StreamState::Live {
                return false;
            }
            let opened = self.source_has_writer(*index);
            if opened {
                lead_to_outer(&stream.inner_path.get(), &stream.outer_path.get());
            }
            !opened
        });
        self.unled = unled;
    }

    /// A Create in flight whose answer nobody will see: one that has left counts as accepted, one that has not goes as
    /// containerd wrote it.
    fn settle_create(&mut self, task: usize) {
        let entry = self.task(task);
        if TaskState::load(&entry.state) != TaskState::Creating {
            return;
        }
        let unsent = linked(&entry.conn).is_some_and(|conn| {
            let dir = self.dir(conn, REQUESTS);
            let creates = |p: &Pending| {
                linked(&p.conn) == Some(conn)
                    && p.stream_id.load(Ordering::Relaxed) == entry.stream_id.load(Ordering::Relaxed)
                    && p.method() == Some(Method::Create)
            };
            ConnState::load(&self.conn(conn).state) == ConnState::Up
                && DirState::load(&dir.state) == DirState::Assemble
                && self.pendings().any(|(_, p)| creates(p))
                && self.frame_at_hand(conn, REQUESTS) == Some(entry.stream_id.load(Ordering::Relaxed))
        });
        if unsent { self.task_undo(task) } else { self.task_created(task, 0) }
    }

    /// The stream id of the frame that is being assembled.
    fn frame_at_hand(&self, conn: usize, dir: usize) -> Option<u32> {
        let frames = self.block.map_place(Places::frames(conn)).ok()?;
        let at = dir.checked_mul(2 * FRAME_AREA)?;
        let head = frames.area(at, HEADER_LEN)?.get(0, HEADER_LEN)?;
        Header::decode(&head).ok().map(|header| header.stream_id)
    }
}

/// State answers pass unrewritten and name our FIFO; whoever opens that name (containerd does, when it is restarted) must
/// come to its own. Ours is open already, and is never opened by its name again.
fn lead_to_outer(inner: &str, outer: &str) {
    let inner = Path::new(inner);
    if inner.as_os_str().is_empty() || outer.is_empty() || fs::read_link(inner).is_ok() {
        return;
    }
    let mut next = inner.as_os_str().to_owned();
    next.push(".safe");
    let next = Path::new(&next);
    let _ = fs::remove_file(next);
    // A name that could not be changed costs what an attach or a restart of containerd would read there, nothing else.
    let _ = symlink(outer, next).and_then(|()| fs::rename(next, inner));
}
