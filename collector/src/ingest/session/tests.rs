//! Any messages in any order: never a panic, records tile every stream, and figures agree with records.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use protobuf::EnumOrUnknown;
use shimtap_proto::link::{self, from_collector::Body as Down, from_wrapper::Body as Up};
use tokio::sync::watch;

use super::{Ingest, Session};
use crate::{
    closed::Closed,
    config,
    event::{Body, Flags, StreamKind, StreamName},
    ingest::{Memory, Spools, Streams, acks::Outstanding},
    journal::Known,
    metrics::{Registry, Totals, render_own},
    node::Death,
    rules::{Rate, Redactor, Rule, Rules},
    sinks::{Exit, Outlet, Outlets, Source},
};

/// A collector that starts for the first time.
#[derive(Debug)]
struct Blank;

impl Memory for Blank {
    fn stream(&self, _: &StreamName) -> Option<Known> {
        None
    }
}

fn ingest() -> (Arc<Ingest>, Exit) {
    let (ingest, exit, _) = ruled();
    (ingest, exit)
}

/// With the end that changes its rules.
fn ruled() -> (Arc<Ingest>, Exit, watch::Sender<Arc<Rules>>) {
    ruled_in(Path::new("/nowhere"))
}

/// With the folder that has the two of spool files.
pub(in crate::ingest) fn ruled_in(spool: &Path) -> (Arc<Ingest>, Exit, watch::Sender<Arc<Rules>>) {
    let (sender, rules) = watch::channel(Arc::default());
    let totals: Arc<Totals> = Arc::default();
    let (outlet, exit) = Outlet::queue(1 << 28);
    let config = config::Ingest {
        socket: PathBuf::new(),
        connections: 1,
        tasks: 4,
        message_bytes: link::MESSAGE_MAX,
        gather: Duration::from_millis(40),
        hello: Duration::from_secs(1),
        message: Duration::from_secs(1),
        orphan: Duration::from_secs(1),
        positions: 3,
    };
    let ingest = Ingest {
        config,
        stats: config::Stats { interval: Duration::from_secs(10) },
        registry: Arc::new(Registry::new(
            Arc::clone(&totals),
            outlet.backlog(),
            Vec::new(),
            Duration::from_secs(10),
        )),
        streams: Streams::new(totals, Arc::new(Blank), 3),
        rules,
        spools: Spools::new(config::Spool {
            disk: true,
            disk_dir: spool.join("disk"),
            memory_dir: spool.join("memory"),
            budget_bytes: 1 << 20,
        }),
        outlets: Outlets::new(outlet, None),
    };
    (Arc::new(ingest), exit, sender)
}

/// One rule for all streams, or none.
fn rules(kind: u8) -> Arc<Rules> {
    let nothing = Rule { line: 1, ..Rule::default() };
    let rule = match kind {
        0 => return Arc::default(),
        1 => Rule { collect: Some(false), ..nothing },
        2 => Rule { rate: Some(Rate { lines_per_sec: 1, burst_lines: 2 }), ..nothing },
        _ => Rule { redact: Redactor::of("a+").expect("a pattern"), ..nothing },
    };
    Arc::new(Rules::new(vec![rule]))
}

