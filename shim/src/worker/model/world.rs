//! Everybody around the worker, and what each of them has a right to.

mod ends;
mod heard;

use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf, time::Instant};

use shimtap_proto::{
    link::EventKind,
    ttrpc::{
        Method, ResponseView,
        task::{Kill, TaskRef},
        wire::{put_len, put_number},
    },
};

use super::{
    calls::{self, Call, Stage as At},
    collector::Collector,
    output::{self, Output},
    script::{Act, CONNS},
    stage::Stage,
    wire::Wire,
};

/// Tasks that are there at a time.
const TASKS: usize = 2;
/// Nearly what a FIFO holds, and no part of a ring: the last piece that still has room has it in part.
const GUSH: usize = 60_000;
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

fn outputs_of<'a>(tasks: impl IntoIterator<Item = &'a mut Task>) -> impl Iterator<Item = &'a mut Output> {
    tasks.into_iter().flat_map(|t| &mut t.outputs)
}

/// One of those that there are.
fn nth_of<T>(all: impl Iterator<Item = T>, nth: usize) -> Option<T> {
    let mut all: Vec<T> = all.collect();
    (!all.is_empty()).then(|| all.swap_remove(nth % all.len()))
}

/// What an event is about.
type Seen = (String, EventKind);

pub struct World {
    stage: Stage,
    collector: Collector,
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
    /// Deaths up to the last check.
    checked: u32,
}

// === impl World ===

impl World {
    pub fn new() -> Self {
        let stage = Stage::new();
        let collector = Collector::new(stage.block, stage.board);
        let clients = (0..CONNS).map(|_| Wire::new(stage.keeper.accept())).collect();
        Self {
            stage,
            collector,
            clients,
            shims: BTreeMap::new(),
            quiet: Vec::new(),
            calls: Vec::new(),
            tasks: Vec::new(),
            next_stream: 1,
            answered: 0,
            events: Vec::new(),
            checked: 0,
        }
    }

    /// One after the other.
    pub fn play_all(&mut self, script: &[Act]) {
        script.iter().for_each(|act| self.play(*act));
    }

    /// One thing happens, and all is as it must be.
    pub fn play(&mut self, act: Act) {
        self.act(act);
        self.check();
    }

    fn act(&mut self, act: Act) {
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
            Act::Write { output, len } => self.with_output(output, |o| o.write(len)),
            Act::Exit { task } => self.exit(task),
            Act::Read { output, most } => self.with_output(output, |o| _ = o.read(most)),
            Act::Attach => self.collector.attach(self.stage.deaths),
            Act::Detach { forgets } => {
                self.collector.detach();
                self.outputs().filter(|_| forgets).for_each(|o| o.copy.forget());
            }
            Act::Take { most } => self.take(most),
            Act::Acknowledge { output, part, end } => self.acknowledge(output, part, end),
            Act::Flood { output, rounds, takes, part } => self.flood(output, rounds, takes, part),
            Act::Turn => self.stage.turn(),
            Act::Die { after, again } => self.stage.die(after, again, 4),
        }
    }

    fn living(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.tasks.len()).filter(|n| !self.tasks[*n].over)
    }

    fn nth_living(&self, nth: usize) -> Option<usize> {
        nth_of(self.living(), nth)
    }

    fn with_output(&mut self, nth: usize, act: impl FnOnce(&mut Output)) {
        let living = self.tasks.iter_mut().filter(|t| !t.over);
        nth_of(outputs_of(living), nth).map(act);
    }

    fn outputs(&mut self) -> impl Iterator<Item = &mut Output> {
        outputs_of(&mut self.tasks)
    }

    /// The collector takes at most so many messages of each stream.
    fn take(&mut self, most: usize) {
        self.account();
        let deaths = self.stage.deaths;
        for output in outputs_of(&mut self.tasks) {
            self.collector.take(deaths, output, most);
        }
        self.collector.finish_tasks(deaths, self.tasks.iter().flat_map(|t| &t.outputs));
    }

    fn acknowledge(&mut self, nth: usize, part: u8, end: bool) {
        if let Some(output) = nth_of(outputs_of(&mut self.tasks), nth) {
            self.collector.acknowledge(self.stage.deaths, output, part, end);
        }
    }

    fn acknowledge_all(&mut self, part: u8) {
        for output in outputs_of(&mut self.tasks) {
            self.collector.acknowledge(self.stage.deaths, output, part, true);
        }
    }

    /// A container writes without a pause and containerd reads all of it, while the collector takes so many messages a round and
    /// acknowledges that part of what it has; what was written last waits.
    fn flood(&mut self, output: usize, rounds: u8, takes: usize, part: u8) {
        for _ in 0..rounds {
            self.with_output(output, |o| o.write(GUSH));
            self.stage.turn();
            self.with_output(output, |o| _ = o.read(1 << 20));
            self.take(takes);
            self.acknowledge_all(part);
        }
        self.with_output(output, |o| o.write(GUSH));
        self.account();
    }

    /// Has any stream a ring that is left to the collector at the moment (docs/adr/0027)?
    pub fn leaves_a_ring(&mut self) -> bool {
        let block = self.stage.block;
        self.outputs().any(|o| o.entry(block).is_some_and(output::is_left))
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
}
