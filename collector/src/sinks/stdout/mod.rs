//! The stdout sink: one line per record on the collector's own standard output, for systemd-journald, for another
//! program behind a pipe, and for looking.
//!
//! A batch is done when the write(2) of its last byte has come back: what the reader does with it is the reader's. A
//! reader that stops reading holds this sink; one that went away leaves it failing, for a pipe has no second reader.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::Arc,
};

use super::{
    Source, Trouble, Worker, errno_name,
    frame::{Deliver, Frame, Verdict},
    lines::{LIMITS, Lines, PACE, Pending},
};
use crate::{config, metrics::SinkTotals};

/// Standard output, without the buffer that the library puts before it.
#[derive(Debug)]
struct ToStdout {
    file: File,
    sink: Arc<SinkTotals>,
}

/// Starts the sink.
///
/// # Errors
/// There is no standard output, or no thread to be had.
pub fn start(
    config: &config::Stdout,
    source: impl Source + 'static,
    sink: Arc<SinkTotals>,
) -> io::Result<Worker> {
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let deliver = ToStdout { file, sink: Arc::clone(&sink) };
    let frame = Frame { source, limits: LIMITS, pace: PACE, sink, network: false };
    frame.start(Lines::new(config.format), deliver)
}

// === impl ToStdout ===

impl Deliver<Pending> for ToStdout {
    /// Blocks its thread while it writes.
    async fn deliver(&mut self, pending: &mut Pending) -> Verdict {
        while !pending.is_empty() {
            match self.file.write(pending.rest()) {
                Ok(written) => {
                    pending.advance(written);
                    self.sink.writes.add(1);
                    self.sink.bytes.add(u64::try_from(written).unwrap_or(u64::MAX));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let label = Some(errno_name(&error).into());
                    let error = format!("writing to standard output: {error}; check who reads it");
                    return Verdict::Later { trouble: Trouble::Io, label, error, after: None };
                }
            }
        }
        Verdict::Taken { rejected: 0 }
    }
}
