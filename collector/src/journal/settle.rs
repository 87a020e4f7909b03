//! What is done now and then, beside the writer: bytes are brought to the disk, and sinks' places are written.
//!
//! Threads of their own, because all of it may take long on a busy disk, and an acknowledgement waits for none of it. One for
//! the journal's disk, and one for those of sinks, where there are any: what hangs there holds neither the journal nor other
//! sinks' places.

use std::{sync::Arc, thread};

use tokio::{sync::watch, time::sleep};

use super::{Journal, JournalFault};
use crate::{event::Store, priority};

/// Starts the threads, which end after `stop`.
pub(super) fn start(
    journal: &Arc<Journal>,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<thread::JoinHandle<()>>, JournalFault> {
    let mut settled = 0;
    let (own, sinks) = match journal.head.store {
        Store::Memory => ("journal-sync", "sink-sync"),
        Store::Disk => ("disk-sync", "sink-disk-sync"),
    };
    let own = now_and_then(own, journal, stop.clone(), move |journal| {
        let next = journal.state().next;
        journal.settle(next != settled);
        settled = next;
    })?;
    if !journal.has_waiting_sinks() {
        return Ok(vec![own]);
    }
    Ok(vec![own, now_and_then(sinks, journal, stop.clone(), Journal::settle_sinks)?])
}

/// Does it every `fsync_interval`, and once more at the end.
fn now_and_then(
    name: &str,
    journal: &Arc<Journal>,
    mut stop: watch::Receiver<bool>,
    mut what: impl FnMut(&Journal) + Send + 'static,
) -> Result<thread::JoinHandle<()>, JournalFault> {
    let fault = |source| JournalFault::Thread { source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(fault)?;
    let journal = Arc::clone(journal);
    let run = async move {
        let mut stopped = false;
        while !stopped {
            tokio::select! {
                () = sleep(journal.config.fsync_interval) => {}
                _ = stop.wait_for(|stop| *stop) => stopped = true,
            }
            what(&journal);
        }
    };
    let spawned = thread::Builder::new().name(name.into()).spawn(move || {
        priority::yield_to_workloads();
        runtime.block_on(run);
    });
    spawned.map_err(fault)
}
