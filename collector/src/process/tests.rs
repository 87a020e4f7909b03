//! The properties that every later stage stands on: chunking does not matter, and records tile the tape.

#![allow(clippy::cast_possible_truncation, reason = "offsets of test data fit any integer")]

use bytes::Bytes;
use proptest::prelude::*;

use super::{Clock, Tape, TapeFault, Times, lines::LINE_MAX, tape::Taken};
use crate::event::{Body, Flags, HoleReason, Record};

const AT: Times<'static> = Times { offsets: &[0], ns: &[1_000], otherwise: 7 };

fn feed(chunks: &[&[u8]], close: bool) -> Vec<Record> {
    let (mut tape, clock, mut out, mut offset) = (Tape::default(), Clock::default(), Vec::new(), 0);
    for chunk in chunks {
        tape.data(offset, Bytes::copy_from_slice(chunk), AT, &clock, &mut out).expect("in order");
        offset += chunk.len() as u64;
    }
    if close {
        tape.close(offset, 9, &clock, &mut out).expect("the end is where the data ended");
    }
    out
}

fn texts(records: &[Record]) -> Vec<(String, Flags)> {
    let text = |record: &Record| match &record.body {
        Body::Line(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Body::Hole(hole) => format!("<{}>", hole.reason.label()),
    };
    records.iter().map(|record| (text(record), record.flags)).collect()
}

fn assert_tiles(records: &[Record], from: u64, to: u64) {
    let mut at = from;
    let mut time = 0;
    for record in records {
        assert_eq!(record.from, at, "no gap and no overlap before {record:?}");
        assert!(record.to > record.from, "no empty record: {record:?}");
        assert!(record.time_ns > time, "time goes up at {record:?}");
        (at, time) = (record.to, record.time_ns);
    }
    assert_eq!(at, to);
}

#[test]
fn lines_end_with_lf_or_cr_lf() {
    let records = feed(&[b"a\nb\r\n\n\r\nc\rd\n\r\r\ntail\r"], true);
    let lines: Vec<_> = texts(&records);
    assert_eq!(
        lines,
        [
            ("a".into(), Flags::NONE),
            ("b".into(), Flags::NONE),
            (String::new(), Flags::NONE),
            (String::new(), Flags::NONE),
            ("c\rd".into(), Flags::NONE),
            ("\r".into(), Flags::NONE),
            ("tail\r".into(), Flags::UNTERMINATED),
        ]
    );
    assert_tiles(&records, 0, 20);
}

#[test]
fn an_unfinished_line_waits_for_its_end() {
    assert_eq!(feed(&[b"no newline"], false), []);
    assert_eq!(texts(&feed(&[b"no newline"], true)), [("no newline".into(), Flags::UNTERMINATED)]);
}

#[test]
fn a_line_as_long_as_we_keep_stays_whole_and_one_byte_more_is_split() {
    let mut whole = vec![b'x'; LINE_MAX - 1];
    whole.push(b'\n');
    let records = feed(&[&whole, b"y\n"], true);
    assert_eq!(
        records.iter().map(|r| (r.from, r.flags)).collect::<Vec<_>>(),
        [(0, Flags::NONE), (LINE_MAX as u64, Flags::NONE)]
    );
    let mut long = vec![b'x'; LINE_MAX];
    long.extend_from_slice(b"rest\n");
    let records = feed(&[&long], true);
    assert_eq!(
        records.iter().map(|r| (r.from, r.flags)).collect::<Vec<_>>(),
        [(0, Flags::PARTIAL), (LINE_MAX as u64, Flags::NONE)]
    );
}

#[test]
fn a_cr_at_the_split_still_belongs_to_its_lf() {
    let mut long = vec![b'x'; LINE_MAX - 1];
    long.extend_from_slice(b"\r\n");
    let records = feed(&[&long], true);
    assert_eq!(records.iter().map(|r| r.from).collect::<Vec<_>>(), [0, LINE_MAX as u64 - 1]);
    assert_eq!(records[1].body, Body::Line(Bytes::new()));
}

#[test]
fn a_line_has_the_time_of_its_first_byte() {
    let (mut tape, clock, mut out) = (Tape::default(), Clock::default(), Vec::new());
    let times = Times { offsets: &[0, 4, 100], ns: &[10, 50, 90], otherwise: 1 };
    tape.data(0, Bytes::from_static(b"ab\ncdef\ng\nh\n"), times, &clock, &mut out).expect("in order");
    assert_eq!(out.iter().map(|r| r.time_ns).collect::<Vec<_>>(), [10, 11, 50, 51]);
    // The same clock serves the container's other stream.
    let mut other = Tape::default();
    other
        .data(0, Bytes::from_static(b"x\n"), Times { offsets: &[], ns: &[], otherwise: 20 }, &clock, &mut out)
        .expect("in order");
    assert_eq!(out.last().map(|r| r.time_ns), Some(52));
}

#[test]
fn repeats_are_dropped_and_jumps_are_holes() {
    let (mut tape, clock, mut out) = (Tape::default(), Clock::default(), Vec::new());
    let mut data = |tape: &mut Tape, at, bytes: &'static [u8]| {
        tape.data(at, Bytes::from_static(bytes), AT, &clock, &mut out).expect("possible")
    };
    assert_eq!(data(&mut tape, 5, b"a\nb"), Taken { bytes: 3, repeated: 0 });
    assert_eq!(data(&mut tape, 5, b"a\n"), Taken { bytes: 0, repeated: 2 });
    assert_eq!(data(&mut tape, 7, b"bc\n"), Taken { bytes: 2, repeated: 1 });
    assert_eq!(data(&mut tape, 10, b"cut"), Taken { bytes: 3, repeated: 0 });
    assert_eq!(data(&mut tape, 20, b"tail\nz\n"), Taken { bytes: 7, repeated: 0 });
    assert_tiles(&out, 0, 27);
    assert_eq!(
        texts(&out),
        [
            ("<missing>".into(), Flags::NONE),
            ("a".into(), Flags::CUT_HEAD),
            ("bc".into(), Flags::NONE),
            ("cut".into(), Flags::CUT),
            ("<missing>".into(), Flags::NONE),
            ("tail".into(), Flags::CUT_HEAD),
            ("z".into(), Flags::NONE),
        ]
    );
}

