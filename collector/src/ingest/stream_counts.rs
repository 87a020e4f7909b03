//! The figures of a stream, by what an `Open` says of it.

use std::sync::Arc;

use shimtap_proto::link;

use crate::{
    event::StreamKind,
    metrics::{Container, StreamCounts},
};

/// The figures of one stream of a container, known or new.
pub(super) fn counts(container: &Container, stream: StreamKind, stdio: &link::Stdio) -> Arc<StreamCounts> {
    let mut live = container.live();
    let known = live.streams.iter().find(|c| c.stream == stream && c.process == stdio.process);
    if let Some(known) = known {
        return Arc::clone(known);
    }
    use link::NotCaptured as N;
    let not_captured = match stdio.not_captured.enum_value() {
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
    let counts = Arc::new(StreamCounts::new(stream, &stdio.process, not_captured));
    live.streams.push(Arc::clone(&counts));
    counts
}
