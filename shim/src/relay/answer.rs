//! What an answer of the inner shim's means to us, decided when all of it is in the block.
//!
//! As with requests a decision may be taken twice. An answer leaves as it came, except: State names containerd's
//! FIFOs, not ours; a Wait answer may be held; the late answer to a Stats that we answered ourselves is swallowed; statistics
//! are mended where somebody asked for it.

use std::sync::atomic::Ordering;

use shimtap_proto::{
    link::{Event, EventKind, StatsSource},
    ttrpc::{
        Code, HEADER_LEN, Header, Method, ResponseView,
        rewrite::{Edit, replace},
        task::{ConnectAnswer, ExitAnswer, PidAnswer, StateAnswer, StatsAnswer},
    },
};

use super::{
    ANSWERS,
    hold::{RELEASED, SYNTHETIC},
    request::Out,
};
use crate::{
    block::{Pending, PendingState, TaskState, counters::Counter, link_to, linked},
    limits,
    sys::{monotonic_ns, unix_ns},
    worker::Worker,
};

impl Worker {
    /// The assembled answer of a connection: what leaves now, or `None` where nothing does.
    pub(super) fn answer(&mut self, conn: usize) -> Option<Out> {
        let entry = self.dir(conn, ANSWERS);
        let len = usize::try_from(entry.frame_len.load(Ordering::Acquire)).ok()?;
        let unchanged = Some(Out { changed: false, len });
        let frame = self.relay.lines.get(&conn).and_then(|l| l.area(ANSWERS, false)?.get(0, len));
        let Some(frame) = frame else { return unchanged };
        let stream_id = Header::decode(&frame).map_or(0, |h| h.stream_id);
        let Some(index) = self.pending_of(conn, stream_id) else { return unchanged };
        let pending = self.pending(index);
        let view = ResponseView::decode(frame.get(HEADER_LEN..).unwrap_or(&[])).ok();
        match PendingState::load(&pending.state) {
            // A predecessor has taken it into the block: it leaves from there.
            PendingState::Held => return None,
            PendingState::Leaving => {
                // The answer comes while ours is about to leave: ours goes, and nothing is left to be swallowed.
                if pending.release.load(Ordering::Acquire) == SYNTHETIC {
                    pending.release.store(RELEASED, Ordering::Release);
                }
                return None;
            }
            PendingState::Swallow => {
                if let Some(view) = &view {
                    self.stats_answered(pending, view);
                }
                // Forgotten in `conclude`, after which the frame is not looked at again.
                entry.pending.store(link_to(Some(index)), Ordering::Release);
                return Some(Out { changed: false, len: 0 });
            }
            PendingState::Free | PendingState::Open => {}
        }
        entry.pending.store(link_to(Some(index)), Ordering::Release);
        let Some(view) = view else {
            self.block.tables().counters.add(Counter::FramesUnparsed);
            return unchanged;
        };
        pending.code.store(view.code, Ordering::Relaxed);
        let changed = self.understand_answer(index, &view, &frame);
        if pending.method() == Some(Method::Wait) && self.hold(pending, &frame) {
            entry.pending.store(0, Ordering::Release);
            return None;
        }
        match changed {
            Some(bytes) => {
                let put = self.put_changed_answer(conn, &bytes);
                if pending.method() == Some(Method::Stats) {
                    let counter = if put { Counter::StatsRepaired } else { Counter::StatsUnrepaired };
                    self.count_stats(index, counter);
                }
                if put { Some(Out { changed: true, len: bytes.len() }) } else { unchanged }
            }
            None => unchanged,
        }
    }

    fn put_changed_answer(&self, conn: usize, bytes: &[u8]) -> bool {
        let put = self.relay.lines.get(&conn).and_then(|l| Some(l.area(ANSWERS, true)?.put(0, bytes)));
        if put == Some(true) {
            self.block.tables().counters.add(Counter::FramesRewritten);
        }
        put == Some(true)
    }

