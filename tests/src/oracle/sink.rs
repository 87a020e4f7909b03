//! What the collector's file sink holds, as tapes: one per stream, each a row of pieces that tile it.
//!
//! Repeats are removed by record id, which is what a reader of an at-least-once file has to do: an id is the stream's name and
//! the first offset, and a record with another one is an error, so that what has one id starts at one byte. So are a repeat
//! that says something else, an overlap, and a hole that nobody admits.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A stream's durable name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    /// Container id.
    pub container: String,
    /// Which start of that id.
    pub incarnation: String,
    /// Exec id; empty = init.
    pub process: String,
    /// `stdout` or `stderr`.
    pub stream: String,
}

/// Part of a tape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A line, or a piece of one, without its end.
    Line(Vec<u8>),
    /// Bytes that the sink says it never got, with the reason.
    Gap(String),
}

/// A stream as the sink holds it: pieces by their first byte, with the byte behind their last.
#[derive(Debug, Clone, Default)]
pub struct Tape {
    pieces: BTreeMap<u64, (u64, Piece)>,
    /// Ranges of records that came where another one was, and said less.
    outdone: Vec<(u64, u64)>,
}

/// How a tape compares with what was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Bytes that are there, and right.
    pub delivered: u64,
    /// Bytes that the sink admits to miss, by reason.
    pub gaps: BTreeMap<String, u64>,
}

/// All streams of a sink.
pub type Tapes = BTreeMap<StreamKey, Tape>;

/// Reads the file at `path`, an unfinished last record left out. An absent file holds nothing.
pub fn sink(path: &Path) -> Result<Tapes> {
    match std::fs::read(path) {
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Ok(Tapes::new()),
        read => sink_text(&read.with_context(|| format!("read {}", path.display()))?),
    }
}

/// Reads records of the same form, wherever they were.
pub fn sink_text(bytes: &[u8]) -> Result<Tapes> {
    let mut tapes = Tapes::new();
    let records = bytes.split_inclusive(|byte| *byte == b'\n').filter(|record| record.ends_with(b"\n"));
    for (number, record) in records.enumerate() {
        let record: Value =
            serde_json::from_slice(record).with_context(|| format!("record {number} is no JSON"))?;
        take(&mut tapes, &record).with_context(|| format!("record {number}: {record}"))?;
    }
    Ok(tapes)
}

fn take(tapes: &mut Tapes, record: &Value) -> Result<()> {
    let text = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
    let key = StreamKey {
        container: text("container_id").context("it has no container_id")?,
        incarnation: text("incarnation").context("it has no incarnation")?,
        process: text("process").unwrap_or_default(),
        stream: text("stream").context("it has no stream")?,
    };
    let offset = |end: &str| record.pointer(&format!("/offset/{end}")).and_then(Value::as_u64);
    let (from, to) = (offset("from").context("no offset")?, offset("to").context("no offset")?);
    let id = text("id").context("it has no id")?;
    ensure!(
        super::otlp::key(&key.container, &id, from)? == key,
        "its id is not that of its stream and first byte"
    );
    let piece = if let Some(message) = text("message") {
        Piece::Line(message.into_bytes())
    } else if let Some(message) = text("message_base64") {
        Piece::Line(base64(&message).context("its base64 does not decode")?)
    } else if let Some(reason) = record.pointer("/gap/reason").and_then(Value::as_str) {
        Piece::Gap(reason.to_owned())
    } else {
        bail!("it is neither line nor gap");
    };
    put(tapes, key, from, to, piece)
}

/// Puts a piece where it belongs. A repeat must say the same, or less: a sink that had a line which a damaged journal has
/// lost is told of a gap there, or gets the beginning of the line again; one that had a gap is told of a longer one, or of as long a one
/// for another reason. What says more is kept, the other is remembered.
pub(super) fn put(tapes: &mut Tapes, key: StreamKey, from: u64, to: u64, piece: Piece) -> Result<()> {
    ensure!(from <= to, "its offsets run backwards");
    let tape = tapes.entry(key).or_default();
    // The id is the stream's name and the first offset (who calls has seen to it), so a repeat is what starts at the same byte.
    let Some(known) = tape.pieces.get_mut(&from) else {
        tape.pieces.insert(from, (to, piece));
        return Ok(());
    };
    if *known == (to, piece.clone()) {
        return Ok(());
    }
    if says_more((to, &piece), (known.0, &known.1)) {
        tape.outdone.push((from, known.0));
        *known = (to, piece);
    } else if says_more((known.0, &known.1), (to, &piece)) {
        tape.outdone.push((from, to));
    } else {
        bail!("it repeats {known:?} with other content");
    }
    Ok(())
}

