//! Any messages in any order: never a panic, records tile every stream, and figures agree with records.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use proptest::prelude::*;
use protobuf::EnumOrUnknown;
use shimtap_proto::link::{self, from_collector::Body as Down, from_wrapper::Body as Up};

use super::{Ingest, Session};
use crate::{
    closed::Closed,
    config,
    event::{Body, Flags, StreamKind},
    ingest::{Spools, Streams, acks::Outstanding},
    metrics::{Registry, Totals},
    sinks::{Exit, Outlet},
};

fn ingest() -> (Arc<Ingest>, Exit) {
    let totals: Arc<Totals> = Arc::default();
    let (outlet, exit) = Outlet::queue(1 << 28);
    let config = config::Ingest {
        socket: PathBuf::new(),
        connections: 1,
        tasks: 4,
        message_bytes: link::MESSAGE_MAX,
        hello: Duration::from_secs(1),
        message: Duration::from_secs(1),
        orphan: Duration::from_secs(1),
        positions: 3,
    };
    let ingest = Ingest {
        config,
        stats: config::Stats { interval: Duration::from_secs(10) },
        registry: Arc::new(Registry::new(Arc::clone(&totals), outlet.backlog(), Duration::from_secs(10))),
        streams: Streams::new(totals, 3),
        spools: Spools::new(config::Spool {
            disk: true,
            disk_dir: PathBuf::from("/nowhere/disk"),
            memory_dir: PathBuf::from("/nowhere/memory"),
            budget_bytes: 1 << 20,
        }),
        outlet,
    };
    (Arc::new(ingest), exit)
}

fn hello() -> link::Hello {
    link::Hello { protocol: 7, wrapper: 1, ..Default::default() }
}

fn open(task: u32) -> link::Open {
    let stdio =
        |stream, handle| link::Stdio { stream: EnumOrUnknown::new(stream), handle, ..Default::default() };
    link::Open {
        task,
        container: format!("c{task}"),
        incarnation: u64::from(task),
        stdio: vec![
            stdio(link::Stream::STREAM_STDOUT, 2 * task + 1),
            stdio(link::Stream::STREAM_STDERR, 2 * task + 2),
        ],
        ..Default::default()
    }
}

/// Something a wrapper might say, sensible or not.
fn message() -> impl Strategy<Value = Option<Up>> {
    let handle = 0u32..6;
    let offset = prop_oneof![10 => 0u64..100, 1 => Just(u64::MAX - 3)];
    let bytes = prop::collection::vec(prop::sample::select(b"ab\r\n".to_vec()), 0..40);
    prop_oneof![
        20 => (handle.clone(), offset.clone(), bytes, prop::collection::vec(any::<u64>(), 0..3)).prop_map(
            |(handle, offset, bytes, times)| {
                let (time_offset, time_ns) = (times.clone(), times);
                Some(Up::Data(link::Data { handle, offset, bytes, time_offset, time_ns, ..Default::default() }))
            }
        ),
        5 => (handle.clone(), offset.clone(), 0u64..120, -1i32..7).prop_map(|(handle, from, to, reason)| {
            let reason = EnumOrUnknown::from_i32(reason);
            Some(Up::Gap(link::Gap { handle, from, to, reason, ..Default::default() }))
        }),
        2 => (handle, 50u64..130, any::<bool>()).prop_map(|(handle, end, exact)| {
            Some(Up::Close(link::Close { handle, end, exact, ..Default::default() }))
        }),
        2 => (0u32..2).prop_map(|task| Some(Up::Open(open(task)))),
        1 => (0u32..3).prop_map(|task| Some(Up::Gone(link::Gone { task, ..Default::default() }))),
        2 => (0u64..9, -1i32..13, 0u32..3).prop_map(|(seq, kind, task)| {
            let kind = EnumOrUnknown::from_i32(kind);
            Some(Up::Event(link::Event { seq, kind, task, ..Default::default() }))
        }),
        1 => (0u32..3, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(task, value)| {
            let type_url = "io.containerd.cgroups.v2.Metrics".to_owned();
            Some(Up::Stats(link::Stats { task, type_url, value, ..Default::default() }))
        }),
        1 => Just(Some(Up::Hello(hello()))),
        1 => Just(None),
    ]
}

