//! Events before their containers, deaths, and what a connection holds while it waits.

use super::*;

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
        say(&mut now, body).await;
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
        say(&mut now, body).await;
    }
    assert_eq!(ingest.registry.containers()[0].live().exit_status, Some(4), "it was crowded out");
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
            Up::Event(link::Event { seq, task: 0, kind, outlived, ..Default::default() })
        };
        for body in [lost(1), Up::Open(open(0)), lost(2), Up::Open(open(0)), lost(3)] {
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
