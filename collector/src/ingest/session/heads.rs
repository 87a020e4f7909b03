//! To which heads of the journal a message leads, asked before it is taken: nothing is changed by that.

use shimtap_proto::link::{FromWrapper, Stdio, Stream, from_wrapper};

use super::Session;
use crate::{
    enrich::Identity,
    event::{Store, StreamKind},
};

impl Session {
    /// Does it announce a stream, or say something of one, whose next records go to one of `heads`?
    pub(in crate::ingest) fn leads_to(&self, heads: &[Store], message: &FromWrapper) -> bool {
        if heads.is_empty() {
            return false;
        }
        let handle = match &message.body {
            // Also where nothing comes of it: a stream that was announced is given up when nobody carries it.
            Some(from_wrapper::Body::Open(open)) => {
                let identity = Identity::new(open, &self.wrapper.inner());
                let rules = self.rules();
                let mut captured = open.stdio.iter().filter(|stdio| stdio.handle != 0).filter_map(stream_of);
                return captured.any(|stream| heads.contains(&rules.judge(&identity, stream).store()));
            }
            Some(from_wrapper::Body::Data(data)) => data.handle,
            Some(from_wrapper::Body::Gap(gap)) => gap.handle,
            Some(from_wrapper::Body::Close(close)) => close.handle,
            _ => return false,
        };
        self.streams.get(&handle).is_some_and(|stream| heads.contains(&stream.slot.next_home()))
    }
}

/// Which it is; `None`: one of a later release.
pub(super) fn stream_of(stdio: &Stdio) -> Option<StreamKind> {
    match stdio.stream.enum_value() {
        Ok(Stream::STREAM_STDOUT) => Some(StreamKind::Stdout),
        Ok(Stream::STREAM_STDERR) => Some(StreamKind::Stderr),
        _ => None,
    }
}
