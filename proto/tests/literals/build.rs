//! Frames of our own.

use shimtap_proto::ttrpc::task::{Kill, TaskRef};
use shimtap_proto::ttrpc::{Code, Method, TaskApi, request_frame, status_frame};

use super::SHUTDOWN;

#[test]
fn a_request_is_containerds() {
    let payload = TaskRef { id: "a", exec_id: "" }.encode();
    assert_eq!(request_frame(1, TaskApi::V2.service(), Method::Shutdown.name(), &payload, 0), SHUTDOWN);
}

#[test]
fn defaults_are_left_out() {
    assert_eq!(request_frame(3, "", "", b"", 0), b"\x00\x00\x00\x00\x00\x00\x00\x03\x01\x00");
    assert_eq!(
        request_frame(3, "s", "m", b"", 1_000),
        b"\x00\x00\x00\x09\x00\x00\x00\x03\x01\x00\x0a\x01s\x12\x01m\x20\xe8\x07"
    );
    assert_eq!(
        request_frame(3, "", "", b"", -1),
        b"\x00\x00\x00\x0b\x00\x00\x00\x03\x01\x00\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    );
}

#[test]
fn statuses() {
    assert_eq!(
        status_frame(7, Code::DEADLINE_EXCEEDED, "slow"),
        b"\x00\x00\x00\x0a\x00\x00\x00\x07\x02\x00\x0a\x08\x08\x04\x12\x04slow"
    );
    assert_eq!(status_frame(7, Code::OK, ""), b"\x00\x00\x00\x02\x00\x00\x00\x07\x02\x00\x0a\x00");
}

#[test]
fn payloads() {
    assert_eq!(TaskRef { id: "id", exec_id: "x" }.encode(), b"\x0a\x02id\x12\x01x");
    assert_eq!(Kill { id: "id", exec_id: "", signal: 9, all: true }.encode(), b"\x0a\x02id\x18\x09\x20\x01");
    assert_eq!(Kill { id: "id", exec_id: "x", signal: 0, all: false }.encode(), b"\x0a\x02id\x12\x01x");
}
