//! One field changed, every other byte kept.

use shimtap_proto::ttrpc::rewrite::{Edit, pad_path, replace};
use shimtap_proto::ttrpc::task::field;
use shimtap_proto::ttrpc::{BODY_MAX, WireFault};

use super::SHUTDOWN;

/// Create{id c, stdout /old, stderr /err} to a service "s" with things around that must
/// stay: metadata, an unknown field, an overlong varint.
const CREATE: &[u8] = b"\x00\x00\x00\x2c\x00\x00\x00\x05\x01\x00\
    \x0a\x01s\x12\x06Create\x1a\x17\x0a\x01c\xa0\x80\x00\x81\x00\x32\x04/old\x3a\x04/err\xf8\x01\x07\
    \x2a\x06\x0a\x01k\x12\x01v";

fn out(new: &str) -> Edit<'_> {
    Edit { field: field::CREATE_STDOUT, new: new.as_bytes() }
}

#[test]
fn a_longer_and_a_shorter_value() {
    assert_eq!(
        replace(CREATE, &[out("/longer")]).unwrap(),
        b"\x00\x00\x00\x2f\x00\x00\x00\x05\x01\x00\
          \x0a\x01s\x12\x06Create\x1a\x1a\x0a\x01c\xa0\x80\x00\x81\x00\x32\x07/longer\x3a\x04/err\xf8\x01\x07\
          \x2a\x06\x0a\x01k\x12\x01v"
    );
    assert_eq!(
        replace(CREATE, &[out(""), Edit { field: field::CREATE_STDERR, new: b"/" }]).unwrap(),
        b"\x00\x00\x00\x25\x00\x00\x00\x05\x01\x00\
          \x0a\x01s\x12\x06Create\x1a\x10\x0a\x01c\xa0\x80\x00\x81\x00\x32\x00\x3a\x01/\xf8\x01\x07\
          \x2a\x06\x0a\x01k\x12\x01v"
    );
}

#[test]
fn the_same_length_changes_nothing_else() {
    let new = replace(CREATE, &[out("/new")]).unwrap();
    let differing: Vec<_> = (0..CREATE.len()).filter(|&at| new[at] != CREATE[at]).collect();
    assert_eq!(new.len(), CREATE.len());
    assert_eq!(differing, [34, 35, 36]);
}

#[test]
fn nothing_to_change() {
    for frame in [CREATE, SHUTDOWN, b"\x00\x00\x00\x00\x00\x00\x00\x03\x02\x00"] {
        assert_eq!(replace(frame, &[]).unwrap(), frame);
        assert_eq!(replace(frame, &[Edit { field: 1000, new: b"x" }]).unwrap(), frame, "absent stays absent");
    }
    assert_eq!(replace(CREATE, &[out("/old")]).unwrap(), CREATE);
    // Field 4 is there, but as a number.
    assert_eq!(replace(CREATE, &[Edit { field: 4, new: b"x" }]).unwrap(), CREATE);
}

#[test]
fn every_occurrence_and_every_payload() {
    let frame =
        b"\x00\x00\x00\x10\x00\x00\x00\x05\x01\x00\x1a\x06\x32\x01a\x32\x01b\x1a\x03\x32\x01c\x1a\x00\x08";
    // 08 at the end lacks its value: refused as a whole.
    assert!(replace(frame, &[out("xy")]).is_err());
    let frame =
        b"\x00\x00\x00\x0f\x00\x00\x00\x05\x01\x00\x1a\x06\x32\x01a\x32\x01b\x1a\x03\x32\x01c\x1a\x00";
    assert_eq!(
        replace(frame, &[out("xy"), out("second")]).unwrap(),
        b"\x00\x00\x00\x12\x00\x00\x00\x05\x01\x00\x1a\x08\x32\x02xy\x32\x02xy\x1a\x04\x32\x02xy\x1a\x00"
    );
}

#[test]
fn a_response_has_its_payload_in_field_two() {
    let frame = b"\x00\x00\x00\x0b\x00\x00\x00\x05\x02\x00\x0a\x00\x12\x04\x32\x02/o\x1a\x01z";
    assert_eq!(
        replace(frame, &[Edit { field: field::STATE_STDOUT, new: b"/of" }]).unwrap(),
        b"\x00\x00\x00\x0c\x00\x00\x00\x05\x02\x00\x0a\x00\x12\x05\x32\x03/of\x1a\x01z"
    );
}

#[test]
fn overlong_lengths_stay_where_the_length_does() {
    // Payload length 3 and stdout's length 1, each in two bytes.
    let frame = b"\x00\x00\x00\x07\x00\x00\x00\x05\x01\x00\x1a\x84\x00\x32\x81\x00a";
    assert_eq!(
        replace(frame, &[out("b")]).unwrap(),
        b"\x00\x00\x00\x07\x00\x00\x00\x05\x01\x00\x1a\x84\x00\x32\x81\x00b"
    );
    assert_eq!(
        replace(frame, &[out("bc")]).unwrap(),
        b"\x00\x00\x00\x07\x00\x00\x00\x05\x01\x00\x1a\x84\x00\x32\x02bc",
        "the inner length is written anew, the outer one happens to hold"
    );
}

