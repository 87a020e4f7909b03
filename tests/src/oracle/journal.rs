//! The journal's files, read by what docs/journal.md says of them and by nothing of the collector.
//!
//! Everything that can be read is read, in the order in which it was appended. What cannot be is named and never guessed:
//! whether damage may be there is for the caller to say, who knows what he did. A record that overlaps the one before it is
//! an error at once: the journal holds nothing twice.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;

use super::sink::{Piece, StreamKey, Tape};

/// Everything that a folder of the journal holds.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Streams, ended ones as well, by their names.
    pub streams: BTreeMap<StreamKey, Kept>,
    /// What streams had that the table has forgotten, by output.
    pub forgotten: BTreeMap<String, Sums>,
    /// Files whose frames end before the file does, with why; the newest one's torn end is among them.
    pub damaged: Vec<(PathBuf, String)>,
    /// Files that the collector has put aside.
    pub aside: Vec<PathBuf>,
    /// The last frame says that the collector ended in order.
    pub clean: bool,
    /// Files that were read.
    pub parts: Vec<PathBuf>,
    /// Holes of reason `moved`: so often a stream went on in here that another head had until then.
    pub moves: u64,
    /// Streams whose sums in a header are not those of the records before it: right only where files were dropped,
    /// rewritten or damaged.
    pub unlike: Vec<String>,
}

/// What is kept of one stream.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The container's name for people.
    pub name: String,
    /// What the table says: of every record that was ever appended.
    pub sums: Sums,
    /// Every byte below is in a record, says the table.
    pub end: u64,
    /// How it ended, if it has.
    pub ending: Option<String>,
    /// Its records, as they were appended.
    pub records: Vec<Record>,
}

/// What the table counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Raw bytes of lines.
    pub bytes: u64,
    /// Lines, unfinished pieces not counted.
    pub lines: u64,
    /// Bytes and number of holes, by reason.
    pub holes: BTreeMap<String, (u64, u64)>,
    /// Lines in holes that say how many, by reason.
    pub lines_in_holes: BTreeMap<String, u64>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its first byte.
    pub from: u64,
    /// The byte behind its last.
    pub to: u64,
    /// Unix ns.
    pub time_ns: u64,
    /// A line or a hole.
    pub piece: Piece,
    /// Of a hole that says so: how many lines begin in it.
    pub lines: Option<u64>,
}

/// Field numbers are those of docs/journal.md.
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    first: u64,
    #[prost(message, repeated, tag = "5")]
    rows: Vec<Row>,
    #[prost(message, repeated, tag = "6")]
    forgotten: Vec<Row>,
}

#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(string, tag = "3")]
    container: String,
    #[prost(uint64, tag = "4")]
    incarnation: u64,
    #[prost(string, tag = "5")]
    process: String,
    #[prost(string, tag = "6")]
    output: String,
    #[prost(message, optional, tag = "7")]
    names: Option<Names>,
    #[prost(uint64, tag = "8")]
    end: u64,
    #[prost(uint64, tag = "9")]
    within: u64,
    #[prost(uint64, tag = "12")]
    lines: u64,
    #[prost(uint64, tag = "13")]
    bytes: u64,
    #[prost(message, repeated, tag = "14")]
    holes: Vec<Hole>,
    #[prost(string, tag = "15")]
    ending: String,
}

#[derive(Clone, PartialEq, Message)]
struct Names {
    #[prost(string, tag = "8")]
    container: String,
}

#[derive(Clone, PartialEq, Message)]
struct Hole {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(uint64, tag = "2")]
    bytes: u64,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(uint64, optional, tag = "4")]
    lines: Option<u64>,
}

/// What is known while parts are read.
#[derive(Default)]
struct Reading {
    /// By the stream's number, with whether its last line is unfinished.
    streams: BTreeMap<u32, (StreamKey, Kept, bool)>,
    next: u64,
    clean: bool,
    unlike: Vec<String>,
}

