//! What becomes of a captured task: Create accepted or refused, deleted, forgotten. Its streams are closed towards
//! containerd before the answer that tells it so, and nothing of ours is left behind.

use std::sync::atomic::Ordering;

use crate::{
    block::{Slot, StreamState, Task, TaskState, linked},
    keeper::protocol::Operation,
    sys::{
        fd::{self, Moved},
        unix_ns,
    },
    worker::{Token, Worker, hands::Wish},
};

impl Worker {
    /// Create was accepted.
    pub(crate) fn task_created(&mut self, created: usize, pid: u32) {
        let task = self.task(created);
        if TaskState::load(&task.state) != TaskState::Creating {
            return;
        }
        task.pid.store(pid, Ordering::Relaxed);
        task.created_ns.store(unix_ns(), Ordering::Relaxed);
        // Whoever waits in open(2) for a writer waits no longer than for the inner shim's. Where this fails it is tried again
        // with the first byte.
        self.open_targets(task);
        for (n, index) in task.streams.iter().enumerate().filter_map(|(n, s)| Some((n, linked(s)?))) {
            let stream = self.stream(index);
            if StreamState::load(&stream.state) != StreamState::Setup {
                continue;
            }
            if self.tee.is_logger(index) {
                self.logger_is_ready(created, n, index);
                self.stream_pump(index);
            } else {
                StreamState::Live.store(&stream.state);
            }
        }
        TaskState::Created.store(&task.state);
        self.retire_namesakes(created);
        self.board.wake_link_for_task();
    }

    /// The writers of containerd's FIFOs of a task, at once.
    fn open_targets(&mut self, task: &Task) {
        let streams = task.streams.iter().filter_map(linked);
        let in_setup = |n: &usize| StreamState::load(&self.stream(*n).state) == StreamState::Setup;
        let of_fifos = streams.filter(|n| in_setup(n) && !self.tee.is_logger(*n));
        let wishes: Vec<Wish<'_>> = of_fifos
            .map(|n| Wish { operation: Operation::OuterWriter, slot: Slot::stream(n).plus(2), path: "" })
            .collect();
        self.hands.ensure_all(&wishes);
    }

    /// A living task of that id cannot have been created again: its Delete passed unseen, in safe mode.
    fn retire_namesakes(&mut self, index: usize) {
        let id = self.task(index).id.get();
        let lives = |t: &Task| {
            !matches!(TaskState::load(&t.state), TaskState::Free | TaskState::Creating | TaskState::Deleted)
        };
        let tasks = self.block.tables().tasks().iter().enumerate();
        let same = tasks.filter(|(n, t)| *n != index && lives(t) && t.id.is(&id)).map(|(n, _)| n);
        for stale in same.collect::<Vec<_>>() {
            self.task_over(stale);
        }
    }

    /// Nothing more will come, whoever still holds its FIFOs: each stream ends as soon as it is empty, now, or when containerd
    /// has taken the rest.
    fn task_over(&mut self, index: usize) {
        let task = self.task(index);
        task.deleted_ns.store(unix_ns(), Ordering::Relaxed);
        TaskState::Deleted.store(&task.state);
        self.pump_task_streams(index);
    }

    /// Create failed: nothing of ours is left when the error is forwarded, and containerd's FIFOs are as the inner shim
    /// left ours: ended where it had opened them, untouched where it had not (the next Create may name them again).
    pub(crate) fn task_undo(&mut self, index: usize) {
        if !self.is_creating(index) {
            return;
        }
        for stream in self.task(index).streams.iter().filter_map(linked) {
            self.tee.running(stream).pace.over();
            self.logger_may_read(stream);
            self.stream_pump(stream);
            let open = StreamState::load(&self.stream(stream).state) == StreamState::Setup;
            if open && self.source_has_writer(stream) {
                self.stream_end(stream);
            }
        }
        self.task_forget(index);
    }