fn session(ingest: &Arc<Ingest>, id: u64) -> Session {
    let (session, welcome) = Session::begin(ingest, id, &hello()).expect("a proper hello");
    let Some(Down::Welcome(welcome)) = welcome.body else { panic!("a welcome") };
    assert_eq!(welcome.protocol, link::PROTOCOL, "the lower of the two");
    session
}

#[derive(Default)]
struct Seen {
    next: Option<u64>,
    end: u64,
    time: u64,
    lines: u64,
    holes: u64,
    bytes: u64,
}

fn judge(ingest: &Ingest, exit: &mut Exit, forgotten: bool) -> Result<(), TestCaseError> {
    let mut streams: BTreeMap<String, Seen> = BTreeMap::new();
    while let Some(waiting) = exit.try_recv() {
        let batch = &waiting.batch;
        prop_assert!(!batch.records.is_empty());
        let name = format!("{:?}", batch.origin.name);
        let seen = streams.entry(name).or_default();
        for record in &batch.records {
            prop_assert!(record.to > record.from);
            prop_assert!(forgotten || seen.next.is_none_or(|next| next == record.from), "{record:?}");
            prop_assert!(record.time_ns > seen.time || forgotten);
            (seen.next, seen.time) = (Some(record.to), record.time_ns);
            match record.body {
                Body::Line(_) => {
                    seen.lines += u64::from(!record.flags.has(Flags::PARTIAL));
                    seen.bytes += record.to - record.from;
                }
                Body::Hole(_) => seen.holes += record.to - record.from,
            }
        }
        seen.end = batch.end();
        batch.done();
        prop_assert_eq!(batch.progress.durable(), batch.end().max(batch.progress.durable()));
    }
    let totals = &ingest.registry.totals;
    let sum = |pick: fn(&Seen) -> u64| streams.values().map(pick).sum::<u64>();
    prop_assert_eq!(totals.log_lines.total(), sum(|seen| seen.lines));
    let gaps: u64 = StreamKind::ALL.iter().map(|stream| totals.gap_bytes.of(*stream).total()).sum();
    prop_assert_eq!(gaps, sum(|seen| seen.holes));
    // Bytes of unfinished lines were taken and are in no record yet.
    prop_assert!(totals.log_bytes.total() >= sum(|seen| seen.bytes));
    Ok(())
}

proptest! {
    #[test]
    fn any_messages_leave_the_accounts_right(messages in prop::collection::vec(message(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (ingest, mut exit) = ingest();
            let mut id = 1;
            let mut now = session(&ingest, id);
            for task in 0..2 {
                now.take(link::FromWrapper { body: Some(Up::Open(open(task))), ..Default::default() })
                    .await
                    .expect("a proper open");
            }
            for body in messages {
                let taken = now.take(link::FromWrapper { body, ..Default::default() }).await;
                if let Ok(Some(answer)) = &taken {
                    prop_assert!(matches!(answer.body, Some(Down::Ready(_))));
                }
                // A fault ends the connection; the wrapper comes back.
                if taken.is_err() {
                    drop(now);
                    id += 1;
                    now = session(&ingest, id);
                    for task in 0..2 {
                        now.take(link::FromWrapper { body: Some(Up::Open(open(task))), ..Default::default() })
                            .await
                            .expect("a proper open");
                    }
                }
                now.acks().collect();
            }
            // Three ended streams are remembered and there are four: one may begin anew.
            let forgotten = true;
            judge(&ingest, &mut exit, forgotten)
        })?;
    }

    #[test]
    fn without_an_end_records_tile_over_reconnects(messages in prop::collection::vec(message(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (ingest, mut exit) = ingest();
            let (mut id, mut now) = (1, session(&ingest, 1));
            now.take(link::FromWrapper { body: Some(Up::Open(open(0))), ..Default::default() }).await.expect("open");
            for body in messages.into_iter().filter(|body| !matches!(body, Some(Up::Gone(_)))) {
                if now.take(link::FromWrapper { body, ..Default::default() }).await.is_err() {
                    drop(now);
                    id += 1;
                    now = session(&ingest, id);
                    now.take(link::FromWrapper { body: Some(Up::Open(open(0))), ..Default::default() })
                        .await
                        .expect("open");
                }
            }
            judge(&ingest, &mut exit, false)
        })?;
    }
}

