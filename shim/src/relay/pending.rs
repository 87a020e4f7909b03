//! The table of requests in flight: an answer carries no method, so what it means was written down when its request
//! was seen, in the block, before the request's first byte moved on.

use std::sync::atomic::Ordering;

use shimtap_proto::{
    link::Event,
    ttrpc::{Code, Method},
};

use crate::{
    block::{
        PENDINGS, Pending, PendingState, Task, TaskState, counters::Counter, link_to, linked, note_used,
    },
    sys::monotonic_ns,
    worker::Worker,
};

/// Entries that Stats leave to all else. One that was answered for a mute shim keeps its entry until the shim answers, if it ever
/// does, and a caller may ask every second for days: without this no Create, Kill or Delete would be seen any more. A Stats without an
/// entry waits for the shim as without us, and its answer goes to whoever asked.
const NOT_FOR_STATS: usize = 128;

impl Worker {
    /// The entry at an index that came from this table.
    pub(super) fn pending(&self, index: usize) -> &'static Pending {
        let pendings = &self.block.tables().pendings;
        pendings.get(index).unwrap_or(&pendings[0])
    }

    /// Entries in use, with their indices.
    pub(super) fn pendings(&self) -> impl Iterator<Item = (usize, &'static Pending)> + use<> {
        let used = |(_, p): &(usize, &Pending)| PendingState::load(&p.state) != PendingState::Free;
        self.block.tables().pendings().iter().enumerate().filter(used)
    }

    /// The request that an answer on this stream of this connection belongs to.
    pub(super) fn pending_of(&self, conn: usize, stream_id: u32) -> Option<usize> {
        let belongs = |(_, p): &(usize, &Pending)| {
            p.stream_id.load(Ordering::Relaxed) == stream_id && linked(&p.conn) == Some(conn)
        };
        self.pendings().find(belongs).map(|(n, _)| n)
    }

    /// Enters a request; a successor that decides the same frame again gets the same entry. `None`: no room.
    pub(super) fn pending_open(&mut self, conn: usize, stream_id: u32, method: Method) -> Option<usize> {
        if let Some(known) = self.pending_of(conn, stream_id) {
            return Some(known);
        }
        let Some(index) = self.free_pending(method) else {
            self.block.tables().counters.add(Counter::TableOverflow);
            return None;
        };
        note_used(&self.block.tables().pendings_used, index);
        self.relay.resources.borrow_mut().remove(&index);
        let entry = self.pending(index);
        let words = [&entry.task, &entry.signal, &entry.bounded, &entry.code, &entry.release, &entry.counted];
        words.into_iter().for_each(|word| word.store(0, Ordering::Relaxed));
        entry.tally.store(0, Ordering::Relaxed);
        entry.conn.store(link_to(Some(conn)), Ordering::Relaxed);
        entry.stream_id.store(stream_id, Ordering::Relaxed);
        entry.method.store(u32::from(method.to_u8()), Ordering::Relaxed);
        entry.asked_ns.store(monotonic_ns(), Ordering::Relaxed);
        entry.held_ns.store(0, Ordering::Relaxed);
        entry.event_at.store(0, Ordering::Relaxed);
        for text in [&entry.id, &entry.exec] {
            text.set("");
        }
        PendingState::Open.store(&entry.state);
        Some(index)
    }

    fn free_pending(&self, method: Method) -> Option<usize> {
        let left = || PENDINGS.saturating_sub(self.pendings().count());
        if method == Method::Stats && left() <= NOT_FOR_STATS {
            return None;
        }
        let free = |p: &Pending| PendingState::load(&p.state) == PendingState::Free;
        self.block.tables().pendings.iter().position(free)
    }

    /// The task of a request, if its entry is still that task's.
    pub(super) fn task_of(&self, pending: &Pending) -> Option<usize> {
        let index = linked(&pending.task)?;
        let same =
            self.task(index).handle.load(Ordering::Relaxed) == pending.task_handle.load(Ordering::Relaxed);
        same.then_some(index)
    }

    /// Notes the task of a request.
    pub(super) fn note_task(&self, pending: &Pending, task: Option<usize>) {
        let handle = task.map_or(0, |t| self.task(t).handle.load(Ordering::Relaxed));
        pending.task_handle.store(handle, Ordering::Relaxed);
        pending.task.store(link_to(task), Ordering::Release);
    }

    /// Pushes the event of this request, once: a successor that decides the same again sees that it was pushed.
    pub(super) fn push_event(&self, index: usize, event: Event) {
        let tables = self.block.tables();
        let pending = self.pending(index);
        if pending.event_at.load(Ordering::Acquire) != 0 {
            return;
        }
        tables.event_pending.store(link_to(Some(index)), Ordering::Release);
        let head = tables.events_head.load(Ordering::Acquire);
        pending.event_at.store(head.wrapping_add(1), Ordering::Release);
        self.events.push(event);
        tables.event_pending.store(0, Ordering::Release);
    }

    /// A predecessor that died while it pushed an event either had moved the head, or the event is still to come.
    pub(crate) fn finish_event(&self) {
        let tables = self.block.tables();
        if let Some(pending) = linked(&tables.event_pending).map(|p| self.pending(p)) {
            let before = pending.event_at.load(Ordering::Acquire);
            if before == tables.events_head.load(Ordering::Acquire).wrapping_add(1) {
                pending.event_at.store(0, Ordering::Release);
            }
            tables.event_pending.store(0, Ordering::Release);
        }
    }

    /// Is an answer on its way that needs this task's entry? State's has to name its FIFOs, and of several Waits' the first tells of
    /// its exit and the others do not.
    pub(crate) fn is_still_needed(&self, task: usize) -> bool {
        let needs = |p: &Pending| matches!(p.method(), Some(Method::State | Method::Wait));
        self.pendings().any(|(_, p)| linked(&p.task) == Some(task) && needs(p))
    }

    /// All requests of a connection that has ended. The inner shim goes on with a Create whose client has gone: the task
    /// is there until somebody deletes it. It may or may not have done an Update.
    pub(super) fn forget_pendings(&mut self, conn: usize) {
        for (index, pending) in self.pendings().filter(|(_, p)| linked(&p.conn) == Some(conn)) {
            let unanswered = PendingState::load(&pending.state) == PendingState::Open;
            if unanswered && pending.method() == Some(Method::Update) {
                pending.code.store(Code::UNKNOWN, Ordering::Relaxed);
                self.account(index);
            }
            let created = self.task_of(pending).filter(|_| pending.method() == Some(Method::Create));
            if let Some(task) = created.filter(|_| !self.is_inner_gone()) {
                self.task_created(task, 0);
            }
            PendingState::Free.store(&pending.state);
        }
    }

    /// The task that lives under this id.
    pub(crate) fn task_named(&self, id: &str) -> Option<usize> {
        let lives = |t: &Task| {
            !matches!(TaskState::load(&t.state), TaskState::Free | TaskState::Deleted) && t.id.is(id)
        };
        self.block.tables().tasks().iter().position(lives)
    }

    /// The entry at an index that came from the table of tasks.
    pub(crate) fn task(&self, index: usize) -> &'static Task {
        let tasks = &self.block.tables().tasks;
        tasks.get(index).unwrap_or(&tasks[0])
    }
}
