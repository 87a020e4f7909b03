//! What a request of containerd's means to us, decided when all of it is in the block.
//!
//! A decision may be taken twice, by a worker that dies and by its successor, so each step finds what an earlier
//! attempt has done: entries are looked up before they are made, descriptors are "ensured", not opened.

use std::sync::atomic::Ordering;

use shimtap_proto::{
    link::{Event, EventKind},
    ttrpc::{
        HEADER_LEN, Header, Method, RequestView, TaskApi,
        rewrite::{Edit, replace},
        task::{Create, Exec, Kill, TaskRef, Update},
    },
};

use super::{REQUESTS, take::api_number};
use crate::{
    block::{Pending, TaskState, counters::Counter},
    limits,
    sys::unix_ns,
    worker::Worker,
};

/// A Stats request this soon after another one of that container that has been answered is a caller's loop (containerd 2.3+ asks at
/// 1 Hz).
const FREQUENT_NS: u64 = 1_200_000_000;
/// Longest process spec, and longest resources, that go into an event.
const SPEC_MAX: usize = 8 << 10;
/// Updates in flight whose resources are kept; nobody has more than one per container.
const UPDATES_MAX: usize = 16;

/// What leaves for the other side.
pub(super) struct Out {
    /// From the second frame area.
    pub changed: bool,
    /// Bytes.
    pub len: usize,
}

impl Worker {
    /// The assembled request of a connection. Never `None`: requests are always forwarded, and never later.
    pub(super) fn request(&mut self, conn: usize) -> Option<Out> {
        let len = usize::try_from(self.dir(conn, REQUESTS).frame_len.load(Ordering::Acquire)).ok()?;
        let unchanged = Some(Out { changed: false, len });
        let frame = self.relay.lines.get(&conn).and_then(|l| l.area(REQUESTS, false)?.get(0, len));
        let Some(frame) = frame else { return unchanged };
        if self.understand_request(conn, &frame).is_none() {
            self.block.tables().counters.add(Counter::FramesUnparsed);
            return unchanged;
        }
        let Some(changed) = self.changed_create(conn, &frame) else { return unchanged };
        let fits = self.relay.lines.get(&conn).and_then(|l| Some(l.area(REQUESTS, true)?.put(0, &changed)));
        if fits != Some(true) {
            return unchanged;
        }
        self.block.tables().counters.add(Counter::FramesRewritten);
        Some(Out { changed: true, len: changed.len() })
    }

    /// Enters the request and does what it asks of us; `None` where it does not decode.
    fn understand_request(&mut self, conn: usize, frame: &[u8]) -> Option<()> {
        let header = Header::decode(frame).ok()?;
        let view = RequestView::decode(frame.get(HEADER_LEN..)?).ok()?;
        let api = TaskApi::from_service(view.service)?;
        let method = Method::from_name(view.method)?;
        let whose = TaskRef::decode(method, view.payload).ok()?;
        let Some(pending) = self.pending_open(conn, header.stream_id, method) else { return Some(()) };
        let entry = self.pending(pending);
        if !entry.id.set(whose.id) || !entry.exec.set(whose.exec_id) {
            return None;
        }
        if method == Method::Create {
            let create = Create::decode(view.payload).ok()?;
            let task = self.task_begin(conn, header.stream_id, api_number(api), &create);
            self.note_task(entry, task);
            return Some(());
        }
        self.note_task(entry, self.task_named(whose.id));
        match method {
            Method::Kill => self.kill_asked(entry, &Kill::decode(view.payload).ok()?),
            Method::Delete if whose.exec_id.is_empty() => self.end_is_near(entry, true),
            Method::Shutdown => self.end_is_near(entry, false),
            Method::Exec => self.exec_asked(pending, &Exec::decode(view.payload).ok()?),
            Method::Stats => self.stats_asked(entry),
            Method::Update => self.update_asked(pending, &Update::decode(view.payload).ok()?),
            _ => {}
        }
        Some(())
    }

