//! Events before their containers, deaths, and what a connection holds while it waits.

use super::*;

/// Most that wait for their tasks.
const EARLY: u64 = 256;

#[tokio::test]
async fn an_event_before_its_open_is_not_lost() {
    let (ingest, _exit) = ingest();
    let mut now = session(&ingest, 1);
    for body in [exit(1, 1), Up::Open(open(1))] {
        say(&mut now, body).await;
    }
    assert_eq!(shown(&ingest, 1), Some(4));
}

/// Its number is taken, so it is not told again; and the announcement then tells of an exit as of one that was counted.
#[tokio::test]
async fn an_event_before_its_open_outlives_its_connection() {
    let (ingest, _exit) = ingest();
    let mut now = session(&ingest, 1);
    for body in [exit(1, 1), Up::Event(link::Event { seq: 2, ..Default::default() })] {
        say(&mut now, body).await;
    }
    drop(now);
    let mut now = session(&ingest, 2);
    say(&mut now, Up::Open(link::Open { exited_ns: 7, exit_status: 4, ..open(1) })).await;
    assert_eq!(shown(&ingest, 1), Some(4));
    assert_eq!(ingest.registry.totals.events_missed.get(), 0);
    let page = crate::metrics::render_own(&ingest.registry);
    let counts = page.lines().filter(|row| row.starts_with("shimtap_container_exits_total{"));
    assert_eq!(counts.filter(|row| row.ends_with(" 1")).count(), 1, "{page}");
}

/// More than wait for their tasks, of each kind of which nobody will ever announce the task.
#[tokio::test]
async fn events_whose_task_never_comes_take_no_place_of_early_events() {
    let (ingest, _exit) = ingest();
    let mut now = session(&ingest, 1);
    let refused = link::Event {
        kind: EnumOrUnknown::new(link::EventKind::EVENT_KIND_CREATE),
        seq: 2,
        task: 3,
        code: 2,
        ..Default::default()
    };
    say(&mut now, exit(1, 4)).await;
    let over =
        [Up::Open(open(2)), Up::Gone(link::Gone { task: 2, ..Default::default() }), Up::Event(refused)];
    for body in over {
        say(&mut now, body).await;
    }
    for (seq, task) in (3..1503).zip([0, 2, 3].into_iter().cycle()) {
        say(&mut now, Up::Event(link::Event { seq, task, ..Default::default() })).await;
    }
    for body in [exit(1503, 1), Up::Open(open(1)), Up::Open(open(4))] {
        say(&mut now, body).await;
    }
    assert_eq!((shown(&ingest, 1), shown(&ingest, 4)), (Some(4), Some(4)), "they were crowded out");
    assert_eq!(ingest.registry.totals.events_missed.get(), 0, "none of those had anybody to be missed by");
}

/// Of tasks that were never announced, as those that a wrapper had no place for any more.
#[tokio::test]
async fn the_oldest_early_events_make_room_and_are_counted() {
    let (ingest, _exit) = ingest();
    let mut now = session(&ingest, 1);
    say(&mut now, exit(1, 1)).await;
    for seq in 2..=EARLY {
        say(&mut now, exit(seq, 2)).await;
    }
    let missed = || ingest.registry.totals.events_missed.get();
    assert_eq!(missed(), 0);
    for (seq, task) in [(1000, 3), (1001, 4)] {
        say(&mut now, exit(seq, task)).await;
    }
    assert_eq!(missed(), 1000 - EARLY - 1 + 2, "numbers that never came, and the two oldest");
    for task in [1, 3, 4] {
        say(&mut now, Up::Open(open(task))).await;
    }
    assert_eq!([1, 3, 4].map(|task| shown(&ingest, task)), [None, Some(4), Some(4)]);
}

fn exit(seq: u64, task: u32) -> Up {
    let kind = EnumOrUnknown::new(link::EventKind::EVENT_KIND_EXIT);
    Up::Event(link::Event { seq, task, kind, exit_status: 4, ..Default::default() })
}

/// The exit status that is shown of a task's container.
fn shown(ingest: &Ingest, task: u32) -> Option<u32> {
    let name = format!("c{task}");
    let containers = ingest.registry.containers();
    let its = containers.iter().find(|container| container.identity.container_id == name);
    its.expect("it was announced").live().exit_status
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
    let many = (0..400).map(|seq| Up::Event(death(seq, if seq == 399 { 11 } else { 7 })));
    for body in many.chain([exit(400, 1), Up::Open(open(1))]) {
        say(&mut now, body).await;
    }
    assert_eq!(shown(&ingest, 1), Some(4), "it was crowded out");
    let deaths = ingest.registry.attached()[0].deaths();
    assert_eq!((deaths.len(), deaths[0].signal.as_deref(), deaths[0].pid), (8, Some("SIGSEGV"), Some(7)));
    assert_eq!(deaths[1].signal.as_deref(), Some("SIGBUS"));
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
            Up::Event(link::Event { seq, task: 1, kind, outlived, ..Default::default() })
        };
        for body in [lost(1), Up::Open(open(1)), lost(2), Up::Open(open(1)), lost(3)] {
            say(&mut now, body).await;
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