    /// Does what the answer asks of us; the changed frame where it has to change.
    fn understand_answer(&mut self, index: usize, view: &ResponseView<'_>, frame: &[u8]) -> Option<Vec<u8>> {
        let pending = self.pending(index);
        let ok = view.code == Code::OK;
        let init = pending.exec.is_empty();
        let task = self.task_of(pending);
        match (pending.method()?, task) {
            (Method::Create, Some(task)) if ok => {
                let pid = PidAnswer::decode(view.payload).map_or(0, |a| a.pid);
                self.task_created(task, pid);
            }
            // Undone before the error leaves: the client then waits for the end of its FIFOs.
            (Method::Create, Some(task)) => self.task_undo(task),
            (Method::Start, Some(task)) if ok && init => self.task_started(task, view),
            (Method::Wait, task) if ok => self.process_exited(index, task, view),
            (Method::Kill | Method::Delete, Some(task)) if !ok && init && view.code != Code::NOT_FOUND => {
                self.lives_on(task);
            }
            (Method::Delete, Some(task)) if ok && init => self.task_deleted(task),
            (Method::Stats, _) => {
                self.stats_answered(pending, view);
                return self.repaired_stats(index, view, frame);
            }
            (Method::Connect, _) if ok => self.shim_said_who_it_is(view),
            (Method::State, _) if ok => return self.changed_state(view, frame),
            _ => {}
        }
        None
    }

    fn task_started(&self, task: usize, view: &ResponseView<'_>) {
        let entry = self.task(task);
        if let Ok(answer) = PidAnswer::decode(view.payload) {
            entry.pid.store(answer.pid, Ordering::Relaxed);
        }
        entry.started_ns.store(unix_ns(), Ordering::Relaxed);
        if TaskState::load(&entry.state) == TaskState::Created {
            TaskState::Running.store(&entry.state);
        }
        self.board.wake_link();
    }

    /// What the peer of our connection is cannot be asked of the kernel: SO_PEERCRED names who called listen(2), which with
    /// Go's shims is the `start` that has ended.
    fn shim_said_who_it_is(&mut self, view: &ResponseView<'_>) {
        if let Ok(answer) = ConnectAnswer::decode(view.payload) {
            self.block.tables().identity.inner_pid.store(answer.shim_pid, Ordering::Relaxed);
            self.note_inner_process();
        }
    }

    /// A Kill or Delete was refused: its output is wanted as before.
    fn lives_on(&self, task: usize) {
        self.task(task).killed.store(0, Ordering::Release);
    }

    fn process_exited(&self, index: usize, task: Option<usize>, view: &ResponseView<'_>) {
        let pending = self.pending(index);
        let Ok(answer) = ExitAnswer::decode(view.payload) else { return };
        let init = pending.exec.is_empty();
        let handle = task.map_or(0, |t| self.task(t).handle.load(Ordering::Relaxed));
        let known = task.filter(|_| init).map(|t| self.task(t));
        if let Some(task) = known {
            if task.exit_known.load(Ordering::Acquire) != 0 {
                return;
            }
            task.exit_status.store(answer.exit_status, Ordering::Relaxed);
            task.exited_ns.store(unix_ns(), Ordering::Relaxed);
            task.exited_mono_ns.store(monotonic_ns(), Ordering::Release);
            // A Wait may be answered after the Delete: that task is over for good.
            if TaskState::load(&task.state) != TaskState::Deleted {
                TaskState::Exited.store(&task.state);
            }
            if self.board.is_listening() {
                task.final_stats.store(1, Ordering::Release);
                self.board.wake_link();
            }
        }
        let event = Event {
            time_ns: answer.exited_at_ns.and_then(|t| u64::try_from(t).ok()).unwrap_or_else(unix_ns),
            kind: EventKind::EVENT_KIND_EXIT.into(),
            task: handle,
            process: pending.exec.get(),
            exit_status: answer.exit_status,
            container: pending.id.get(),
            ..Default::default()
        };
        self.push_event(index, event);
        if let Some(task) = known {
            task.exit_known.store(1, Ordering::Release);
        }
    }

    fn stats_answered(&self, pending: &Pending, view: &ResponseView<'_>) {
        let Some(task) = self.task_of(pending).map(|t| self.task(t)) else { return };
        task.stats_mute.store(0, Ordering::Release);
        task.stats_asked_ns.fetch_max(pending.asked_ns.load(Ordering::Relaxed), Ordering::AcqRel);
        if let (Code::OK, Ok(stats)) = (view.code, StatsAnswer::decode(view.payload)) {
            let handle = task.handle.load(Ordering::Relaxed);
            self.board.sample(handle, StatsSource::STATS_SOURCE_SNOOPED, stats.type_url, stats.value);
        }
    }

    /// A State answer that names a FIFO of ours names containerd's instead: containerd re-opens (and in the end
    /// removes) what it reads here. Only exact matches of a stdout or stderr in our table are touched.
    fn changed_state(&self, view: &ResponseView<'_>, frame: &[u8]) -> Option<Vec<u8>> {
        let state = StateAnswer::decode(view.payload).ok()?;
        let stdout = self.outer_uri(state.stdout);
        let stderr = self.outer_uri(state.stderr);
        let edits: Vec<Edit<'_>> = [(6, &stdout), (7, &stderr)]
            .into_iter()
            .filter_map(|(field, uri)| Some(Edit { field, new: uri.as_ref()?.as_bytes() }))
            .collect();
        if edits.is_empty() {
            return None;
        }
        replace(frame, &edits).ok()
    }

