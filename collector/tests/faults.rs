//! What a peer may send wrong: the connection is closed, the fault is counted, and everybody else goes on.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, though not all of it test functions to clippy"
)]

mod peer;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use peer::{Collector, PATIENCE, Peer, close, data, gap, hello, open};
use shimtap_proto::{
    link::{self, from_wrapper::Body as Up},
    ttrpc::{FLAG_REMOTE_OPEN, Header, Kind, request_frame},
};

/// Short patience on the collector's side.
fn collector() -> Collector {
    Collector::with(|dir| {
        format!(
            "[ingest]\nhello_secs = 1\nmessage_secs = 1\nconnections = 20\ntasks_per_connection = 3\n\
             [file]\npath = \"{}/log.json\"\n",
            dir.display()
        )
    })
}

fn counted(collector: &Collector, fault: &str) -> u64 {
    collector.metric(&format!("shimtap_ingest_faults_total{{fault=\"{fault}\"}}"))
}

/// Sends bytes and reads until the collector closes; gives its answer.
fn raw(collector: &Collector, bytes: &[u8]) -> Vec<u8> {
    let mut stream = collector.raw();
    // It may close before everything is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn frame(kind: Kind, stream_id: u32, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("small");
    let mut out = Header { length, stream_id, kind, flags }.encode().to_vec();
    out.extend_from_slice(body);
    out
}

fn attach(stream_id: u32) -> Vec<u8> {
    request_frame(stream_id, link::SERVICE, link::METHOD, &[], 0)
}

fn message(body: Up) -> Vec<u8> {
    use protobuf::Message;
    link::FromWrapper { body: Some(body), ..Default::default() }.write_to_bytes().expect("encodes")
}

