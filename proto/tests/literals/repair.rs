//! A Stats answer mended, every other byte kept.

use shimtap_proto::ttrpc::{
    ResponseView, WireFault,
    repair::{Sender, repair, sender},
    task::StatsAnswer,
};

const TYPE: &[u8] = b"io.containerd.cgroups.v1.Metrics";

fn len(number: u8, value: &[u8]) -> Vec<u8> {
    assert!(value.len() < 128 && number < 16, "one byte each");
    [&[number << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat()
}

/// An answer with these metrics, and things around that must stay: a status of 0, an unknown field.
fn answer(kind: &[u8], metrics: &[u8]) -> Vec<u8> {
    let any = [len(1, kind), len(2, metrics)].concat();
    let body = [len(1, b""), len(2, &[len(1, &any), vec![0x18, 5]].concat())].concat();
    [&[0, 0, 0, u8::try_from(body.len()).unwrap(), 0, 0, 0, 5, 2, 0], &body[..]].concat()
}

fn says(kind: &[u8], metrics: &[u8]) -> Result<Sender, WireFault> {
    let frame = answer(kind, metrics);
    let view = ResponseView::decode(&frame[10..]).unwrap();
    sender(&StatsAnswer::decode(view.payload).unwrap())
}

#[test]
fn the_whole_frame() {
    // memory { inactive_file 7, usage { usage 9 } }, and pids before it.
    let frame = b"\x00\x00\x00\x38\x00\x00\x00\x05\x02\x00\x12\x36\x0a\x34\
        \x0a\x20io.containerd.cgroups.v1.Metrics\x12\x10\
        \x12\x02\x08\x03\x22\x0a\x68\x87\x00\x8a\x02\x04\x08\x01\x10\x09";
    assert_eq!(
        repair(frame).unwrap().unwrap(),
        b"\x00\x00\x00\x3b\x00\x00\x00\x05\x02\x00\x12\x39\x0a\x37\
          \x0a\x20io.containerd.cgroups.v1.Metrics\x12\x13\
          \x12\x02\x08\x03\x22\x0d\x68\x87\x00\xf0\x01\x07\x8a\x02\x04\x08\x01\x10\x09",
        "behind the rows before it; the overlong 7 stays as it was"
    );
}

#[test]
fn memory() {
    let table: [(&[u8], Option<&[u8]>); 8] = [
        // inactive_file 7 alone; with a total of 0 that is written out; with others behind and before.
        (b"\x68\x07", Some(b"\x68\x07\xf0\x01\x07")),
        (b"\x68\x07\xf0\x01\x00", Some(b"\x68\x07\xf0\x01\x07")),
        (b"\xf8\x01\x02\x68\x07", Some(b"\xf8\x01\x02\x68\x07\xf0\x01\x07")),
        (b"\x68\x07\x78\x01\xf8\x01\x02", Some(b"\x68\x07\x78\x01\xf0\x01\x07\xf8\x01\x02")),
        // A total that says something, nothing inactive, a row of another wire type.
        (b"\x68\x07\xf0\x01\x08", None),
        (b"\x68\x00\x58\x01", None),
        (b"", None),
        (b"\x6a\x01\x07", None),
    ];
    for (old, new) in table {
        let mended = repair(&answer(TYPE, &len(4, old))).unwrap();
        assert_eq!(mended, new.map(|new| answer(TYPE, &len(4, new))), "{old:02x?}");
    }
}

#[test]
fn block_io() {
    let row = |op: &str, value: u8| [len(1, op.as_bytes()), vec![0x18, 254, 1, 0x28, value]].concat();
    let bytes = |op, value| len(1, &row(op, value));
    let counts = |op, value| len(2, &row(op, value));
    let old = [bytes("read", 1), bytes("rios", 2), bytes("WIOS", 3), bytes("dbytes", 4), bytes("dios", 5)];
    let new =
        [bytes("read", 1), counts("read", 2), counts("write", 3), bytes("dbytes", 4), counts("discard", 5)];
    let mended = repair(&answer(TYPE, &len(5, &old.concat()))).unwrap();
    assert_eq!(mended, Some(answer(TYPE, &len(5, &new.concat()))));
    // Where numbers have a place of their own, a row of that name is whatever its sender means by it.
    for kept in [[counts("read", 2), bytes("rios", 3)].concat(), [bytes("read", 2), bytes("", 3)].concat()] {
        assert_eq!(repair(&answer(TYPE, &len(5, &kept))), Ok(None));
    }
}

#[test]
fn both_at_once_and_neither() {
    let rios = len(5, &len(1, &len(1, b"rios")));
    let moved = len(5, &len(2, &len(1, b"read")));
    let old = [len(4, b"\x68\x07"), rios.clone()].concat();
    let new = [len(4, b"\x68\x07\xf0\x01\x07"), moved].concat();
    assert_eq!(repair(&answer(TYPE, &old)), Ok(Some(answer(TYPE, &new))));
    for kind in [&b"io.containerd.cgroups.v2.Metrics"[..], b"", b"x.v1.Metrics"] {
        assert_eq!(repair(&answer(kind, &old)), Ok(None), "{kind:?}");
    }
    assert!(
        repair(&answer(b"types.containerd.io/io.containerd.cgroups.v1.Metrics", &old)).unwrap().is_some()
    );
}

#[test]
fn who_filled_it_in() {
    let memory = |rows: &[u8]| says(TYPE, &len(4, rows));
    for (rows, expected) in [
        (&b"\x68\x07"[..], Sender::Flat),
        // inactive_anon, unevictable.
        (b"\x58\x07", Sender::Flat),
        (b"\x78\x07", Sender::Flat),
        // A row of the hierarchy, whatever else: total_cache, total_unevictable.
        (b"\x68\x07\x90\x01\x01", Sender::Whole),
        (b"\x80\x02\x01\x68\x07", Sender::Whole),
        // cache, rss, mapped_file.
        (b"\x08\x01\x68\x07", Sender::Whole),
        (b"\x10\x01", Sender::Whole),
        (b"\x20\x01", Sender::Whole),
        // Nothing, a 0, limits and page faults alone.
        (b"", Sender::Unclear),
        (b"\x68\x00\x90\x01\x00", Sender::Unclear),
        (b"\x48\x05\x80\x01\x05\x88\x01\x05", Sender::Unclear),
    ] {
        assert_eq!(memory(rows), Ok(expected), "{rows:02x?}");
    }
    assert_eq!(says(TYPE, &len(5, &len(1, &len(1, b"wios")))), Ok(Sender::Flat));
    assert_eq!(says(TYPE, &len(5, &len(1, &len(1, b"write")))), Ok(Sender::Unclear));
    assert_eq!(says(TYPE, b""), Ok(Sender::Unclear));
    assert_eq!(says(b"io.containerd.cgroups.v2.Metrics", &len(4, b"\x68\x07")), Ok(Sender::Whole));
    assert_eq!(says(b"", b""), Ok(Sender::Unclear), "an answer without statistics");
}

#[test]
fn what_is_refused() {
    let memory = len(4, b"\x68\x07");
    let twice = [memory.clone(), memory.clone()].concat();
    assert_eq!(repair(&answer(TYPE, &twice)), Err(WireFault::Twice { field: 4 }));
    assert_eq!(says(TYPE, &twice), Err(WireFault::Twice { field: 4 }));
    let row = len(5, &len(1, &[len(1, b"rios"), len(1, b"wios")].concat()));
    assert_eq!(repair(&answer(TYPE, &row)), Err(WireFault::Twice { field: 1 }));
    assert_eq!(repair(&answer(TYPE, b"\x22\x02\x68")), Err(WireFault::Truncated { at: 0 }));
    // A payload twice: containerd takes the last, and may be told otherwise by the first.
    let any = len(1, &[len(1, TYPE), len(2, &memory)].concat());
    let body = [len(2, &any), len(2, &any)].concat();
    let mut frame = vec![0, 0, 0, u8::try_from(body.len()).unwrap(), 0, 0, 0, 5, 2, 0];
    frame.extend(body);
    assert_eq!(repair(&frame), Err(WireFault::Twice { field: 2 }));
    frame[8] = 1;
    assert_eq!(repair(&frame), Err(WireFault::NotAFrame { len: frame.len() }), "a request");
    frame.pop();
    assert_eq!(repair(&frame), Err(WireFault::NotAFrame { len: frame.len() }));
}