/// A slice that is read from its front.
struct Bites<'a>(&'a [u8]);

/// The magic, the version, checksum and the two lengths of a header.
const HEADER: usize = 24;
/// Of a frame: magic, checksum, two lengths, kind, stream, and four numbers.
const FRAME: usize = 56;
const PARTIAL: u8 = 1;
const FRAGMENT: u8 = 16;
const HOLE: u8 = 0x80;
const LINES_SAID: u8 = 0x20;
/// The reason of a hole that stands for what another head of the journal has.
const MOVED: &str = "moved";

/// Reads the journal in `dir`. It may be written meanwhile: what is not whole yet shows as damage of the newest file.
pub fn journal(dir: &Path) -> Result<Journal> {
    let mut found = Journal::default();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
        match path.extension().and_then(|end| end.to_str()) {
            Some("sj") => found.parts.push(path),
            Some("damaged") => found.aside.push(path),
            _ => {}
        }
    }
    found.parts.sort();
    let mut reading = Reading::default();
    for path in &found.parts {
        let damage = match fs::read(path) {
            Ok(bytes) => {
                let read = reading.part(&bytes, &mut found.forgotten);
                read.with_context(|| format!("in {}", path.display()))?
            }
            // Retention took it since the folder was listed.
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => continue,
            Err(fault) => return Err(fault).with_context(|| format!("read {}", path.display())),
        };
        found.damaged.extend(damage.map(|why| (path.clone(), why)));
    }
    (found.clean, found.unlike) = (reading.clean, reading.unlike);
    let records = reading.streams.values().flat_map(|(_, kept, _)| &kept.records);
    found.moves = u64::try_from(records.filter(|record| record.is_moved()).count())?;
    found.streams = reading.streams.into_values().map(|(key, kept, _)| (key, kept)).collect();
    Ok(found)
}

// === impl Reading ===

impl Reading {
    /// Reads one file; gives why its frames end before it does.
    fn part(&mut self, bytes: &[u8], forgotten: &mut BTreeMap<String, Sums>) -> Result<Option<String>> {
        let mut bites = Bites(bytes);
        let (Some(head), true) = (bites.array::<HEADER>(), bytes.starts_with(b"shimtapj")) else {
            return Ok(Some("its header is torn".to_owned()));
        };
        ensure!((1..=2).contains(&word(&head, 8)), "version {} is unknown", word(&head, 8));
        let Some(body) = bites.take(len(word(&head, 16))?) else {
            return Ok(Some("its header is torn".to_owned()));
        };
        let whole = [head.get(16..).unwrap_or_default(), body].concat();
        if crc32fast::hash(&whole) != word(&head, 12) {
            return Ok(Some("its header's checksum does not match".to_owned()));
        }
        let body = lz4_flex::block::decompress(body, len(word(&head, 20))?).context("unpack the header")?;
        let header = Header::decode(body.as_slice()).context("read the header")?;
        self.table(&header)?;
        *forgotten = header.forgotten.iter().map(|row| (row.output.clone(), row.sums())).collect();
        self.clean = false;
        while !bites.0.is_empty() {
            match self.frame(&mut bites)? {
                None => {}
                damage => return Ok(damage),
            }
        }
        Ok(None)
    }

    /// Takes the table of a header.
    fn table(&mut self, header: &Header) -> Result<()> {
        ensure!(header.first >= self.next, "it begins at {}, below {}", header.first, self.next);
        for row in &header.rows {
            let mut fresh = row.kept();
            if let Some((key, kept, _)) = self.streams.remove(&row.number) {
                if (kept.end, &kept.sums, &kept.ending) != (fresh.end, &fresh.sums, &fresh.ending) {
                    self.unlike.push(format!(
                        "{key:?}: {} {:?} {:?} before, then {} {:?} {:?}",
                        kept.end, kept.sums, kept.ending, fresh.end, fresh.sums, fresh.ending
                    ));
                }
                fresh.records = kept.records;
            } else if fresh.end > 0 {
                self.unlike.push(format!("{:?} begins at {}", row.key(), fresh.end));
            }
            self.streams.insert(row.number, (row.key(), fresh, row.within > 0));
        }
        Ok(())
    }

