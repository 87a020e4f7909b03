//! Where records go from the journal, and the queue before it. One sink never holds another, nor the journal.

mod errno;
mod file;
mod frame;
pub mod lines;
mod otlp;
mod outlets;
mod queue;
mod routed;
mod source;
mod stdout;

use std::{io, sync::Arc};

pub use errno::errno_name;
pub use file::FileFault;
pub use frame::{Trouble, Worker};
pub use lines::Format;
pub use otlp::{Compression, OtlpFault};
pub use outlets::Outlets;
#[cfg(test)]
pub use queue::Room;
pub use queue::{Backlog, Exit, Outlet, Waiting};
pub use routed::Routed;
pub use source::{Settle, Source};

use crate::{config, metrics::SinkTotals};

/// Why a sink cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SinkFault {
    /// The file sink.
    #[error(transparent)]
    File(#[from] FileFault),
    /// The OTLP sink.
    #[error(transparent)]
    Otlp(#[from] OtlpFault),
    /// The stdout sink.
    #[error("starting the stdout sink: {source}; check that standard output is open")]
    Stdout {
        /// What the system said.
        source: io::Error,
    },
}

/// Whether the files that its configuration names are there and hold what they should. Opens nothing that it writes, and
/// connects to nobody.
///
/// # Errors
/// A start would fail for the same reason.
pub fn check(config: &config::Sink) -> Result<(), SinkFault> {
    match config {
        config::Sink::Otlp(config) => Ok(otlp::check(config)?),
        config::Sink::File(_) | config::Sink::Stdout(_) => Ok(()),
    }
}

/// Starts the sink of that configuration.
///
/// # Errors
/// What it needs is not there now.
pub fn start(
    config: &config::Sink,
    node: &config::Node,
    source: impl Source + 'static,
    sink: Arc<SinkTotals>,
) -> Result<Worker, SinkFault> {
    Ok(match config {
        config::Sink::File(config) => file::start(config, source, sink)?,
        config::Sink::Stdout(config) => {
            stdout::start(config, source, sink).map_err(|source| SinkFault::Stdout { source })?
        }
        config::Sink::Otlp(config) => otlp::start(config, node, source, sink)?,
    })
}