    /// The Create of this frame with our FIFOs in it; `None` where it goes as it is.
    fn changed_create(&self, conn: usize, frame: &[u8]) -> Option<Vec<u8>> {
        let header = Header::decode(frame).ok()?;
        let pending = self.pending(self.pending_of(conn, header.stream_id)?);
        if pending.method() != Some(Method::Create) {
            return None;
        }
        let view = RequestView::decode(frame.get(HEADER_LEN..)?).ok()?;
        let create = Create::decode(view.payload).ok()?;
        let [stdout, stderr] = self.inner_uris(self.task_of(pending)?, &create);
        let edits: Vec<Edit<'_>> = [(6, &stdout), (7, &stderr)]
            .into_iter()
            .filter_map(|(field, uri)| Some(Edit { field, new: uri.as_ref()?.as_bytes() }))
            .collect();
        if edits.is_empty() {
            return None;
        }
        replace(frame, &edits).ok()
    }

    fn kill_asked(&self, entry: &Pending, kill: &Kill<'_>) {
        entry.signal.store(kill.signal, Ordering::Relaxed);
        // Only SIGKILL for the task itself means that its output may be thrown away; SIGHUP and SIGTERM do not.
        if kill.signal == 9
            && kill.exec_id.is_empty()
            && let Some(task) = self.task_of(entry)
        {
            self.task(task).killed.store(1, Ordering::Release);
        }
    }

    /// Delete or Shutdown: Wait answers of that task leave before it, whatever its streams say.
    fn end_is_near(&mut self, entry: &Pending, is_delete: bool) {
        let Some(task) = self.task_of(entry) else { return };
        if is_delete {
            self.task(task).killed.store(1, Ordering::Release);
            // The shim tells a logger to end before it answers: what was written by now is to be there by then.
            self.pump_task_streams(task);
        }
        self.release_task(task);
    }

    fn exec_asked(&self, pending: usize, exec: &Exec<'_>) {
        let task = self.task_of(self.pending(pending));
        let spec = if exec.spec.len() <= SPEC_MAX { exec.spec.to_vec() } else { Vec::new() };
        let event = Event {
            time_ns: unix_ns(),
            kind: EventKind::EVENT_KIND_EXEC.into(),
            task: task.map_or(0, |t| self.task(t).handle.load(Ordering::Relaxed)),
            process: exec.exec_id.to_owned(),
            process_spec: spec,
            container: exec.id.to_owned(),
            ..Default::default()
        };
        self.push_event(pending, event);
    }

    /// Kept until the answer says that it holds; what is not kept is not known.
    fn update_asked(&self, pending: usize, update: &Update<'_>) {
        if let Some(task) = self.task_of(self.pending(pending)) {
            limits::asked(self.block, task, self.task(task).handle.load(Ordering::Relaxed));
        }
        let mut kept = self.relay.resources.borrow_mut();
        if update.resources.len() <= SPEC_MAX && kept.len() < UPDATES_MAX {
            kept.insert(pending, update.resources.to_vec());
        }
    }

    /// Only callers that ask in a loop are bounded, and callers of a container that has already been mute.
    ///
    /// A loop asks again when it was answered. Who asks while another one waits is somebody else, and both of them may have come to
    /// a shim that is merely slow; or it gave up by a deadline of its own, and needs no bound of ours.
    fn stats_asked(&self, entry: &Pending) {
        let Some(task) = self.task_of(entry).map(|t| self.task(t)) else { return };
        // The time of the request, not of this look: a successor that looks again finds the same.
        let now = entry.asked_ns.load(Ordering::Relaxed);
        let answered = task.stats_asked_ns.load(Ordering::Acquire);
        let frequent = answered != 0 && answered < now && now.saturating_sub(answered) <= FREQUENT_NS;
        let mute = task.stats_mute.load(Ordering::Acquire) != 0;
        entry.bounded.store(u32::from(frequent || mute), Ordering::Release);
        self.relay.bounded.set(self.relay.bounded.get() || frequent || mute);
    }

    /// Is this task still being made?
    pub(crate) fn is_creating(&self, task: usize) -> bool {
        TaskState::load(&self.task(task).state) == TaskState::Creating
    }
}
