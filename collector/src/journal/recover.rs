//! What a start finds: files of an earlier collector, perhaps torn, perhaps damaged.
//!
//! The newest file is read to its last whole frame and cut off behind it; older ones are read as far as they are whole.
//! A file of an unknown version ends the attempt before anything was changed. Nothing that can be read is removed.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
};

use nix::fcntl::{Flock, FlockArg};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    Head, Journal, JournalFault, State,
    cursor::Reached,
    format::{
        Damage,
        entry::{Entries, Entry},
        frame::Kind,
        header::{Header, VERSION},
    },
    part::Part,
    table::Table,
};
use crate::{
    config,
    event::{Batch, Ending, Origin},
    metrics::Totals,
};

/// Streams that ended while nobody wrote this journal, and how.
pub type Endings = Vec<(Arc<Origin>, Ending)>;

/// A journal that is open, and what has to be appended first.
#[derive(Debug)]
pub struct Recovered {
    /// The journal.
    pub journal: Arc<Journal>,
    /// Streams that ended with an earlier boot of the node.
    pub endings: Endings,
}

/// A folder that is ours, and its files as they were found: nothing of them is changed yet.
#[derive(Debug)]
pub(super) struct Files {
    lock: Flock<fs::File>,
    /// In order; nothing where a header is damaged.
    opened: Vec<(PathBuf, Option<(Part, Header)>)>,
}

/// How a file's frames end.
#[derive(Debug, Default)]
struct Walked {
    /// The last frame says that the collector ended in order.
    clean: bool,
    /// Why the rest cannot be read.
    damage: Option<Damage>,
}

impl Journal {
    /// Opens the only head that there is.
    #[cfg(test)]
    pub fn open(
        config: &config::Journal,
        remembered: usize,
        totals: Arc<Totals>,
    ) -> Result<Recovered, JournalFault> {
        Self::open_as(Head::ALONE, config, Files::of(&config.dir)?, remembered, totals)
    }

    /// Opens that head of the journal with its `config` and `files`, or makes it. Of ended streams `remembered` are kept when none
    /// of their records is.
    ///
    /// # Errors
    /// See [`JournalFault`].
    pub(super) fn open_as(
        head: Head,
        config: &config::Journal,
        files: Files,
        remembered: usize,
        totals: Arc<Totals>,
    ) -> Result<Recovered, JournalFault> {
        Self::open_on(boot_id(), head, config, files, remembered, totals)
    }

    /// The same on a given boot of the node.
    pub(super) fn open_on(
        boot: String,
        head: Head,
        config: &config::Journal,
        files: Files,
        remembered: usize,
        totals: Arc<Totals>,
    ) -> Result<Recovered, JournalFault> {
        let Files { lock, opened } = files;
        let Found { mut parts, header, clean } = read_all(opened)?;
        let (mut table, mut clean_end) = (Table::restored(&header), clean);
        let (mut next, mut output) = (header.first, header.output);
        let mut first_of_newest = None;
        if let Some(newest) = parts.back_mut() {
            let walked = walk(newest, Some((&mut table, &mut output)));
            cut_off(newest, walked.damage)?;
            clean_end = clean_end && walked.clean && walked.damage.is_none();
            next = newest.next;
            first_of_newest = Some(newest.first);
        }
        let is_fresh = first_of_newest.is_none();
        let rebooted = !is_fresh && header.boot != boot;
        let reached = Reached::by_all(&config.dir);
        let behind = reached.next > next;
        if behind {
            go_on_behind(reached, &mut parts, &mut table);
            (next, output) = (reached.next, output.max(reached.output));
        }
        // What this release appends, a release that knows the file's version only would take for damage.
        let outdated = parts.back().is_some_and(|part| part.version != VERSION);
        // Which boot files are of changes when the ends of that boot's streams are in one: until then another start finds as much to do.
        let boot_of_files = if rebooted { header.boot } else { boot.clone() };
        let unclean = !clean_end;
        if !is_fresh {
            let streams = table.rows().count();
            let store = head.store.label();
            info!(store, streams, unclean, rebooted, files = parts.len(), "journal was found");
        }
        let ending = if unclean { Ending::PowerCut } else { Ending::Reboot };
        let open = table.rows().filter(|row| rebooted && row.ending.is_none());
        let endings = open.map(|row| (Arc::clone(&row.origin), ending)).collect();
        let state = State {
            table,
            parts,
            tail: super::Tail::default(),
            next,
            output,
            readers: HashMap::new(),
            cursors: Vec::new(),
            drops: 1,
            boot: boot_of_files,
            // A file begins with its first frame: one without would not tell a start that came to nothing from a power cut.
            is_newest_done: is_fresh || outdated,
            closed: false,
        };
        let journal = Arc::new(Self {
            config: config.clone(),
            boot,
            unclean,
            remembered,
            totals,
            head,
            state: Mutex::new(state),
            looked: Mutex::default(),
            in_memory: OnceLock::new(),
            grown: watch::Sender::new(next),
            _lock: lock,
        });
        if behind {
            journal.begin_part_with_all()?;
        }
        journal.count_the_past();
        Ok(Recovered { journal, endings })
    }
}

/// Files that can be read, and the newest header.
struct Found {
    parts: VecDeque<Part>,
    header: Header,
    clean: bool,
}

// === impl Files ===