#[tokio::test]
async fn an_event_before_its_open_is_not_lost() {
    let (ingest, _exit) = ingest();
    let mut now = session(&ingest, 1);
    let exit = link::Event {
        seq: 1,
        task: 0,
        kind: EnumOrUnknown::new(link::EventKind::EVENT_KIND_EXIT),
        exit_status: 4,
        ..Default::default()
    };
    for body in [Up::Event(exit), Up::Open(open(0))] {
        now.take(link::FromWrapper { body: Some(body), ..Default::default() }).await.expect("taken");
    }
    assert_eq!(ingest.registry.containers()[0].live().exit_status, Some(4));
}

#[tokio::test]
async fn an_acknowledgement_is_called_for_by_a_quarter_of_the_window_and_by_an_end() {
    let (ingest, mut exit) = ingest();
    let mut now = session(&ingest, 1);
    let acks = now.acks();
    let mut say = async |body| {
        let taken = now.take(link::FromWrapper { body: Some(body), ..Default::default() }).await;
        taken.expect("taken");
    };
    let mut write = || exit.try_recv().expect("a batch").batch.done();
    let lines = |handle, offset| {
        let bytes = [vec![b'x'; (40 << 10) - 1], b"\n".to_vec()].concat();
        Up::Data(link::Data { handle, offset, bytes, ..Default::default() })
    };
    let close = |handle, end| Up::Close(link::Close { handle, end, ..Default::default() });
    let offsets = |ack: Option<link::Ack>| {
        let ack = ack.expect("something is durable");
        ack.streams.iter().map(|stream| (stream.handle, stream.offset)).collect::<Vec<_>>()
    };
    say(Up::Open(open(0))).await;
    assert_eq!(acks.outstanding(), None);
    // 40 KiB of each stream: what counts is the wrapper's.
    say(lines(1, 0)).await;
    write();
    assert_eq!((acks.outstanding(), acks.due.take_call()), (Some(Outstanding::Output), false));
    say(lines(2, 0)).await;
    assert!(!acks.due.take_call(), "not durable yet");
    write();
    assert!(acks.due.take_call());
    assert_eq!(offsets(acks.collect()), [(1, 40 << 10), (2, 40 << 10)]);
    assert_eq!((acks.outstanding(), acks.due.take_call()), (None, false));
    // An end whose bytes are durable.
    say(lines(1, 40 << 10)).await;
    write();
    assert!(!acks.due.take_call());
    say(close(1, 80 << 10)).await;
    assert!(acks.due.take_call());
    // An end before its bytes are.
    say(lines(2, 40 << 10)).await;
    say(close(2, 80 << 10)).await;
    assert!(!acks.due.take_call());
    write();
    assert!(acks.due.take_call());
    assert_eq!(offsets(acks.collect()), [(1, 80 << 10), (2, 80 << 10)]);
    assert_eq!(acks.outstanding(), None);
    // An event has its own time.
    say(Up::Event(link::Event { seq: 1, ..Default::default() })).await;
    assert_eq!(acks.outstanding(), Some(Outstanding::Event));
}