    /// Reads the next frame; gives what is wrong with it.
    fn frame(&mut self, bites: &mut Bites<'_>) -> Result<Option<String>> {
        let damage = |why: &str| Ok(Some(why.to_owned()));
        let Some(head) = bites.array::<FRAME>() else { return damage("it ends within a frame's head") };
        if !head.starts_with(b"sjf1") {
            return damage("what should be a frame is none");
        }
        let Some(stored) = bites.take(len(word(&head, 8))?) else {
            return damage("it ends within a frame");
        };
        let whole = [head.get(8..).unwrap_or_default(), stored].concat();
        if crc32fast::hash(&whole) != word(&head, 4) {
            return damage("a frame's checksum does not match");
        }
        let raw = len(word(&head, 12))?;
        let payload = if raw == stored.len() {
            stored.to_vec()
        } else {
            lz4_flex::block::decompress(stored, raw).context("unpack a frame")?
        };
        let (first, next) = (long(&head, 24), long(&head, 32));
        ensure!(first >= self.next, "a frame begins at entry {first}, {} was expected", self.next);
        self.clean = head.get(16) == Some(&2);
        let mut entries = Bites(&payload);
        let mut number = first;
        while !entries.0.is_empty() {
            self.entry(&mut entries, &mut number)?;
        }
        ensure!(number <= next, "a frame's entries go to {number}, its head says {next}");
        self.next = next;
        Ok(None)
    }

    fn entry(&mut self, bites: &mut Bites<'_>, number: &mut u64) -> Result<()> {
        let tag = bites.byte()?;
        if tag == 1 {
            let row = Row::decode(bites.counted()?).context("read a stream")?;
            // A stream that was taken for new is one whose announcement a file lost: what it had is there already.
            self.streams.entry(row.number).or_insert_with(|| (row.key(), row.kept(), row.within > 0));
            return Ok(());
        }
        ensure!(tag == 2 || tag == 3, "entry {tag} is none");
        *number += bites.varint()? + 1;
        let stream = u32::try_from(bites.varint()?).context("a stream's number")?;
        let ending = if tag == 3 { Some(bites.text()?) } else { None };
        let count = bites.varint()?;
        let known = self.streams.get_mut(&stream);
        let (key, kept, within) = known.with_context(|| format!("stream {stream} was not announced"))?;
        let (mut from, mut time_ns) = if count == 0 { (0, 0) } else { (bites.varint()?, bites.varint()?) };
        for _ in 0..count {
            let record = bites.record(from, time_ns)?;
            (from, time_ns) = (record.1.to, record.1.time_ns);
            kept.add(record, within).with_context(|| format!("{key:?}"))?;
        }
        if count > 0 || ending.is_some() {
            kept.ending.clone_from(&ending);
        }
        if ending.is_some() && std::mem::take(within) {
            kept.sums.lines += 1;
        }
        Ok(())
    }
}

// === impl Row ===

impl Row {
    fn key(&self) -> StreamKey {
        StreamKey {
            container: self.container.clone(),
            incarnation: format!("{:016x}", self.incarnation),
            process: self.process.clone(),
            stream: self.output.clone(),
        }
    }

    fn sums(&self) -> Sums {
        let holes = self.holes.iter().map(|hole| (hole.reason.clone(), (hole.bytes, hole.number)));
        let said = self.holes.iter().filter_map(|hole| Some((hole.reason.clone(), hole.lines?)));
        Sums { bytes: self.bytes, lines: self.lines, holes: holes.collect(), lines_in_holes: said.collect() }
    }

