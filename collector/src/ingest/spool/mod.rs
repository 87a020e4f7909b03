//! Spool files: what wrappers wrote to files while nobody listened, taken as if it had come over their links.
//!
//! A wrapper that attaches is not answered before its own files are taken: spool first, then live, in order. Files of
//! wrappers that are not attached (their pods ended, or they are still to come back) are looked for at the start and
//! now and then. A file is removed when all that it says is durable, ends of streams too; one that is not as it should be is
//! taken as far as it is right, and set aside when that is durable: nobody reads it again. One of a later release's version is right as it is,
//! and left for a collector that can read it. Only a file whose writer has ended is removed or renamed: writers hold a lock.
//!
//! `dir` touches the disk, on threads of its own, and is never waited for longer than [`dir::PATIENCE`].

mod dir;
mod file;
mod replay;
mod turn;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

pub use dir::Aside;

use self::{
    dir::{Found, SpoolDir},
    file::SpoolFile,
    replay::{Replayed, WrongFile, replay},
    turn::Turn,
};
use super::{Ingest, streams::Slot};
use crate::{closed::Closed, config, event::Store, limited::Limited};

/// How often files are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// How often it is asked whether what was taken is durable, while there is any.
const SETTLE: Duration = Duration::from_millis(100);
/// A file that could not be taken now is not read again before this.
const AGAIN: Duration = Duration::from_secs(60);
/// Nor is one that was put off, before this: soon enough that streams which it has opened by then are not given up meanwhile
/// (`ingest.orphan_secs`, 60 by default).
const PUT_OFF: Duration = Duration::from_secs(20);
/// Files taken that may wait for one head of the journal to make them durable, each of which has a descriptor.
const PENDING_MAX: usize = 128;
/// Numbers of connections go up from 1; these are no connections.
const FIRST_ID: u64 = 1 << 63;

static SAID: Limited = Limited::new();
static HELD: Limited = Limited::new();
static LATER: Limited = Limited::new();

/// All spool files of the node.
#[derive(Debug)]
pub struct Spools {
    /// What wrappers are told.
    pub config: config::Spool,
    dirs: [SpoolDir; 2],
    turns: tokio::sync::Mutex<()>,
    /// What one wrapper may keep, in bytes.
    share: watch::Sender<u64>,
    ids: AtomicU64,
    pending: Mutex<Vec<Pending>>,
    /// Files that could not be set aside, and when they may be tried again.
    put_off: Mutex<HashMap<Found, Instant>>,
    /// Wrappers of which a file could not be taken now, and when it may be tried again. Those behind it have to wait for it: what they
    /// say of a stream would be taken for all that there is.
    held: Mutex<HashMap<u64, Instant>>,
    /// Files of a later release's version, which this process does not open again: no name is ever used twice. As many as were
    /// in the directories, which have bounds of their own.
    left: Mutex<HashSet<Found>>,
}

/// A file that was taken and can go when what it says is durable.
#[derive(Debug)]
struct Pending {
    found: Found,
    /// Its lock is ours for so long, or will be when its writer has ended.
    file: SpoolFile,
    reached: Vec<(Arc<Slot>, u64)>,
    /// Not all of it is right: a person may want to see it.
    spoilt: bool,
}

// === impl Spools ===

impl Spools {
    /// Nothing is looked at yet.
    #[must_use]
    pub fn new(config: config::Spool) -> Self {
        let dirs = [SpoolDir::new(&config.disk_dir), SpoolDir::new(&config.memory_dir)];
        let (share, _) = watch::channel(config.budget_bytes);
        Self {
            config,
            dirs,
            share,
            turns: tokio::sync::Mutex::default(),
            ids: AtomicU64::new(FIRST_ID),
            pending: Mutex::default(),
            put_off: Mutex::default(),
            held: Mutex::default(),
            left: Mutex::default(),
        }
    }

    /// What one wrapper may keep in files, now and whenever it changes.
    pub(super) fn share(&self) -> watch::Receiver<u64> {
        self.share.subscribe()
    }

    /// So many wrappers share the budget from here on. In steps, so that not each pod changes it for all others.
    pub(super) fn share_among(&self, wrappers: usize) {
        let wrappers = u64::try_from(wrappers).unwrap_or(u64::MAX).clamp(1, 1 << 32);
        let share = self.config.budget_bytes / wrappers.next_power_of_two();
        self.share.send_if_modified(|now| std::mem::replace(now, share) != share);
    }

    /// Takes the files of one wrapper, which has just attached. Its own streams wait for it. Cancel-safe: what was not
    /// taken to its end stays.
    pub(super) async fn take_of(&self, ingest: &Arc<Ingest>, wrapper: u64) {
        let mut files = self.find().await;
        // Also one that was put off: its writer has ended by now, or the bytes behind it are lost.
        files.retain(|found| found.wrapper == wrapper);
        for found in files {
            let turn = Turn::of(&self.turns, true).await;
            self.take(ingest, found, turn).await;
        }
    }