    /// A frame has left for good. Requests are now the inner shim's; an answered request is done with.
    pub(super) fn conclude(&self, conn: usize, dir: usize) {
        let entry = self.dir(conn, dir);
        let Some(index) = linked(&entry.pending) else { return };
        let pending = self.pending(index);
        if !self.is_of_frame(conn, dir, pending) {
            entry.pending.store(0, Ordering::Release);
            return;
        }
        match PendingState::load(&pending.state) {
            PendingState::Free => {}
            PendingState::Swallow => PendingState::Free.store(&pending.state),
            _ if self.is_safe() => PendingState::Free.store(&pending.state),
            PendingState::Open | PendingState::Held | PendingState::Leaving => {
                self.account(index);
                let ours = pending.release.load(Ordering::Acquire) == SYNTHETIC;
                let next = if ours { PendingState::Swallow } else { PendingState::Free };
                next.store(&pending.state);
            }
        }
        entry.pending.store(0, Ordering::Release);
    }

    /// Is this entry still that of the frame that has left? A predecessor may have freed it and died before it could say so
    /// in the direction's entry, and since then another request may have come to it.
    fn is_of_frame(&self, conn: usize, dir: usize, pending: &Pending) -> bool {
        let area = self.relay.lines.get(&conn).and_then(|l| l.area(dir, false));
        let header = area.and_then(|a| a.get(0, HEADER_LEN)).and_then(|head| Header::decode(&head).ok());
        let same = |h: Header| h.stream_id == pending.stream_id.load(Ordering::Relaxed);
        linked(&pending.conn) == Some(conn) && header.is_some_and(same)
    }

    pub(super) fn account(&self, index: usize) {
        let pending = self.pending(index);
        let asked = pending.asked_ns.load(Ordering::Relaxed);
        let code = pending.code.load(Ordering::Relaxed);
        let Some(method) = pending.method() else { return };
        // Held time is ours, not the inner shim's.
        let held = pending.held_ns.load(Ordering::Relaxed);
        let answered = if held == 0 { monotonic_ns() } else { held };
        let duration_ns = answered.saturating_sub(asked);
        // Marked before it is counted: a death in between loses one, which is better than counting it twice.
        let counted = pending.counted.swap(1, Ordering::AcqRel) != 0;
        let counters = self.block.tables().methods.get(usize::from(method.to_u8()));
        if let Some(counters) = counters.filter(|_| !counted) {
            counters.observe(duration_ns, code != Code::OK);
        }
        let Some(kind) = event_of(method) else { return };
        let resources = self.relay.resources.borrow_mut().remove(&index);
        let place = self.task_of(pending);
        let task = place.map(|t| self.task(t));
        if let (EventKind::EVENT_KIND_UPDATE, Some(place), Some(task)) = (kind, place, task) {
            let taken = resources.as_deref().filter(|_| code == Code::OK);
            limits::answered(self.block, place, task.handle.load(Ordering::Relaxed), taken);
        }
        let event = Event {
            time_ns: unix_ns(),
            kind: kind.into(),
            task: task.map_or(0, |t| t.handle.load(Ordering::Relaxed)),
            process: pending.exec.get(),
            duration_ns,
            code,
            pid: task.map_or(0, |t| t.pid.load(Ordering::Relaxed)),
            signal: pending.signal.load(Ordering::Relaxed),
            container: pending.id.get(),
            resources: resources.unwrap_or_default(),
            ..Default::default()
        };
        self.push_event(index, event);
        self.board.wake_link();
    }
}

/// Exec and Wait make their events where they are understood.
fn event_of(method: Method) -> Option<EventKind> {
    Some(match method {
        Method::Create => EventKind::EVENT_KIND_CREATE,
        Method::Start => EventKind::EVENT_KIND_START,
        Method::Kill => EventKind::EVENT_KIND_KILL,
        Method::Delete => EventKind::EVENT_KIND_DELETE,
        Method::Pause => EventKind::EVENT_KIND_PAUSE,
        Method::Resume => EventKind::EVENT_KIND_RESUME,
        Method::Update => EventKind::EVENT_KIND_UPDATE,
        Method::Shutdown => EventKind::EVENT_KIND_SHUTDOWN,
        _ => return None,
    })
}