/// What happens to a session.
#[derive(Clone, Debug)]
enum Step {
    Say(Box<Option<Up>>),
    Rules(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![9 => message().prop_map(|body| Step::Say(Box::new(body))), 1 => (0u8..4).prop_map(Step::Rules)]
}

pub(in crate::ingest) fn hello() -> link::Hello {
    link::Hello { protocol: 7, wrapper: 1, ..Default::default() }
}

pub(in crate::ingest) fn open(task: u32) -> link::Open {
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
    time: u64,
    lines: u64,
    holes: u64,
    bytes: u64,
    within: bool,
}

fn judge(ingest: &Ingest, exit: &mut Exit, forgotten: bool) -> Result<(), TestCaseError> {
    let mut streams: BTreeMap<String, Seen> = BTreeMap::new();
    while let Some(waiting) = exit.try_recv() {
        let batch = &waiting.batch;
        prop_assert!(!batch.records.is_empty() || batch.ending.is_some());
        let name = format!("{:?}", batch.origin.name);
        let seen = streams.entry(name).or_default();
        for record in &batch.records {
            prop_assert!(record.to > record.from);
            prop_assert!(forgotten || seen.next.is_none_or(|next| next == record.from), "{record:?}");
            prop_assert!(record.time_ns > seen.time || forgotten);
            (seen.next, seen.time) = (Some(record.to), record.time_ns);
            match record.body {
                Body::Line(_) => {
                    let whole = !record.flags.has(Flags::PARTIAL) && !record.flags.has(Flags::FRAGMENT);
                    seen.lines += u64::from(whole);
                    seen.within = record.flags.has(Flags::FRAGMENT);
                    seen.bytes += record.to - record.from;
                }
                Body::Hole(_) => {
                    seen.holes += record.to - record.from;
                    seen.within = false;
                }
            }
        }
        // A line that nobody finishes is one all the same.
        if batch.ending.is_some() && std::mem::take(&mut seen.within) {
            seen.lines += 1;
        }
        prop_assert!(forgotten || seen.next.unwrap_or(0) == batch.end);
        batch.done();
    }
    let totals = &ingest.registry.totals;
    let sum = |pick: fn(&Seen) -> u64| streams.values().map(pick).sum::<u64>();
    prop_assert_eq!(totals.log_lines.total(), sum(|seen| seen.lines));
    let gaps: u64 = StreamKind::ALL.iter().map(|stream| totals.gap_bytes.of(*stream).total()).sum();
    prop_assert_eq!(gaps, sum(|seen| seen.holes));
    prop_assert_eq!(totals.log_bytes.total(), sum(|seen| seen.bytes));
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
                now.acks().announced();
                now.acks().collect();
            }
            // Three ended streams are remembered and there are four: one may begin anew.
            let forgotten = true;
            judge(&ingest, &mut exit, forgotten)
        })?;
    }

    #[test]
    fn without_an_end_records_tile_over_reconnects_and_changes_of_rules(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (ingest, mut exit, sender) = ruled();
            let (mut id, mut now) = (1, session(&ingest, 1));
            now.take(link::FromWrapper { body: Some(Up::Open(open(0))), ..Default::default() }).await.expect("open");
            let (mut off, mut redacted) = (false, false);
            for step in steps {
                let body = match step {
                    Step::Say(body) if matches!(*body, Some(Up::Gone(_))) => continue,
                    Step::Say(body) => *body,
                    Step::Rules(kind) => {
                        sender.send_replace(rules(kind));
                        let told = now.judge_again();
                        prop_assert_eq!(told.is_empty(), (off, redacted) == (kind == 1, kind == 3));
                        (off, redacted) = (kind == 1, kind == 3);
                        continue;
                    }
                };
                if now.take(link::FromWrapper { body, ..Default::default() }).await.is_err() {
                    drop(now);
                    id += 1;
                    now = session(&ingest, id);
                    let body = Some(Up::Open(open(0)));
                    let ready = now.take(link::FromWrapper { body, ..Default::default() }).await.expect("open");
                    let Some(Down::Ready(ready)) = ready.and_then(|ready| ready.body) else { panic!("a ready") };
                    prop_assert!(ready.streams.iter().all(|stream| stream.capture != off));
                    prop_assert!(ready.streams.iter().all(|stream| stream.spool_to_disk != redacted));
                }
            }
            judge(&ingest, &mut exit, false)
        })?;
    }
}

#[tokio::test]
async fn what_a_rule_takes_something_out_of_may_not_be_spooled_to_the_disk() {
    let (ingest, _exit, sender) = ruled();
    let mut now = session(&ingest, 1);
    let body = Some(Up::Open(open(0)));
    let ready = now.take(link::FromWrapper { body, ..Default::default() }).await.expect("open");
    let streams = |message: link::FromCollector| match message.body {
        Some(Down::Ready(ready)) => ready.streams,
        other => panic!("a ready: {other:?}"),
    };
    assert!(streams(ready.expect("an answer")).iter().all(|stream| stream.spool_to_disk));
    sender.send_replace(rules(3));
    let told = now.judge_again().pop().expect("that is news");
    for stream in streams(told) {
        // Without a place: it goes on where it is.
        assert_eq!((stream.next, stream.capture, stream.spool_to_disk), (None, true, false));
    }
    sender.send_replace(rules(2));
    let told = now.judge_again().pop().expect("and so is this");
    assert!(streams(told).iter().all(|stream| stream.next.is_none() && stream.spool_to_disk));
}

/// Says it, as a wrapper does.
async fn say(session: &mut Session, body: Up) {
    let taken = session.take(link::FromWrapper { body: Some(body), ..Default::default() }).await;
    taken.expect("taken");
}

/// Bytes of that stream, as many messages as that takes.
async fn write(session: &mut Session, handle: u32, mut offset: u64, bytes: &[u8]) {
    for piece in bytes.chunks(link::DATA_MAX) {
        let data = link::Data { handle, offset, bytes: piece.to_vec(), ..Default::default() };
        say(session, Up::Data(data)).await;
        offset += piece.len() as u64;
    }
}