    /// Has somebody the inner FIFO open for writing now? (One who has closed it again is seen as its end.)
    pub(crate) fn source_has_writer(&self, index: usize) -> bool {
        let ends = (self.hands.get(Slot::stream(index)), self.hands.get(Slot::TAP.plus(1)));
        let (Ok(source), Ok(tap)) = ends else { return false };
        // tee(2) consumes nothing; on an empty FIFO it is EAGAIN with a writer and 0 without one.
        match fd::tee(source, tap, 1) {
            Ok(Moved::Blocked) => true,
            Ok(Moved::Bytes(_)) => {
                if let Ok(tap) = self.hands.get(Slot::TAP) {
                    fd::forget(tap);
                }
                true
            }
            Ok(Moved::End) | Err(_) => false,
        }
    }

    /// Delete was answered.
    pub(crate) fn task_deleted(&mut self, index: usize) {
        self.task_over(index);
        self.remove_task_dir(self.task(index));
        self.board.wake_link();
    }

    /// All is passed on: containerd gets its end of file. Returns when the keeper has closed the writer too.
    pub(super) fn stream_end(&mut self, index: usize) {
        self.stream_unregister(index);
        // An end is told by a writer that goes, so there must have been one.
        let _ = self.open_target(index);
        self.hands.give_back(Slot::stream(index).plus(2), 1);
        StreamState::Ended.store(&self.stream(index).state);
        self.stream_close(index);
        self.board.wake_link();
    }

    /// The readers of an ended stream go with its task's Delete, whether or not the collector has everything yet: a
    /// FIFO that is open anywhere counts 64 KiB of the pipe budget, which is one for all containers of the node.
    pub(super) fn stream_close(&mut self, index: usize) {
        let stream = self.stream(index);
        let deleted = linked(&stream.task)
            .is_some_and(|task| TaskState::load(&self.task(task).state) == TaskState::Deleted);
        // A container whose logger is gone is to hear of it: by the end of the only reader of what it writes.
        let at_once = self.tee.is_logger(index);
        if (deleted || at_once) && StreamState::load(&stream.state) == StreamState::Ended {
            self.hands.give_back(Slot::stream(index), 3);
        }
    }

    fn stream_unregister(&mut self, index: usize) {
        let base = Slot::stream(index);
        for (slot, token) in [(base, Token::Source(index)), (base.plus(2), Token::Target(index))] {
            if let Ok(fd) = self.hands.get(slot) {
                let _ = self.poller.want(token.number(), fd, None);
            }
        }
    }

    /// Entries of deleted tasks go when the collector has everything and no answer on its way needs them.
    pub(crate) fn tend_tasks(&mut self) {
        let done = |t: &Task| {
            TaskState::load(&t.state) == TaskState::Deleted && t.link_done.load(Ordering::Acquire) != 0
        };
        let tasks = self.block.tables().tasks().iter().enumerate();
        for index in
            tasks.filter(|(n, t)| done(t) && !self.is_still_needed(*n)).map(|(n, _)| n).collect::<Vec<_>>()
        {
            self.task_forget(index);
        }
    }

    pub(super) fn task_forget(&mut self, index: usize) {
        let task = self.task(index);
        for stream in task.streams.iter().filter_map(linked) {
            // A predecessor may have died half way: its entry is free since then, or another task's.
            if linked(&self.stream(stream).task) == Some(index) {
                self.stream_forget(stream);
            }
        }
        if TaskState::load(&task.state) != TaskState::Deleted {
            self.remove_task_dir(task);
        }
        // Where the table is full the answer to a Wait may come later than all of this, and would mark the entry as a task that has
        // ended, for ever.
        for pending in self.block.tables().pendings().iter().filter(|p| linked(&p.task) == Some(index)) {
            pending.task.store(0, Ordering::Release);
        }
        TaskState::Free.store(&task.state);
    }

    pub(super) fn stream_forget(&mut self, index: usize) {
        let stream = self.stream(index);
        self.stream_unregister(index);
        if let Some(pipe) = linked(&stream.pipe) {
            stream.pipe.store(0, Ordering::Release);
            self.pipes.discard(pipe, &mut self.hands);
        }
        self.hands.give_back(Slot::stream(index), 3);
        self.tee.chunks.free_all(stream, 0);
        *self.tee.running(index) = super::Running::default();
        StreamState::Free.store(&stream.state);
    }
}