    fn kept(&self) -> Kept {
        Kept {
            name: self.names.as_ref().map(|names| names.container.clone()).unwrap_or_default(),
            sums: self.sums(),
            end: self.end,
            ending: (!self.ending.is_empty()).then(|| self.ending.clone()),
            records: Vec::new(),
        }
    }
}

// === impl Record ===

impl Record {
    /// True where it stands for what another head has.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        self.piece == Piece::Gap(MOVED.to_owned())
    }
}

// === impl Kept ===

impl Kept {
    fn add(&mut self, (flags, record): (u8, Record), within: &mut bool) -> Result<()> {
        ensure!(
            record.from == self.end,
            "a record begins at byte {}, the one before it ended at {}",
            record.from,
            self.end
        );
        let raw = record.to - record.from;
        self.end = record.to;
        match &record.piece {
            Piece::Line(_) => {
                self.sums.bytes += raw;
                *within = flags & FRAGMENT != 0;
                if flags & (FRAGMENT | PARTIAL) == 0 {
                    self.sums.lines += 1;
                }
            }
            // What another head has is in no sum of this one.
            Piece::Gap(reason) if reason == MOVED => *within = false,
            Piece::Gap(reason) => {
                let (bytes, number) = self.sums.holes.entry(reason.clone()).or_default();
                (*bytes, *number) = (*bytes + raw, *number + 1);
                if let Some(lines) = record.lines {
                    *self.sums.lines_in_holes.entry(reason.clone()).or_default() += lines;
                }
                *within = false;
            }
        }
        self.records.push(record);
        Ok(())
    }

    /// Its records as a tape; they may begin late, and have gaps where files were dropped or damaged.
    #[must_use]
    pub fn tape(&self) -> Tape {
        let pieces = self.records.iter();
        pieces.map(|record| (record.from, (record.to, record.piece.clone()))).collect()
    }

    /// Bytes below its end that no record is there for any more.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let held: u64 = self.records.iter().map(|record| record.to - record.from).sum();
        self.end.saturating_sub(held)
    }
}

// === impl Bites ===

impl<'a> Bites<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte).context("a payload ends early")
    }

    fn varint(&mut self) -> Result<u64> {
        prost::encoding::decode_varint(&mut self.0).context("read a number")
    }

    /// Bytes behind their length.
    fn counted(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.varint()?).context("a length")?;
        self.take(length).context("a payload ends early")
    }

    fn text(&mut self) -> Result<String> {
        Ok(std::str::from_utf8(self.counted()?).context("a text")?.to_owned())
    }

    /// A record behind `from`, with its flags.
    fn record(&mut self, from: u64, before_ns: u64) -> Result<(u8, Record)> {
        let first = self.byte()?;
        let time_ns = before_ns + self.varint()?;
        let mut lines = None;
        let (raw, piece) = if first & HOLE == 0 {
            let length = self.varint()?;
            let raw = match (first >> 5) & 3 {
                3 => self.varint()?,
                end => length + u64::from(end),
            };
            let message = self.take(usize::try_from(length)?).context("a payload ends early")?;
            (raw, Piece::Line(message.to_vec()))
        } else {
            let hole = (self.varint()?, Piece::Gap(self.text()?));
            if first & LINES_SAID != 0 {
                lines = Some(self.varint()?);
            }
            hole
        };
        let Some(to) = from.checked_add(raw) else { bail!("a record of {raw} bytes") };
        Ok((first, Record { from, to, time_ns, piece, lines }))
    }
}

/// The word at `at` of a head that is long enough.
fn word(head: &[u8], at: usize) -> u32 {
    let four = head.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_le_bytes(*four))
}

fn long(head: &[u8], at: usize) -> u64 {
    u64::from(word(head, at)) | (u64::from(word(head, at + 4)) << 32)
}

fn len(word: u32) -> Result<usize> {
    usize::try_from(word).context("a length")
}
