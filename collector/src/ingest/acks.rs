//! What one connection still has to acknowledge.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use shimtap_proto::link;

use super::streams::Slot;
use crate::event::Due;

/// Shared by the two directions of a connection.
#[derive(Debug, Default)]
pub(super) struct Acks {
    inner: Mutex<Inner>,
    /// True while the writing side looks again by itself after a while.
    armed: AtomicBool,
    /// Nothing more is read.
    finished: AtomicBool,
    /// Calls when there is something to acknowledge now, and when the first thing to wait for appears.
    pub(super) due: Arc<Due>,
}

/// What waits to be acknowledged, and so how long it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstanding {
    /// Output: the wrapper keeps it meanwhile, and does not notice.
    Output,
    /// An event, and perhaps output: a wrapper whose pod is over stays for it.
    Event,
}

#[derive(Debug, Default)]
struct Inner {
    streams: Vec<Stream>,
    event: Option<u64>,
    event_sent: Option<u64>,
}

#[derive(Debug)]
struct Stream {
    task: u32,
    handle: u32,
    slot: Arc<Slot>,
    sent: u64,
    /// The wrapper knows where it goes on; before that it would not know what an acknowledgement is of.
    announced: bool,
    /// The stream's end, from its close until that was acknowledged.
    closing: Option<u64>,
}

// === impl Acks ===

impl Acks {
    /// Nothing more is read: what is outstanding is all that there will be.
    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        self.due.wake();
    }

    /// Is nothing more read?
    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// From here on this connection acknowledges that stream.
    pub(super) fn watch(&self, task: u32, handle: u32, slot: &Arc<Slot>) {
        slot.progress.report_to(Arc::clone(&self.due));
        let mut inner = self.inner();
        inner.streams.retain(|stream| stream.handle != handle);
        let slot = Arc::clone(slot);
        inner.streams.push(Stream { task, handle, slot, sent: 0, closing: None, announced: false });
    }

    /// The answers to all announcements so far are on their way: what is acknowledged comes behind them.
    pub(super) fn announced(&self) {
        let mut inner = self.inner();
        let mut kept = false;
        for stream in inner.streams.iter_mut().filter(|stream| !stream.announced) {
            stream.announced = true;
            kept |= stream.slot.progress.durable() > 0;
        }
        drop(inner);
        // A wrapper that comes back keeps everything until it is told, and sends no more than its window ahead of that.
        if kept {
            self.due.call();
        }
    }

    /// The task is gone, and everything of it was acknowledged.
    pub(super) fn forget(&self, task: u32) {
        self.inner().streams.retain(|stream| stream.task != task);
    }

    /// The stream was closed: its end is acknowledged even where no byte is new.
    pub(super) fn closed(&self, handle: u32) {
        let mut inner = self.inner();
        if let Some(stream) = inner.streams.iter_mut().find(|stream| stream.handle == handle) {
            stream.closing = stream.slot.end();
        }
    }

    /// An event was taken.
    pub(super) fn event(&self, seq: u64) {
        let mut inner = self.inner();
        inner.event = inner.event.max(Some(seq));
        drop(inner);
        // Also where output is waited for already: an event has less time.
        self.due.wake();
    }

    /// Something went to the sink: it will have to be acknowledged.
    pub(super) fn expect(&self) {
        if !self.armed.swap(true, Ordering::AcqRel) {
            self.due.wake();
        }
    }

    /// What went to the sink (or is an event) and is not acknowledged, if anything; whoever asks looks again by
    /// itself then.
    pub(super) fn outstanding(&self) -> Option<Outstanding> {
        // Before looking: what appears meanwhile wakes, at worst for nothing.
        self.armed.store(false, Ordering::Release);
        let inner = self.inner();
        let output = |stream: &Stream| stream.slot.submitted() > stream.sent || stream.closing.is_some();
        let outstanding = if inner.event != inner.event_sent {
            Some(Outstanding::Event)
        } else {
            inner.streams.iter().any(output).then_some(Outstanding::Output)
        };
        if outstanding.is_some() {
            self.armed.store(true, Ordering::Release);
        }
        outstanding
    }

    /// What can be acknowledged now, if anything; it counts as acknowledged from here on.
    pub(super) fn collect(&self) -> Option<link::Ack> {
        // Before looking: what becomes durable meanwhile counts for the next one.
        self.due.begin();
        let mut inner = self.inner();
        let mut ack = link::Ack::new();
        for stream in inner.streams.iter_mut().filter(|stream| stream.announced) {
            let durable = stream.slot.progress.durable();
            // An end is acknowledged when it is durable itself: a stream that lost it would be taken for open-ended.
            let at_end = stream.closing.is_some() && stream.slot.progress.has_ended();
            if durable <= stream.sent && !at_end {
                continue;
            }
            let offset = if at_end { stream.closing.take().unwrap_or(durable) } else { durable };
            stream.sent = offset.max(durable);
            let of_stream =
                link::StreamAck { handle: stream.handle, offset, end: at_end, ..Default::default() };
            ack.streams.push(of_stream);
        }
        if inner.event != inner.event_sent {
            inner.event_sent = inner.event;
            ack.event_seq = inner.event;
        }
        (!ack.streams.is_empty() || ack.event_seq.is_some()).then_some(ack)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
