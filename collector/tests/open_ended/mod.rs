//! Streams whose end nobody told are listed with why, also where no container is left that they could be shown with: by `shimtap ps`,
//! on `/metrics`, and in the log when they are given up.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    of_a_pod,
    peer::{Collector, Peer, close, data, gap, open, wait},
};

/// Waits for a wrapper for a second.
fn hasty(_: &Path) -> String {
    "[ingest]\norphan_secs = 1\n".to_owned()
}

/// For longer than any test takes.
fn patient(_: &Path) -> String {
    "[ingest]\norphan_secs = 3600\n".to_owned()
}

fn metric(reason: &str) -> String {
    format!("shimtap_streams_open_ended{{reason=\"{reason}\"}}")
}

fn ps(collector: &Collector, args: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shimtap"));
    let said =
        command.arg("ps").args(args).arg("--socket").arg(collector.control()).output().expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).expect("text")
}

fn json(collector: &Collector) -> Value {
    serde_json::from_str(&ps(collector, &["--json"])).expect("JSON")
}

/// Nobody knows the end of one stream of a pod's container: it is listed for this reason, and counted for no other.
fn is_listed(collector: &Collector, reason: &str) {
    let all = json(collector);
    assert_eq!(all["open_ended_total"], 1, "{all}");
    let listed = all["open_ended"].as_array().expect("a list");
    assert_eq!(listed.len(), 1, "{all}");
    let wanted = json!({
        "containerd_namespace": "default", "id": "5f0c", "incarnation": "0000000000000001", "namespace": "pay", "pod": "web-1",
        "container": "app", "process": "", "stream": "stdout", "reason": reason, "bytes": 9, "gap_bytes": 11,
        "reached_bytes": 20, "last_ns": listed[0]["last_ns"],
    });
    assert_eq!(listed[0], wanted);
    assert!(listed[0]["last_ns"].as_u64().is_some_and(|ns| ns > 1_700_000_000_000_000_000), "{all}");
    let table = ps(collector, &["--open-ended"]);
    let cells: Vec<_> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(cells[..9], ["pay", "web-1", "app", "5f0c", "init", "stdout", reason, "9", "11"], "{table}");
    let hint = "\n1 stream ended without a word of where: shimtap ps --open-ended says which, and why\n";
    assert!(ps(collector, &[]).ends_with(hint));
    let page = collector.get("/metrics");
    for one in ["inexact", "wrapper_lost", "reboot", "power_cut", "unknown"] {
        let row = format!("{} {}\n", metric(one), u64::from(one == reason));
        assert!(page.contains(&row), "{row} is not in {page}");
    }
    // It is said when all that are given up with it are on their way to the journal, so perhaps later than that has this one.
    let line = wait("a line of the log", || {
        let said = collector.stderr();
        said.lines().find(|line| line.contains("shimtap ps --open-ended")).map(str::to_owned)
    });
    for word in ["streams=1".to_owned(), format!("reason=\"{reason}\""), "container=\"5f0c\"".to_owned()] {
        assert!(line.contains(&word), "{word} is not in {line}");
    }
}

/// Stdout is left in the middle, stderr is closed.
async fn half(collector: &Collector) -> Peer {
    let (mut peer, _) = Peer::greet(collector, 1).await;
    peer.open(of_a_pod(open(0, "5f0c", 1))).await;
    peer.send(data(2, 0, b"all of it\n")).await;
    peer.send(close(2, 10)).await;
    peer.send(data(1, 0, b"line\nhalf")).await;
    peer.send(gap(1, 9, 20)).await;
    peer.acked_all(&[(1, 20), (2, 10)]).await;
    peer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_wrapper_that_went_away_is_listed_until_it_comes_back() {
    let collector = Collector::with(hasty);
    let peer = half(&collector).await;
    assert_eq!(json(&collector)["open_ended_total"], 0, "they are carried");
    assert_eq!(ps(&collector, &["--open-ended"]), "the end of every stream was told\n");
    assert!(!ps(&collector, &[]).contains("--open-ended"));
    drop(peer);
    collector.wait_metric(&metric("wrapper_lost"), 1);
    is_listed(&collector, "wrapper_lost");

    // A collector that knows of no container.
    let collector = Collector::start_in(collector.kill(), hasty);
    assert_eq!(json(&collector)["containers"], json!([]));
    is_listed(&collector, "wrapper_lost");

    // It comes back after all, and has nothing to say yet.
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    assert_eq!(peer.open(of_a_pod(open(0, "5f0c", 1))).await, [(1, 20), (2, 10)]);
    let all = json(&collector);
    assert_eq!((&all["open_ended"], &all["open_ended_total"]), (&json!([]), &json!(0)));
    assert_eq!(all["containers"][0]["streams"][0]["end"], "open");
    assert_eq!(all["containers"][0]["streams"][1]["end"], "closed");
    assert!(collector.get("/metrics").contains(&format!("{} 0\n", metric("wrapper_lost"))));
    peer.send(close(1, 20)).await;
    wait("its end", || (json(&collector)["containers"][0]["streams"][0]["end"] == "closed").then_some(()));
    let (_, dir) = collector.stop();
    let collector = Collector::start_in(dir, hasty);
    assert_eq!(json(&collector)["open_ended_total"], 0, "and it is for good");
}

/// What stands in every file of the journal is of another boot of the node.
fn reboot(journal: &Path) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the kernel says");
    let boot = boot.trim().as_bytes();
    let mut changed = 0;
    for entry in fs::read_dir(journal).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|end| end != "sj") {
            continue;
        }
        // As docs/journal.md has it: magic, version, checksum, both lengths, and the table, packed.
        let bytes = fs::read(&path).expect("readable");
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let (packed, raw) = (number(16) as usize, number(20) as usize);
        let mut body = lz4_flex::block::decompress(&bytes[24..24 + packed], raw).expect("unpacks");
        let at = body.windows(boot.len()).position(|some| some == boot).expect("this boot's id");
        body[at..at + boot.len()].fill(b'0');
        let table = lz4_flex::block::compress(&body);
        let lengths = [table.len() as u32, raw as u32].map(u32::to_le_bytes).concat();
        let checksum = crc32fast::hash(&[&lengths[..], &table].concat()).to_le_bytes();
        let all = [&bytes[..12], &checksum, &lengths, &table, &bytes[24 + packed..]].concat();
        fs::write(&path, all).expect("writable");
        changed += 1;
    }
    assert!(changed > 0, "no file of a journal");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_the_boot_before_are_listed_with_what_ended_it() {
    let collector = Collector::with(patient);
    let _peer = half(&collector).await;
    let dir = collector.kill();
    reboot(&dir.path().join("journal"));
    let collector = Collector::start_in(dir, patient);
    collector.wait_metric(&metric("power_cut"), 1);
    is_listed(&collector, "power_cut");

    let collector = Collector::with(patient);
    let _peer = half(&collector).await;
    let (_, dir) = collector.stop();
    reboot(&dir.path().join("journal"));
    let collector = Collector::start_in(dir, patient);
    collector.wait_metric(&metric("reboot"), 1);
    is_listed(&collector, "reboot");
}
