//! What has to go when the journal is full, its disk is, or output is too old.
//!
//! Whole files go from the old end. Before that the largest consumer pays: as long as one container holds more than a
//! quarter while others have something to keep, its oldest output goes and theirs stays, for which a file is rewritten
//! without it. Nobody's place is asked: a reader that had not come so far finds out and says so. What a stream's
//! position is, is in the table and never dropped.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::{
    statfs::{TMPFS_MAGIC, statfs},
    statvfs::statvfs,
};

use super::{
    Journal, JournalFault, State,
    format::header::VERSION,
    part::Part,
    rewrite::{Plan, Rewritten, rewrite},
};
use crate::metrics::DropReason;

/// Kept even where the disk's reserve is used up: this much more does not matter to a disk, and without it nothing
/// could be delivered.
const FLOOR: u64 = 4 << 20;
/// A file is closed when its oldest output has this share of the age that output may reach.
const AGE_STEPS: u32 = 8;
/// A container that holds more than one part in so many pays before others do.
const SHARES: u64 = 4;

/// How long the room that others leave on the disk is taken for what it was: they need longer to write a share of the reserve that
/// matters.
const LOOK: Duration = Duration::from_millis(100);

/// The room that others last left, and when that was; `None` where the system did not say.
pub(super) type Looked = Option<(Instant, Option<u64>)>;

/// What goes next.
enum Victim {
    /// The newest file has to be closed first.
    Newest,
    /// The oldest file.
    Oldest,
    /// These streams, of file number so and so.
    Streams(usize, HashSet<u32>),
}

