//! How far a sink is: what was given to it, and what of that it has not acknowledged.
//!
//! The first number that is not acknowledged and the acknowledged ones behind it are all there is to it; kept the other
//! way round, as what is *not* acknowledged, because that are few. It is written now and then: after a death a sink
//! gets again what it had since, under the same ids.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use shimtap_proto::ttrpc::wire::{Value, fields, put_len, put_number};

use super::format::Row;
use crate::{closed::Counts, event::HoleReason, sinks::Settle};

/// A sink's place in the journal. Shared by its reader and by every batch that is on its way.
#[derive(Debug)]
pub struct Cursor {
    path: Option<PathBuf>,
    state: Mutex<Place>,
    changed: AtomicBool,
    /// What has to be done before it is written.
    first: OnceLock<Arc<dyn Settle>>,
    /// Bytes that were gone before the sink came to them, since this process began.
    pub(super) lost: Counts<HoleReason>,
}

/// Where a sink is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Everything below was given.
    pub(super) given: u64,
    /// What was given and is not acknowledged, by its number.
    pub(super) open: BTreeMap<u64, Open>,
    /// Per stream, where what was given of it ends.
    pub(super) ends: HashMap<u32, u64>,
    /// Streams with a number below this began before the sink did: nothing was promised of their beginning.
    pub(super) born: u32,
    /// Raw bytes of output up to what was given.
    pub(super) output: u64,
    /// Per stream, from where to where a gap goes that the sink is told of, and has not acknowledged: `ends` is not behind it before.
    /// Not written: after a death it is found again.
    pub(super) missed: HashMap<u32, (u64, u64)>,
}

/// A batch that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// Its stream's number.
    pub(super) stream: u32,
    /// What it stands for.
    pub(super) from: u64,
    /// Where that ends.
    pub(super) to: u64,
    /// When it was appended, Unix ns.
    pub(super) time_ns: u64,
    /// How many batches of a sink have a part of it.
    pub(super) parts: u32,
}

/// How far the sinks of a folder have come, all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// Every entry that a sink was given has a smaller number.
    pub(super) next: u64,
    /// No stream that a sink was given has a larger number.
    pub(super) stream: u32,
    /// Raw bytes of output up to there.
    pub(super) output: u64,
}

const MAGIC: &[u8; 8] = b"shimtapc";
/// What names of cursors end with.
const SUFFIX: &str = "cursor";

mod field {
    pub(super) const GIVEN: u32 = 1;
    pub(super) const BORN: u32 = 2;
    pub(super) const OUTPUT: u32 = 3;
    pub(super) const OPEN: u32 = 4;
    pub(super) const END: u32 = 5;
}

// === impl Reached ===

impl Reached {
    /// What the cursors in `dir` say, those of sinks that are not configured any more among them. What cannot be read says
    /// nothing.
    pub(super) fn by_all(dir: &Path) -> Self {
        let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let cursors = paths.filter(|path| path.extension().is_some_and(|end| end == SUFFIX));
        cursors.filter_map(|path| Cursor::read(&path)).fold(Self::default(), |sum, place| {
            let open = place.open.values().map(|open| open.stream);
            Self {
                next: sum.next.max(place.given),
                stream: place.ends.keys().copied().chain(open).fold(sum.stream, u32::max),
                output: sum.output.max(place.output),
            }
        })
    }
}

// === impl Cursor ===

impl Cursor {
    /// Where the sink `name` keeps its place in `dir`.
    pub(super) fn path(dir: &Path, name: &str) -> PathBuf {
        dir.join(format!("{name}.{SUFFIX}"))
    }

    /// At `place`; written to `path`, if there is one.
    pub(super) fn new(path: Option<PathBuf>, place: Place) -> Self {
        let (state, changed) = (Mutex::new(place), AtomicBool::new(true));
        Self { path, state, changed, first: OnceLock::new(), lost: Counts::default() }
    }