/// What has come of a container's stdout, pieces joined.
fn text(exit: &mut Exit, container: &str) -> String {
    let mut text = Vec::new();
    while let Some(waiting) = exit.try_recv() {
        let name = &waiting.batch.origin.name;
        if name.container == container && name.stream == StreamKind::Stdout {
            for record in &waiting.batch.records {
                let Body::Line(line) = &record.body else { panic!("nothing is missing") };
                text.extend_from_slice(line);
            }
        }
        waiting.batch.done();
    }
    String::from_utf8(text).expect("text")
}

fn emails() -> Arc<Rules> {
    Arc::new(Rules::new(vec![Rule {
        line: 1,
        redact: Redactor::of("email").expect("a preset"),
        ..Rule::default()
    }]))
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_found_wherever_it_stands_in_a_line_that_comes_in_messages() {
    let (ingest, mut exit, sender) = ruled();
    sender.send_replace(emails());
    let mut now = session(&ingest, 1);
    say(&mut now, Up::Open(open(0))).await;
    // 64 KiB end inside of it, and so does what came when the line has waited.
    let line = [vec![b'x'; (64 << 10) - 9], b" joe@example.org ".to_vec(), vec![b'y'; 40 << 10]].concat();
    write(&mut now, 1, 0, &line).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    now.fragments().await.expect("its stream");
    assert_eq!(text(&mut exit, "c0"), "", "what waits for its end is in memory alone");
    write(&mut now, 1, line.len() as u64, b"joe@exam").await;
    write(&mut now, 1, line.len() as u64 + 8, b"ple.org\n").await;
    let text = text(&mut exit, "c0");
    assert!(!text.contains("example"), "{text:?}");
    assert_eq!(text.matches("[redacted:email]").count(), 2);
}

#[tokio::test]
async fn long_lines_that_are_to_stay_whole_leave_room_in_the_window_and_the_longest_pays() {
    let (ingest, mut exit, sender) = ruled();
    sender.send_replace(emails());
    let mut now = session(&ingest, 1);
    say(&mut now, Up::Open(open(0))).await;
    say(&mut now, Up::Open(open(1))).await;
    write(&mut now, 1, 0, b"joe@exam").await;
    for round in 0..3u64 {
        for handle in 2..5 {
            write(&mut now, handle, round * (60 << 10), &[b'x'; 60 << 10]).await;
            let free = link::WINDOW - u64::try_from(now.held).expect("small");
            assert!(free >= 192 << 10, "{free} bytes are free");
        }
    }
    write(&mut now, 1, 8, b"ple.org\n").await;
    assert_eq!(text(&mut exit, "c0"), "[redacted:email]");
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
async fn deaths_of_a_wrapper_s_processes_are_its_own_and_take_no_place_of_early_events() {
    let (ingest, _exit) = ingest();
    let mut now = session(&ingest, 1);
    let death = |seq, signal| link::Event {
        seq,
        kind: EnumOrUnknown::new(link::EventKind::EVENT_KIND_WORKER_RESTART),
        restart: EnumOrUnknown::new(link::RestartReason::RESTART_REASON_CRASHED),
        pid: 7,
        signal,
        ..Default::default()
    };
    let exit = link::Event {
        seq: 400,
        task: 0,
        kind: EnumOrUnknown::new(link::EventKind::EVENT_KIND_EXIT),
        exit_status: 4,
        ..Default::default()
    };
    let many = (0..400).map(|seq| Up::Event(death(seq, if seq == 399 { 11 } else { 7 })));
    for body in many.chain([Up::Event(exit), Up::Open(open(0))]) {
        now.take(link::FromWrapper { body: Some(body), ..Default::default() }).await.expect("taken");
    }
    assert_eq!(ingest.registry.containers()[0].live().exit_status, Some(4), "it was crowded out");
    let deaths = ingest.registry.attached()[0].deaths();
    assert_eq!((deaths.len(), deaths[0].signal.as_deref(), deaths[0].pid), (8, Some("SIGSEGV"), Some(7)));
    assert_eq!(deaths[1].signal.as_deref(), Some("SIGBUS"));
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
    assert_eq!(offsets(acks.collect()), [(1, 40 << 10), (2, 40 << 10)]);
    assert_eq!((acks.outstanding(), acks.due.take_call()), (None, false));
    // An end whose bytes are durable.
    say(lines(1, 40 << 10)).await;
    write();
    assert!(!acks.due.take_call());
    say(close(1, 80 << 10)).await;
    assert!(!acks.due.take_call(), "the end itself is not durable");
    write();
    assert!(acks.due.take_call());
    assert_eq!(offsets(acks.collect()), [(1, 80 << 10)]);
    // An end before its bytes are.
    say(lines(2, 40 << 10)).await;
    say(close(2, 80 << 10)).await;
    write();
    assert!(!acks.due.take_call());
    write();
    assert!(acks.due.take_call());
    assert_eq!(offsets(acks.collect()), [(2, 80 << 10)]);
    assert_eq!(acks.outstanding(), None);
    // An event has its own time.
    say(Up::Event(link::Event { seq: 1, ..Default::default() })).await;
    assert_eq!(acks.outstanding(), Some(Outstanding::Event));
}

/// It was said that nobody knows where it ends, and that is durable; of the end that it gives now nothing is.
#[tokio::test]
async fn an_end_of_a_wrapper_that_was_given_up_is_acknowledged_when_it_is_durable() {
    let (ingest, mut exit) = ingest();
    let say = async |session: &mut Session, body| {
        let taken = session.take(link::FromWrapper { body: Some(body), ..Default::default() }).await;
        taken.expect("taken");
    };
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
    let offset =
        || acks.collect().and_then(|ack| ack.streams.first().map(|stream| (stream.handle, stream.offset)));
    assert_eq!(offset(), Some((1, 5)), "what is durable, and not the end");
    while let Some(written) = exit.try_recv() {
        written.batch.done();
    }
    assert_eq!(offset(), Some((1, 10)));
}

/// Its streams are found by the sweep, given up, and taken by the wrapper that comes back, before the sweep says that they ended.
#[tokio::test]
async fn a_wrapper_that_comes_back_in_the_moment_of_being_given_up_keeps_its_streams() {
    let (ingest, _exit) = ingest();
    let say = async |session: &mut Session, body| {
        let taken = session.take(link::FromWrapper { body: Some(body), ..Default::default() }).await;
        taken.expect("taken");
    };
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
        say(&mut others, Up::Open(open(task))).await;
        say(&mut others, Up::Gone(link::Gone { task, ..Default::default() })).await;
    }
    drop(back);
    let there = ingest.streams.orphans(Duration::ZERO);
    assert!(
        given_up.iter().all(|slot| there.iter().any(|one| Arc::ptr_eq(one, slot))),
        "forgotten while carried"
    );
}

/// A worker's successor may say it again, and so may its spool file after a reconnect.
#[tokio::test]
async fn what_a_dead_shim_took_along_is_counted_once_and_by_whom_it_outlived() {
    const KATA: &str = "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2";
    for (binary, outlived, containers, vms) in [
        ("/usr/bin/containerd-shim-runc-v2", false, 1, 0),
        (KATA, true, 1, 1),
        // Its hypervisor is gone too: who was first is for others to say.
        (KATA, false, 0, 0),
    ] {
        let (ingest, _exit) = ingest();
        let inner = link::InnerShim { binary: binary.into(), ..Default::default() };
        let hello = link::Hello { inner: Some(inner).into(), ..hello() };
        let (mut now, _) = Session::begin(&ingest, 1, &hello).expect("a proper hello");
        let lost = |seq| {
            let kind = EnumOrUnknown::new(link::EventKind::EVENT_KIND_LOST);
            Up::Event(link::Event { seq, task: 0, kind, outlived, ..Default::default() })
        };
        for body in [lost(1), Up::Open(open(0)), lost(2), Up::Open(open(0)), lost(3)] {
            now.take(link::FromWrapper { body: Some(body), ..Default::default() }).await.expect("taken");
        }
        let text = render_own(&ingest.registry);
        let deaths = text.lines().filter(|row| row.contains("class=\"shim_death\"") && row.ends_with(" 1"));
        assert_eq!(deaths.count(), containers, "{binary} {outlived}: {text}");
        assert_eq!(ingest.registry.totals.sandbox_deaths.get(Death::Shim), vms, "{binary} {outlived}");
        let told = ingest.registry.attached()[0].machine.outlived_its_shim();
        assert_eq!(told, containers == 0);
    }
}

/// There is one per pod, and nearly all of them wait: what one message needs is not held for the next.
#[tokio::test]
async fn a_connection_that_waits_is_small() {
    let (ingest, _exit) = ingest();
    let (near, _far) = tokio::net::UnixStream::pair().expect("a pair");
    let (_stop, stopped) = watch::channel(false);
    let connection = crate::ingest::connection::serve(near, ingest, 1, stopped);
    let bytes = std::mem::size_of_val(&connection);
    assert!(bytes <= 3_072, "{bytes}");
}
