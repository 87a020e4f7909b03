//! Ten bytes.

use shimtap_proto::ttrpc::{BODY_MAX, HEADER_LEN, Header, HeaderFault, Kind, LENGTH_SANE};

#[test]
fn decodes_and_encodes() {
    let table: [(&[u8; 10], Header); 5] = [
        (
            b"\x00\x00\x00\x28\x00\x00\x00\x01\x01\x00",
            Header { length: 40, stream_id: 1, kind: Kind::Request, flags: 0 },
        ),
        (
            b"\x00\x00\x00\x00\x00\x00\x00\x03\x02\x00",
            Header { length: 0, stream_id: 3, kind: Kind::Response, flags: 0 },
        ),
        (
            b"\x00\x40\x00\x00\xff\xff\xff\xff\x03\x05",
            Header { length: BODY_MAX, stream_id: u32::MAX, kind: Kind::Data, flags: 5 },
        ),
        // Unknown flags are the peer's business.
        (
            b"\x00\x40\x00\x01\x80\x00\x00\x02\x01\xff",
            Header { length: BODY_MAX + 1, stream_id: 0x8000_0002, kind: Kind::Request, flags: 255 },
        ),
        (
            b"\x04\x00\x00\x00\x00\x00\x00\x00\x01\x00",
            Header { length: LENGTH_SANE, stream_id: 0, kind: Kind::Request, flags: 0 },
        ),
    ];
    for (bytes, header) in table {
        assert_eq!(Header::decode(bytes), Ok(header), "{bytes:02x?}");
        assert_eq!(&header.encode(), bytes);
    }
}

#[test]
fn looks_at_no_more_than_ten_bytes() {
    let bytes = b"\x00\x00\x00\x28\x00\x00\x00\x01\x01\x00\xff\xff\xff";
    assert_eq!(Header::decode(bytes), Header::decode(&bytes[..HEADER_LEN]));
}

#[test]
fn asks_for_more_until_ten_bytes_are_there() {
    // Insane from the first byte on, and yet only a whole header is judged.
    let bytes = b"\xff\xff\xff\xff\x00\x00\x00\x01\x09\x00";
    for len in 0..HEADER_LEN {
        assert_eq!(Header::decode(&bytes[..len]), Err(HeaderFault::Incomplete), "{len} bytes");
    }
    assert_eq!(Header::decode(bytes), Err(HeaderFault::UnknownKind(9)));
}

#[test]
fn refuses_what_is_not_ttrpc() {
    let table: [(&[u8], HeaderFault); 5] = [
        (b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00", HeaderFault::UnknownKind(0)),
        (b"\x00\x00\x00\x00\x00\x00\x00\x01\x04\x00", HeaderFault::UnknownKind(4)),
        (b"\x04\x00\x00\x01\x00\x00\x00\x01\x01\x00", HeaderFault::Insane(LENGTH_SANE + 1)),
        (b"\xff\xff\xff\xff\x00\x00\x00\x01\x03\x00", HeaderFault::Insane(u32::MAX)),
        // HTTP, as on the debug socket.
        (b"GET /debug", HeaderFault::UnknownKind(b'u')),
    ];
    for (bytes, fault) in table {
        assert_eq!(Header::decode(bytes), Err(fault), "{bytes:02x?}");
    }
}

#[test]
fn kinds_are_one_two_three() {
    for byte in 0..=u8::MAX {
        assert_eq!(Kind::from_u8(byte).map(Kind::to_u8), (1..=3).contains(&byte).then_some(byte));
    }
}
