//! The command line and both listeners, as a person and a scraper meet them.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, though not all of it test functions to clippy"
)]

#[path = "peer/exposition.rs"]
mod exposition;

mod peer;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Command, Output},
};

use peer::{Collector, Peer, close, data, gap, open, wait};
use protobuf::EnumOrUnknown;
use shimtap_proto::link::{self, from_wrapper::Body as Up};

fn shimtap(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shimtap")).args(args).output().expect("shimtap runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn event(seq: u64, kind: link::EventKind, exit_status: u32) -> Up {
    Up::Event(link::Event {
        seq,
        time_ns: 1_700_000_000_000_000_000,
        kind: EnumOrUnknown::new(kind),
        exit_status,
        ..Default::default()
    })
}

#[test]
fn wrong_usage_is_told_and_has_its_own_status() {
    let version = shimtap(&["--version"]);
    assert_eq!(text(&version.stdout), format!("shimtap {}\n", env!("CARGO_PKG_VERSION")));
    let help = shimtap(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("check "));
    let wrong = shimtap(&["frobnicate"]);
    assert_eq!(wrong.status.code(), Some(64));
    let said = text(&wrong.stderr);
    assert!(said.contains("'frobnicate'") && said.contains("--help"), "{said}");
}

#[test]
fn what_cannot_be_printed_is_a_failure_and_a_reader_that_has_enough_is_none() {
    let said_to = |stdout: std::process::Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shimtap"));
        let ended = command.args(["check", "--defaults"]).stdout(stdout).output().expect("shimtap runs");
        (ended.status.code(), text(&ended.stderr))
    };
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let (status, said) = said_to(full.into());
    assert_eq!(status, Some(1));
    assert!(said.contains("writing to standard output: No space left on device"), "{said}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(said_to(writer.into()), (Some(0), String::new()));
}

#[test]
fn check_says_everything_at_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("c.toml");
    let name = path.to_str().expect("a plain path");
    fs::write(&path, "[metrics]\nlisten = 1\n[file]\n").expect("writable");
    let faulty = shimtap(&["check", "--config", name]);
    assert_eq!(faulty.status.code(), Some(1));
    let expected = format!(
        "{name}:2: metrics.listen: must be a string\n\
         {name}: file.path: is missing; the file sink needs an absolute path\n"
    );
    assert_eq!(text(&faulty.stderr), expected);
    fs::write(&path, "").expect("writable");
    assert!(shimtap(&["check", "--config", name]).status.success());
    let absent = shimtap(&["check", "--config", "/nonexistent.toml"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("/nonexistent.toml"), "{}", text(&absent.stderr));
}

#[test]
fn documented_configurations_are_some() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md"));
    let page = page.expect("docs/configuration.md");
    let examples: Vec<_> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 2, "{}", examples.len());
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("c.toml");
    for example in &examples {
        fs::write(&path, example).expect("writable");
        let checked = shimtap(&["check", "--config", path.to_str().expect("a plain path")]);
        assert!(checked.status.success(), "{}\n{example}", text(&checked.stderr));
    }
}

#[test]
fn the_defaults_are_a_configuration() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("c.toml");
    let shown = shimtap(&["check", "--defaults"]);
    assert!(shown.status.success());
    assert!(text(&shown.stdout).contains("\nmax_bytes = 67108864\n"), "{}", text(&shown.stdout));
    fs::write(&path, &shown.stdout).expect("writable");
    assert!(shimtap(&["check", "--config", path.to_str().expect("a plain path")]).status.success());
}

#[test]
fn a_collector_that_cannot_run_says_why() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("c.toml");
    let journal = dir.path().join("journal");
    let config = format!("[journal]\ndir = \"{}\"\n[file]\npath = \"/nonexistent/log\"\n", journal.display());
    fs::write(&path, config).expect("writable");
    let failed = shimtap(&["collector", "--config", path.to_str().expect("a plain path")]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        text(&failed.stderr).contains("opening the log file /nonexistent/log"),
        "{}",
        text(&failed.stderr)
    );
}

#[test]
fn a_second_collector_does_not_take_the_place_of_the_first() {
    let first = Collector::start();
    let config = first.dir.path().join("second.toml");
    let own = |name: &str| first.dir.path().join(name).display().to_string();
    let second = format!(
        "[ingest]\nsocket = \"{}\"\n[control]\nsocket = \"{}\"\n[journal]\ndir = \"{}\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n",
        own("in/collector.sock"),
        own("other.sock"),
        own("another journal")
    );
    fs::write(&config, second).expect("writable");
    let refused = shimtap(&["collector", "--config", config.to_str().expect("a plain path")]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("another process answers there"), "{}", text(&refused.stderr));
    first.raw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_socket_is_replaced_and_other_files_are_not() {
    let first = Collector::start();
    let socket = first.socket();
    let dir = first.kill();
    assert!(socket.exists(), "a killed collector leaves its socket");
    let again = Collector::start_in(dir, |_| String::new());
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&again.socket()), 0o600);
    assert_eq!(mode(&again.control()), 0o600);
    assert_eq!(mode(again.socket().parent().expect("a directory")), 0o700);
    Peer::greet(&again, 1).await;
    let (status, dir) = again.stop();
    assert_eq!(status, Some(0));
    fs::write(dir.path().join("in/collector.sock"), "somebody's").expect("writable");
    let refused =
        shimtap(&["collector", "--config", &dir.path().join("collector.toml").display().to_string()]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(fs::read_to_string(dir.path().join("in/collector.sock")).expect("there"), "somebody's");
}

