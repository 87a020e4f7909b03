//! Everybody around the worker, and what each of them has a right to.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::atomic::Ordering,
    time::Instant,
};

use shimtap_proto::{
    link::{Event, EventKind, RestartReason},
    ttrpc::{
        Method, ResponseView,
        task::{Kill, TaskRef},
        wire::{put_len, put_number},
    },
};

use super::{
    calls::{self, Call, Stage as At},
    output::{Output, ROOM_OF_ALL},
    script::{Act, CONNS},
    stage::Stage,
    wire::Wire,
};
use crate::{
    block::{Block, ConnState, DirState, PendingState, Phase, Slot, StreamState, TaskState, linked},
    events::EventRing,
    sys::fd,
    worker::hands::pipes_in_use,
};

/// Tasks that are there at a time.
const TASKS: usize = 2;
/// A held answer leaves after this, whatever its streams say.
const HOLD: std::time::Duration = std::time::Duration::from_millis(1900);

/// One task, as containerd and the inner shim know it.
struct Task {
    id: String,
    outputs: Vec<Output>,
    /// Create was answered well.
    created: bool,
    /// Create was refused, or Delete answered well.
    over: bool,
    delete_asked: bool,
    exited: bool,
    exit_told: Option<Instant>,
}

// === impl Task ===

impl Task {
    /// Has containerd all of it? Of a refused Create it gets what had room in its FIFO (docs/proof.md).
    fn is_through(&self) -> bool {
        let refused = self.over && !self.created;
        self.outputs.iter().all(|o| refused || (o.is_delivered() && (!o.closed || o.has_ended())))
    }
}

/// What an event is about.
type Seen = (String, EventKind);

pub struct World {
    stage: Stage,
    clients: Vec<Wire>,
    /// The inner shim's ends, by connection.
    shims: BTreeMap<usize, Wire>,
    /// Accepted by the inner shim, nothing said yet.
    quiet: Vec<OwnedFd>,
    calls: Vec<Call>,
    tasks: Vec<Task>,
    next_stream: u32,
    answered: usize,
    /// Events that there must be.
    events: Vec<Seen>,
}

// === impl World ===

impl World {
    pub fn new() -> Self {
        let stage = Stage::new();
        let clients = (0..CONNS).map(|_| Wire::new(stage.keeper.accept())).collect();
        Self {
            stage,
            clients,
            shims: BTreeMap::new(),
            quiet: Vec::new(),
            calls: Vec::new(),
            tasks: Vec::new(),
            next_stream: 1,
            answered: 0,
            events: Vec::new(),
        }
    }

    pub fn act(&mut self, act: Act) {
        match act {
            Act::Create { conn, both } => self.create(conn, both),
            Act::Ask { conn, task, method, filler } => self.ask(conn, task, method, filler),
            Act::Send { conn, most } => {
                self.clients[conn].flow(most);
            }
            Act::Answer { nth, refuses } => self.answer(nth, refuses),
            Act::Reply { conn, most } => {
                self.shims.get_mut(&conn).map(|shim| shim.flow(most));
            }
            Act::Write { output, len } => self.with_output(output, |o, _| o.write(len)),
            Act::Exit { task } => self.exit(task),
            Act::Read { output, most } => self.with_output(output, |o, _| _ = o.read(most)),
            Act::Acknowledge { output, part } => {
                self.with_output(output, |o, block| o.acknowledge(block, part))
            }
            Act::Turn => self.stage.turn(),
            Act::Die { after, again } => self.stage.die(after, again, 4),
        }
    }