    /// Before it is written, `settle` is asked, which may wait for a disk; where that is in doubt, nothing is written. The first one
    /// that is told holds.
    pub(super) fn settle_first(&self, settle: Arc<dyn Settle>) {
        let _ = self.first.set(settle);
    }

    /// Must something be done before it is written?
    pub(super) fn waits(&self) -> bool {
        self.first.get().is_some()
    }

    /// What `path` says; `None` where it says nothing that can be read.
    pub(super) fn read(path: &Path) -> Option<Place> {
        let bytes = fs::read(path).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (sum, body) = rest.split_first_chunk::<4>()?;
        (u32::from_le_bytes(*sum) == crc32fast::hash(body)).then(|| Place::decode(body))?
    }

    /// Is there anything at `path`, be it of no use? What cannot be looked at counts.
    pub(super) fn is_there(path: &Path) -> bool {
        !fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// A batch is given. The first one behind a gap that is not acknowledged stands for that as well: it lies below the end from here on,
    /// and would not be looked for any more.
    pub(super) fn give(&self, seq: u64, mut open: Open) {
        let mut state = self.state();
        if open.parts > 0
            && let Some((from, _)) = state.missed.remove(&open.stream)
        {
            open.from = from.min(open.from);
        }
        let end = state.ends.entry(open.stream).or_default();
        *end = open.to.max(*end);
        state.given = state.given.max(seq.saturating_add(1));
        if open.parts > 0 {
            state.open.insert(seq, open);
        } else {
            // A place that was read may name it, of which nothing is left to be acknowledged.
            state.open.remove(&seq);
        }
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Everything below `seq` was given or is of no concern; `output` is how much output that is.
    pub(super) fn reach(&self, seq: u64, output: u64) {
        let mut state = self.state();
        if state.given < seq || state.output < output {
            state.given = state.given.max(seq);
            state.output = state.output.max(output);
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// What there was of a stream between `from` and `to` is gone, and that is on its way to the sink.
    pub(super) fn miss(&self, stream: u32, from: u64, to: u64) {
        let mut state = self.state();
        let (_, end) = state.missed.entry(stream).or_insert((from, to));
        *end = to.max(*end);
    }

    /// What there was of a stream below `end` is gone, and the sink has acknowledged that it was told.
    pub(super) fn skip(&self, stream: u32, end: u64) {
        let mut state = self.state();
        let there = state.ends.entry(stream).or_default();
        *there = end.max(*there);
        if let Some((from, to)) = state.missed.remove(&stream)
            && end < to
        {
            state.missed.insert(stream, (end.max(from), to));
        }
        // What stood for it need not any more.
        for open in state.open.values_mut().filter(|open| open.stream == stream && open.to > end) {
            open.from = end.max(open.from);
        }
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Streams of which the sink has something that it has not acknowledged, some of them more than once.
    pub(super) fn in_hand(&self) -> Vec<u32> {
        let state = self.state();
        state.open.values().map(|open| open.stream).chain(state.missed.keys().copied()).collect()
    }

    /// The journal knows nothing of that stream any more: what was promised of it and not given is lost, and nobody is told.
    pub(super) fn forget(&self, row: &Row) {
        let promised = self.state().promised(row.id);
        self.lost.add(HoleReason::Retention, promised.map_or(0, |from| row.own_behind(from)));
    }

    /// A part of each of these was acknowledged: of all of them at once, for they are one line, which must not come again in part.
    pub(super) fn acknowledge(&self, seqs: &[u64]) {
        let mut state = self.state();
        for seq in seqs {
            if let Some(open) = state.open.get_mut(seq) {
                open.parts = open.parts.saturating_sub(1);
                if open.parts == 0 {
                    state.open.remove(seq);
                }
            }
        }
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Everything below was given.
    pub(super) fn given(&self) -> u64 {
        self.state().given
    }

    /// Raw bytes of output that are not acknowledged, of `output` in all; and when the oldest of them was appended, where
    /// any was given.
    pub(super) fn lag(&self, output: u64) -> (u64, Option<u64>) {
        let state = self.state();
        let open = state.open.values();
        let bytes = open.fold(0u64, |sum, open| sum.saturating_add(open.to.saturating_sub(open.from)));
        let oldest = state.open.values().next().map(|open| open.time_ns);
        (output.saturating_sub(state.output).saturating_add(bytes), oldest)
    }

    /// Writes it, where it has changed. Streams that `is_known` denies are left out.
    pub(super) fn write(&self, is_known: impl Fn(u32) -> bool) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        // Asked without our lock: who answers has the journal's, and others who have that want ours.
        let streams: Vec<u32> = self.state().ends.keys().copied().collect();
        let forgotten: HashSet<u32> = streams.into_iter().filter(|stream| !is_known(*stream)).collect();
        let body = {
            let mut state = self.state();
            state.ends.retain(|stream, _| !forgotten.contains(stream));
            state.encode()
        };
        // What it calls acknowledged was so by now; what is acknowledged meanwhile is for the next time.
        let settled = self.first.get().is_none_or(|first| first.settle());
        let put = if settled { put(path, &body) } else { Ok(()) };
        if !settled || put.is_err() {
            self.changed.store(true, Ordering::Relaxed);
        }
        put
    }

    fn state(&self) -> MutexGuard<'_, Place> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Place {
    /// From where on a stream is promised and was not given; `None` where nothing is.
    fn promised(&self, stream: u32) -> Option<u64> {
        self.ends.get(&stream).copied().or_else(|| (stream >= self.born).then_some(0))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, field::GIVEN, self.given);
        put_number(&mut out, field::BORN, u64::from(self.born));
        put_number(&mut out, field::OUTPUT, self.output);
        let mut item = Vec::new();
        for (seq, open) in &self.open {
            item.clear();
            put_number(&mut item, 1, *seq);
            put_number(&mut item, 2, u64::from(open.stream));
            put_number(&mut item, 3, open.from);
            put_number(&mut item, 4, open.to);
            put_number(&mut item, 5, open.time_ns);
            put_len(&mut out, field::OPEN, &item);
        }
        for (stream, end) in &self.ends {
            item.clear();
            put_number(&mut item, 1, u64::from(*stream));
            put_number(&mut item, 2, *end);
            put_len(&mut out, field::END, &item);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut place = Self::default();
        for field in fields(bytes) {
            let field = field.ok()?;
            match (field.number, field.value) {
                (field::GIVEN, Value::Varint(seq)) => place.given = seq,
                (field::BORN, Value::Varint(stream)) => place.born = u32::try_from(stream).ok()?,
                (field::OUTPUT, Value::Varint(output)) => place.output = output,
                (field::OPEN, Value::Len(item)) => {
                    let [seq, stream, from, to, time_ns] = numbers(item)?;
                    let stream = u32::try_from(stream).ok()?;
                    place.open.insert(seq, Open { stream, from, to, time_ns, parts: 1 });
                }
                (field::END, Value::Len(item)) => {
                    let [stream, end] = numbers(item)?;
                    place.ends.insert(u32::try_from(stream).ok()?, end);
                }
                _ => {}
            }
        }
        Some(place)
    }
}

/// Puts a place at `path`, whole or not at all, also by the word of a disk after a power cut: a file system may keep a name and
/// not what was written under it.
fn put(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    bytes.extend_from_slice(body);
    let fresh = path.with_extension("new");
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    io::Write::write_all(&mut &file, &bytes)?;
    file.sync_data()?;
    fs::rename(&fresh, path)
}

/// Fields 1 to `N`, all numbers.
fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    for field in fields(bytes) {
        let field = field.ok()?;
        let place = usize::try_from(field.number).ok()?.checked_sub(1).and_then(|at| numbers.get_mut(at));
        if let (Some(place), Value::Varint(number)) = (place, field.value) {
            *place = number;
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests;
