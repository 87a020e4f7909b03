//! The figures of a stream, as they are shown with its container.

use std::sync::Arc;

use shimtap_proto::link;

use crate::{
    event::StreamKind,
    metrics::{Container, StreamCounts},
};

/// Shows a stream's figures with its container's, in place of those that were shown for it before.
pub(super) fn show(container: &Container, counts: &Arc<StreamCounts>) {
    let mut live = container.live();
    let same = |c: &&mut Arc<StreamCounts>| c.stream == counts.stream && c.process == counts.process;
    match live.streams.iter_mut().find(same) {
        Some(shown) => *shown = Arc::clone(counts),
        None => live.streams.push(Arc::clone(counts)),
    }
}

/// A stream that its wrapper leaves alone.
pub(super) fn not_captured(stream: StreamKind, stdio: &link::Stdio) -> StreamCounts {
    use link::NotCaptured as N;
    let why = match stdio.not_captured.enum_value() {
        Ok(N::NOT_CAPTURED_UNSPECIFIED) => None,
        Ok(N::NOT_CAPTURED_EMPTY) => Some("empty"),
        Ok(N::NOT_CAPTURED_FILE_URI) => Some("file_uri"),
        Ok(N::NOT_CAPTURED_BINARY_URI) => Some("binary_uri"),
        Ok(N::NOT_CAPTURED_STREAMING) => Some("streaming"),
        Ok(N::NOT_CAPTURED_OTHER_URI) => Some("other_uri"),
        Ok(N::NOT_CAPTURED_NOT_A_FIFO) => Some("not_a_fifo"),
        Ok(N::NOT_CAPTURED_FAILED) => Some("failed"),
        Ok(N::NOT_CAPTURED_NO_ROOM) => Some("no_room"),
        Err(_) => Some("unknown"),
    };
    StreamCounts::new(stream, &stdio.process, why)
}
