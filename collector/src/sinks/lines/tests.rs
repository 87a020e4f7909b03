//! Encoding, read back by serde_json and byte by byte.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use shimtap_proto::link;

use super::{cri, json};
use crate::{
    enrich::Identity,
    event::{Body, Flags, Hole, HoleReason, Origin, Record, StreamKind, StreamName},
};

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
    Origin::new(name, identity)
}

fn encoded(flags: Flags, body: Body) -> serde_json::Value {
    let origin = origin();
    let mut out = Vec::new();
    let record = Record { from: 3, to: 9, time_ns: 1_700_000_000_000_000_005, flags, body };
    json::Encoder::default().record(&mut out, &origin, &record);
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
    let made = encoded(Flags::NONE, Body::hole(HoleReason::TapFull));
    assert_eq!(made["gap"], serde_json::json!({"from": 3, "to": 9, "bytes": 6, "reason": "gap_tap_full"}));
    assert!(made.get("message").is_none() && made.get("flags").is_none());
    let counted = encoded(Flags::NONE, Body::Hole(Hole { reason: HoleReason::RateLimit, lines: Some(2) }));
    let gap = serde_json::json!({"from": 3, "to": 9, "bytes": 6, "lines": 2, "reason": "rate_limit"});
    assert_eq!(counted["gap"], gap);
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
    let mut encoder = json::Encoder::default();
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
    expect(102, 112, second, none, Body::hole(HoleReason::Overflow), &head("000000000"), tail);
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

#[test]
fn cri_lines_are_what_kubelet_reads() {
    let origin = origin();
    let mut encoder = cri::Encoder::default();
    let mut line = |time_ns, flags, body| {
        let mut out = Vec::new();
        encoder.record(&mut out, &origin, &Record { from: 3, to: 9, time_ns, flags, body });
        out
    };
    let text = |bytes: &'static [u8]| Body::Line(Bytes::from_static(bytes));
    let second = 1_700_000_000_000_000_000;
    assert_eq!(line(second, Flags::NONE, text(b"hi")), b"2023-11-14T22:13:20.000000000Z stderr F hi\n");
    assert_eq!(
        line(second + 42, Flags::PARTIAL, text(b"\xff")),
        b"2023-11-14T22:13:20.000000042Z stderr P \xff\n"
    );
    assert_eq!(line(0, Flags::NONE, text(b"")), b"1970-01-01T00:00:00.000000000Z stderr F \n");
    let gap = line(second, Flags::NONE, Body::hole(HoleReason::Overflow));
    assert_eq!(gap, b"2023-11-14T22:13:20.000000000Z stderr F shimtap: 6 bytes are not here: overflow\n");
}
