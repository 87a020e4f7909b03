//! A wrapper attaches, sends, comes back: records, acknowledgements and figures are what docs/protocol.md says.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, though not all of it test functions to clippy"
)]

mod peer;

use peer::{Collector, Peer, close, data, gap, open, wait};
use shimtap_proto::link::from_wrapper::Body as Up;

fn messages(collector: &Collector, count: usize) -> Vec<String> {
    collector
        .records_when(count)
        .iter()
        .map(|record| match record["message"].as_str() {
            Some(text) => text.to_owned(),
            None if record["gap"].is_object() => {
                format!("<{} {}>", record["gap"]["reason"].as_str().expect("reason"), record["gap"]["bytes"])
            }
            None => format!("base64 {}", record["message_base64"].as_str().expect("a message")),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_become_records_and_are_acknowledged() {
    let collector = Collector::start();
    let (mut peer, welcome) = Peer::greet(&collector, 7).await;
    assert_eq!(welcome.protocol, 1);
    assert_eq!(welcome.event_seq, None, "this collector does not know the wrapper");
    assert_eq!(welcome.settings.stats_interval_ms, 10_000);
    let positions = peer.open(open(0, "c1", 0xabc)).await;
    assert_eq!(positions, [(1, 0), (2, 0)]);

    peer.send(data(1, 0, b"one\ntwo\r\n\xff\xfe\nta")).await;
    peer.send(data(2, 0, b"error\n")).await;
    peer.acked(1, 12).await;
    peer.send(data(1, 14, b"il")).await;
    peer.send(close(1, 16)).await;
    peer.acked(1, 16).await;
    peer.send(close(2, 6)).await;
    peer.acked(2, 6).await;

    assert_eq!(messages(&collector, 5), ["one", "two", "base64 //4=", "error", "tail"]);
    let records = collector.records();
    let first = &records[0];
    assert_eq!(first["container"], "c1");
    assert_eq!(first["container_id"], "c1");
    assert_eq!(first["containerd_namespace"], "default");
    assert_eq!(first["incarnation"], "0000000000000abc");
    assert_eq!(first["process"], "");
    assert_eq!(first["stream"], "stdout");
    assert_eq!(first["offset"], serde_json::json!({"from": 0, "to": 4}));
    assert_eq!(first["id"], "0000000000000abc-stdout-0");
    assert_eq!(first["time"], "2023-11-14T22:13:20.000000000Z");
    assert_eq!(first["time_ns"], 1_700_000_000_000_000_000u64);
    assert!(first.get("flags").is_none() && first.get("pod").is_none(), "{first}");
    assert_eq!(records[2]["flags"], serde_json::json!(["not_utf8"]));
    assert_eq!(records[4]["flags"], serde_json::json!(["unterminated"]));
    assert_eq!(records[4]["offset"], serde_json::json!({"from": 12, "to": 16}));
    assert_eq!(collector.metric("shimtap_log_bytes_total{stream=\"stdout\"}"), 16);
    assert_eq!(collector.metric("shimtap_log_lines_total{stream=\"stdout\"}"), 4);
    assert_eq!(collector.metric("shimtap_wrappers"), 1);
    assert_eq!(collector.metric("shimtap_containers{state=\"running\"}"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_that_comes_back_goes_on_where_it_stopped() {
    let collector = Collector::start();
    let (mut peer, _) = Peer::greet(&collector, 7).await;
    peer.open(open(0, "c1", 1)).await;
    peer.send(data(1, 0, b"first\nunfini")).await;
    peer.acked(1, 6).await;
    drop(peer);
    let (mut peer, _) = Peer::greet(&collector, 7).await;
    let positions = peer.open(open(0, "c1", 1)).await;
    assert_eq!(positions, [(1, 12), (2, 0)], "the unfinished line is kept over the connection");
    // What it does not know to have arrived comes again.
    peer.send(data(1, 6, b"unfinished\n")).await;
    peer.send(gap(1, 3, 17)).await;
    peer.send(gap(1, 17, 20)).await;
    peer.send(data(1, 25, b"end\n")).await;
    peer.send(close(1, 29)).await;
    peer.acked(1, 29).await;
    assert_eq!(messages(&collector, 5), ["first", "unfinished", "<overflow 3>", "<missing 5>", "end"]);
    assert_eq!(collector.records()[4]["flags"], serde_json::json!(["cut_head"]));
    assert_eq!(collector.metric("shimtap_log_repeated_bytes_total{stream=\"stdout\"}"), 6);
    assert_eq!(collector.metric("shimtap_log_gap_bytes_total{stream=\"stdout\",reason=\"overflow\"}"), 3);
    assert_eq!(collector.metric("shimtap_log_holes_total{stream=\"stdout\",reason=\"missing\"}"), 1);
    // The same id started anew is another stream.
    let positions = peer.open(open(1, "c1", 2)).await;
    assert_eq!(positions, [(3, 0), (4, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_split_anywhere_are_the_same_records() {
    let collector = Collector::start();
    let (mut peer, _) = Peer::greet(&collector, 7).await;
    let text = b"a\r\nb\n\r\nlonger line\n\xc3\xa4\n";
    for cut in 0..=text.len() {
        let task = u32::try_from(cut).expect("small");
        peer.open(open(task, &format!("c{cut}"), 1)).await;
        let handle = 2 * task + 1;
        peer.send(data(handle, 0, &text[..cut])).await;
        peer.send(data(handle, cut as u64, &text[cut..])).await;
        peer.send(close(handle, text.len() as u64)).await;
        peer.acked(handle, text.len() as u64).await;
    }
    let expected = ["a", "b", "", "longer line", "ä"];
    let count = expected.len() * (text.len() + 1);
    let messages = messages(&collector, count);
    assert_eq!(messages.len(), count);
    for lines in messages.chunks(expected.len()) {
        assert_eq!(lines, expected);
    }
}

/// A wrapper sends no more than its window ahead of acknowledgements, over all of its streams: it must not have to
/// wait for the acknowledgement of lines that it could only finish by sending more.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_lines_do_not_use_up_the_window() {
    let collector = Collector::start();
    let (mut peer, _) = Peer::greet(&collector, 7).await;
    peer.open(open(0, "c1", 1)).await;
    let chunk = [b'x'; 64 << 10];
    let half = 128u64 << 10;
    for handle in [1, 2] {
        peer.send(data(handle, 0, &chunk)).await;
        peer.send(data(handle, 64 << 10, &chunk)).await;
    }
    peer.acked_all(&[(1, half), (2, half)]).await;
    for handle in [1, 2] {
        peer.send(data(handle, half, b"end\n")).await;
        peer.send(close(handle, half + 4)).await;
    }
    peer.acked_all(&[(1, half + 4), (2, half + 4)]).await;
    // They were made durable in pieces, and came out whole.
    let flags: Vec<_> = collector.records_when(2).iter().map(|record| record["flags"].clone()).collect();
    assert_eq!(flags, [serde_json::Value::Null, serde_json::Value::Null]);
    assert_eq!(collector.metric("shimtap_log_lines_total{stream=\"stdout\"}"), 1);
}

/// A line of 256 KiB that comes without a pause stays whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_stays_whole() {
    let collector = Collector::start();
    let (mut peer, _) = Peer::greet(&collector, 7).await;
    peer.open(open(0, "c1", 1)).await;
    let mut line = vec![b'x'; (256 << 10) - 1];
    line.push(b'\n');
    for (i, chunk) in line.chunks(64 << 10).enumerate() {
        peer.send(data(1, (i as u64) << 16, chunk)).await;
    }
    peer.acked(1, 256 << 10).await;
    assert_eq!(collector.records_when(1).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_loses_and_repeats_nothing() {
    let collector = Collector::start();
    let (mut peer, _) = Peer::greet(&collector, 7).await;
    peer.open(open(0, "c1", 1)).await;
    for i in 0..200u64 {
        peer.send(data(1, i * 8, format!("line{i:03}\n").as_bytes())).await;
    }
    wait("all bytes are taken", || {
        (collector.metric("shimtap_log_bytes_total{stream=\"stdout\"}") == 1_600).then_some(())
    });
    let reader = tokio::spawn(async move {
        peer.acked(1, 1_600).await;
        peer.closed().await;
    });
    let (status, dir) = tokio::task::spawn_blocking(move || collector.stop()).await.expect("no panic");
    assert_eq!(status, Some(0));
    reader.await.expect("everything was acknowledged before the end");
    let text = std::fs::read_to_string(dir.path().join("log.json")).expect("the file");
    assert_eq!(text.lines().count(), 200);
    assert!(!dir.path().join("in/collector.sock").exists(), "the socket was removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_stream_is_acknowledged_at_its_close() {
    let collector = Collector::start();
    let (mut peer, _) = Peer::greet(&collector, 7).await;
    peer.open(open(0, "c1", 1)).await;
    peer.send(close(1, 0)).await;
    peer.acked(1, 0).await;
    peer.send(close(2, 0)).await;
    peer.acked(2, 0).await;
    peer.send(Up::Gone(shimtap_proto::link::Gone { task: 0, time_ns: 5, ..Default::default() })).await;
    collector.wait_metric("shimtap_containers{state=\"deleted\"}", 1);
}

/// What all spool files of the node may hold is divided by the number of wrappers, rounded up to a power of two: each is told its
/// part when it comes, and again when the others' coming and going changes it.
#[tokio::test(flavor = "multi_thread")]
async fn wrappers_share_the_budget_of_the_node_and_are_told_of_each_change() {
    const BUDGET: u64 = 8 << 20;
    let collector = Collector::with(|dir| {
        let dir = dir.display();
        format!(
            "[spool]\nbudget_bytes = {BUDGET}\ndisk_dir = \"{dir}/disk\"\nmemory_dir = \"{dir}/memory\"\n"
        )
    });
    let mut peers: Vec<Peer> = Vec::new();
    let mut before = BUDGET;
    for (wrapper, part) in [(1, BUDGET), (2, BUDGET / 2), (3, BUDGET / 4), (4, BUDGET / 4), (5, BUDGET / 8)] {
        let (peer, welcome) = Peer::greet(&collector, wrapper).await;
        assert_eq!(welcome.settings.spool_bytes, part, "wrapper {wrapper} is welcomed");
        if part != before {
            for peer in &mut peers {
                assert_eq!(peer.spool_share().await, part, "others are told of wrapper {wrapper}");
            }
        }
        peers.push(peer);
        before = part;
    }
    // Back again; of four and three the part is the same, and nobody is told.
    for (left, part) in [(4, BUDGET / 4), (2, BUDGET / 2), (1, BUDGET)] {
        peers.truncate(left);
        for peer in &mut peers {
            assert_eq!(peer.spool_share().await, part, "{left} are left");
        }
    }
    // One that comes back is no other.
    let (_again, welcome) = Peer::greet(&collector, 1).await;
    assert_eq!(welcome.settings.spool_bytes, BUDGET);
}
