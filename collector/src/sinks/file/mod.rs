//! The file sink: one JSON object per line, rotated by size.
//!
//! It owns a thread, because writing to a file blocks and a stalled disk must stop nothing but this sink. A batch
//! is done when the write(2) of its last byte has come back; a failing disk is waited for, never given up.

mod deliver;
mod encode;
mod escape;
mod output;

use std::{sync::Arc, thread};

pub use deliver::Stop;
pub use encode::Encoder;
pub use output::FileFault;

use super::Source;
use crate::{config, metrics::Totals, priority};
use deliver::Deliver;
use output::Output;

/// The running sink.
#[derive(Debug)]
pub struct FileSink {
    thread: thread::JoinHandle<()>,
    stop: Arc<Stop>,
}

// === impl FileSink ===

impl FileSink {
    /// Opens the file and starts the thread, which ends when `source` says that no more will come.
    ///
    /// # Errors
    /// The file cannot be opened now; the configuration or the disk is at fault.
    pub fn start(
        config: &config::File,
        source: impl Source + 'static,
        totals: Arc<Totals>,
    ) -> Result<Self, FileFault> {
        let output = Output::open(config)?;
        let stop = Arc::new(Stop::default());
        let deliver = Deliver::new(output, source, totals, Arc::clone(&stop));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|source| FileFault::Thread { source })?;
        let thread = thread::Builder::new()
            .name("file-sink".into())
            .spawn(move || {
                priority::yield_to_workloads();
                runtime.block_on(deliver.run());
            })
            .map_err(|source| FileFault::Thread { source })?;
        Ok(Self { thread, stop })
    }

    /// True once everything was written and the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Gives up waiting for a failing disk: what is not written stays unacknowledged.
    pub fn give_up(&self) {
        self.stop.set();
    }
}

#[cfg(test)]
mod tests;