    /// Takes files of wrappers that are not attached, until `stop`.
    pub(super) async fn run(&self, ingest: &Arc<Ingest>, mut stop: watch::Receiver<bool>) {
        let mut looked: Option<Instant> = None;
        loop {
            self.settle().await;
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                looked = Some(Instant::now());
                tokio::select! {
                    // Cancel-safe as `take_of`.
                    () = self.take_orphans(ingest) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
            let pause = if self.pending().is_empty() { LOOK } else { SETTLE };
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn take_orphans(&self, ingest: &Arc<Ingest>) {
        let now = Instant::now();
        self.put_off().retain(|_, until| *until > now);
        self.held().retain(|_, until| *until > now);
        let mut crowded = Vec::new();
        for found in self.find().await {
            if self.is_put_off(&found) {
                continue;
            }
            crowded = self.crowded(crowded).await;
            let turn = Turn::of(&self.turns, false).await.without(&crowded);
            // Asked with the turn: one that attaches now waits for it before its streams are opened.
            if !ingest.registry.is_attached(found.wrapper) {
                self.take(ingest, found, turn).await;
            }
        }
    }

    /// Heads of the journal for which so many files wait that no more are taken for them. One whose disk comes along is through with
    /// those in a moment, and is waited for unless it was `known` to be one of these.
    async fn crowded(&self, known: Vec<Store>) -> Vec<Store> {
        let begun = Instant::now();
        while self.pending().len() >= PENDING_MAX {
            self.settle().await;
            let waiting = |head: Store| self.pending().iter().filter(|file| file.waits_for(head)).count();
            let heads = Store::ALL.iter().copied();
            let crowded: Vec<_> = heads.filter(|head| waiting(*head) >= PENDING_MAX).collect();
            if crowded.iter().all(|head| known.contains(head)) || begun.elapsed() >= turn::HOLD {
                return crowded;
            }
            sleep(SETTLE).await;
        }
        Vec::new()
    }

    /// Files that are to be taken, each wrapper's in the order of writing.
    async fn find(&self) -> Vec<Found> {
        let mut files = Vec::new();
        for dir in &self.dirs {
            files.extend(dir.list().await);
        }
        let pending = self.pending();
        let left = self.left();
        files.retain(|found| !pending.iter().any(|p| p.found == *found) && !left.contains(found));
        files.sort_by_key(|found| (found.wrapper, found.number));
        files
    }

    fn is_put_off(&self, found: &Found) -> bool {
        let now = Instant::now();
        let is_set = |until: &Instant| *until > now;
        self.put_off().get(found).is_some_and(is_set) || self.held().get(&found.wrapper).is_some_and(is_set)
    }

    /// Where its wrapper waits for it: whoever writes it, if anybody does, hangs in its disk, and what it still completes the wrapper
    /// has too.
    async fn take(&self, ingest: &Arc<Ingest>, found: Found, mut turn: Turn<'_>) {
        let totals = &ingest.registry.totals;
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        match replay(ingest, &found, id, &mut turn).await {
            // It grows, and is looked at again.
            Replayed::Taken(file, _) if file.is_being_written() && !turn.is_awaited() => return,
            Replayed::Taken(file, reached) => {
                totals.spool_files.add(1);
                info!(file = %found.path().display(), "took a spool file");
                self.pending().push(Pending { found, file, reached, spoilt: false });
                return;
            }
            Replayed::Gone => return,
            Replayed::Later => return self.hold(&found),
            Replayed::Held => {
                HELD.say(|hidden| {
                    warn!(
                        file = %found.path().display(), hidden,
                        "put a spool file off: the journal has no room for it, its disk is full, slow or hangs"
                    );
                });
                return self.hold(&found);
            }
            Replayed::OfLaterRelease(error) => {
                totals.spool_aside.add(Aside::Version, 1);
                say_left(&found, &error);
                self.left().insert(found);
                return;
            }
            Replayed::Spoilt(why, error, file, reached) => {
                totals.spool_aside.add(why, 1);
                say_wrong(&found, why, &error);
                self.pending().push(Pending { found, file, reached, spoilt: true });
                return;
            }
            Replayed::Wrong(why, error) => {
                totals.spool_aside.add(why, 1);
                say_wrong(&found, why, &error);
                found.set_aside().await;
            }
        }
        // Also one that was set aside: where that was refused, it is still there.
        self.put_off().insert(found, Instant::now() + AGAIN);
    }

    /// Neither it nor any behind it is tried before a while.
    fn hold(&self, found: &Found) {
        self.held().insert(found.wrapper, Instant::now() + PUT_OFF);
    }

    /// Removes files, or sets them aside, all of whose right part is durable.
    async fn settle(&self) {
        let done: Vec<Pending> = self.pending().extract_if(.., Pending::is_durable).collect();
        for pending in done {
            // While its lock is held: nobody takes it for one that is still to be taken.
            if pending.spoilt {
                pending.found.set_aside().await;
                // Where that was refused, it is still there.
                self.put_off().insert(pending.found, Instant::now() + AGAIN);
            } else {
                pending.found.remove().await;
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_off(&self) -> MutexGuard<'_, HashMap<Found, Instant>> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, HashSet<Found>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Pending ===

impl Pending {
    fn is_durable(&mut self) -> bool {
        self.reached.iter().all(is_kept) && self.file.is_ours()
    }

    /// Is something of it on its way to that head?
    fn waits_for(&self, head: Store) -> bool {
        self.reached.iter().any(|reached| !is_kept(reached) && reached.0.home() == head)
    }
}

/// Is a stream durable as far as a file has it? Its end as well: a stream that lost it would be taken for open-ended.
fn is_kept((slot, next): &(Arc<Slot>, u64)) -> bool {
    slot.progress.durable() >= *next && (slot.end().is_none() || slot.progress.has_ended())
}

/// Names a file of which not all is right.
fn say_wrong(found: &Found, why: Aside, error: &WrongFile) {
    let path = found.path();
    SAID.say(|hidden| {
        warn!(file = %path.display(), reason = why.label(), %error, hidden, "set a spool file aside");
    });
}

/// Names a file that is for a collector of a later release.
fn say_left(found: &Found, error: &WrongFile) {
    LATER.say(|hidden| {
        warn!(
            file = %found.path().display(), reason = Aside::Version.label(), %error, hidden,
            "left a spool file of a later release where it is, for a collector of that release"
        );
    });
}

#[cfg(test)]
mod tests;
