//! The file sink: one line per record, rotated by size.
//!
//! A batch is done when the write(2) of its last byte has come back; a failing disk is waited for, never given up. How far
//! the sink is, is written down only when what it wrote was brought to the disk.

mod deliver;
mod output;
mod unsynced;

use std::sync::Arc;

pub use output::FileFault;

use super::{
    Source, Worker,
    frame::Frame,
    lines::{LIMITS, Lines, PACE},
};
use crate::{config, metrics::SinkTotals};
use deliver::ToFile;
use output::Output;
use unsynced::ToDisk;

/// Opens the file and starts the sink.
///
/// # Errors
/// The file cannot be opened now; the configuration or the disk is at fault.
pub fn start(
    config: &config::File,
    mut source: impl Source + 'static,
    sink: Arc<SinkTotals>,
) -> Result<Worker, FileFault> {
    let output = Output::open(config, Arc::clone(&sink))?;
    let disk = ToDisk::new(config.path.clone(), output.unsynced(), Arc::clone(&sink));
    if source.settle_first(Arc::new(disk)) {
        output.unsynced().begin();
    }
    let deliver = ToFile::new(output, Arc::clone(&sink));
    let frame = Frame { source, limits: LIMITS, pace: PACE, sink, network: false };
    frame.start(Lines::new(config.format), deliver).map_err(|source| FileFault::Thread { source })
}

#[cfg(test)]
mod tests;
