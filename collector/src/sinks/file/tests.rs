//! Rotation, repair and encoding, against real files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use proptest::prelude::*;
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
    config::File { path: path.to_owned(), rotate_bytes, keep }
}

fn write(output: &mut Output, text: &str) -> Result<u64, FileFault> {
    let mut pending = Pending::default();
    pending.text().extend_from_slice(text.as_bytes());
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
    pending.text().extend_from_slice(b"line\n");
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
    let mut out = Vec::new();
    let record = Record { from: 3, to: 9, time_ns: 1_700_000_000_000_000_005, flags, body };
    encode::Encoder::default().record(&mut out, &origin, &record);
    let out = String::from_utf8(out).expect("JSON is text");
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

/// Whoever reads the file may compare, hash or cut its lines: a faster encoder must write the same bytes.
#[test]
fn the_bytes_of_records_stay_what_they_are() {
    let origin = origin();
    let names = concat!(
        r#""namespace":"ns","pod":"web\"0","container":"app","image":"img","container_id":"cid","pod_uid":"uid","#,
        r#""sandbox_id":"sb","containerd_namespace":"k8s.io","incarnation":"00000000000000ff","process":"ex\"ec","#,
        r#""stream":"stderr","#
    );
    let line = |bytes: &'static [u8]| Body::Line(Bytes::from_static(bytes));
    let mut encoder = encode::Encoder::default();
    let mut expect = |from: u64, to: u64, time_ns: u64, flags: Flags, body: Body, head: &str, tail: &str| {
        let mut out = Vec::new();
        encoder.record(&mut out, &origin, &Record { from, to, time_ns, flags, body });
        let place = format!(
            "\"offset\":{{\"from\":{from},\"to\":{to}}},\"id\":\"00000000000000ff-ex\\\"ec-stderr-{from}\","
        );
        assert_eq!(String::from_utf8(out).expect("text"), format!("{head},{names}{place}{tail}}}\n"));
    };
    let (none, second) = (Flags::NONE, 1_700_000_000_000_000_000);
    let head = |ns: &str| format!("{{\"time\":\"2023-11-14T22:13:20.{ns}Z\",\"time_ns\":1700000000{ns}");
    expect(0, 3, second, none, line(b"hi"), &head("000000000"), r#""message":"hi""#);
    // The same second, and the next one.
    expect(3, 4, second + 7, none, line(b""), &head("000000007"), r#""message":"""#);
    let next = r#"{"time":"2023-11-14T22:13:21.999999999Z","time_ns":1700000001999999999"#;
    expect(
        4,
        9,
        second + 1_999_999_999,
        none,
        line(b"plain and long enough for a few steps of sixteen bytes"),
        next,
        r#""message":"plain and long enough for a few steps of sixteen bytes""#,
    );
    // Before the first second of 1970 was over, and at the end of what 64 bits hold.
    let first = r#"{"time":"1970-01-01T00:00:00.000000042Z","time_ns":42"#;
    expect(9, 10, 42, none, line(b"x"), first, r#""message":"x""#);
    let last = r#"{"time":"2554-07-21T23:34:33.709551615Z","time_ns":18446744073709551615"#;
    expect(10, u64::MAX, u64::MAX, none, line(b"x"), last, r#""message":"x""#);
    // What has to be escaped, at the edges of steps and in the middle; what has not to be, untouched.
    let odd = b"{\"level\":\"info\",\"path\":\"C:\\x\"}\t\r\x1b[31m\x00\x1f\x7f/ \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xe2\x80\xa8\"";
    let escaped = concat!(
        r#""message":"{\"level\":\"info\",\"path\":\"C:\\x\"}\t\r\u001b[31m\u0000\u001f"#,
        "\x7f/ \u{e4}\u{20ac}\u{1f600}\u{2028}",
        r#"\"""#
    );
    expect(11, 99, second, none, line(odd), &head("000000000"), escaped);
    // No text; a hole; flags.
    let flags = Flags::CUT.with(Flags::UNTERMINATED);
    let tail = r#""message_base64":"Yf8=","flags":["cut","unterminated","not_utf8"]"#;
    expect(99, 101, second, flags, line(b"a\xff"), &head("000000000"), tail);
    let tail = r#""message":"p","flags":["partial","cut_head"]"#;
    expect(101, 102, second, Flags::PARTIAL.with(Flags::CUT_HEAD), line(b"p"), &head("000000000"), tail);
    let tail = r#""gap":{"from":102,"to":112,"bytes":10,"reason":"overflow"}"#;
    expect(102, 112, second, none, Body::Hole(HoleReason::Overflow), &head("000000000"), tail);
}

proptest! {
    /// Against serde_json, which must read back every text, however it meets the encoder's steps.
    #[test]
    fn every_text_reads_back(text in "(?s)[a-z\"\\\\\t\u{1}\u{e4}😀 ]{0,80}", cut in 0..40_usize) {
        for text in [text.as_str(), text.char_indices().nth(cut).map_or("", |(at, _)| &text[at..])] {
            let made = encoded(Flags::NONE, Body::Line(Bytes::from(text.to_owned())));
            prop_assert_eq!(made["message"].as_str(), Some(text));
        }
    }
}
