//! The journal under the real collector: deaths under load, a full disk, and what `shimtap logs` shows of it.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, though not all of it test functions to clippy"
)]

mod peer;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use peer::{Collector, Peer, close, data, gap, open, wait};
use shimtap_proto::link::from_collector::Body as Down;

fn line(number: u64) -> String {
    format!("line {number:07} of a container that writes a lot\n")
}

fn step() -> u64 {
    line(0).len() as u64
}

/// Lines `from..to` in one piece.
fn lines(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(line).collect::<String>().into_bytes()
}

/// Every record of the journal, as it lies there.
fn journaled(collector: &Collector) -> Vec<serde_json::Value> {
    let text = collector.logs(&["-o", "json"]);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_under_load_lose_nothing_acknowledged_and_double_nothing() {
    let nothing = |_: &std::path::Path| String::new();
    let mut collector = Collector::with(nothing);
    let (mut sent, mut acked) = (0u64, 0u64);
    for round in 0..6u64 {
        let (mut peer, _) = Peer::greet(&collector, 1).await;
        let next = peer.open(open(0, "c", 1)).await[0].1;
        assert!((acked..=sent).contains(&next), "{acked} acknowledged, {sent} sent, {next} wanted");
        // Cuts lines anywhere.
        let cut = next;
        let end = sent + 3_000 * step();
        let text = lines(0, end / step());
        for (i, piece) in text[cut as usize..].chunks(1_117).enumerate() {
            peer.send(data(1, cut + i as u64 * 1_117, piece)).await;
        }
        sent = end;
        // Dies with much of it on its way.
        for _ in 0..=round {
            if acked == sent {
                break;
            }
            let Some(Down::Ack(ack)) = peer.recv().await else { panic!("an ack; {}", collector.stderr()) };
            acked = ack.streams.iter().map(|stream| stream.offset).fold(acked, u64::max);
        }
        collector = Collector::start_in(collector.kill(), nothing);
        assert_eq!(collector.metric("shimtap_journal_unclean"), 1);
    }
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    let next = peer.open(open(0, "c", 1)).await[0].1;
    assert!(next >= acked);
    let text = lines(0, sent / step());
    for (i, piece) in text[next as usize..].chunks(60_000).enumerate() {
        peer.send(data(1, next + i as u64 * 60_000, piece)).await;
    }
    peer.send(close(1, sent)).await;
    peer.acked(1, sent).await;
    let mut at = 0;
    for record in journaled(&collector) {
        assert_eq!(record["offset"]["from"], at, "neither a hole nor a repeat: {record}");
        assert_eq!(record["message"], line(at / step()).trim_end(), "{record}");
        at = record["offset"]["to"].as_u64().expect("an offset");
    }
    assert_eq!(at, sent);
    // What earlier processes counted is in the counters.
    assert_eq!(collector.metric("shimtap_log_lines_total{stream=\"stdout\"}"), sent / step());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_counted_over_restarts_and_only_beyond_what_is_there() {
    let nothing = |_: &std::path::Path| String::new();
    let collector = Collector::with(nothing);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"0123456789\n")).await;
    peer.send(gap(1, 4, 20)).await;
    peer.acked(1, 20).await;
    let collector = Collector::start_in(collector.kill(), nothing);
    let lost = "shimtap_log_gap_bytes_total{stream=\"stdout\",reason=\"overflow\"}";
    assert_eq!(collector.metric(lost), 9);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    assert_eq!(peer.open(open(0, "c", 1)).await, [(1, 20), (2, 0)]);
    peer.send(gap(1, 0, 25)).await;
    peer.send(data(1, 25, b"tail\n")).await;
    peer.send(close(1, 30)).await;
    peer.acked(1, 30).await;
    assert_eq!(collector.metric(lost), 14);
    let flags: Vec<_> = journaled(&collector).iter().map(|record| record["flags"].clone()).collect();
    assert_eq!(flags[3], serde_json::json!(["cut_head"]));
    assert_eq!(collector.metric("shimtap_log_lines_total{stream=\"stdout\"}"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_wrapper_does_not_come_back_is_open_ended() {
    let orphan = |_: &std::path::Path| "[ingest]\norphan_secs = 1\n".to_owned();
    let collector = Collector::with(orphan);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"half")).await;
    peer.acked(1, 4).await;
    let collector = Collector::start_in(collector.kill(), orphan);
    let records = wait("the ending", || Some(journaled(&collector)).filter(|records| !records.is_empty()));
    assert_eq!((&records[0]["message"], &records[0]["flags"]), (&"half".into(), &serde_json::json!(["cut"])));
    // It comes back after all, and is said to have been thought ended.
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    assert_eq!(peer.open(open(0, "c", 1)).await, [(1, 4), (2, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_shows_what_was_asked_for() {
    let collector = Collector::with(|_| String::new());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "web", 1)).await;
    peer.open(open(1, "job", 1)).await;
    peer.send(data(1, 0, b"GET /\nPOST /x\n")).await;
    peer.send(data(2, 0, b"error: GET\n")).await;
    peer.send(data(3, 0, b"working\n")).await;
    peer.send(gap(3, 8, 20)).await;
    peer.acked_all(&[(1, 14), (2, 11), (3, 20)]).await;
    let messages = |args: &[&str]| {
        let text = collector.logs(&[args, &["-o", "json"]].concat());
        let message = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
            record["message"].as_str().unwrap_or("-").to_owned()
        };
        text.lines().map(message).collect::<Vec<_>>()
    };
    assert_eq!(messages(&["--container", "web"]), ["GET /", "POST /x", "error: GET"]);
    assert_eq!(messages(&["--container", "web", "--stream", "stderr"]), ["error: GET"]);
    assert_eq!(messages(&["--grep", "^GET|ing$"]), ["GET /", "working", "-"]);
    assert_eq!(messages(&["--namespace", "default", "--tail", "2"]), ["working", "-"]);
    assert!(messages(&["--pod", "none"]).is_empty());
    let text = collector.logs(&["--container", "job"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "2023-11-14T22:13:20.000000000Z default/job stdout working");
    assert!(lines[1].ends_with(" default/job stdout [12 bytes are missing here: overflow]"), "{text}");
    let cri = collector.logs(&["--container", "web", "--tail", "1", "-o", "cri"]);
    assert_eq!(cri, "2023-11-14T22:13:20.000000002Z stderr F error: GET\n");
    let refused = collector.logs_command(&["--grep", "("]).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("grep is no expression"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_follows() {
    let collector = Collector::with(|_| String::new());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"before\n")).await;
    peer.acked(1, 7).await;
    let mut child =
        collector.logs_command(&["-f", "-o", "cri"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut shown = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || shown.next().expect("a line").expect("text");
    assert!(next().ends_with(" F before"));
    peer.send(data(1, 7, b"after\nunfini")).await;
    assert!(next().ends_with(" F after"));
    peer.acked(1, 19).await;
    peer.send(data(1, 19, b"shed\n")).await;
    assert!(next().ends_with(" F unfinished"));
    // It ends with the collector.
    let (status, _dir) = collector.stop();
    assert_eq!(status, Some(0));
    assert!(child.wait().expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_behind_gets_a_counted_hole() {
    let collector = Collector::with(|dir| {
        let _ = std::os::unix::fs::symlink("/dev/full", dir.join("log.json"));
        let dir = dir.display();
        format!(
            "[file]\npath = \"{dir}/log.json\"\n[journal]\ndir = \"{dir}/journal\"\nmax_bytes = 4194304\n\
             reserve_percent = 0\nreserve_bytes = 0\n"
        )
    });
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    // Text that does not become smaller.
    let mut state = 88_172_645_463_325_252u64;
    let mut text = Vec::new();
    while text.len() < 16 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let letter = b' ' + (state % 95) as u8;
        text.push(if text.len() % 216 == 215 { b'\n' } else { letter });
    }
    for (i, piece) in text.chunks(32 << 10).enumerate() {
        peer.send(data(1, (i as u64) << 15, piece)).await;
    }
    let end = text.len() as u64;
    peer.send(close(1, end)).await;
    // A slow sink holds no wrapper, and the journal its size.
    peer.acked(1, end).await;
    assert!(collector.metric("shimtap_journal_bytes") <= 5 << 20);
    assert!(collector.metric("shimtap_journal_dropped_bytes_total{reason=\"size\"}") > 8 << 20);
    assert!(collector.metric("shimtap_sink_lag_bytes{sink=\"file\"}") > 14 << 20);
    fs::remove_file(collector.log()).expect("the link is ours");
    fs::write(collector.log(), "").expect("writable");
    let is_last = |record: &serde_json::Value| record["offset"]["to"] == end;
    let records =
        wait("the last line", || Some(collector.records()).filter(|all| all.last().is_some_and(is_last)));
    let (mut at, mut lost) = (0, 0);
    for record in &records {
        assert_eq!(record["offset"]["from"], at, "the file's records tile the stream");
        at = record["offset"]["to"].as_u64().expect("an offset");
        if record["gap"].is_object() {
            assert_eq!(record["gap"]["reason"], "retention");
            lost += record["gap"]["bytes"].as_u64().expect("bytes");
        }
    }
    assert_eq!(at, end);
    assert!(lost > 4 << 20, "{lost}");
    let counted = "shimtap_sink_gap_bytes_total{sink=\"file\",reason=\"retention\"}";
    assert_eq!(collector.metric(counted), lost);
    wait("everything is acknowledged", || {
        (collector.metric("shimtap_sink_lag_bytes{sink=\"file\"}") == 0).then_some(())
    });
}