#[test]
fn only_the_new_part_of_a_claim_counts() {
    let (mut tape, clock, mut out) = (Tape::default(), Clock::default(), Vec::new());
    tape.data(0, Bytes::from_static(b"0123456789\n"), AT, &clock, &mut out).expect("in order");
    tape.gap(4, 11, HoleReason::Overflow, 9, &clock, &mut out).expect("all taken");
    tape.gap(4, 14, HoleReason::Overflow, 9, &clock, &mut out).expect("half taken");
    tape.gap(20, 21, HoleReason::TapFull, 9, &clock, &mut out).expect("beyond");
    tape.close(30, 9, &clock, &mut out).expect("beyond");
    assert_tiles(&out, 0, 30);
    let holes: Vec<_> =
        out[1..].iter().map(|r| (r.from, r.to, texts(std::slice::from_ref(r))[0].0.clone())).collect();
    assert_eq!(
        holes,
        [
            (11, 14, "<overflow>".into()),
            (14, 20, "<missing>".into()),
            (20, 21, "<gap_tap_full>".into()),
            (21, 30, "<missing>".into())
        ]
    );
}

#[test]
fn what_another_collector_has_is_not_lost_on_the_way() {
    let (mut tape, clock, mut out) = (Tape::default(), Clock::default(), Vec::new());
    tape.acknowledged(10);
    tape.acknowledged(6);
    tape.gap(0, 4, HoleReason::Overflow, 9, &clock, &mut out).expect("at the beginning");
    tape.gap(4, 14, HoleReason::Overflow, 9, &clock, &mut out).expect("over both");
    tape.acknowledged(14);
    tape.acknowledged(u64::MAX);
    tape.data(16, Bytes::from_static(b"a\n"), AT, &clock, &mut out).expect("beyond");
    assert_tiles(&out, 0, 18);
    let said: Vec<_> = out.iter().map(|r| (r.to, texts(std::slice::from_ref(r))[0].0.clone())).collect();
    let lost = "<journal_lost>".to_owned();
    assert_eq!(
        said,
        [(4, lost.clone()), (10, lost.clone()), (14, "<overflow>".into()), (16, lost), (18, "a".into())]
    );
}

#[test]
fn a_damaged_spool_file_is_why_what_follows_it_is_missing() {
    let (mut tape, clock, mut out) = (Tape::default(), Clock::default(), Vec::new());
    tape.expect_loss(HoleReason::SpoolCorrupt);
    tape.data(0, Bytes::from_static(b"a\n"), AT, &clock, &mut out).expect("in order");
    tape.gap(2, 5, HoleReason::SpoolLost, 9, &clock, &mut out).expect("claimed");
    tape.gap(5, 7, HoleReason::SpoolLost, 9, &clock, &mut out).expect("claimed");
    tape.close(9, 9, &clock, &mut out).expect("at the end");
    let said: Vec<_> = texts(&out).into_iter().map(|(text, _)| text).collect();
    assert_eq!(said, ["a", "<spool_corrupt>", "<spool_lost>", "<missing>"], "once: then it has shown");
}