impl Files {
    /// Takes the folder, which is made where there is none, and opens every file. All of both heads are opened before anything is
    /// changed: a later release, one of whose files is among them, must find the others as it left them.
    ///
    /// # Errors
    /// See [`JournalFault`].
    pub(super) fn of(dir: &Path) -> Result<Self, JournalFault> {
        let lock = lock(dir)?;
        let mut opened = Vec::new();
        for path in Part::list(dir)? {
            let part = Part::open(&path)?;
            opened.push((path, part));
        }
        Ok(Self { lock, opened })
    }
}

/// Reads all files but the newest.
fn read_all(opened: Vec<(PathBuf, Option<(Part, Header)>)>) -> Result<Found, JournalFault> {
    let header = Header { first: 1, ..Header::default() };
    let mut found = Found { parts: VecDeque::new(), header, clean: true };
    for (path, part) in opened {
        if let Some((part, header)) = part {
            found.parts.push_back(part);
            found.header = header;
        } else {
            let aside = Part::put_aside(&path)?;
            warn!(path = %aside.display(), "a journal file has no readable header, put aside");
            found.clean = false;
        }
    }
    let newest = found.parts.pop_back();
    let mut older: VecDeque<Part> = VecDeque::new();
    for mut part in std::mem::take(&mut found.parts) {
        if older.back().is_some_and(|before| before.next > part.first) {
            // It was rewritten into the file before it, and a death came between that and its removal.
            Part::remove(part.path)?;
            continue;
        }
        let walked = walk(&mut part, None);
        part.damaged = walked.damage.is_some();
        if let Some(damage) = walked.damage {
            warn!(path = %part.path.display(), %damage, "a journal file is damaged, what stands behind is lost");
        }
        older.push_back(part);
    }
    // What a file lost is looked for in it and nowhere else.
    let firsts: Vec<_> = older.iter().skip(1).chain(&newest).map(|part| part.first).collect();
    for (part, first) in older.iter_mut().zip(firsts) {
        part.next = part.next.max(first);
    }
    found.parts = older.into_iter().chain(newest).collect();
    Ok(found)
}

/// Reads a file as far as it is whole; the newest one's entries go into the table.
fn walk(part: &mut Part, mut newest: Option<(&mut Table, &mut u64)>) -> Walked {
    let mut walked = Walked::default();
    let mut frames = part.frames();
    let mut end = part.body;
    loop {
        let found = match frames.next() {
            Ok(Some(found)) => found,
            Ok(None) => break,
            Err(damage) => {
                walked.damage = Some(damage);
                break;
            }
        };
        let head = found.sealed.head;
        let read = frames.open(&found).and_then(|payload| {
            let mut entries = Entries::new(payload, head.first);
            let mut batches = Vec::new();
            while let Some(entry) = entries.next()? {
                batches.push(entry);
            }
            Ok(batches)
        });
        let entries = match read {
            Ok(entries) if head.first >= part.next => entries,
            other => {
                walked.damage = Some(other.err().unwrap_or(Damage::NotAFrame));
                break;
            }
        };
        for entry in entries {
            take(part, newest.as_mut().map(|(table, _)| &mut **table), entry);
        }
        if let Some((_, output)) = &mut newest {
            **output = head.output;
        }
        end = frames.at();
        part.grow(&head, end);
        walked.clean = head.kind == Kind::Clean;
    }
    part.size = end;
    walked
}

fn take(part: &mut Part, table: Option<&mut Table>, entry: Entry) {
    match (entry, table) {
        (Entry::Stream(row), Some(table)) => table.announced(*row),
        (Entry::Stream(_), None) => {}
        (Entry::Batch(batch), table) => {
            let bytes = batch.records.last().map_or(0, |record| record.to);
            let from = Batch::own_from(&batch.records);
            part.holds(batch.stream, bytes.saturating_sub(from));
            if let Some(row) = table.and_then(|table| table.get_mut(batch.stream)) {
                row.apply(&batch.records, batch.ending, batch.seq);
            }
        }
    }
}

/// Entries that a sink was given are not here any more: their numbers, and those of their streams, are not used again, or
/// the sink would take what comes for what it has.
fn go_on_behind(reached: Reached, parts: &mut VecDeque<Part>, table: &mut Table) {
    if let Some(newest) = parts.back_mut() {
        let lost = reached.next.saturating_sub(newest.next);
        warn!(entries = lost, "sinks have had entries that the journal has lost");
        newest.next = reached.next;
        newest.damaged = true;
    }
    table.number_above(reached.stream);
}

/// Takes off what stands behind the newest file's last whole frame.
fn cut_off(part: &Part, damage: Option<Damage>) -> Result<(), JournalFault> {
    let Some(damage) = damage else { return Ok(()) };
    let fault = |source| JournalFault::Io { doing: "cutting off", path: part.path.clone(), source };
    let lost = part.file.metadata().map_err(fault)?.len().saturating_sub(part.size);
    part.file.set_len(part.size).map_err(fault)?;
    warn!(path = %part.path.display(), %damage, bytes = lost, "the journal was cut off at its last whole frame");
    Ok(())
}

fn lock(dir: &Path) -> Result<Flock<fs::File>, JournalFault> {
    let fault = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| JournalFault::Io { doing, path, source }
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(fault("making the directory", dir))?;
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(fault("opening the lock", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(JournalFault::InUse { dir: dir.to_owned() }),
        Err((_, errno)) => Err(fault("locking", &path)(io::Error::from(errno))),
    }
}

/// Differs from boot to boot; empty where the kernel does not say, which means that no reboot is noticed.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
