//! A directory of spool files: what is in it is found, opened, removed, set aside.
//!
//! A disk may hang, and whoever asks it hangs too; so each request runs on a thread of its own, one per directory at a
//! time, and is waited for [`PATIENCE`] at most. Nothing is opened that somebody other than root could have put there.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::{Mode, fstat},
};
use shimtap_proto::spool::{SUFFIX, parse_name};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use tracing::warn;

use super::file::{SpoolFile, open_file};
use crate::{closed::closed, limited::Limited};

/// A disk that has not answered by then is left alone until it has.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// What is kept of files that were set aside, per directory.
const ASIDE_FILES: usize = 8;
const ASIDE_BYTES: u64 = 32 << 20;
const ASIDE_SUFFIX: &str = ".bad";

static STUCK: Limited = Limited::new();
static UNSAFE: Limited = Limited::new();

closed! {
    /// Why a spool file was set aside, or left alone.
    pub enum Aside {
        /// Not a spool file, or not the one that its name says.
        Foreign => "foreign",
        /// Of a later release: the one that is left where it is, under its own name.
        Version => "version",
        /// A checksum or a length is wrong.
        Corrupt => "corrupt",
        /// It ends in the middle of a record.
        Truncated => "truncated",
        /// Somebody other than root could have made or changed it.
        Unsafe => "unsafe",
        /// It could not be read.
        Unreadable => "unreadable",
        /// Its messages are not what a wrapper says.
        Messages => "messages",
    }
}

/// One directory.
#[derive(Clone, Debug)]
pub(super) struct SpoolDir {
    path: Arc<PathBuf>,
    /// Held by the thread that is in it.
    busy: Arc<Semaphore>,
}

/// A name in it that a spool file may have.
#[derive(Clone, Debug)]
pub(super) struct Found {
    dir: SpoolDir,
    name: String,
    /// Whose, by its name.
    pub(super) wrapper: u64,
    /// Its how manieth.
    pub(super) number: u32,
}

/// Why a file is not to be had now.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenFault {
    /// Somebody has removed it.
    #[error("it is gone")]
    Gone,
    /// The disk does not answer.
    #[error("its disk did not answer within {PATIENCE:?}")]
    Stuck,
    /// Not one that only root could have made.
    #[error("it is no regular file with one name that belongs to root and that only root can write to")]
    Unsafe,
    /// The system's answer.
    #[error("opening it: {0}")]
    System(#[from] Errno),
}

// === impl SpoolDir ===

impl SpoolDir {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: Arc::new(path.to_owned()), busy: Arc::new(Semaphore::new(1)) }
    }

    /// Spool files by their names. A directory that is missing holds none, and neither does one that is not root's alone.
    pub(super) async fn list(&self) -> Vec<Found> {
        let names = self.ask(|path| is_private(path).and_then(|()| names(path))).await;
        let names = match names {
            Some(Ok(names)) => names,
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Some(Err(error)) => {
                let path = self.path.display();
                UNSAFE.say(|hidden| {
                    warn!(directory = %path, %error, hidden, "spool files are not looked for");
                });
                return Vec::new();
            }
            None => return Vec::new(),
        };
        let found = |name: String| {
            let (wrapper, number) = parse_name(&name)?;
            Some(Found { dir: self.clone(), name, wrapper, number })
        };
        names.into_iter().filter_map(found).collect()
    }

    /// Runs `work` where it may hang; `None` where it (or what was asked before) does.
    async fn ask<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> T + Send + 'static) -> Option<T> {
        let asked = async {
            // Never closed.
            let turn = Arc::clone(&self.busy).acquire_owned().await.ok()?;
            let path = Arc::clone(&self.path);
            let work = move || {
                let answer = work(&path);
                drop(turn);
                answer
            };
            spawn_blocking(work).await.ok()
        };
        let answer = timeout(PATIENCE, asked).await.ok().flatten();
        if answer.is_none() {
            let path = self.path.display();
            STUCK.say(|hidden| warn!(directory = %path, hidden, "the disk of spool files does not answer"));
        }
        answer
    }
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_private(path: &Path) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let stat = fstat(open(path, flags, Mode::empty())?)?;
    let others = Mode::S_IRWXG | Mode::S_IRWXO;
    if is_trusted(stat.st_uid) && !Mode::from_bits_truncate(stat.st_mode).intersects(others) {
        return Ok(());
    }
    Err(io::Error::other(
        "it must belong to root and have mode 0700; set that right and it is looked at again",
    ))
}

/// Root, or whoever we run as (tests; a user cannot wrap shims).
pub(super) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

// === impl Found ===

impl Found {
    /// For messages.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path.join(&self.name)
    }

    /// Opens it.
    pub(super) async fn open(&self) -> Result<SpoolFile, OpenFault> {
        let name = self.name.clone();
        let opened = self.dir.ask(move |dir| open_file(dir, &name)).await.ok_or(OpenFault::Stuck)?;
        opened.map(SpoolFile::new)
    }

    /// Runs what may hang on its disk.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.dir.ask(move |_| work()).await
    }

    /// Removes it. Where that is refused it is found again, and then its bytes are known.
    pub(super) async fn remove(&self) {
        let path = self.path();
        self.dir.ask(move |_| fs::remove_file(path)).await;
    }

    /// Keeps it for a person, among the newest few.
    pub(super) async fn set_aside(&self) {
        let from = self.path();
        let to = self.dir.path.join(format!("{}{ASIDE_SUFFIX}", self.name));
        self.dir
            .ask(move |dir| {
                let _ = fs::rename(from, to);
                thin_out(dir);
            })
            .await;
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.dir.path == other.dir.path
    }
}

impl Eq for Found {}

impl std::hash::Hash for Found {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.dir.path.hash(state);
    }
}

/// Of what was set aside the newest stay.
fn thin_out(dir: &Path) {
    let suffix = format!("{SUFFIX}{ASIDE_SUFFIX}");
    let mut aside: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_name().to_str()?.ends_with(&suffix).then_some(())?;
            let meta = fs::symlink_metadata(entry.path()).ok()?;
            Some((meta.modified().ok()?, meta.size(), entry.path()))
        })
        .collect();
    aside.sort_unstable_by(|a, b| b.cmp(a));
    let mut bytes = 0u64;
    for (n, (_, size, path)) in aside.into_iter().enumerate() {
        bytes = bytes.saturating_add(size);
        if n >= ASIDE_FILES || bytes > ASIDE_BYTES {
            let _ = fs::remove_file(path);
        }
    }
}
