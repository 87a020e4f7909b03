//! What a session remembers of tasks: no longer than there is anything to say of them.

use std::os::unix::net::UnixStream;

use shimtap_proto::link::{MESSAGE_MAX, StreamAck, StreamPosition, Welcome};

use super::*;
use crate::{
    block::{StreamState, link_to, note_used},
    link::wire::Wire,
};

/// A session with a collector that only listens, and the entry of a task.
struct Lab {
    session: Session,
    task: &'static Task,
    _collector: UnixStream,
}

fn lab() -> Lab {
    let block: &'static Block = Box::leak(Box::new(Block::create().unwrap()));
    let board: &'static Switchboard = Box::leak(Box::new(Switchboard::new().unwrap()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let link = Link { wire: Wire::on(ours, MESSAGE_MAX), stream_id: 1 };
    let session = Session::new(block, board, Attachment { link, welcome: Welcome::default() }).unwrap();
    note_used(&block.tables().tasks_used, 0);
    Lab { session, task: &block.tables().tasks[0], _collector: theirs }
}

impl Lab {
    fn becomes(&self, handle: u32, state: TaskState) {
        self.task.handle.store(handle, Ordering::Relaxed);
        self.task.link_done.store(0, Ordering::Relaxed);
        state.store(&self.task.state);
    }

    fn remembered(&self) -> Vec<u32> {
        self.session.said.keys().copied().collect()
    }

    fn sample(&self, task: u32) {
        self.session.board.set_attached(true);
        self.session.board.sample(task, StatsSource::STATS_SOURCE_FINAL, "a.Type", b"value");
    }
}

#[test]
fn a_task_of_which_all_was_said_is_forgotten_and_nothing_that_crosses_begins_anything() {
    let mut lab = lab();
    let tables = lab.session.block.tables();
    let stream = &tables.streams[0];
    note_used(&tables.streams_used, 0);
    lab.task.streams[0].store(link_to(Some(0)), Ordering::Release);
    stream.task.store(link_to(Some(0)), Ordering::Release);
    stream.handle.store(6, Ordering::Relaxed);
    StreamState::Ended.store(&stream.state);
    lab.becomes(5, TaskState::Running);
    lab.session.say().unwrap();
    assert_eq!(lab.remembered(), [5]);
    let ready = StreamPosition { handle: 6, next: Some(0), capture: true, ..Default::default() };
    lab.session.ready(&Ready { streams: vec![ready.clone()], ..Default::default() });
    lab.session.say().unwrap();
    lab.becomes(5, TaskState::Deleted);
    let end = StreamAck { handle: 6, offset: 0, end: true, ..Default::default() };
    lab.session.acknowledged(&Ack { streams: vec![end.clone()], ..Default::default() });
    lab.session.say().unwrap();
    assert_eq!(lab.task.link_done.load(Ordering::Relaxed), 1, "the last word");
    assert!(lab.remembered().is_empty());
    lab.session.ready(&Ready { streams: vec![ready], ..Default::default() });
    lab.session.acknowledged(&Ack { streams: vec![end], ..Default::default() });
    lab.sample(5);
    lab.session.say().unwrap();
    assert!(lab.remembered().is_empty() && lab.session.cursors.at(6).is_none());
}

#[test]
fn a_task_whose_entry_another_has_is_forgotten() {
    let mut lab = lab();
    lab.becomes(5, TaskState::Running);
    lab.session.say().unwrap();
    lab.becomes(7, TaskState::Running);
    lab.session.say().unwrap();
    lab.session.begin_round().unwrap();
    assert_eq!(lab.remembered(), [7]);
    lab.sample(5);
    lab.session.say().unwrap();
    assert_eq!(lab.remembered(), [7], "a sample of it brings it back");
}
