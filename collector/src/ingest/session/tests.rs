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

mod acks;
mod events;
mod heads;
mod redaction;

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
