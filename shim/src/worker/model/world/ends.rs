//! How a history ends: everybody does what is left to do, and nothing is left of it.

use shimtap_proto::{
    link::{Event, EventKind},
    ttrpc::Method,
};

use super::{Output, Seen, Task, World};
use crate::{
    block::{ConnState, DirState, PendingState, Phase, Slot, StreamState, TaskState},
    events::EventRing,
    worker::{
        Pipes,
        model::{
            calls::{Call, Stage as At},
            wire::Wire,
        },
    },
};

impl World {
    /// Everybody does what there is to do; whether nothing is left.
    pub fn settle(&mut self) -> bool {
        (0..self.tasks.len()).for_each(|_| self.answer(0, false));
        for wire in self.clients.iter_mut().chain(self.shims.values_mut()) {
            while wire.flow(usize::MAX) > 0 {}
        }
        for output in self.outputs() {
            while output.read(1 << 20) > 0 {}
        }
        self.stage.turn();
        self.take_all();
        let waits = |c: &Call| {
            // Nobody can answer a Wait for a task that runs.
            c.method == Method::Wait && c.stage == At::There && !self.tasks[c.task].exited
        };
        self.calls.iter().all(|c| c.stage == At::Done || waits(c))
            && self.clients.iter().chain(self.shims.values()).all(Wire::is_idle)
            && self.tasks.iter().all(Task::is_through)
            && self.is_taken()
    }

    /// The collector takes and acknowledges what there is.
    fn take_all(&mut self) {
        if !self.collector.is_attached(self.stage.deaths) {
            self.collector.attach(self.stage.deaths);
        }
        let had = |world: &mut Self| world.outputs().map(|o| o.copy.have).sum::<u64>();
        loop {
            let before = had(self);
            self.take(usize::MAX);
            self.acknowledge_all(u8::MAX);
            if had(self) == before {
                return;
            }
        }
    }

    /// Has the collector every byte or a Gap for it, and every end?
    fn is_taken(&mut self) -> bool {
        let block = self.stage.block;
        self.outputs().all(|o| o.is_taken(block))
    }

    /// What has not come to its end.
    pub fn left(&self) -> String {
        let calls = self.calls.iter().filter(|c| c.stage != At::Done);
        let calls: Vec<String> =
            calls.map(|c| format!("{:?} {} {:?}", c.method, c.stream_id, c.stage)).collect();
        let outputs = self.tasks.iter().flat_map(|t| &t.outputs);
        let outputs: Vec<_> =
            outputs.map(|o| (o.written.len(), o.delivered, o.closed, o.has_ended(), o.copy.have)).collect();
        let tables = self.stage.block.tables();
        let tasks: Vec<_> = tables.tasks().iter().map(|t| (t.id.get(), TaskState::load(&t.state))).collect();
        let streams = tables.streams().iter();
        let streams: Vec<_> = streams.map(|s| (StreamState::load(&s.state), Phase::load(&s.phase))).collect();
        format!(
            "{calls:?}, outputs (written, delivered, closed, ended, with the collector) {outputs:?}, tasks {tasks:?}, streams {streams:?}"
        )
    }

    /// Nothing is on its way: so nothing may be held for it.
    pub fn check_settled(&mut self) {
        let tables = self.stage.block.tables();
        assert_eq!(Pipes::in_use(self.stage.block), [0usize; 0], "pipes with nothing in them");
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

    /// Is every entry free again, now that the collector has everything?
    pub fn is_forgotten(&mut self) -> bool {
        let tables = self.stage.block.tables();
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
