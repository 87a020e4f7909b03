//! The method of a request, from as little as possible.

use shimtap_proto::ttrpc::{Method, PEEK_MAX, Peek, TaskApi, peek_method};

use super::SHUTDOWN;

const V2: &str = "containerd.task.v2.Task";

/// A field of fewer than 128 bytes.
fn len_field(tag: u8, value: &str) -> Vec<u8> {
    [&[tag, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

fn body(service: &str, method: &str) -> Vec<u8> {
    [len_field(0x0a, service), len_field(0x12, method), b"\x1a\x03\x0a\x01a".to_vec()].concat()
}

fn peek(body: &[u8]) -> Peek {
    peek_method(body, body.len())
}

#[test]
fn every_method_of_both_versions() {
    for api in TaskApi::ALL {
        for method in Method::ALL {
            assert_eq!(peek(&body(api.service(), method.name())), Peek::Task(api, method));
        }
    }
}

#[test]
fn decides_with_the_last_byte_of_the_method() {
    let body = &SHUTDOWN[10..];
    for len in 0..=body.len() {
        let expected = if len < 35 { Peek::Incomplete } else { Peek::Task(TaskApi::V2, Method::Shutdown) };
        assert_eq!(peek_method(&body[..len], body.len()), expected, "{len} bytes");
    }
}

#[test]
fn other_as_soon_as_nothing_else_can_come() {
    let table: [(&[u8], &str); 9] = [
        (b"\x0a\x16", "a service of another length"),
        (b"\x0a\x17containerd.s", "a service that begins otherwise"),
        (b"\x0a\x17containerd.task.v1", "a version that is none"),
        (b"\x0a\x17containerd.task.v2.Task\x12\x03", "no method has three letters"),
        (b"\x0a\x17containerd.task.v2.Task\x12\x05q", "no method of five letters begins so"),
        (b"\x0a\x17containerd.task.v2.Task\x12\x07CloseIo", "not the name on the wire"),
        (b"\x0b", "a group"),
        (b"\x00", "field 0"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "a tag that overflows"),
    ];
    for (prefix, why) in table {
        assert_eq!(peek_method(prefix, 100), Peek::Other, "{why}");
    }
}

#[test]
fn other_where_the_body_is_over() {
    for prefix in [&b""[..], b"\x0a", b"\x0a\x17containerd", b"\x0a\x17containerd.task.v2.Task"] {
        assert_eq!(peek(prefix), Peek::Other, "{prefix:?}");
    }
    // A field that ends beyond the body is known to be broken before its bytes are there.
    assert_eq!(peek_method(b"\x0a\x17", 24), Peek::Other);
    assert_eq!(peek_method(b"\x0a\x17", 25), Peek::Other, "no room for a method");
    assert_eq!(peek_method(b"\x0a\x17", 26), Peek::Incomplete);
}

#[test]
fn any_order_and_unknown_fields_before() {
    let service = len_field(0x0a, V2);
    let method = len_field(0x12, "Wait");
    let (timeout, fixed64, fixed32) = (b"\x20\x80\x94\xeb\xdc\x03", b"\x3112345678", b"\x351234");
    let payload = b"\x1a\x03\x0a\x01a";
    let is_wait = Peek::Task(TaskApi::V2, Method::Wait);
    assert_eq!(peek(&[&method[..], &service].concat()), is_wait);
    assert_eq!(peek(&[&timeout[..], &method, payload, &service].concat()), is_wait);
    assert_eq!(peek(&[&fixed64[..], fixed32, &service, payload, &method].concat()), is_wait);
    // Field 1 with another wire type is an unknown field.
    assert_eq!(peek(&[b"\x08\x07", &service[..], &method].concat()), is_wait);
}

#[test]
fn no_further_than_the_horizon() {
    // An unknown field that leaves room for just both names, and one that is a byte too long.
    for (pad, expected) in
        [(PEEK_MAX - 31 - 3, Peek::Task(TaskApi::V2, Method::Wait)), (PEEK_MAX - 31 - 2, Peek::Other)]
    {
        let unknown = [&[0x7a, u8::try_from(pad).unwrap(), 1][..], &vec![b'x'; pad]].concat();
        let unknown = [&unknown[..1], &varint_len(pad), &unknown[3..]].concat();
        let body = [unknown, len_field(0x0a, V2), len_field(0x12, "Wait")].concat();
        let long = [&body[..], &[0x7a, 0]].concat();
        assert_eq!(peek(&long), expected, "{pad}");
        for len in PEEK_MAX..long.len() {
            assert_ne!(peek_method(&long[..len], long.len()), Peek::Incomplete, "{pad} {len}");
        }
    }
    // A payload first that hides the names: nothing to wait for.
    assert_eq!(peek_method(b"\x1a\xff\xff\x03", 100_000), Peek::Other);
    // Without end.
    assert_eq!(peek_method(&[0x20, 0].repeat(PEEK_MAX), 4 << 20), Peek::Other);
    assert_eq!(peek_method(&[0x20, 0].repeat(PEEK_MAX / 2 - 1), 4 << 20), Peek::Incomplete);
}

fn varint_len(len: usize) -> [u8; 2] {
    [u8::try_from(len & 0x7f).unwrap() | 0x80, u8::try_from(len >> 7).unwrap()]
}

#[test]
fn names_and_numbers_of_methods() {
    for (index, method) in Method::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(method.to_u8()), index + 1);
        assert_eq!(Method::from_u8(method.to_u8()), Some(method));
        assert_eq!(Method::from_name(method.name()), Some(method));
    }
    assert_eq!(Method::from_u8(0), None);
    assert_eq!(Method::from_u8(18), None);
    assert_eq!(Method::from_name("CloseIo"), None);
    assert_eq!(Method::CloseIo.name(), "CloseIO");
    for api in TaskApi::ALL {
        assert_eq!(TaskApi::from_u8(api.to_u8()), Some(api));
        assert_eq!(TaskApi::from_service(api.service()), Some(api));
    }
    assert_eq!(TaskApi::from_service("containerd.task.v4.Task"), None);
    assert_eq!(TaskApi::from_u8(1), None);
}
