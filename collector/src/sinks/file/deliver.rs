//! One attempt to write what is pending; a file that failed is opened anew first, for it may be another one by then.

use std::sync::Arc;

use super::output::Output;
use crate::{
    metrics::SinkTotals,
    sinks::{
        Trouble, errno_name,
        frame::{Deliver, Verdict},
        lines::Pending,
    },
};

/// The file, and whether it took the last write.
#[derive(Debug)]
pub(super) struct ToFile {
    output: Output,
    sink: Arc<SinkTotals>,
    failed: bool,
}

// === impl ToFile ===

impl ToFile {
    pub(super) fn new(output: Output, sink: Arc<SinkTotals>) -> Self {
        Self { output, sink, failed: false }
    }
}

impl Deliver<Pending> for ToFile {
    /// Blocks its thread while it writes.
    async fn deliver(&mut self, pending: &mut Pending) -> Verdict {
        if self.failed
            && let Err(fault) = self.output.reopen(pending)
        {
            self.sink.error(&errno_name(fault.source()));
        }
        let result = self.output.write(pending);
        self.failed = result.is_err();
        match result {
            Ok(()) => Verdict::Taken { rejected: 0 },
            Err(fault) => Verdict::Later {
                trouble: Trouble::Io,
                label: Some(errno_name(fault.source()).into()),
                error: fault.to_string(),
                after: None,
            },
        }
    }
}
