//! When what is acknowledged, and whose a stream is that was given up.

use super::*;

#[tokio::test]
async fn an_acknowledgement_is_called_for_by_a_quarter_of_the_window_and_by_an_end() {
    let (ingest, mut exit) = ingest();
    let mut now = session(&ingest, 1);
    let acks = now.acks();
    let mut say = async |body| say(&mut now, body).await;
    let mut write = || exit.try_recv().expect("a batch").batch.done();
    let lines = |handle, offset| {
        let bytes = [vec![b'x'; (40 << 10) - 1], b"\n".to_vec()].concat();
        Up::Data(link::Data { handle, offset, bytes, ..Default::default() })
    };
    let close = |handle, end| Up::Close(link::Close { handle, end, ..Default::default() });
    let acked = |ack: Option<link::Ack>| {
        let ack = ack.expect("something is durable");
        ack.streams.iter().map(|stream| (stream.handle, stream.offset, stream.end)).collect::<Vec<_>>()
    };
    say(Up::Open(open(0))).await;
    acks.announced();
    assert_eq!(acks.outstanding(), None);
    // 40 KiB of each stream: what counts is the wrapper's.
    say(lines(1, 0)).await;
    write();
    assert_eq!((acks.outstanding(), acks.due.take_call()), (Some(Outstanding::Output), false));
    say(lines(2, 0)).await;
    assert!(!acks.due.take_call(), "not durable yet");
    write();
    assert!(acks.due.take_call());
    assert_eq!(acked(acks.collect()), [(1, 40 << 10, false), (2, 40 << 10, false)]);
    assert_eq!((acks.outstanding(), acks.due.take_call()), (None, false));
    // An end whose bytes are durable.
    say(lines(1, 40 << 10)).await;
    write();
    assert!(!acks.due.take_call());
    say(close(1, 80 << 10)).await;
    assert!(!acks.due.take_call(), "the end itself is not durable");
    write();
    assert!(acks.due.take_call());
    assert_eq!(acked(acks.collect()), [(1, 80 << 10, true)]);
    // An end before its bytes are.
    say(lines(2, 40 << 10)).await;
    say(close(2, 80 << 10)).await;
    write();
    assert!(!acks.due.take_call());
    write();
    assert!(acks.due.take_call());
    assert_eq!(acked(acks.collect()), [(2, 80 << 10, true)]);
    assert_eq!(acks.outstanding(), None);
    // An event has its own time.
    say(Up::Event(link::Event { seq: 1, ..Default::default() })).await;
    assert_eq!(acks.outstanding(), Some(Outstanding::Event));
}

/// It was said that nobody knows where it ends, and that is durable; of the end that it gives now nothing is.
#[tokio::test]
async fn an_end_of_a_wrapper_that_was_given_up_is_acknowledged_when_it_is_durable() {
    let (ingest, mut exit) = ingest();
    let line =
        |offset| Up::Data(link::Data { handle: 1, offset, bytes: b"line\n".to_vec(), ..Default::default() });
    let mut gone = session(&ingest, 1);
    say(&mut gone, Up::Open(open(0))).await;
    say(&mut gone, line(0)).await;
    drop(gone);
    for slot in ingest.streams.orphans(Duration::ZERO) {
        let given_up = slot.abandon().expect("nobody carries it").expect("an end");
        ingest.outlets.of(slot.home()).submit(given_up, ingest.outlets.of(slot.home()).room(1, 0).await);
    }
    while let Some(written) = exit.try_recv() {
        written.batch.done();
    }
    let mut back = session(&ingest, 2);
    let acks = back.acks();
    say(&mut back, Up::Open(open(0))).await;
    acks.announced();
    say(&mut back, line(5)).await;
    say(&mut back, Up::Close(link::Close { handle: 1, end: 10, exact: true, ..Default::default() })).await;
    let acked = || {
        let ack = acks.collect()?;
        ack.streams.first().map(|stream| (stream.handle, stream.offset, stream.end))
    };
    assert_eq!(acked(), Some((1, 5, false)), "what is durable, and not the end");
    while let Some(written) = exit.try_recv() {
        written.batch.done();
    }
    assert_eq!(acked(), Some((1, 10, true)));
}

/// Its streams are found by the sweep, given up, and taken by the wrapper that comes back, before the sweep says that they ended.
#[tokio::test]
async fn a_wrapper_that_comes_back_in_the_moment_of_being_given_up_keeps_its_streams() {
    let (ingest, _exit) = ingest();
    let mut gone = session(&ingest, 1);
    say(&mut gone, Up::Open(open(0))).await;
    drop(gone);
    let given_up = ingest.streams.orphans(Duration::ZERO);
    for slot in &given_up {
        slot.abandon().expect("nobody carries it");
    }
    let mut back = session(&ingest, 2);
    say(&mut back, Up::Open(open(0))).await;
    for slot in &given_up {
        ingest.streams.ended(slot);
    }
    // More than are remembered.
    let mut others = session(&ingest, 3);
    for task in 1..4 {
        say_all_of(&mut others, task).await;
    }
    drop(back);
    let there = ingest.streams.orphans(Duration::ZERO);
    assert!(
        given_up.iter().all(|slot| there.iter().any(|one| Arc::ptr_eq(one, slot))),
        "forgotten while carried"
    );
}

/// A task from its beginning to its end, of two streams that say nothing.
async fn say_all_of(session: &mut Session, task: u32) {
    say(session, Up::Open(open(task))).await;
    for handle in [2 * task + 1, 2 * task + 2] {
        say(session, Up::Close(link::Close { handle, exact: true, ..Default::default() })).await;
    }
    say(session, Up::Gone(link::Gone { task, ..Default::default() })).await;
}

/// As many as are to be remembered are: none has two places among them.
#[tokio::test]
async fn a_stream_that_has_ended_ends_once() {
    let (ingest, _exit) = ingest();
    let mut wrapper = session(&ingest, 1);
    say_all_of(&mut wrapper, 1).await;
    assert_eq!(ingest.streams.remembered().len(), 2);
    // Its last word was not the end of its streams: these are given up, and have ended then.
    say(&mut wrapper, Up::Open(open(2))).await;
    say(&mut wrapper, Up::Gone(link::Gone { task: 2, ..Default::default() })).await;
    assert_eq!(ingest.streams.remembered().len(), 2);
    let orphans = ingest.streams.orphans(Duration::ZERO);
    assert_eq!(orphans.len(), 2, "those, and none that has ended");
    let slot = &orphans[0];
    assert!(slot.abandon().expect("nobody carries it").is_some_and(|batch| batch.ending.is_some()));
    ingest.streams.ended(slot);
    let remembered = ingest.streams.remembered();
    assert_eq!(remembered.len(), 3);
    assert_eq!(remembered.iter().collect::<std::collections::HashSet<_>>().len(), 3, "{remembered:?}");
}
