//! What an answer of the inner shim's means to us, decided when all of it is in the block.
//!
//! As with requests a decision may be taken twice. An answer leaves as it came, except: State names containerd's
//! FIFOs, not ours; a Wait answer may be held; the late answer to a Stats that we answered ourselves is swallowed.

use std::sync::atomic::Ordering;

use shimtap_proto::{
    link::{Event, EventKind, StatsSource},
    ttrpc::{
        Code, HEADER_LEN, Method, ResponseView,
        rewrite::{Edit, replace},
        task::{ExitAnswer, PidAnswer, StateAnswer, StatsAnswer},
    },
};

use super::{ANSWERS, request::Out};
use crate::{
    block::{Pending, PendingState, TaskState, counters::Counter, link_to, linked},
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
        let stream_id = shimtap_proto::ttrpc::Header::decode(&frame).map_or(0, |h| h.stream_id);
        let Some(index) = self.pending_of(conn, stream_id) else { return unchanged };
        let pending = self.pending(index);
        let swallow = PendingState::load(&pending.state) == PendingState::Swallow;
        let Ok(view) = ResponseView::decode(frame.get(HEADER_LEN..).unwrap_or(&[])) else {
            self.block.tables().counters.add(Counter::FramesUnparsed);
            if swallow {
                PendingState::Free.store(&pending.state);
                return None;
            }
            entry.pending.store(link_to(Some(index)), Ordering::Release);
            return unchanged;
        };
        pending.code.store(view.code, Ordering::Relaxed);
        if swallow {
            self.stats_answered(pending, &view);
            PendingState::Free.store(&pending.state);
            return None;
        }
        let changed = self.understand_answer(pending, &view, &frame);
        if Self::method_of(pending) == Some(Method::Wait) && self.hold(pending, &frame) {
            return None;
        }
        entry.pending.store(link_to(Some(index)), Ordering::Release);
        match changed {
            Some(bytes) if self.put_changed_answer(conn, &bytes) => {
                Some(Out { changed: true, len: bytes.len() })
            }
            _ => unchanged,
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
    fn understand_answer(
        &mut self,
        pending: &Pending,
        view: &ResponseView<'_>,
        frame: &[u8],
    ) -> Option<Vec<u8>> {
        let ok = view.code == Code::OK;
        let init = pending.exec.is_empty();
        let task = linked(&pending.task);
        match (Self::method_of(pending)?, task) {
            (Method::Create, Some(task)) if ok => {
                let pid = PidAnswer::decode(view.payload).map_or(0, |a| a.pid);
                self.task_created(task, pid);
            }
            // Undone before the error leaves: the client then waits for the end of its FIFOs.
            (Method::Create, Some(task)) => self.task_undo(task),
            (Method::Start, Some(task)) if ok && init => self.task_started(task, view),
            (Method::Wait, task) if ok => self.process_exited(pending, task, view),
            (Method::Delete, Some(task)) if ok && init => self.task_deleted(task),
            (Method::Stats, _) => self.stats_answered(pending, view),
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

    fn process_exited(&self, pending: &Pending, task: Option<usize>, view: &ResponseView<'_>) {
        let Ok(answer) = ExitAnswer::decode(view.payload) else { return };
        let init = pending.exec.is_empty();
        let handle = task.map_or(0, |t| self.task(t).handle.load(Ordering::Relaxed));
        if init && let Some(task) = task.map(|t| self.task(t)) {
            if task.exit_known.swap(1, Ordering::AcqRel) != 0 {
                return;
            }
            task.exit_status.store(answer.exit_status, Ordering::Relaxed);
            task.exited_ns.store(unix_ns(), Ordering::Relaxed);
            task.exited_mono_ns.store(monotonic_ns(), Ordering::Release);
            TaskState::Exited.store(&task.state);
            if self.board.is_attached() {
                task.final_stats.store(1, Ordering::Release);
                self.board.wake_link();
            }
        }
        self.events.push(Event {
            time_ns: answer.exited_at_ns.and_then(|t| u64::try_from(t).ok()).unwrap_or_else(unix_ns),
            kind: EventKind::EVENT_KIND_EXIT.into(),
            task: handle,
            process: pending.exec.get(),
            exit_status: answer.exit_status,
            container: pending.id.get(),
            ..Default::default()
        });
    }

    fn stats_answered(&self, pending: &Pending, view: &ResponseView<'_>) {
        let Some(task) = linked(&pending.task).map(|t| self.task(t)) else { return };
        task.stats_mute.store(0, Ordering::Release);
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
        if PendingState::load(&pending.state) != PendingState::Free {
            self.account(pending);
            let ours = pending.release.load(Ordering::Acquire) == super::hold::SYNTHETIC;
            let next = if ours { PendingState::Swallow } else { PendingState::Free };
            next.store(&pending.state);
        }
        entry.pending.store(0, Ordering::Release);
    }

    fn account(&self, pending: &Pending) {
        let asked = pending.asked_ns.load(Ordering::Relaxed);
        let code = pending.code.load(Ordering::Relaxed);
        let Some(method) = Self::method_of(pending) else { return };
        // Held time is ours, not the inner shim's.
        let held = pending.held_ns.load(Ordering::Relaxed);
        let answered = if held == 0 { monotonic_ns() } else { held };
        let duration_ns = answered.saturating_sub(asked);
        if let Some(counters) = self.block.tables().methods.get(usize::from(method.to_u8())) {
            counters.observe(duration_ns, code != Code::OK);
        }
        let Some(kind) = event_of(method) else { return };
        let task = linked(&pending.task).map(|t| self.task(t));
        self.events.push(Event {
            time_ns: unix_ns(),
            kind: kind.into(),
            task: task.map_or(0, |t| t.handle.load(Ordering::Relaxed)),
            process: pending.exec.get(),
            duration_ns,
            code,
            pid: task.map_or(0, |t| t.pid.load(Ordering::Relaxed)),
            signal: pending.signal.load(Ordering::Relaxed),
            container: pending.id.get(),
            ..Default::default()
        });
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