/// As much at least, of two that begin at one byte, each with the byte behind it.
fn says_more(one: (u64, &Piece), other: (u64, &Piece)) -> bool {
    match (one.1, other.1) {
        (Piece::Line(_), Piece::Gap(_)) => true,
        (Piece::Line(one), Piece::Line(other)) => one.starts_with(other),
        (Piece::Gap(_), Piece::Gap(_)) => one.0 >= other.0,
        (Piece::Gap(_), Piece::Line(_)) => false,
    }
}

impl Tape {
    /// The byte behind the last one.
    pub fn end(&self) -> u64 {
        self.pieces.values().next_back().map_or(0, |(to, _)| *to)
    }

    /// Its pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.values().map(|(_, piece)| piece)
    }

    /// Its pieces, each with its first byte and the byte behind its last.
    pub fn spans(&self) -> impl Iterator<Item = (u64, u64, &Piece)> {
        self.pieces.iter().map(|(from, (to, piece))| (*from, *to, piece))
    }

    /// Ranges of records that came where another one was, and said less: gaps for what is there, beginnings of lines. There
    /// are none unless a journal was damaged.
    pub fn outdone(&self) -> &[(u64, u64)] {
        &self.outdone
    }

    /// How many lines, or pieces of lines, are in it.
    pub fn lines(&self) -> usize {
        self.pieces.values().filter(|(_, piece)| matches!(piece, Piece::Line(_))).count()
    }

    /// Holds it against what was `written`: every byte up to the tape's end must be there and right, or be
    /// part of a gap; only ends of lines are left out of messages.
    pub fn judge(&self, written: &[u8]) -> Result<Judgement> {
        let mut judgement = Judgement::default();
        let mut next = 0;
        ensure!(self.outdone.is_empty(), "records were repeated with other content: {:?}", self.outdone);
        for (from, (to, piece)) in &self.pieces {
            ensure!(*from == next, "a hole or an overlap: byte {next} is followed by byte {from}");
            let range = usize::try_from(*from)?..usize::try_from(*to)?;
            let truth = written.get(range).with_context(|| format!("[{from}, {to}) was never written"))?;
            match piece {
                Piece::Line(message) => {
                    let rest = truth.strip_prefix(message.as_slice());
                    ensure!(
                        matches!(rest, Some(b"" | b"\n" | b"\r\n")),
                        "at byte {from} the sink holds {:?}, written was {:?}",
                        String::from_utf8_lossy(message),
                        String::from_utf8_lossy(truth)
                    );
                    judgement.delivered += to - from;
                }
                Piece::Gap(reason) => *judgement.gaps.entry(reason.clone()).or_default() += to - from,
            }
            next = *to;
        }
        Ok(judgement)
    }
}

/// From pieces by their first byte, with the byte behind their last.
impl FromIterator<(u64, (u64, Piece))> for Tape {
    fn from_iter<I: IntoIterator<Item = (u64, (u64, Piece))>>(pieces: I) -> Self {
        Self { pieces: pieces.into_iter().collect(), outdone: Vec::new() }
    }
}

impl Judgement {
    /// Bytes that are accounted for, delivered or admitted as missing.
    pub fn accounted(&self) -> u64 {
        self.delivered + self.gaps.values().sum::<u64>()
    }
}

/// The one stream of `container` and `stream`; an error where there are several starts of it, or none yet.
pub fn one_tape<'a>(tapes: &'a Tapes, container: &str, stream: &str) -> Result<Option<&'a Tape>> {
    let mut of_it = tapes.iter().filter(|(key, _)| key.container == container && key.stream == stream);
    let first = of_it.next();
    if let Some((second, _)) = of_it.next() {
        bail!("{container} has more than one {stream}: {second:?}");
    }
    Ok(first.map(|(_, tape)| tape))
}