#[tokio::test(flavor = "multi_thread")]
async fn ps_shows_what_the_collector_knows() {
    let collector = Collector::start();
    let socket = collector.control().display().to_string();
    let (mut peer, _) = Peer::greet(&collector, 0xbeef).await;
    let mut announced = open(0, "web", 0xabc);
    announced.annotations = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.sandbox-namespace", "shop"),
        ("io.kubernetes.cri.sandbox-name", "web-0"),
        ("io.kubernetes.cri.container-name", "nginx"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    announced.stdio[1].handle = 0;
    announced.stdio[1].not_captured = EnumOrUnknown::new(link::NotCaptured::NOT_CAPTURED_FILE_URI);
    peer.open(announced).await;
    peer.send(data(1, 0, &b"x".repeat(2_047))).await;
    peer.send(data(1, 2_047, b"\n")).await;
    peer.send(gap(1, 2_048, 2_148)).await;
    peer.acked(1, 2_148).await;
    peer.send(event(1, link::EventKind::EVENT_KIND_EXIT, 3)).await;
    collector.wait_metric("shimtap_containers{state=\"exited\"}", 1);

    let table = text(&shimtap(&["ps", "--socket", &socket]).stdout);
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().expect("a head").split_whitespace().collect();
    let row: Vec<_> = lines.next().expect("a row").split_whitespace().collect();
    let cell = |name: &str| row[head.iter().position(|h| *h == name).expect(name)];
    assert_eq!(head.len(), row.len(), "{table}");
    assert_eq!((cell("NAMESPACE"), cell("POD"), cell("CONTAINER")), ("shop", "web-0", "nginx"));
    assert_eq!(
        (cell("STATE"), cell("STDOUT"), cell("STDERR"), cell("GAPS")),
        ("exited(3)", "2.0K", "file_uri", "100")
    );
    assert_eq!(cell("SHIM"), "runc-v2");
    assert_eq!((cell("CPU"), cell("MEMORY")), ("-", "-"), "no sample was sent");

    let json = shimtap(&["ps", "--json", "--socket", &socket]);
    let ps: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(ps["wrappers"][0]["id"], "000000000000beef");
    assert_eq!(ps["wrappers"][0]["inner"], "containerd-shim-runc-v2");
    let container = &ps["containers"][0];
    assert_eq!(container["state"], "exited");
    assert_eq!(container["exit_status"], 3);
    assert_eq!(container["streams"][0]["bytes"], 2_048);
    assert_eq!(container["streams"][0]["gap_bytes"], 100);
    assert!(container.get("cpu_ns").is_none(), "{container}");

    let absent = shimtap(&["ps", "--socket", "/nonexistent.sock"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("asking the collector at /nonexistent.sock"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_once_and_missing_ones_are_counted() {
    let collector = Collector::start();
    let (mut peer, welcome) = Peer::greet(&collector, 5).await;
    assert_eq!(welcome.event_seq, None);
    peer.open(open(0, "c", 1)).await;
    peer.send(event(4, link::EventKind::EVENT_KIND_CREATE, 0)).await;
    peer.send(event(5, link::EventKind::EVENT_KIND_START, 0)).await;
    wait("the acknowledgement", || {
        (collector.metric("shimtap_events_total{kind=\"start\"}") == 1).then_some(())
    });
    loop {
        match peer.recv().await {
            Some(link::from_collector::Body::Ack(ack)) if ack.event_seq == Some(5) => break,
            Some(_) => {}
            None => panic!("closed"),
        }
    }
    drop(peer);
    let (peer, welcome) = Peer::greet(&collector, 5).await;
    assert_eq!(welcome.event_seq, Some(5));
    for seq in [5, 6, 9] {
        peer.send(event(seq, link::EventKind::EVENT_KIND_START, 0)).await;
    }
    collector.wait_metric("shimtap_events_total{kind=\"start\"}", 3);
    assert_eq!(collector.metric("shimtap_events_missed_total"), 2);
    assert_eq!(collector.metric("shimtap_events_total{kind=\"start\"}"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_what_a_scraper_expects() {
    let collector = Collector::start();
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"x\n")).await;
    peer.send(close(1, 2)).await;
    peer.acked(1, 2).await;
    exposition::parse(&collector.get("/metrics"));
    let all = exposition::parse(&collector.get("/metrics/cadvisor?scope=all"));
    assert!(all.iter().any(|family| family.name == "container_start_time_seconds"));
    assert_eq!(collector.get("/metrics/cadvisor?scope=vm&timestamps=0"), "");
    assert_eq!(collector.get("/healthz"), "ok\n");
    for (path, status) in [
        ("/metrics/cadvisor?scope=pod", 400),
        ("/metrics/cadvisor?timestamps=yes", 400),
        ("/v1/ps", 404),
        ("/etc/passwd", 404),
    ] {
        assert_eq!(collector.try_get(path).expect("an answer").0, status, "{path}");
    }
    let (status, head, body) =
        collector.try_get_with("/metrics", "Accept-Encoding: br, gzip;q=0.9\r\n").expect("an answer");
    assert_eq!(status, 200);
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut plain).expect("gzip");
    exposition::parse(&plain);
    let (_, head, _) =
        collector.try_get_with("/metrics", "Accept-Encoding: gzip;q=0\r\n").expect("an answer");
    assert!(!head.contains("content-encoding"), "{head}");
}

#[test]
fn the_control_socket_shows_nothing_else() {
    let collector = Collector::start();
    for (request, status) in [("GET /v1/ps", "200"), ("POST /v1/ps", "405"), ("GET /metrics", "404")] {
        let mut stream = UnixStream::connect(collector.control()).expect("the socket is there");
        stream.set_read_timeout(Some(peer::PATIENCE)).expect("socket");
        write!(stream, "{request} HTTP/1.0\r\nHost: x\r\n\r\n").expect("taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.0 {status}")), "{request}: {answer}");
    }
}

/// A line that a rule may take something out of.
const ADDRESSED: &[u8] = b"to joe@example.org\n";
const TAKEN_OUT: &str = "to [redacted:email]";

/// What the file sink gets of that line, of a container that is announced now.
async fn of_a_new_container(collector: &Collector, number: u64) -> serde_json::Value {
    let name = format!("new-{number}");
    let (mut peer, _) = Peer::greet(collector, number).await;
    peer.open(open(0, &name, 1)).await;
    peer.send(data(1, 0, ADDRESSED)).await;
    wait("its line", || {
        let records = collector.records();
        records.into_iter().find(|record| record["container_id"] == name.as_str())
    })["message"]
        .take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_the_rules_again_whole_or_not_at_all() {
    const RULE: &str = "[[rule]]\nname = \"addresses\"\nredact = [\"email\"]\n";
    let collector = Collector::start();
    let path = collector.dir.path().join("collector.toml");
    let before = fs::read_to_string(&path).expect("its configuration");
    let hang_up = |rules: &str, said: &str| {
        fs::write(&path, format!("{before}{rules}")).expect("writable");
        collector.signal("-HUP");
        wait(said, || (collector.stderr().contains(said)).then_some(()));
    };
    let (mut peer, _) = Peer::greet(&collector, 100).await;
    peer.open(open(0, "old", 1)).await;
    let shown = |shown: &str| serde_json::Value::from(shown);
    let untouched = shown("to joe@example.org");
    assert_eq!(of_a_new_container(&collector, 1).await, untouched);

    hang_up(RULE, "the configuration was read again rules=1");
    assert_eq!(of_a_new_container(&collector, 2).await, shown(TAKEN_OUT));
    // One that runs has them from one of its next lines on: those on their way may be before them.
    for offset in (0..).step_by(ADDRESSED.len()) {
        peer.send(data(1, offset, ADDRESSED)).await;
        let end = offset + ADDRESSED.len() as u64;
        let message = wait("its line", || {
            let of_it =
                |record: &serde_json::Value| record["container_id"] == "old" && record["offset"]["to"] == end;
            collector.records().into_iter().find(of_it)
        })["message"]
            .take();
        if message == shown(TAKEN_OUT) {
            break;
        }
        assert_eq!(message, untouched);
    }

    // Of a file with a fault, or that needs a restart, nothing is taken, not what is right in it either.
    let refused = "the configuration was read again and not taken: ";
    for (number, broken, why) in [
        (3, "[[rule]]\nredact = [\"(\"]\n", path.to_str().expect("a plain path")),
        (4, "[node]\nname = \"other\"\n", "[node] changed, which needs a restart"),
    ] {
        hang_up(&format!("[[rule]]\nname = \"right\"\ncollect = true\n{broken}"), &format!("{refused}{why}"));
        assert_eq!(of_a_new_container(&collector, number).await, shown(TAKEN_OUT), "{broken}");
    }
    // Nor does a file that was refused stand in the way of the next.
    hang_up("", "the configuration was read again rules=0");
    assert_eq!(of_a_new_container(&collector, 5).await, untouched);
}