#[test]
fn lengths_that_need_another_byte() {
    let frame = b"\x00\x00\x00\x05\x00\x00\x00\x05\x01\x00\x1a\x03\x32\x01a";
    let long = "x".repeat(200);
    let new = replace(frame, &[out(&long)]).unwrap();
    assert_eq!(new[..10], *b"\x00\x00\x00\xce\x00\x00\x00\x05\x01\x00");
    assert_eq!(new[10..16], *b"\x1a\xcb\x01\x32\xc8\x01");
    assert_eq!(new[16..], *long.as_bytes());
    assert_eq!(replace(&new, &[out("a")]).unwrap(), frame);
}

#[test]
fn what_is_refused() {
    let not_a_frame: [&[u8]; 6] = [
        b"",
        b"\x00\x00\x00\x00\x00\x00\x00\x05\x01",
        b"\x00\x00\x00\x01\x00\x00\x00\x05\x01\x00",
        b"\x00\x00\x00\x00\x00\x00\x00\x05\x01\x00\x08",
        b"\x00\x00\x00\x00\x00\x00\x00\x05\x03\x00",
        b"\x00\x00\x00\x00\x00\x00\x00\x05\x04\x00",
    ];
    for frame in not_a_frame {
        assert_eq!(replace(frame, &[]), Err(WireFault::NotAFrame { len: frame.len() }), "{frame:02x?}");
    }
    // Broken envelope, broken payload.
    assert_eq!(
        replace(b"\x00\x00\x00\x01\x00\x00\x00\x05\x01\x00\x1a", &[]),
        Err(WireFault::Truncated { at: 0 })
    );
    assert_eq!(
        replace(b"\x00\x00\x00\x05\x00\x00\x00\x05\x01\x00\x1a\x03\x08\x01\x32", &[out("a")]),
        Err(WireFault::Truncated { at: 2 })
    );
}

#[test]
fn grows_to_four_mebibytes_and_no_further() {
    let frame = b"\x00\x00\x00\x05\x00\x00\x00\x05\x01\x00\x1a\x03\x32\x01a";
    // Tags and lengths take ten bytes.
    let room = usize::try_from(BODY_MAX).unwrap() - 10;
    let new = replace(frame, &[out(&"x".repeat(room))]).unwrap();
    assert_eq!(new[..4], BODY_MAX.to_be_bytes());
    assert_eq!(replace(frame, &[out(&"x".repeat(room + 1))]), Err(WireFault::TooLarge { len: room + 11 }));
    // One that was too large before is its sender's business.
    let mut large = vec![b'x'; room + 21];
    large[..16].copy_from_slice(b"\x00\x40\x00\x01\x00\x00\x00\x05\x01\x00\x1a\xfc\xff\xff\x01\x32");
    large[16..20].copy_from_slice(b"\xf7\xff\xff\x01");
    assert_eq!(replace(&large, &[]).unwrap(), large);
}

#[test]
fn padding() {
    let table: [(&str, usize, Option<&str>); 16] = [
        ("/a/b", 4, Some("/a/b")),
        ("/a/b", 5, Some("/a//b")),
        ("/a/b", 8, Some("/a/////b")),
        ("/a/b/c.out", 12, Some("/a/b///c.out")),
        ("/a/", 5, Some("/a///")),
        ("/a//b", 6, Some("/a///b")),
        ("/a/é", 7, Some("/a///é")),
        ("/a/b", 3, None),
        ("a/b", 4, None),
        ("a", 1, None),
        ("", 0, None),
        ("", 1, None),
        // Two slashes in front are a host to those who parse paths as URLs.
        ("/a", 2, Some("/a")),
        ("/a", 3, None),
        ("/a/b", 4096, None),
        ("fifo:///a", 10, None),
    ];
    for (path, len, expected) in table {
        assert_eq!(pad_path(path, len).as_deref(), expected, "{path} to {len}");
    }
    assert_eq!(pad_path("/a/b", 4095).map(|path| path.len()), Some(4095));
}

#[test]
fn padded_paths_name_the_same_file() {
    let file = std::env::current_exe().unwrap();
    let path = file.to_str().unwrap();
    let id = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path).unwrap();
        (meta.dev(), meta.ino())
    };
    for len in [path.len(), path.len() + 1, path.len() + 7, 4095] {
        let padded = pad_path(path, len).unwrap();
        assert_eq!(padded.len(), len);
        assert_eq!(id(&padded), id(path));
    }
}
