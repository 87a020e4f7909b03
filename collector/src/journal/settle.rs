//! What is done now and then, beside the writer: bytes are brought to the disk, and sinks' places are written.
//!
//! A thread of its own, because both may take long on a busy disk, and an acknowledgement waits for neither.

use std::{sync::Arc, thread};

use tokio::{sync::watch, time::sleep};

use super::{Journal, JournalFault};
use crate::priority;

/// Starts the thread, which ends after `stop`.
pub(super) fn start(
    journal: &Arc<Journal>,
    mut stop: watch::Receiver<bool>,
) -> Result<thread::JoinHandle<()>, JournalFault> {
    let fault = |source| JournalFault::Thread { source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(fault)?;
    let journal = Arc::clone(journal);
    let run = async move {
        let mut settled = 0;
        let mut stopped = false;
        while !stopped {
            tokio::select! {
                () = sleep(journal.config.fsync_interval) => {}
                _ = stop.wait_for(|stop| *stop) => stopped = true,
            }
            let next = journal.state().next;
            journal.settle(next != settled);
            settled = next;
        }
    };
    let spawned = thread::Builder::new().name("journal-sync".into()).spawn(move || {
        priority::yield_to_workloads();
        runtime.block_on(run);
    });
    spawned.map_err(fault)
}