/// The collector still serves a wrapper that behaves.
async fn assert_alive(collector: &Collector) {
    let (mut peer, _) = Peer::greet(collector, 999).await;
    peer.open(open(0, "alive", 999)).await;
    peer.send(close(1, 0)).await;
    peer.acked(1, 0).await;
    assert!(!collector.stderr().contains("panicked"), "{}", collector.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_ttrpc_are_refused() {
    let collector = collector();
    let greeting = frame(Kind::Data, 1, 0, &message(Up::Hello(hello(1))));
    let oversize = Header { length: (1 << 20) + 1, stream_id: 1, kind: Kind::Data, flags: 0 }.encode();
    let cases: &[(&str, Vec<u8>)] = &[
        ("framing", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("framing", vec![0xff; 64]),
        ("request", frame(Kind::Data, 1, 0, b"")),
        ("request", attach(2)),
        ("request", request_frame(1, "containerd.task.v3.Task", "State", b"", 0)),
        ("decode", frame(Kind::Request, 1, 0, b"\xff\xff\xff")),
        ("decode", [attach(1), frame(Kind::Data, 1, 0, b"\xff\xff")].concat()),
        ("order", [attach(1), frame(Kind::Data, 1, 0, &message(close(1, 0)))].concat()),
        ("order", [attach(1), frame(Kind::Data, 1, 0, &message(Up::Hello(link::Hello::new())))].concat()),
        ("oversize", [attach(1), oversize.to_vec()].concat()),
        ("request", [attach(1), greeting.clone(), attach(3)].concat()),
        ("request", [attach(1), greeting.clone(), frame(Kind::Data, 3, 0, b"")].concat()),
        ("request", [attach(1), greeting.clone(), frame(Kind::Response, 1, 0, b"")].concat()),
        ("decode", [attach(1), greeting.clone(), frame(Kind::Data, 1, 0, b"\x0a\xff")].concat()),
        ("order", [attach(1), greeting.clone(), greeting.clone()].concat()),
        ("io", [attach(1), greeting.clone(), vec![0, 0]].concat()),
    ];
    for (i, (fault, bytes)) in cases.iter().enumerate() {
        let before = counted(&collector, fault);
        if *fault == "io" {
            // Ends in the middle of a header.
            let mut stream = collector.raw();
            stream.write_all(bytes).expect("taken");
            drop(stream);
        } else {
            raw(&collector, bytes);
        }
        collector.wait_metric(&format!("shimtap_ingest_faults_total{{fault=\"{fault}\"}}"), before + 1);
        let told = format!("case {i}");
        assert!(!collector.stderr().contains("panicked"), "{told}: {}", collector.stderr());
    }
    assert_alive(&collector).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_is_told_that_it_is_not_here() {
    let collector = collector();
    let answer = raw(&collector, &request_frame(5, "containerd.task.v3.Task", "State", b"", 0));
    let header = Header::decode(&answer).expect("a frame");
    assert_eq!((header.kind, header.stream_id), (Kind::Response, 5));
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("serving containerd.task.v3.Task/State: this socket serves"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_or_dribbling_peer_is_not_waited_for() {
    let collector = collector();
    let mut silent = collector.raw();
    let mut after_request = collector.raw();
    after_request.write_all(&attach(1)).expect("taken");
    let mut dribbling = collector.raw();
    dribbling.write_all(&attach(1)).expect("taken");
    dribbling
        .write_all(&frame(Kind::Data, 1, FLAG_REMOTE_OPEN, &message(Up::Hello(hello(3)))))
        .expect("taken");
    dribbling.write_all(&[0, 0, 0]).expect("taken");
    for stream in [&mut silent, &mut after_request, &mut dribbling] {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    collector.wait_metric("shimtap_ingest_faults_total{fault=\"hello_timeout\"}", 2);
    collector.wait_metric("shimtap_ingest_faults_total{fault=\"message_timeout\"}", 1);
    assert_alive(&collector).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_true_end_the_connection_and_change_nothing() {
    let collector = collector();
    let cases: Vec<(&str, Vec<Up>)> = vec![
        ("handle", vec![data(99, 0, b"x")]),
        ("handle", vec![gap(99, 0, 1)]),
        ("handle", vec![close(99, 0)]),
        ("handle", vec![Up::Stats(link::Stats { task: 9, ..Default::default() })]),
        ("handle", vec![Up::Gone(link::Gone { task: 9, ..Default::default() })]),
        ("order", vec![data(1, 0, &vec![b'x'; link::DATA_MAX + 1])]),
        ("position", vec![data(1, u64::MAX - 1, b"xyz")]),
        ("position", vec![gap(1, 5, 4)]),
        ("position", vec![data(1, 0, b"abc"), close(1, 2)]),
        ("position", vec![close(1, 2), data(1, 2, b"x")]),
        ("position", vec![close(1, 2), close(1, 3)]),
        ("tasks", (1..4).map(|task| Up::Open(open(task, "more", u64::from(task)))).collect()),
    ];
    for (i, (fault, messages)) in cases.into_iter().enumerate() {
        let before = counted(&collector, fault);
        let (mut peer, _) = Peer::greet(&collector, 50 + i as u64).await;
        peer.open(open(0, &format!("c{i}"), 1)).await;
        for message in messages {
            peer.send(message).await;
        }
        peer.closed().await;
        let series = format!("shimtap_ingest_faults_total{{fault=\"{fault}\"}}");
        collector.wait_metric(&series, before + 1);
        assert_eq!(collector.metric(&series), before + 1, "case {i}");
    }
    assert_alive(&collector).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_release_says_is_ignored() {
    let collector = collector();
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.send(Up::Report(link::Report::new())).await;
    // A body that this release does not know: field 100, and one of no body at all.
    let mut stream = collector.raw();
    stream.write_all(&attach(1)).expect("taken");
    stream.write_all(&frame(Kind::Data, 1, 0, &message(Up::Hello(hello(2))))).expect("taken");
    stream.write_all(&frame(Kind::Data, 1, 0, &[0xa2, 0x06, 0x01, b'x'])).expect("taken");
    stream.write_all(&frame(Kind::Data, 1, 0, &[])).expect("taken");
    stream.write_all(&frame(Kind::Data, 1, 0, &message(Up::Open(open(0, "c", 1))))).expect("taken");
    stream.write_all(&frame(Kind::Data, 1, 0, &message(close(1, 0)))).expect("taken");
    collector.wait_metric("shimtap_containers{state=\"running\"}", 1);
    peer.open(open(0, "d", 1)).await;
    for fault in ["decode", "request", "order"] {
        assert_eq!(counted(&collector, fault), 0, "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_connection_carries_a_stream() {
    let collector = collector();
    let (mut old, _) = Peer::greet(&collector, 1).await;
    old.open(open(0, "c", 1)).await;
    old.send(data(1, 0, b"one\n")).await;
    old.acked(1, 4).await;
    let (mut new, _) = Peer::greet(&collector, 1).await;
    assert_eq!(new.open(open(0, "c", 1)).await, [(1, 4), (2, 0)]);
    old.send(data(1, 4, b"lost\n")).await;
    old.closed().await;
    new.send(data(1, 4, b"two\n")).await;
    new.send(close(1, 8)).await;
    new.acked(1, 8).await;
    let texts: Vec<_> = collector.records_when(2).iter().map(|r| r["message"].clone()).collect();
    assert_eq!(texts, ["one", "two"]);
    assert_eq!(counted(&collector, "superseded"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_refused() {
    let collector = collector();
    let mut peers = Vec::new();
    for wrapper in 0..20 {
        peers.push(Peer::greet(&collector, wrapper).await.0);
    }
    assert_eq!(raw(&collector, b""), b"");
    assert_eq!(counted(&collector, "connections"), 1);
    assert_eq!(collector.metric("shimtap_ingest_connections"), 20);
    drop(peers);
    peer::wait("places are free again", || {
        (collector.metric("shimtap_ingest_connections") == 0).then_some(())
    });
    assert_alive(&collector).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_is_given_up() {
    let collector = collector();
    let mut stream = collector.raw();
    stream.write_all(&attach(1)).expect("taken");
    stream.write_all(&frame(Kind::Data, 1, 0, &message(Up::Hello(hello(2))))).expect("taken");
    stream.set_write_timeout(Some(PATIENCE)).expect("socket");
    // Every open is answered, and nobody reads the answers: writing stops, reading stops, the peer's own writes stop.
    let mut task = 0;
    loop {
        let mut open = open(task % 3, "c", 1);
        open.stdio = (0..64)
            .map(|i| link::Stdio {
                stream: protobuf::EnumOrUnknown::new(link::Stream::STREAM_STDOUT),
                handle: 1 + i,
                process: format!("exec{i}"),
                ..Default::default()
            })
            .collect();
        let mut bytes = frame(Kind::Data, 1, 0, &message(Up::Open(open)));
        bytes.extend_from_slice(&frame(
            Kind::Data,
            1,
            0,
            &message(Up::Gone(link::Gone { task: task % 3, ..Default::default() })),
        ));
        if stream.write_all(&bytes).is_err() {
            break;
        }
        task += 1;
    }
    collector.wait_metric("shimtap_ingest_faults_total{fault=\"write_timeout\"}", 1);
    assert_alive(&collector).await;
}

/// The directory's 0700 and the socket's 0600 are one lock; who connects is asked who he is all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root may be somebody else (runs as root)");
        return;
    }
    let collector = collector();
    let dir = collector.dir.path();
    let sockets = [collector.socket(), collector.control()];
    for path in [dir, &dir.join("in")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
    }
    // Where it was built may be closed to others.
    let program = dir.join("shimtap");
    // By another process: a file that was open for writing when a test beside this one forked could not be run (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_shimtap")).arg(&program).status();
    assert!(copied.expect("cp runs").success());
    // Knows no wrapper's manners, but connects to what it is told to and says something there.
    let ask = |uid: u32, socket: &std::path::Path| {
        fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).expect("mode");
        let mut command = Command::new(&program);
        command.args(["ps", "--json", "--socket"]).arg(socket).uid(uid).gid(uid);
        command.output().expect("shimtap runs").status.success()
    };
    let [ingest, control] = &sockets;
    assert!(!ask(65_534, ingest));
    collector.wait_metric("shimtap_ingest_faults_total{fault=\"peer_uid\"}", 1);
    assert!(ask(0, control), "root is served");
    assert!(!ask(65_534, control), "nobody else is");
    assert!(!ask(0, ingest), "ps is no wrapper");
    assert_eq!(counted(&collector, "peer_uid"), 1, "but root may try");
    assert_alive(&collector).await;
}
