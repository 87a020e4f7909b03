//! Rotation, repair and encoding, against real files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use shimtap_proto::link;

use super::{
    encode,
    output::{FileFault, Output, Pending},
};
use crate::{
    config,
    enrich::Identity,
    event::{Body, Flags, HoleReason, Origin, Record, StreamKind, StreamName},
};

fn config(path: &Path, rotate_bytes: u64, keep: u32) -> config::File {
    config::File { path: path.to_owned(), rotate_bytes, keep, queue_bytes: 1 << 20 }
}

fn write(output: &mut Output, text: &str) -> Result<u64, FileFault> {
    let mut pending = Pending::default();
    pending.text().push_str(text);
    let writes = output.write(&mut pending)?;
    assert!(pending.is_empty());
    Ok(writes)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the file is there")
}

#[test]
fn a_file_is_renamed_at_its_size_and_holds_whole_lines() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    let numbered = |n: u32| dir.path().join(format!("log.{n}"));
    let mut output = Output::open(&config(&path, 10, 2)).expect("opens");
    write(&mut output, "11111\n222\n33333\n").expect("writes");
    assert_eq!((read(&path).as_str(), read(&numbered(1)).as_str()), ("33333\n", "11111\n222\n"));
    write(&mut output, "a line longer than a file\n4\n").expect("writes");
    assert_eq!((read(&path).as_str(), read(&numbered(1)).as_str()), ("4\n", "a line longer than a file\n"));
    assert_eq!(read(&numbered(2)), "33333\n");
    assert!(!numbered(3).exists(), "two are kept");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn with_nothing_to_keep_the_old_file_is_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    let mut output = Output::open(&config(&path, 4, 0)).expect("opens");
    write(&mut output, "111\n222\n").expect("writes");
    assert_eq!(read(&path), "222\n");
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
}

#[test]
fn a_torn_last_line_is_cut_off_at_the_next_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    for (left, whole) in [
        ("a\nb\ntorn".to_owned(), "a\nb\n"),
        ("only torn".to_owned(), ""),
        (String::new(), ""),
        ("a\n".to_owned(), "a\n"),
        (format!("a\n{}", "x".repeat(10_000)), "a\n"),
    ] {
        fs::write(&path, left).expect("writable");
        let mut output = Output::open(&config(&path, 1 << 20, 1)).expect("opens");
        write(&mut output, "next\n").expect("writes");
        assert_eq!(read(&path), format!("{whole}next\n"));
    }
}

#[test]
fn a_file_that_was_moved_or_removed_is_made_anew() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, moved) = (dir.path().join("log"), dir.path().join("moved"));
    let mut output = Output::open(&config(&path, 1 << 20, 1)).expect("opens");
    write(&mut output, "1\n").expect("writes");
    fs::rename(&path, &moved).expect("ours");
    write(&mut output, "2\n").expect("writes");
    fs::remove_file(&path).expect("ours");
    write(&mut output, "3\n").expect("writes");
    assert_eq!((read(&moved).as_str(), read(&path).as_str()), ("1\n", "3\n"));
}

#[test]
fn a_full_disk_keeps_what_is_pending() {
    let mut output = Output::open(&config(Path::new("/dev/full"), 1 << 20, 1)).expect("opens");
    let mut pending = Pending::default();
    pending.text().push_str("line\n");
    let fault = output.write(&mut pending).expect_err("no room");
    assert_eq!(crate::sinks::errno_name(fault.source()), "ENOSPC");
    assert_eq!(pending.len(), 5);
}

#[test]
fn a_directory_that_is_not_there_is_said_at_once() {
    let fault = Output::open(&config(Path::new("/nonexistent/log"), 1, 1)).expect_err("no directory");
    assert!(fault.to_string().starts_with("opening the log file /nonexistent/log: "), "{fault}");
}

fn origin() -> Origin {
    let open = link::Open {
        namespace: "k8s.io".into(),
        container: "cid".into(),
        annotations: [
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.sandbox-id", "sb"),
            ("io.kubernetes.cri.sandbox-namespace", "ns"),
            ("io.kubernetes.cri.sandbox-name", "web\"0"),
            ("io.kubernetes.cri.sandbox-uid", "uid"),
            ("io.kubernetes.cri.container-name", "app"),
            ("io.kubernetes.cri.image-name", "img"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect(),
        ..Default::default()
    };
    let identity = Arc::new(Identity::new(&open, &link::InnerShim::new()));
    let name = StreamName {
        namespace: "k8s.io".into(),
        container: "cid".into(),
        incarnation: 0xff,
        process: "ex\"ec".into(),
        stream: StreamKind::Stderr,
    };
    Origin { name, identity, json: OnceLock::new() }
}

fn encoded(flags: Flags, body: Body) -> serde_json::Value {
    let origin = origin();
    let mut out = String::new();
    let record = Record { from: 3, to: 9, time_ns: 1_700_000_000_000_000_005, flags, body };
    encode::Encoder::default().record(&mut out, &origin, &record);
    assert!(out.ends_with("}\n") && out.matches('\n').count() == 1, "{out}");
    serde_json::from_str(&out).expect("JSON")
}

#[test]
fn a_record_says_everything_that_is_known() {
    let made = encoded(Flags::NONE, Body::Line(Bytes::from_static(b"hi")));
    let expected = serde_json::json!({
        "time": "2023-11-14T22:13:20.000000005Z", "time_ns": 1_700_000_000_000_000_005u64,
        "namespace": "ns", "pod": "web\"0", "container": "app", "image": "img", "container_id": "cid",
        "pod_uid": "uid", "sandbox_id": "sb", "containerd_namespace": "k8s.io",
        "incarnation": "00000000000000ff", "process": "ex\"ec", "stream": "stderr",
        "offset": {"from": 3, "to": 9}, "id": "00000000000000ff-ex\"ec-stderr-3", "message": "hi",
    });
    assert_eq!(made, expected);
}

#[test]
fn any_text_comes_back_as_it_was() {
    let all: String = (0..0x250).filter_map(char::from_u32).chain("😀\u{2028}".chars()).collect();
    let made = encoded(Flags::NONE, Body::Line(Bytes::from(all.clone().into_bytes())));
    assert_eq!(made["message"], all.as_str());
}

#[test]
fn what_is_no_text_travels_as_base64() {
    let flags = Flags::PARTIAL.with(Flags::CUT_HEAD);
    let made = encoded(flags, Body::Line(Bytes::from_static(b"a\xffb\0")));
    assert_eq!(made["message_base64"], "Yf9iAA==");
    assert!(made.get("message").is_none());
    assert_eq!(made["flags"], serde_json::json!(["partial", "cut_head", "not_utf8"]));
}

#[test]
fn a_hole_is_a_record_without_a_message() {
    let made = encoded(Flags::NONE, Body::Hole(HoleReason::TapFull));
    assert_eq!(made["gap"], serde_json::json!({"from": 3, "to": 9, "bytes": 6, "reason": "gap_tap_full"}));
    assert!(made.get("message").is_none() && made.get("flags").is_none());
}
