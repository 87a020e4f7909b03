//! What a shim's `start` prints.

use shimtap_proto::bootstrap::{Answer, BootstrapFault, Form};

/// As containerd names them: 7 + 18 + 64 bytes.
const ADDRESS: &str =
    "unix:///run/containerd/s/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OURS: &str = "unix:///run/shimtap-shim/s/ours";

fn protobuf(address: &str) -> Vec<u8> {
    let len = [u8::try_from(address.len()).unwrap()];
    [b"\x08\x03\x12", &len[..], address.as_bytes(), b"\x1a\x05ttrpc"].concat()
}

#[test]
fn the_three_forms() {
    let json = format!(r#"{{"version":3,"address":"{ADDRESS}","protocol":"ttrpc"}}"#);
    let ours = format!(r#"{{"version":3,"address":"{OURS}","protocol":"ttrpc"}}"#);
    let table = [
        (ADDRESS.as_bytes().to_vec(), Form::Plain, 2, OURS.as_bytes().to_vec()),
        (json.into_bytes(), Form::Json, 3, ours.into_bytes()),
        (protobuf(ADDRESS), Form::Protobuf, 3, protobuf(OURS)),
    ];
    for (printed, form, version, expected) in table {
        let answer = Answer::parse(&printed).unwrap();
        assert_eq!(answer.form(), form);
        assert_eq!(answer.version(), version);
        assert_eq!(answer.protocol(), "ttrpc");
        assert_eq!(answer.address(), ADDRESS);
        assert_eq!(answer.unix_path(), ADDRESS.strip_prefix("unix://"));
        assert_eq!(answer.raw(), printed);
        assert_eq!(answer.with_address(OURS), expected, "{form:?}");
        assert_eq!(answer.with_address(ADDRESS), printed, "{form:?}");
    }
}

#[test]
fn a_plain_address_is_trimmed_and_its_white_space_kept() {
    for (before, after) in [("", "\n"), ("", "\r\n"), (" \t", " \n\n"), ("\n", ""), ("\u{a0}", "\u{85}")] {
        let answer = Answer::parse(format!("{before}{ADDRESS}{after}").as_bytes()).unwrap();
        assert_eq!((answer.form(), answer.address()), (Form::Plain, ADDRESS));
        assert_eq!(answer.with_address(OURS), format!("{before}{OURS}{after}").as_bytes());
    }
}

#[test]
fn json_keeps_everything_but_the_literal() {
    let table = [
        // White space, order, unknown members, an address further down.
        (
            "\n{ \"protocol\" : \"ttrpc\",\n\t\"x\": {\"address\": \"no\", \"y\": [1, \"address\"]}, \"address\" :\t\"A\" ,\"version\": 2 }\n",
            "\n{ \"protocol\" : \"ttrpc\",\n\t\"x\": {\"address\": \"no\", \"y\": [1, \"address\"]}, \"address\" :\t\"B\" ,\"version\": 2 }\n",
        ),
        // Escapes in the old literal and in a name.
        (
            r#"{"version":2,"address":"\u0041","protocol":"ttrpc"}"#,
            r#"{"version":2,"address":"B","protocol":"ttrpc"}"#,
        ),
        (
            r#"{"version":2,"\u0061ddress":"A","protocol":"ttrpc"}"#,
            r#"{"version":2,"\u0061ddress":"B","protocol":"ttrpc"}"#,
        ),
        // Go takes names without regard to case, and the last of several.
        (
            r#"{"Version":2,"address":"x","ADDRESS":"A","Protocol":"grpc","protocol":"ttrpc"}"#,
            r#"{"Version":2,"address":"B","ADDRESS":"B","Protocol":"grpc","protocol":"ttrpc"}"#,
        ),
    ];
    for (printed, expected) in table {
        let answer = Answer::parse(printed.as_bytes()).unwrap();
        assert_eq!(
            (answer.form(), answer.version(), answer.protocol()),
            (Form::Json, 2, "ttrpc"),
            "{printed}"
        );
        assert_eq!(answer.address(), "A", "{printed}");
        assert_eq!(String::from_utf8(answer.with_address("B")).unwrap(), expected);
    }
    // What needs escaping is escaped.
    let answer = Answer::parse(br#"{"version":2,"address":"A"}"#).unwrap();
    assert_eq!(answer.with_address("a\"\\\n"), br#"{"version":2,"address":"a\"\\\n"}"#);
}

#[test]
fn protobuf_keeps_everything_but_the_address() {
    // Address first and twice, unknown fields, an overlong version, metadata.
    let printed = b"\x12\x01x\x08\x83\x00\x20\x07\x12\x01A\x1a\x05ttrpc\x2a\x06\x0a\x01k\x12\x01\n\x7a\x01z";
    let answer = Answer::parse(printed).unwrap();
    assert_eq!((answer.form(), answer.version(), answer.address()), (Form::Protobuf, 3, "A"));
    assert_eq!(
        answer.with_address("long"),
        b"\x12\x04long\x08\x83\x00\x20\x07\x12\x04long\x1a\x05ttrpc\x2a\x06\x0a\x01k\x12\x01\n\x7a\x01z"
    );
    // Fields of other types are unknown ones.
    let answer = Answer::parse(b"\x12\x01A\x10\x07\x0a\x01x\x18\x01").unwrap();
    assert_eq!((answer.version(), answer.address(), answer.protocol()), (0, "A", ""));
    assert_eq!(answer.with_address("B"), b"\x12\x01B\x10\x07\x0a\x01x\x18\x01");
}

#[test]
fn what_shimtap_does_not_stand_in_front_of() {
    let long = format!("unix:///{}", "x".repeat(107));
    let plain = [
        "/run/containerd/s/abstract",
        "@abstract",
        "unix://relative",
        "unix://@abstract",
        "unix:/one",
        "unix://",
        "unix:///",
        "unix:///dir/",
        "UNIX:///run/s",
        "vsock://3:1024",
        "hvsock:///path:1024",
        "tcp://127.0.0.1:1",
        long.as_str(),
    ];
    for address in plain {
        let answer = Answer::parse(address.as_bytes()).unwrap();
        assert_eq!((answer.form(), answer.unix_path()), (Form::Plain, None), "{address}");
        assert_eq!(answer.address(), address);
    }
    let fits = format!("unix:///{}", "x".repeat(106));
    assert!(Answer::parse(fits.as_bytes()).unwrap().unix_path().is_some());

    for (version, protocol, wrapped) in [
        ("2", "ttrpc", true),
        ("3", "ttrpc", true),
        ("1", "ttrpc", false),
        ("4", "ttrpc", false),
        ("3", "grpc", false),
        ("3", "", false),
    ] {
        let json = format!(r#"{{"version":{version},"address":"unix:///s","protocol":"{protocol}"}}"#);
        assert_eq!(Answer::parse(json.as_bytes()).unwrap().unix_path().is_some(), wrapped, "{json}");
    }
    for json in [r#"{"address":"unix:///s","protocol":"ttrpc"}"#, r#"{"version":3,"address":"unix:///s"}"#] {
        assert_eq!(Answer::parse(json.as_bytes()).unwrap().unix_path(), None, "{json}");
    }
    let nul = Answer::parse(br#"{"version":3,"address":"unix:///s\u0000","protocol":"ttrpc"}"#).unwrap();
    assert_eq!(nul.unix_path(), None);

    // Version 4, grpc, and a version that is 3 only in its low 32 bits.
    for printed in [
        &b"\x08\x04\x12\x09unix:///s\x1a\x05ttrpc"[..],
        b"\x08\x03\x12\x09unix:///s\x1a\x04grpc",
        b"\x08\x83\x80\x80\x80\x10\x12\x09unix:///s\x1a\x05ttrpc",
    ] {
        let answer = Answer::parse(printed).unwrap();
        assert_eq!(
            (answer.form(), answer.address(), answer.unix_path()),
            (Form::Protobuf, "unix:///s", None)
        );
    }
}

#[test]
fn what_is_no_answer() {
    for printed in [&b""[..], b" \n\t"] {
        assert!(matches!(Answer::parse(printed), Err(BootstrapFault::Empty)), "{printed:?}");
    }
    let unreadable: [&[u8]; 5] = [
        b"warning: something\nunix:///run/s",
        b"unix:///run/s unix:///run/t",
        b"unix:///run/\xff",
        b"unix:///run/\x00",
        // Cut in the middle: protobuf no more, text never.
        b"\x08\x03\x12\x09unix:///s\x1a\x05ttr",
    ];
    for printed in unreadable {
        let fault = Answer::parse(printed).unwrap_err();
        assert!(
            matches!(fault, BootstrapFault::Unreadable { len } if len == printed.len()),
            "{printed:?}: {fault}"
        );
    }
    let json = [
        r#"{"version":3,"address":"unix:///s","protocol":"ttrpc""#,
        r#"{"version":3,"address":"unix:///s","protocol":"ttrpc"} x"#,
        r#"{"version":3,"protocol":"ttrpc"}"#,
        r#"{"version":3,"address":"","protocol":"ttrpc"}"#,
        r#"{"version":3,"address":null,"protocol":"ttrpc"}"#,
        r#"{"version":3,"address":7,"protocol":"ttrpc"}"#,
        r#"{"version":"3","address":"unix:///s","protocol":"ttrpc"}"#,
        r#"{"version":-3,"address":"unix:///s","protocol":"ttrpc"}"#,
        r#"{"version":3.0,"address":"unix:///s","protocol":"ttrpc"}"#,
        r#"{"version":4294967299,"address":"unix:///s","protocol":"ttrpc"}"#,
        r#"{"version":3,"address":"unix:///s","protocol":null}"#,
        "{}",
        "{",
    ];
    for printed in json {
        let fault = Answer::parse(printed.as_bytes()).unwrap_err();
        assert!(matches!(fault, BootstrapFault::Json(_)), "{printed}: {fault}");
        assert!(std::error::Error::source(&fault).is_some());
    }
}

#[test]
fn protobuf_without_an_address_is_not_protobuf() {
    // Valid protobuf all of them: a text that is (field 12, fixed64), and an empty result.
    assert_eq!(Answer::parse(b"abcdefghi").unwrap().form(), Form::Plain);
    assert!(matches!(Answer::parse(b"\x08\x03\x1a\x05ttrpc"), Err(BootstrapFault::Unreadable { .. })));
    assert!(matches!(Answer::parse(b"\x08\x03\x12\x00"), Err(BootstrapFault::Unreadable { .. })));
}