#[test]
fn what_cannot_be_true_changes_nothing() {
    let (mut tape, clock, mut out) = (Tape::default(), Clock::default(), Vec::new());
    let bytes = Bytes::from_static(b"abc");
    let range = tape.data(u64::MAX - 1, bytes.clone(), AT, &clock, &mut out);
    assert_eq!(range, Err(TapeFault::Range { from: u64::MAX - 1, to: u64::MAX }));
    assert_eq!(
        tape.gap(5, 4, HoleReason::Overflow, 9, &clock, &mut out),
        Err(TapeFault::Range { from: 5, to: 4 })
    );
    assert_eq!(tape.next(), 0);
    tape.data(0, bytes.clone(), AT, &clock, &mut out).expect("in order");
    assert_eq!(tape.close(2, 9, &clock, &mut out), Err(TapeFault::EndMoved { end: 2, taken: 3 }));
    tape.close(3, 9, &clock, &mut out).expect("right");
    tape.close(3, 9, &clock, &mut out).expect("again is allowed: the connection may have broken");
    assert_eq!(tape.close(4, 9, &clock, &mut out), Err(TapeFault::EndMoved { end: 4, taken: 3 }));
    assert_eq!(tape.data(1, bytes, AT, &clock, &mut out), Err(TapeFault::BehindEnd { to: 4, end: 3 }));
    assert_eq!(texts(&out), [("abc".into(), Flags::UNTERMINATED)]);
}

/// Bytes in which line ends are frequent.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"ab\r\n\xff".to_vec()), 0..200)
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_records(bytes in stream(), cuts in prop::collection::vec(0usize..200, 0..20)) {
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.push(0);
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let whole = feed(&[&bytes], true);
        prop_assert_eq!(&feed(&chunks, true), &whole);
        assert_tiles(&whole, 0, bytes.len() as u64);
        // Joined again with their ends, the records are the stream.
        let mut joined = Vec::new();
        for record in &whole {
            let raw = &bytes[record.from as usize..record.to as usize];
            let Body::Line(message) = &record.body else { unreachable!("nothing is missing") };
            prop_assert!(raw.starts_with(message));
            let end = &raw[message.len()..];
            prop_assert!(matches!(end, b"" | b"\n" | b"\r\n"));
            prop_assert!(!message.ends_with(b"\r") || end != b"\n");
            joined.extend_from_slice(raw);
        }
        prop_assert_eq!(joined, bytes);
    }

    /// Messages of a wrapper that reconnects at will, against a model that knows for each byte what became of it.
    #[test]
    fn the_tape_agrees_with_a_model(
        steps in prop::collection::vec((0u64..60, 0u64..20, prop::bool::ANY), 1..40),
    ) {
        let source: Vec<u8> = (0..100u8).map(|i| if i % 7 == 6 { b'\n' } else { b'a' + i % 26 }).collect();
        let (mut tape, clock, mut out) = (Tape::default(), Clock::default(), Vec::new());
        let mut model: u64 = 0;
        let (mut taken, mut repeated) = (0, 0);
        for (from, len, is_gap) in steps {
            let to = from + len;
            let next = model;
            if is_gap {
                tape.gap(from, to, HoleReason::Overflow, 5, &clock, &mut out).expect("a proper range");
            } else {
                let bytes = Bytes::copy_from_slice(&source[from as usize..to as usize]);
                let got = tape.data(from, bytes, AT, &clock, &mut out).expect("a proper range");
                taken += got.bytes;
                repeated += got.repeated;
                prop_assert_eq!(got.bytes, to.saturating_sub(next.max(from)));
                prop_assert_eq!(got.bytes + got.repeated, len);
            }
            if to > next { model = to; }
            prop_assert_eq!(tape.next(), model);
        }
        let end = model + 3;
        tape.close(end, 9, &clock, &mut out).expect("beyond");
        assert_tiles(&out, 0, end);
        let (mut lines, mut holes) = (0, 0);
        for record in &out {
            let len = record.to - record.from;
            match &record.body {
                Body::Line(message) => {
                    lines += len;
                    let raw = &source[record.from as usize..record.to as usize];
                    prop_assert_eq!(&message[..], raw.strip_suffix(b"\n").unwrap_or(raw));
                }
                Body::Hole(_) => holes += len,
            }
        }
        prop_assert_eq!(lines, taken);
        prop_assert_eq!(lines + holes, end);
        let _ = repeated;
    }
}
