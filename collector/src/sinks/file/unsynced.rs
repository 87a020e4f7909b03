//! Files that were written and are not known to be on the disk.
//!
//! Shared by the thread that writes and the one that brings to the disk: the first never waits for the second, whose disk may
//! hang.

use std::{
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::sinks::Settle;

/// The file that is written, and those that were renamed since the disk had everything.
#[derive(Debug, Default)]
pub(super) struct Unsynced(Mutex<Vec<Arc<File>>>);

// === impl Unsynced ===

impl Unsynced {
    /// Something was written to it.
    pub(super) fn note(&self, file: &Arc<File>) {
        let mut files = self.files();
        if !files.iter().any(|known| Arc::ptr_eq(known, file)) {
            files.push(Arc::clone(file));
        }
    }

    fn files(&self) -> MutexGuard<'_, Vec<Arc<File>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settle for Unsynced {
    fn settle(&self) -> io::Result<()> {
        let files = std::mem::take(&mut *self.files());
        for file in &files {
            match file.sync_data() {
                // A pipe or a device: what it took is its own.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) => {
                    files.iter().for_each(|file| self.note(file));
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }
}
