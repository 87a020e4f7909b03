//! Files that were written and are not known to be on the disk.
//!
//! Shared by the thread that writes and the one that brings to the disk: the first never waits for the second, whose disk may
//! hang. A failure holds until the process ends: the kernel reports a page that it could not write once, marks it clean, and
//! calls the next fdatasync(2) a success (https://wiki.postgresql.org/wiki/Fsync_Errors).

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    metrics::SinkTotals,
    sinks::{Settle, errno_name},
};

/// The file that is written, and those that were renamed since the disk had everything and still have a name. None where
/// nobody will ask: a file that is held open keeps its blocks when it is removed.
#[derive(Debug, Default)]
pub(super) struct Unsynced(Mutex<Option<Vec<Arc<File>>>>);

/// Brings them there, and remembers whether that ever failed.
#[derive(Debug)]
pub(super) struct ToDisk {
    path: PathBuf,
    unsynced: Arc<Unsynced>,
    sink: Arc<SinkTotals>,
    has_failed: AtomicBool,
}

// === impl Unsynced ===

impl Unsynced {
    /// From now on somebody asks for what is noted.
    pub(super) fn begin(&self) {
        self.files().get_or_insert_default();
    }

    /// Something was written to it.
    pub(super) fn note(&self, file: &Arc<File>) {
        if let Some(files) = &mut *self.files()
            && !files.iter().any(|known| Arc::ptr_eq(known, file))
        {
            // At each rotation one goes, so there are never more than are kept.
            retain_named(files);
            files.push(Arc::clone(file));
        }
    }

    /// Closes those that were removed: a disk that is full may wait for their room.
    pub(super) fn let_go(&self) {
        if let Some(files) = &mut *self.files() {
            retain_named(files);
        }
    }

    /// Brings them to the disk; all of them are asked, and the first failure is given. After one nothing is noted any more.
    fn sync(&self) -> io::Result<()> {
        let files = self.files().as_mut().map(std::mem::take).unwrap_or_default();
        let mut first = Ok(());
        for file in files {
            match file.sync_data() {
                // A pipe or a device: what it took is its own.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                result => first = first.and(result),
            }
        }
        if first.is_err() {
            *self.files() = None;
        }
        first
    }

    fn files(&self) -> MutexGuard<'_, Option<Vec<Arc<File>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines of a removed file are nowhere.
fn retain_named(files: &mut Vec<Arc<File>>) {
    files.retain(|file| file.metadata().is_ok_and(|meta| meta.nlink() > 0));
}

// === impl ToDisk ===

impl ToDisk {
    /// For the file at `path` and what it was before its rotations.
    pub(super) fn new(path: PathBuf, unsynced: Arc<Unsynced>, sink: Arc<SinkTotals>) -> Self {
        Self { path, unsynced, sink, has_failed: AtomicBool::new(false) }
    }
}

impl Settle for ToDisk {
    fn settle(&self) -> bool {
        if self.has_failed.load(Ordering::Relaxed) {
            return false;
        }
        let Err(error) = self.unsynced.sync() else { return true };
        self.has_failed.store(true, Ordering::Relaxed);
        self.sink.unsettled.set(1);
        self.sink.error(&errno_name(&error));
        tracing::error!(
            path = %self.path.display(), %error,
            "the disk of the log file did not take what was written; from now on it is not noted any more what the file has. \
             Mend the disk, then restart the collector: it writes again what came since the last note"
        );
        false
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

    use super::*;

    #[test]
    fn a_disk_that_failed_once_is_never_believed_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let file = Arc::new(File::create(&path).expect("a file"));
        let (unsynced, sink) = (Arc::new(Unsynced::default()), Arc::new(SinkTotals::new("file")));
        let disk = ToDisk::new(path.clone(), Arc::clone(&unsynced), Arc::clone(&sink));
        unsynced.begin();
        unsynced.note(&file);
        assert!(disk.settle(), "all is well");
        assert!(sink.errors().is_empty());

        // A descriptor that no fdatasync(2) is answered on.
        let path_only = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(&path);
        unsynced.note(&Arc::new(path_only.expect("its path")));
        assert!(!disk.settle());
        unsynced.note(&file);
        assert!(!disk.settle(), "the kernel reports a lost page once");
        assert_eq!(
            (Arc::strong_count(&file), sink.unsettled.get()),
            (1, 1),
            "no file is held open for nothing"
        );
        let errors: Vec<_> = sink.errors().into_iter().collect();
        assert_eq!(errors, [("EBADF".to_owned(), 1)]);
    }

    #[test]
    fn a_removed_file_is_let_go_and_so_is_every_one_that_nobody_asks_for() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let make = |n: usize| Arc::new(File::create(dir.path().join(n.to_string())).expect("a file"));
        let (asked, unasked) = (Unsynced::default(), Unsynced::default());
        asked.begin();
        let mut files = Vec::new();
        for n in 0..100 {
            let file = make(n);
            asked.note(&file);
            unasked.note(&file);
            files.push(file);
            if n >= 3 {
                std::fs::remove_file(dir.path().join((n - 3).to_string())).expect("it is there");
            }
        }
        let held = files.iter().filter(|file| Arc::strong_count(file) > 1).count();
        assert_eq!(held, 4, "three renamed ones (one was removed since) and the one that is written");
        assert!(unasked.files().is_none());
    }
}
