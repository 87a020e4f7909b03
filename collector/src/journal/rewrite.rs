//! A file of the journal, written again without the output of some streams.
//!
//! Written beside the old one and brought to the disk, for it takes the place of what was durable; whoever asked puts it there. What
//! cannot be read of the old one is lost by its damage, and said to be, never counted among what was to go.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::warn;

use super::{
    format::{
        Damage,
        entry::{Entries, Entry, put_batch, put_stream},
        frame::{Head, Packer},
        header::{VERSION, VERSION_AT},
    },
    part::{Frames, length},
};
use crate::limited::Limited;

static DAMAGED: Limited = Limited::new();

/// What a rewritten file is made of.
pub(super) struct Plan {
    /// Whose place it takes.
    pub(super) path: PathBuf,
    /// The file whose header it gets.
    pub(super) header: Arc<File>,
    /// How long that is.
    pub(super) body: u64,
    /// What it is made of, in order.
    pub(super) sources: Vec<Frames>,
    /// Frames of one of them were lost before.
    pub(super) damaged: bool,
    /// The file before it goes into it.
    pub(super) merges: bool,
}

/// The file that takes the place.
pub(super) struct Rewritten {
    pub(super) file: File,
    pub(super) size: u64,
    /// Frames of what it is made of are lost, now or before.
    pub(super) damaged: bool,
}

/// The file in the making.
struct Copy<'f> {
    out: BufWriter<&'f File>,
    size: u64,
    packer: Packer,
}

/// Writes `path` as `plan` says, without the streams `gone`.
pub(super) fn rewrite(path: &Path, plan: &Plan, gone: &HashSet<u32>) -> io::Result<Rewritten> {
    let _ = fs::remove_file(path);
    let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)?;
    let out = BufWriter::with_capacity(256 << 10, &file);
    let mut copy = Copy { out, size: 0, packer: Packer::default() };
    let mut header = vec![0; usize::try_from(plan.body).unwrap_or(usize::MAX)];
    plan.header.read_exact_at(&mut header, 0)?;
    // Its frames may be of a later version than its header.
    if let Some(version) = header.get_mut(VERSION_AT) {
        version.copy_from_slice(&VERSION.to_le_bytes());
    }
    copy.put(&header)?;
    let mut lost = None;
    for source in &plan.sources {
        lost = copy.take(source.clone(), gone)?.or(lost);
    }
    copy.out.flush()?;
    let size = copy.size;
    drop(copy);
    file.sync_data()?;
    if let Some(damage) = &lost {
        let path = plan.path.display();
        DAMAGED.say(|hidden| warn!(%path, %damage, hidden, "frames of a journal file are damaged, what they had is lost"));
    }
    Ok(Rewritten { file, size, damaged: plan.damaged || lost.is_some() })
}

// === impl Copy ===

impl Copy<'_> {
    /// Takes what is to stay of a file's frames; gives why some of them could not be read, if so.
    fn take(&mut self, mut frames: Frames, gone: &HashSet<u32>) -> io::Result<Option<Damage>> {
        let mut lost = None;
        loop {
            let found = match frames.next() {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(lost),
                // Where the next one begins nobody knows.
                Err(damage) => return Ok(Some(damage)),
            };
            let head = found.sealed.head;
            if gone.contains(&head.sole) {
                continue;
            }
            let payload = match frames.open(&found) {
                Ok(payload) => payload,
                Err(damage) => {
                    lost = Some(damage);
                    continue;
                }
            };
            match filtered(payload, &head, gone) {
                Kept::All => {
                    self.put(&found.head)?;
                    self.put(frames.stored())?;
                }
                Kept::Nothing => {}
                Kept::Some(head, payload) => self.put_frame(&head, &payload)?,
            }
        }
    }

    fn put_frame(&mut self, head: &Head, payload: &[u8]) -> io::Result<()> {
        let bytes = self.packer.frame(head, payload);
        self.size = self.size.saturating_add(length(bytes.len()));
        self.out.write_all(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size = self.size.saturating_add(length(bytes.len()));
        self.out.write_all(bytes)
    }
}

/// What of a frame stays.
enum Kept {
    All,
    Nothing,
    Some(Head, Vec<u8>),
}

fn filtered(payload: bytes::Bytes, head: &Head, gone: &HashSet<u32>) -> Kept {
    let (mut kept, mut dropped) = (Vec::new(), false);
    let mut entries = Entries::new(payload, head.first);
    let mut next = head.first;
    let mut sole = None;
    while let Ok(Some(entry)) = entries.next() {
        match entry {
            Entry::Stream(row) => put_stream(&mut kept, &row),
            Entry::Batch(batch) if gone.contains(&batch.stream) => dropped = true,
            Entry::Batch(batch) => {
                let skipped = batch.seq.saturating_sub(next);
                put_batch(&mut kept, skipped, batch.stream, &batch.records, batch.ending);
                next = batch.seq.saturating_add(1);
                sole = Some(sole.map_or(batch.stream, |sole| if sole == batch.stream { sole } else { 0 }));
            }
        }
    }
    match sole {
        _ if !dropped => Kept::All,
        None => Kept::Nothing,
        Some(sole) => Kept::Some(Head { sole, ..*head }, kept),
    }
}
