//! Bodies of requests and responses.

use shimtap_proto::ttrpc::{Code, RequestView, ResponseView, WireFault};

use super::SHUTDOWN;

#[test]
fn a_request() {
    let expected = RequestView {
        service: "containerd.task.v2.Task",
        method: "Shutdown",
        payload: b"\x0a\x01a",
        timeout_nano: 0,
    };
    assert_eq!(RequestView::decode(&SHUTDOWN[10..]), Ok(expected));
    assert_eq!(RequestView::decode(b""), Ok(RequestView::default()));
}

#[test]
fn timeouts_have_a_sign() {
    let table: [(&[u8], i64); 3] = [
        (b"\x20\x80\xa8\xd6\xb9\x07", 2_000_000_000),
        (b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", -1),
        (b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\x7f", i64::MAX),
    ];
    for (body, timeout_nano) in table {
        assert_eq!(RequestView::decode(body), Ok(RequestView { timeout_nano, ..RequestView::default() }));
    }
}

#[test]
fn the_last_one_counts() {
    let view = RequestView::decode(b"\x0a\x01a\x12\x01m\x1a\x01p\x20\x01\x0a\x01b\x12\x01n\x1a\x00\x20\x02")
        .unwrap();
    assert_eq!(view, RequestView { service: "b", method: "n", payload: b"", timeout_nano: 2 });
}

#[test]
fn other_fields_and_wire_types_are_skipped() {
    // Metadata (5), an unknown field (9), a payload as a number, a timeout as text.
    let view = RequestView::decode(b"\x2a\x06\x0a\x01k\x12\x01v\x48\x01\x18\x05\x22\x01x\x1a\x01p").unwrap();
    assert_eq!(view, RequestView { payload: b"p", ..RequestView::default() });
}

#[test]
fn a_request_that_is_none() {
    assert_eq!(RequestView::decode(b"\x0a\x02\xc3\x28"), Err(WireFault::NotUtf8 { field: 1 }));
    assert_eq!(RequestView::decode(b"\x12\x01\xff"), Err(WireFault::NotUtf8 { field: 2 }));
    assert_eq!(RequestView::decode(b"\x1a\x02x"), Err(WireFault::Truncated { at: 0 }));
    for len in 26..39 {
        let cut = RequestView::decode(&SHUTDOWN[10..10 + len]);
        let at = if len < 35 { 25 } else { 35 };
        assert_eq!(cut.is_ok(), len == 35, "the end of a field is no fault: {len}");
        assert!(cut.is_ok() || cut == Err(WireFault::Truncated { at }), "{len}: {cut:?}");
    }
}

#[test]
fn responses() {
    let table: [(&[u8], ResponseView<'_>); 7] = [
        // Both forms of an empty success.
        (b"", ResponseView::default()),
        (b"\x12\x00", ResponseView::default()),
        (b"\x12\x02\x08\x2a", ResponseView { payload: b"\x08\x2a", ..ResponseView::default() }),
        (
            b"\x0a\x0d\x08\x05\x12\x09not found",
            ResponseView { code: Code::NOT_FOUND, message: "not found", payload: b"" },
        ),
        (b"\x0a\x00\x12\x01x", ResponseView { payload: b"x", ..ResponseView::default() }),
        // A status in two parts is one status.
        (b"\x0a\x02\x08\x05\x0a\x03\x12\x01m", ResponseView { code: 5, message: "m", payload: b"" }),
        // An int32 below zero takes ten bytes.
        (
            b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            ResponseView { code: u32::MAX, ..ResponseView::default() },
        ),
    ];
    for (body, view) in table {
        assert_eq!(ResponseView::decode(body), Ok(view), "{body:02x?}");
    }
    assert_eq!(ResponseView::decode(b"\x0a\x02\x08"), Err(WireFault::Truncated { at: 0 }));
    assert_eq!(ResponseView::decode(b"\x0a\x02\x12\x01"), Err(WireFault::Truncated { at: 0 }));
    assert_eq!(ResponseView::decode(b"\x0a\x03\x12\x01\xff"), Err(WireFault::NotUtf8 { field: 2 }));
}