impl Journal {
    /// Drops what has to go. Called by the writer between frames.
    pub(super) fn retain(&self, now_ns: u64) -> Result<(), JournalFault> {
        self.drop_old(now_ns)?;
        let budget = self.budget();
        let reason = if budget < self.config.max_bytes { DropReason::DiskReserve } else { DropReason::Size };
        while self.size() > budget {
            let victim = self.victim();
            match victim {
                Some(Victim::Newest) => self.begin_part()?,
                Some(Victim::Oldest) => self.drop_oldest(reason)?,
                Some(Victim::Streams(at, streams)) => self.drop_streams(at, &streams, reason)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Drops the oldest file, if there is one that is not appended to; true where that was so.
    pub(super) fn make_room(&self) -> bool {
        let several = self.state().parts.len() > 1;
        several && self.drop_oldest(DropReason::DiskReserve).is_ok()
    }

    /// Bytes that the journal may have, as configured.
    pub fn max_bytes(&self) -> u64 {
        self.config.max_bytes
    }

    /// Bytes that the journal may have now: as configured, or what the disk's reserve leaves.
    pub fn budget(&self) -> u64 {
        let most = self.config.max_bytes;
        self.room().map_or(most, |room| room.max(FLOOR).min(most))
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        self.state().parts.iter().fold(0, |sum, part| sum.saturating_add(part.size))
    }

    fn drop_old(&self, now_ns: u64) -> Result<(), JournalFault> {
        let before = |age: Duration| now_ns.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        let (oldest, step) = (before(self.config.max_age), before(self.config.max_age / AGE_STEPS));
        let newest_is_old = {
            let state = self.state();
            state.parts.back().is_some_and(|part| part.has_entries() && part.oldest_ns < step)
        };
        if newest_is_old {
            self.begin_part()?;
        }
        let is_old = || {
            let state = self.state();
            state.parts.len() > 1 && state.parts.front().is_some_and(|part| part.newest_ns < oldest)
        };
        while is_old() {
            self.drop_oldest(DropReason::Age)?;
        }
        Ok(())
    }

    /// Bytes that the journal may have without touching the disk's reserve; `None` where the system does not say. What the journal
    /// itself writes or drops does not change that, so it is looked at anew for the sake of others' bytes only.
    fn room(&self) -> Option<u64> {
        let looked = || self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let last = *looked();
        if let Some((_, room)) = last.filter(|(at, _)| at.elapsed() < LOOK) {
            return room;
        }
        // Without the lock: a disk may hang.
        let room = self.look_for_room();
        *looked() = Some((Instant::now(), room));
        room
    }

    fn look_for_room(&self) -> Option<u64> {
        let system = statvfs(self.dir()).ok()?;
        let block = system.fragment_size();
        let bytes = |blocks: u64| blocks.saturating_mul(block);
        let share = (bytes(system.blocks()) / 100).saturating_mul(self.config.reserve_percent);
        let reserve = if self.is_in_memory() { share } else { share.max(self.config.reserve_bytes) };
        Some(bytes(system.blocks_available()).saturating_add(self.size()).saturating_sub(reserve))
    }

    /// Does it lie on a tmpfs, where nothing outlives a power cut?
    pub(super) fn is_in_memory(&self) -> bool {
        let looked = || statfs(self.dir()).ok().map(|system| system.filesystem_type() == TMPFS_MAGIC);
        // Its files are open: it stays where it is as long as we run.
        match self.in_memory.get() {
            Some(known) => *known,
            None => looked().is_some_and(|found| *self.in_memory.get_or_init(|| found)),
        }
    }

    fn victim(&self) -> Option<Victim> {
        let state = self.state();
        let closed = state.parts.len().saturating_sub(1);
        let newest_has_entries = state.parts.back().is_some_and(Part::has_entries);
        let held = held(&state);
        let all = held.values().fold(0u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
        let (largest, streams) = held.into_values().max_by_key(|(bytes, _)| *bytes).unwrap_or_default();
        if largest > all / SHARES && largest < all {
            let has_them = |part: &Part| part.streams.keys().any(|stream| streams.contains(stream));
            return match state.parts.iter().position(has_them) {
                Some(at) if at < closed => Some(Victim::Streams(at, streams)),
                _ => newest_has_entries.then_some(Victim::Newest),
            };
        }
        match closed {
            0 => newest_has_entries.then_some(Victim::Newest),
            _ => Some(Victim::Oldest),
        }
    }

    fn drop_oldest(&self, reason: DropReason) -> Result<(), JournalFault> {
        let path = {
            let state = self.state();
            state.parts.front().map(|part| part.path.clone())
        };
        let Some(path) = path else { return Ok(()) };
        Part::remove(path)?;
        let gone = {
            let mut state = self.state();
            state.drops = state.drops.wrapping_add(1);
            state.parts.pop_front()
        };
        // Closed without the lock, here: the last one to close a removed file may wait for its disk.
        if let Some(part) = gone {
            self.dropped(reason, part.streams.values());
        }
        Ok(())
    }

    fn dropped<'b>(&self, reason: DropReason, bytes: impl Iterator<Item = &'b u64>) {
        let sum = bytes.fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        self.counts().dropped.add(reason, sum);
    }

    /// Rewrites file number `at` without these streams; with the file before it, where both together are small.
    fn drop_streams(&self, at: usize, gone: &HashSet<u32>, reason: DropReason) -> Result<(), JournalFault> {
        let Some(plan) = self.plan(at, gone) else { return Ok(()) };
        let fault = |doing| {
            let path = plan.path.clone();
            move |source| JournalFault::Io { doing, path, source }
        };
        let written = self.dir().join("rewritten");
        let fresh = rewrite(&written, &plan, gone).map_err(fault("rewriting"))?;
        // Without a frame, too, where it tells of what the damage has cost.
        let stays = fresh.size > plan.body || fresh.damaged;
        let put = if stays { fs::rename(&written, &plan.path) } else { fs::remove_file(&plan.path) };
        put.map_err(fault("putting in place"))?;
        let spent = self.rewritten(at, &plan, gone, reason, stays.then_some(fresh));
        // Where that is refused, the next start finds it in the file before it, and removes it.
        spent.merged.map_or(Ok(()), Part::remove)
    }

    /// A rewritten file (or none, where nothing was left) is in the place of number `at`, and of the one before it where the
    /// plan said so.
    fn rewritten(
        &self,
        at: usize,
        plan: &Plan,
        gone: &HashSet<u32>,
        reason: DropReason,
        fresh: Option<Rewritten>,
    ) -> Spent {
        let mut state = self.state();
        state.drops = state.drops.wrapping_add(1);
        let Some(mut part) = state.parts.remove(at) else { return Spent::default() };
        let mut spent = Spent { merged: None, files: vec![Arc::clone(&part.file)] };
        let dropped: Vec<u64> =
            part.streams.extract_if(|stream, _| gone.contains(stream)).map(|(_, bytes)| bytes).collect();
        self.dropped(reason, dropped.iter());
        let before = at.checked_sub(1).filter(|_| plan.merges);
        if let Some(before) = before.and_then(|before| state.parts.remove(before)) {
            spent.merged = Some(part.path.clone());
            spent.files.push(before.file);
            for (stream, bytes) in before.streams {
                part.holds(stream, bytes);
            }
            part.oldest_ns = before.oldest_ns;
            part.times = before.times.into_iter().chain(part.times).collect();
            part.first = before.first;
        }
        if let Some(Rewritten { file, size, damaged }) = fresh {
            (part.path, part.file, part.body, part.size) =
                (plan.path.clone(), Arc::new(file), plan.body, size);
            part.version = VERSION;
            part.damaged = damaged;
            state.parts.insert(before.unwrap_or(at), part);
        }
        spent
    }

    fn plan(&self, at: usize, gone: &HashSet<u32>) -> Option<Plan> {
        // Before the lock: it asks for the size, which takes it.
        let limit = self.part_limit();
        let state = self.state();
        let part = state.parts.get(at)?;
        let before = at.checked_sub(1).and_then(|before| state.parts.get(before));
        let all = part.streams.values().fold(0u64, |sum, n| sum.saturating_add(*n)).max(1);
        let kept = part.streams.iter().filter(|(stream, _)| !gone.contains(stream));
        let kept = kept.fold(0u64, |sum, (_, n)| sum.saturating_add(*n));
        // Packed bytes are taken to be shared like raw ones.
        let rest = u128::from(part.size).saturating_mul(u128::from(kept)) / u128::from(all);
        let rest = u64::try_from(rest).unwrap_or(u64::MAX);
        let before = before.filter(|before| before.size.saturating_add(rest) <= limit);
        let head = before.unwrap_or(part);
        Some(Plan {
            path: head.path.clone(),
            header: Arc::clone(&head.file),
            body: head.body,
            sources: before.into_iter().chain([part]).map(Part::frames).collect(),
            damaged: part.damaged || before.is_some_and(|before| before.damaged),
            merges: before.is_some(),
        })
    }
}

/// What is left of files when another one has taken their place: to be removed and closed without the journal's lock, for the
/// last one to do so may wait for its disk.
#[derive(Default)]
struct Spent {
    /// Of the file that went into the one before it.
    merged: Option<PathBuf>,
    /// Held for their end.
    files: Vec<Arc<File>>,
}

/// Raw bytes and streams per container.
fn held(state: &State) -> HashMap<(&str, &str), (u64, HashSet<u32>)> {
    let mut held: HashMap<(&str, &str), (u64, HashSet<u32>)> = HashMap::new();
    for (stream, bytes) in state.parts.iter().flat_map(|part| &part.streams) {
        let name = state.table.get(*stream).map(|row| &row.origin.name);
        let key = name.map_or(("", ""), |name| (name.namespace.as_str(), name.container.as_str()));
        let (sum, streams) = held.entry(key).or_default();
        *sum = sum.saturating_add(*bytes);
        streams.insert(*stream);
    }
    held
}
