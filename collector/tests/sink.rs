//! The file sink under the real collector: a failing disk holds acknowledgements back and nothing else, and a death
//! loses nothing that was not acknowledged.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, though not all of it test functions to clippy"
)]

mod peer;

use std::{collections::BTreeMap, fs, os::unix::fs::symlink};

use peer::{Collector, Peer, close, data, open, wait};

/// A collector whose file's disk is full.
fn stalled(journal_bytes: usize) -> Collector {
    Collector::with(|dir| {
        let _ = symlink("/dev/full", dir.join("log.json"));
        let dir = dir.display();
        format!(
            "[file]\npath = \"{dir}/log.json\"\n[journal]\ndir = \"{dir}/journal\"\nmax_bytes = {journal_bytes}\n\
             reserve_percent = 0\nreserve_bytes = 0\n"
        )
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for_and_holds_no_acknowledgement() {
    let collector = stalled(64 << 20);
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"line\n")).await;
    // The journal has it.
    peer.acked(1, 5).await;
    collector.wait_metric("shimtap_sink_errors_total{sink=\"file\",error=\"ENOSPC\"}", 2);
    assert_eq!(collector.metric("shimtap_sink_stalled{sink=\"file\"}"), 1);
    assert_eq!(collector.metric("shimtap_sink_bytes_total{sink=\"file\"}"), 0);
    assert_eq!(collector.get("/healthz"), "ok\n");
    peer.send(close(1, 5)).await;
    peer.acked(1, 5).await;
    // Room again.
    fs::remove_file(collector.log()).expect("the link is ours");
    fs::write(collector.log(), "").expect("writable");
    wait("the line", || (collector.records().len() == 1).then_some(()));
    assert_eq!(collector.metric("shimtap_sink_stalled{sink=\"file\"}"), 0);
    assert!(collector.stderr().contains("sink cannot deliver"), "{}", collector.stderr());
    assert!(collector.stderr().contains("sink delivers again"), "{}", collector.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_death_what_was_not_acknowledged_comes_again_under_the_same_ids() {
    let file = |dir: &std::path::Path| format!("[file]\npath = \"{}/log.json\"\n", dir.display());
    let collector = Collector::with(file);
    let line = |i: u64| format!("line {i:05}\n").into_bytes();
    let step = line(0).len() as u64;
    let total = 2_000u64;
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    for i in 0..1_000 {
        peer.send(data(1, i * step, &line(i))).await;
    }
    peer.acked(1, step * 100).await;
    let dir = collector.kill();
    let collector = Collector::start_in(dir, file);
    let (mut peer, welcome) = Peer::greet(&collector, 1).await;
    assert_eq!(welcome.event_seq, None, "of wrappers the new one knows nothing");
    let positions = peer.open(open(0, "c", 1)).await;
    let next = positions[0].1;
    assert!(next >= step * 100 && next % step == 0, "what was acknowledged is kept: {positions:?}");
    for i in next / step..total {
        peer.send(data(1, i * step, &line(i))).await;
    }
    peer.send(close(1, total * step)).await;
    peer.acked(1, total * step).await;
    let has_all = |records: &Vec<serde_json::Value>| {
        records.last().is_some_and(|record| record["offset"]["to"] == total * step)
    };
    let records = wait("the last line", || Some(collector.records()).filter(has_all));
    let mut by_id: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for record in records {
        let id = record["id"].as_str().expect("an id").to_owned();
        let from = record["offset"]["from"].as_u64().expect("an offset");
        let message = record["message"].as_str().expect("a message").to_owned();
        if let Some(known) = by_id.insert(id, (from, message.clone())) {
            assert_eq!(known, (from, message), "the same id is the same record");
        }
    }
    let mut records: Vec<_> = by_id.into_values().collect();
    records.sort_unstable();
    let expected: Vec<_> = (0..total).map(|i| (i * step, format!("line {i:05}"))).collect();
    assert_eq!(records, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_rotated_while_lines_come() {
    let collector = Collector::with(|dir| {
        format!("[file]\npath = \"{}/log.json\"\nrotate_bytes = 4096\nkeep = 1000\n", dir.display())
    });
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    let text: String = (0..500).map(|i| format!("line {i:03}\n")).collect();
    for (i, chunk) in text.as_bytes().chunks(700).enumerate() {
        peer.send(data(1, i as u64 * 700, chunk)).await;
    }
    peer.send(close(1, text.len() as u64)).await;
    peer.acked(1, text.len() as u64).await;
    wait("the last line", || fs::read_to_string(collector.log()).ok()?.contains("line 499").then_some(()));
    let mut seen = Vec::new();
    for entry in fs::read_dir(collector.dir.path()).expect("readable") {
        let path = entry.expect("readable").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.json")) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.len() <= 4_096 && text.ends_with('\n'), "{}", path.display());
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).expect("whole lines");
            seen.push(record["message"].as_str().expect("a message").to_owned());
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, text.lines().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sink_what_is_journaled_is_acknowledged() {
    let collector = Collector::with(|_| String::new());
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"a\nb")).await;
    peer.acked(1, 2).await;
    peer.send(close(1, 3)).await;
    peer.acked(1, 3).await;
    assert!(!collector.log().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_nobody_will_finish_is_delivered() {
    let collector = Collector::with(|dir| {
        format!("[ingest]\norphan_secs = 1\n[file]\npath = \"{}/log.json\"\n", dir.display())
    });
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"whole\nhalf")).await;
    peer.acked(1, 6).await;
    drop(peer);
    let records = wait("the rest of the line", || {
        let records = collector.records();
        (records.len() == 2).then_some(records)
    });
    assert_eq!(records[1]["message"], "half");
    assert_eq!(records[1]["flags"], serde_json::json!(["cut"]));
    collector.wait_metric("shimtap_containers{state=\"lost\"}", 1);
    // It was not lost after all: the stream goes on behind what was delivered.
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    assert_eq!(peer.open(open(0, "c", 1)).await, [(1, 10), (2, 0)]);
    peer.send(data(1, 10, b" the line\n")).await;
    peer.send(close(1, 20)).await;
    peer.acked(1, 20).await;
    assert_eq!(collector.records_when(3)[2]["flags"], serde_json::json!(["cut_head"]));
    assert_eq!(collector.metric("shimtap_containers{state=\"running\"}"), 1);
}