    fn living(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.tasks.len()).filter(|n| !self.tasks[*n].over)
    }

    fn nth_living(&self, nth: usize) -> Option<usize> {
        let living: Vec<usize> = self.living().collect();
        (!living.is_empty()).then(|| living[nth % living.len()])
    }

    fn with_output(&mut self, nth: usize, act: impl FnOnce(&mut Output, &'static Block)) {
        let living = self.tasks.iter_mut().filter(|t| !t.over);
        let mut outputs: Vec<&mut Output> = living.flat_map(|t| &mut t.outputs).collect();
        let count = outputs.len();
        if count > 0 {
            act(outputs.swap_remove(nth % count), self.stage.block);
        }
    }

    fn create(&mut self, conn: usize, both: bool) {
        if self.living().count() >= TASKS {
            return;
        }
        let n = self.tasks.len();
        // An id may be used again once its task is deleted.
        let id = format!("t{}", n % 3);
        if self.living().any(|t| self.tasks[t].id == id) {
            return;
        }
        // Longer than ours, so that ours can be lengthened to it.
        let path = |name: &str| -> PathBuf { self.stage.dir.join(format!("{n}-{name}-{:f<100}", "")) };
        let salt = u8::try_from(n % 100).unwrap();
        let mut outputs = vec![Output::new(path("out"), salt)];
        if both {
            outputs.push(Output::new(path("err"), salt + 100));
        }
        let named = |k: usize| outputs.get(k).map_or("", |o: &Output| o.outer.to_str().unwrap());
        let payload = calls::create_payload(&id, named(0), named(1));
        self.tasks.push(Task {
            id,
            outputs,
            created: false,
            over: false,
            delete_asked: false,
            exited: false,
            exit_told: None,
        });
        self.call(conn, n, Method::Create, payload, 0);
    }

    fn ask(&mut self, conn: usize, task: usize, method: Method, filler: usize) {
        if let Some(task) = self.nth_living(task) {
            self.ask_about(conn, task, method, filler);
        }
    }

    fn ask_about(&mut self, conn: usize, task: usize, method: Method, filler: usize) {
        // containerd asks about what it has made, and deletes what has ended.
        if !self.tasks[task].created || self.tasks[task].delete_asked {
            return;
        }
        if method == Method::Delete && !self.tasks[task].exited {
            return;
        }
        self.tasks[task].delete_asked |= method == Method::Delete;
        let id = self.tasks[task].id.clone();
        let mut payload = match method {
            Method::Kill => Kill { id: &id, signal: 15, ..Kill::default() }.encode(),
            _ => TaskRef { id: &id, exec_id: "" }.encode(),
        };
        if method == Method::Exec {
            put_len(&mut payload, 2, b"exec");
        }
        self.call(conn, task, method, payload, filler);
    }

    fn call(&mut self, conn: usize, task: usize, method: Method, payload: Vec<u8>, filler: usize) {
        let stream_id = self.next_stream;
        self.next_stream += 2;
        let frame = calls::frame_of(stream_id, method, payload, filler);
        self.clients[conn].put(&frame);
        let call = Call {
            conn,
            stream_id,
            method,
            task,
            frame,
            answer: Vec::new(),
            code: 0,
            stage: At::Asked,
            answered_as: 0,
        };
        self.calls.push(call);
    }

    fn answer(&mut self, nth: usize, refuses: bool) {
        // A Wait is answered when there is something to say.
        let may = |c: &Call| {
            let task = &self.tasks[c.task];
            c.stage == At::There
                && (c.method != Method::Wait || task.exited)
                && (c.method != Method::Delete || task.exit_told.is_some() || !self.is_waited_for(c.task))
        };
        let open: Vec<usize> = (0..self.calls.len()).filter(|n| may(&self.calls[*n])).collect();
        if open.is_empty() {
            return;
        }
        let index = open[nth % open.len()];
        let call = &self.calls[index];
        let refuses = refuses && !matches!(call.method, Method::Wait | Method::Delete);
        let frame = if refuses {
            calls::refusal(call.stream_id)
        } else {
            calls::answer_frame(call.stream_id, &self.answer_payload(call, false))
        };
        // containerd gets its own names back.
        let expected = if refuses || call.method != Method::State {
            frame.clone()
        } else {
            calls::answer_frame(call.stream_id, &self.answer_payload(call, true))
        };
        let shim = self.shims.get_mut(&call.conn).expect("the request came on it");
        shim.put(&frame);
        let (method, task) = (call.method, call.task);
        let code = ResponseView::decode(&frame[10..]).unwrap().code;
        self.answered += 1;
        let call = &mut self.calls[index];
        (call.answer, call.code, call.stage, call.answered_as) =
            (expected, code, At::Answered, self.answered);
        let task = &mut self.tasks[task];
        match method {
            Method::Create if refuses => task.outputs.iter_mut().for_each(Output::close),
            Method::Wait => {
                task.exit_told.get_or_insert_with(Instant::now);
            }
            _ => {}
        }
    }

    fn is_waited_for(&self, task: usize) -> bool {
        self.calls.iter().any(|c| c.task == task && c.method == Method::Wait && c.stage == At::There)
    }

    fn answer_payload(&self, call: &Call, outer: bool) -> Vec<u8> {
        let task = &self.tasks[call.task];
        let mut payload = Vec::new();
        match call.method {
            Method::Create | Method::Start => put_number(&mut payload, 3, 77),
            Method::Wait => put_number(&mut payload, 1, 3),
            Method::State => {
                put_len(&mut payload, 1, task.id.as_bytes());
                for (field, output) in (6..).zip(&task.outputs) {
                    let ours = output.entry(self.stage.block).filter(|_| !outer);
                    let path = ours
                        .map_or_else(|| output.outer.to_str().unwrap().to_owned(), |s| s.inner_path.get());
                    put_len(&mut payload, field, path.as_bytes());
                }
            }
            _ => put_len(&mut payload, 15, b"whatever it says"),
        }
        payload
    }

    fn exit(&mut self, task: usize) {
        let Some(task) = self.nth_living(task) else { return };
        let task = &mut self.tasks[task];
        if task.created && !task.exited {
            task.exited = true;
            task.outputs.iter_mut().for_each(Output::close);
        }
    }

    /// What has come, against what had to come; the figures in the block.
    pub fn check(&mut self) {
        // First, since what arrives now left before anybody reads on.
        self.hear_as_containerd();
        self.hear_as_shim();
        let block = self.stage.block;
        let unacked: u64 = self.tasks.iter().flat_map(|t| &t.outputs).map(|o| o.unacked(block)).sum();
        for output in self.tasks.iter_mut().flat_map(|t| &mut t.outputs) {
            output.check(block, unacked > ROOM_OF_ALL);
        }
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

    /// Everybody does what there is to do; whether nothing is left.
    pub fn settle(&mut self) -> bool {
        (0..self.tasks.len()).for_each(|_| self.answer(0, false));
        for wire in self.clients.iter_mut().chain(self.shims.values_mut()) {
            while wire.flow(usize::MAX) > 0 {}
        }
        for output in self.tasks.iter_mut().flat_map(|t| &mut t.outputs) {
            while output.read(1 << 20) > 0 {}
        }
        self.stage.turn();
        let waits = |c: &Call| {
            // Nobody can answer a Wait for a task that runs.
            c.method == Method::Wait && c.stage == At::There && !self.tasks[c.task].exited
        };
        self.calls.iter().all(|c| c.stage == At::Done || waits(c))
            && self.clients.iter().chain(self.shims.values()).all(Wire::is_idle)
            && self.tasks.iter().all(Task::is_through)
    }

    /// What has not come to its end.
    pub fn left(&self) -> String {
        let calls = self.calls.iter().filter(|c| c.stage != At::Done);
        let calls: Vec<String> =
            calls.map(|c| format!("{:?} {} {:?}", c.method, c.stream_id, c.stage)).collect();
        let outputs = self.tasks.iter().flat_map(|t| &t.outputs);
        let outputs: Vec<_> =
            outputs.map(|o| (o.written.len(), o.delivered, o.closed, o.has_ended())).collect();
        let tables = self.stage.block.tables();
        let tasks: Vec<_> = tables.tasks().iter().map(|t| (t.id.get(), TaskState::load(&t.state))).collect();
        let streams = tables.streams().iter();
        let streams: Vec<_> = streams.map(|s| (StreamState::load(&s.state), Phase::load(&s.phase))).collect();
        format!(
            "{calls:?}, outputs (written, delivered, closed, ended) {outputs:?}, tasks {tasks:?}, streams {streams:?}"
        )
    }

    /// Nothing is on its way: so nothing may be held for it.
    pub fn check_settled(&mut self) {
        let tables = self.stage.block.tables();
        assert_eq!(pipes_in_use(self.stage.block), [0usize; 0], "pipes with nothing in them");
        let open =
            tables.pendings().iter().filter(|p| PendingState::load(&p.state) != PendingState::Free).count();
        let waits = self.calls.iter().filter(|c| c.stage == At::There).count();
        assert_eq!(open, waits, "requests in flight");
        for conn in tables.conns().iter().filter(|c| ConnState::load(&c.state) == ConnState::Up) {
            assert!(conn.dirs.iter().all(|d| DirState::load(&d.state) == DirState::Idle));
        }
        self.check_events();
    }

    fn check_events(&mut self) {
        let ring = EventRing::new(self.stage.block).unwrap();
        let mut events: Vec<Event> = Vec::new();
        let mut at = ring.tail();
        while let Some((event, behind)) = ring.at(at) {
            events.push(event);
            at = behind;
        }
        let numbers: Vec<u64> = events.iter().map(|e| e.seq).collect();
        assert_eq!(numbers, (1..=u64::try_from(events.len()).unwrap()).collect::<Vec<_>>(), "without holes");
        let mut wanted = self.events.clone();
        for task in self.tasks.iter().filter(|t| t.exit_told.is_some()) {
            wanted.push((task.id.clone(), EventKind::EVENT_KIND_EXIT));
        }
        // On a busy machine the keeper that is played here may answer too late, and is replaced: nobody has died for that.
        events.retain(|event| event.restart != RestartReason::RESTART_REASON_KEEPER_HUNG.into());
        let name = |(id, kind): &Seen| format!("{id} {kind:?}");
        let mut wanted: Vec<String> = wanted.iter().map(name).collect();
        let mut seen: Vec<String> =
            events.iter().map(|e| name(&(e.container.clone(), e.kind.enum_value().unwrap()))).collect();
        wanted.sort();
        seen.sort();
        assert_eq!(seen, wanted, "each event once");
    }

    /// containerd ends and deletes all that is there.
    pub fn end_tasks(&mut self) {
        for task in self.living().collect::<Vec<_>>() {
            assert!(self.tasks[task].created, "settled");
            self.tasks[task].exited = true;
            self.tasks[task].outputs.iter_mut().for_each(Output::close);
            if !self.tasks[task].delete_asked {
                self.ask_about(0, task, Method::Delete, 0);
            }
        }
    }

    /// The collector takes everything, as the link thread has it: is every entry free again?
    pub fn is_forgotten(&mut self) -> bool {
        let tables = self.stage.block.tables();
        for task in tables.tasks().iter().filter(|t| TaskState::load(&t.state) == TaskState::Deleted) {
            let streams = || task.streams.iter().filter_map(linked).map(|s| &tables.streams[s]);
            for stream in streams() {
                let pos = stream.pos.load(Ordering::Acquire);
                stream.acked.fetch_max(pos, Ordering::AcqRel);
            }
            if streams().all(|s| StreamState::load(&s.state) == StreamState::Ended) {
                task.link_done.store(1, Ordering::Release);
            }
        }
        tables.tasks().iter().all(|t| TaskState::load(&t.state) == TaskState::Free)
    }

    /// All is as it was before the first task, but for the connections.
    pub fn check_forgotten(&mut self) {
        let tables = self.stage.block.tables();
        assert!(tables.streams().iter().all(|s| StreamState::load(&s.state) == StreamState::Free));
        self.check_settled();
        let conns = (0..crate::block::CONNS).flat_map(|n| [Slot::outer(n), Slot::inner(n)]);
        let mut wanted: Vec<Slot> = conns.collect();
        wanted.extend([Slot::WATCH, Slot::TAP, Slot::TAP.plus(1)]);
        let pipes = (0..crate::block::PIPES).flat_map(|n| [Slot::pipe(n), Slot::pipe(n).plus(1)]);
        let pipes: Vec<Slot> = pipes.collect();
        let held = self.stage.keeper.held();
        let strange: Vec<_> =
            held.iter().filter(|slot| !wanted.contains(slot) && !pipes.contains(slot)).collect();
        assert!(strange.is_empty(), "still held: {strange:?}");
        let spare = held.iter().filter(|slot| pipes.contains(slot)).count();
        assert!(spare <= 4, "{spare} ends of spare pipes");
    }
}