/// RFC 4648 with padding; the rig needs no more of it than this.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let mut word = 0_u32;
        let mut digits = 0;
        for symbol in group {
            let digit = match symbol {
                b'A'..=b'Z' => symbol - b'A',
                b'a'..=b'z' => symbol - b'a' + 26,
                b'0'..=b'9' => symbol - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' => continue,
                _ => return None,
            };
            word = (word << 6) | u32::from(digit);
            digits += 1;
        }
        let whole = (word << (6 * (4 - digits))).to_be_bytes();
        bytes.extend_from_slice(whole.get(1..digits)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(from: u64, to: u64, rest: &str) -> Value {
        let text = format!(
            r#"{{"container_id":"c","incarnation":"1","process":"","stream":"stdout",
                "offset":{{"from":{from},"to":{to}}},"id":"1-stdout-{from}",{rest}}}"#
        );
        serde_json::from_str(&text).expect("it is JSON")
    }

    fn tape(records: &[Value]) -> Result<Tape> {
        let mut tapes = Tapes::new();
        for record in records {
            take(&mut tapes, record)?;
        }
        one_tape(&tapes, "c", "stdout")?.cloned().context("no tape")
    }

    #[test]
    fn lines_gaps_and_repeats_tile_a_tape() {
        let line = record(0, 3, r#""message":"ab""#);
        let gap = record(3, 5, r#""gap":{"from":3,"to":5,"bytes":2,"reason":"overflow"}"#);
        let tail = record(5, 7, r#""message_base64":"/w8=""#);
        let tape = tape(&[gap, line.clone(), tail, line]).expect("they tile");
        let judged = tape.judge(b"ab\n..\xff\x0f").expect("they are right");
        assert_eq!((judged.delivered, judged.gaps.get("overflow")), (5, Some(&2)));
        assert_eq!((judged.accounted(), tape.end()), (7, 7));
    }

    #[test]
    fn who_removes_repeats_by_their_ids_removes_nothing_else() {
        let line = record(3, 5, r#""message":"ab""#);
        let with = |id: &str| {
            let mut other = line.clone();
            other["id"] = id.into();
            tape(&[line.clone(), other])
        };
        assert!(with("1-stdout-3").is_ok());
        for id in ["", "1-stdout-0", "1-stderr-3", "2-stdout-3", "1-exec-stdout-3", "3"] {
            assert!(with(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_wrong_byte_a_hole_and_an_overlap_are_found() {
        let good = record(0, 3, r#""message":"ab""#);
        let judge = |records: &[Value]| tape(records).and_then(|tape| tape.judge(b"ab\ncd\n"));
        assert!(judge(std::slice::from_ref(&good)).is_ok());
        assert!(judge(&[record(0, 3, r#""message":"aX""#)]).is_err());
        assert!(judge(&[good.clone(), record(4, 6, r#""message":"d""#)]).is_err(), "a hole");
        assert!(judge(&[good.clone(), record(2, 6, r#""message":"\ncd""#)]).is_err(), "an overlap");
        assert!(judge(&[good.clone(), record(3, 9, r#""message":"cd""#)]).is_err(), "never written");
        assert!(judge(&[good.clone(), record(0, 2, r#""message":"a""#)]).is_err(), "a repeat that says less");
        assert!(tape(&[good, record(0, 2, r#""message":"b""#)]).is_err(), "a repeat that differs");
        let gap = |to, reason: &str| {
            let gap = format!(r#""gap":{{"from":3,"to":{to},"bytes":{},"reason":"{reason}"}}"#, to - 3);
            record(3, to, &gap)
        };
        let (first, second) = (gap(5, "spool_lost"), gap(9, "journal_lost"));
        for both in [[first.clone(), second.clone()], [second, first.clone()]] {
            let tape = tape(&both).expect("a damaged journal says so");
            assert_eq!((tape.end(), tape.outdone()), (9, [(3, 5)].as_slice()), "the longer one");
        }
        assert!(judge(&[first, gap(5, "journal_lost")]).is_err(), "nobody has damaged a journal here");
    }

    #[test]
    fn base64_decodes_all_lengths() {
        assert_eq!(base64("").as_deref(), Some(&b""[..]));
        assert_eq!(base64("Zg==").as_deref(), Some(&b"f"[..]));
        assert_eq!(base64("Zm8=").as_deref(), Some(&b"fo"[..]));
        assert_eq!(base64("Zm9v").as_deref(), Some(&b"foo"[..]));
        assert_eq!(base64("!!!!"), None);
    }
}
