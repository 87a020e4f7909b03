//! The newest part, which alone grows: where the next frame goes, what it changes, and when a new part begins.
//!
//! Called by the writer and by nobody else. The table takes a frame when its write(2) has come back, never before.

use std::{cell::LazyCell, collections::HashSet, fs::File, io, path::PathBuf, sync::Arc};

use tokio::time::Instant;

use super::{
    Journal, JournalFault, State,
    format::frame::Head,
    part::Part,
    tail::{Fresh, FreshBatch},
};
use crate::time::now_ns;

/// Largest file: what is dropped or rewritten in one go.
const PART_MAX: u64 = 16 << 20;

/// Where the next frame goes.
pub(super) struct Newest {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) next: u64,
    pub(super) output: u64,
}

impl Journal {
    /// Where the next frame goes; a new file where the newest is not to be appended to.
    pub(super) fn newest(&self) -> Result<Newest, JournalFault> {
        if self.state().is_newest_done {
            self.begin_part()?;
        }
        let state = self.state();
        let part = state.parts.back().ok_or_else(|| JournalFault::Io {
            doing: "appending to",
            path: self.dir().to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let (next, output) = (state.next, state.output);
        Ok(Newest { file: Arc::clone(&part.file), path: part.path.clone(), size: part.size, next, output })
    }

    /// A frame of `length` bytes is in the newest file.
    pub(super) fn appended(&self, head: &Head, length: u64, batches: Vec<FreshBatch>) {
        let mut state = self.state();
        let State { table, parts, tail, readers, next, output, .. } = &mut *state;
        // Not before: nobody may take for kept what is only about to be.
        for batch in &batches {
            if let Some(row) = table.get_mut(batch.stream) {
                row.apply(&batch.records, batch.ending, batch.seq);
            }
        }
        if let Some(part) = parts.back_mut() {
            part.grow(head, part.size.saturating_add(length));
            for batch in &batches {
                part.holds(batch.stream, batch.output());
            }
        }
        (*next, *output) = (head.next, head.output);
        // Nobody reads: whoever comes later reads the files.
        if !readers.is_empty() && !batches.is_empty() {
            tail.push(Fresh::new(head, batches));
        }
        drop(state);
        self.counts().frames.add(1);
        self.counts().bytes.add(length);
        self.grown.send_replace(head.next);
    }

    /// Begins a new file where the newest is full, and drops what has to go. Where that fails the old one goes on growing.
    pub(super) fn tidy(&self) -> Result<(), JournalFault> {
        let limit = self.part_limit();
        let is_full = |part: &Part| part.size.saturating_sub(part.body) >= limit;
        let full = self.state().parts.back().is_some_and(is_full);
        if full {
            self.begin_part()?;
        }
        self.retain(now_ns())
    }

    /// Begins a new file, whose header leaves out what need not be known any more.
    pub(super) fn begin_part(&self) -> Result<(), JournalFault> {
        self.forget();
        self.begin_part_with_all()
    }

    /// Forgets streams of which there are too many, but none of which there is something, or a sink has something in hand. A sink
    /// that had not come to the end of one is not told any more, because nothing is known of it from here on: it is counted.
    fn forget(&self) {
        let mut state = self.state();
        let State { table, parts, tail, cursors, drops, .. } = &mut *state;
        // Mostly there is nothing to forget, and nobody is asked.
        let in_hand = LazyCell::new(|| -> HashSet<u32> {
            cursors.iter().flat_map(|(_, cursor)| cursor.in_hand()).chain(tail.streams()).collect()
        });
        let in_files = |id: &u32| parts.iter().any(|part| part.streams.contains_key(id));
        let gone = table.forget(self.remembered, |row| in_files(&row.id) || in_hand.contains(&row.id));
        for row in &gone {
            cursors.iter().for_each(|(_, cursor)| cursor.forget(row));
        }
        // Readers forget them as well, when they look.
        *drops = drops.wrapping_add(u64::from(!gone.is_empty()));
    }

    /// Begins a new file and forgets nothing. For a start, too, when no sink is there yet for which that would be counted.
    pub(super) fn begin_part_with_all(&self) -> Result<(), JournalFault> {
        let (header, before) = {
            let state = self.state();
            let before = state.parts.back().map(|part| Arc::clone(&part.file));
            (state.table.header(&state.boot, state.next, state.output), before)
        };
        let part = Part::create(self.dir(), &header, before.as_deref())?;
        let mut state = self.state();
        // One without an entry has the same number and so the same name: it is not there any more.
        if state.parts.back().is_some_and(|before| before.path == part.path) {
            state.parts.pop_back();
        }
        state.parts.push_back(part);
        state.is_newest_done = false;
        Ok(())
    }

    /// All that ended with an earlier boot of the node is appended: files are of this one from here on.
    pub(super) fn begin_boot(&self) {
        let mut state = self.state();
        if state.boot != self.boot {
            state.boot.clone_from(&self.boot);
            state.is_newest_done = true;
        }
    }

    /// Size at which a file is closed: what is dropped in one go is an eighth of the journal at most.
    pub(super) fn part_limit(&self) -> u64 {
        PART_MAX.min(self.budget() / 8)
    }

    /// Brings a file to the disk.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        let start = Instant::now();
        file.sync_data()?;
        self.counts().fsync.observe(start.elapsed());
        Ok(())
    }
}
