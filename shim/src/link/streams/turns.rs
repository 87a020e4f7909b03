//! Streams of one wrapper take turns where the collector is slow: none of them takes the whole window again and again, and one of
//! which some was dropped waits for the next tick.

use std::{os::fd::AsFd, sync::atomic::Ordering};

use shimtap_proto::link::{StreamPosition, from_wrapper};

use super::*;
use crate::{
    block::{link_to, note_used},
    sys::fd,
    tee::ring::ChunkPool,
};

/// More than the window has room for beside another one.
const AT_ONCE: usize = 480 << 10;

fn two_streams() -> (&'static Block, Cursors) {
    let block: &'static Block = Box::leak(Box::new(Block::create().unwrap()));
    let mut cursors = Cursors::new(block, Towards::Link);
    for (index, handle) in [(0, 1), (1, 2)] {
        note_used(&block.tables().streams_used, index);
        let stream = &block.tables().streams[index];
        stream.handle.store(handle, Ordering::Relaxed);
        StreamState::Live.store(&stream.state);
        cursors.begin(&StreamPosition { handle, capture: true, ..Default::default() });
    }
    (block, cursors)
}

/// As the pump does, until there is as much unsent as there can be.
fn write(block: &Block, pool: &mut ChunkPool, index: usize, bytes: usize) {
    let stream = &block.tables().streams[index];
    let mut rest = bytes;
    while rest > 0 {
        let room = pool.reserve(stream, rest.min(4096), false);
        let (tap_out, tap_in) = fd::pipe().unwrap();
        assert_eq!(nix::unistd::write(&tap_in, &vec![b'x'; room]), Ok(room));
        let pos = stream.pos.load(Ordering::Relaxed);
        assert_eq!(pool.fill(stream, tap_out.as_fd(), pos, room).unwrap(), room);
        stream.pos.store(pos + wide(room), Ordering::Release);
        rest -= room;
    }
}

/// Two containers write faster than the collector acknowledges: both are heard.
#[test]
fn a_chatty_stream_leaves_the_window_to_the_others() {
    let (block, mut cursors) = two_streams();
    let mut pool = ChunkPool::recover(block).unwrap();
    let mut heard = [0, 0];
    for _ in 0..6 {
        for index in 0..2 {
            write(block, &mut pool, index, AT_ONCE);
        }
        let mut turn = |cursors: &mut Cursors| {
            let mut said = false;
            for handle in cursors.in_turn() {
                let Some(Next::Body(body)) = cursors.next_body(handle) else { continue };
                said = true;
                if let from_wrapper::Body::Data(data) = *body {
                    heard[usize::try_from(data.handle - 1).unwrap()] += data.bytes.len();
                }
            }
            said
        };
        while turn(&mut cursors) {}
        // Everything at once, and late.
        for handle in [1, 2] {
            let at = cursors.at(handle).unwrap();
            cursors.acknowledged(handle, at, false);
            pool.trim(&block.tables().streams[usize::try_from(handle - 1).unwrap()]);
        }
    }
    assert!(heard[0] > AT_ONCE && heard[1] > AT_ONCE, "heard {heard:?}");
}

/// Who writes faster than is taken brings a piece per tick, however much there is, and wakes nobody meanwhile.
#[test]
fn a_stream_of_which_some_was_dropped_rests() {
    let (block, mut cursors) = two_streams();
    let mut pool = ChunkPool::recover(block).unwrap();
    (0..4).for_each(|_| write(block, &mut pool, 0, AT_ONCE));
    let Some(Next::Body(body)) = cursors.next_body(1) else { panic!("a Gap") };
    let from_wrapper::Body::Gap(gap) = *body else { panic!("a Gap") };
    assert_eq!(gap.reason, GapReason::GAP_REASON_OVERFLOW.into());
    assert!(cursors.cursors[&1].rests_until.is_some(), "until the next tick");
    cursors.acknowledged(1, gap.to, false);
    // One that does not come while this looks.
    let at = Instant::now() + Duration::from_secs(3600);
    cursors.cursors.get_mut(&1).unwrap().rests_until = Some(at);
    assert!(matches!(cursors.next_body(1), Some(Next::Asleep(until)) if until == at));
    assert_eq!(Rest::Idle.or_at(at).asleep().or_at(at), Rest::Asleep(at), "no output ends that");
    StreamState::Ended.store(&block.tables().streams[0].state);
    assert!(matches!(cursors.next_body(1), Some(Next::Body(_))), "nobody writes any more");
    // A file takes what there is.
    let mut cursors = Cursors::new(block, Towards::Spool);
    cursors.place(1, 0, 0, true);
    for _ in 0..2 {
        assert!(matches!(cursors.next_body(1), Some(Next::Body(_))), "a Gap, and what there is");
    }
}

/// A message per line would cost more than the line; a busy stream's moves are further apart than that, and each brings its message along.
#[test]
fn what_comes_soon_after_a_message_waits_and_what_comes_later_goes_at_once() {
    let (block, mut cursors) = two_streams();
    let mut pool = ChunkPool::recover(block).unwrap();
    cursors.gather(1000);
    let data = |next: Option<Next>| match next {
        Some(Next::Body(body)) => matches!(*body, from_wrapper::Body::Data(_)),
        _ => false,
    };
    write(block, &mut pool, 0, 4096);
    assert!(data(cursors.next_body(1)), "the first output waits for nothing");
    assert!(
        cursors.next_body(1).is_none(),
        "no timer where there is nothing to be sent: the next move wakes"
    );
    write(block, &mut pool, 0, 4096);
    let sent = cursors.cursors[&1].sent.unwrap();
    let until = |next| if let Some(Next::Later(at)) = next { at } else { panic!("it goes at once") };
    assert_eq!(until(cursors.next_body(1)), sent + Duration::from_secs(1));
    write(block, &mut pool, 1, 4096);
    assert!(data(cursors.next_body(2)), "another stream's");
    cursors.cursors.get_mut(&1).unwrap().sent = Some(sent - Duration::from_secs(1));
    assert!(data(cursors.next_body(1)), "the time is over");
    write(block, &mut pool, 0, DATA_MAX);
    assert!(data(cursors.next_body(1)), "much");
    write(block, &mut pool, 0, 4096);
    cursors.gather(0);
    assert!(data(cursors.next_body(1)), "nothing waits");
    write(block, &mut pool, 0, 4096);
    cursors.gather(u32::MAX);
    let sent = cursors.cursors[&1].sent.unwrap();
    assert_eq!(
        until(cursors.next_body(1)),
        sent + Duration::from_secs(1),
        "nobody waits longer than a second"
    );
    StreamState::Ended.store(&block.tables().streams[0].state);
    assert!(data(cursors.next_body(1)), "nobody writes any more");
}

/// What crossed the last word on a task is of nothing that the collector knows.
#[test]
fn a_stream_of_a_task_that_is_done_with_does_not_begin_again() {
    let (block, mut cursors) = two_streams();
    let task = &block.tables().tasks[0];
    block.tables().streams[0].task.store(link_to(Some(0)), Ordering::Relaxed);
    task.streams[0].store(link_to(Some(0)), Ordering::Relaxed);
    cursors.forget_task(task);
    let again = StreamPosition { handle: 1, capture: true, ..Default::default() };
    cursors.begin(&again);
    assert_eq!(cursors.at(1), Some(0), "it goes on as long as the task is there");
    cursors.forget_task(task);
    task.link_done.store(1, Ordering::Release);
    cursors.begin(&again);
    assert_eq!((cursors.at(1), cursors.at(2)), (None, Some(0)));
}
