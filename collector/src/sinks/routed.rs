//! What rules send elsewhere, taken out before a sink sees it.
//!
//! Stands between the journal's reader and a sink. What is passed over is acknowledged at once, so that it holds no place of
//! the journal's, and counted, so that a sink's sums stay whole. Rules are asked once per stream and again when they change.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Settle, Source, Waiting};
use crate::{
    event::{Batch, Record, StreamName},
    metrics::SinkTotals,
    rules::Rules,
};

/// Batches passed over before whoever shares this thread has a turn: the journal may be full of what is for others.
const AT_ONCE: usize = 64;
/// Streams whose answer is remembered; then all are asked for anew.
const REMEMBERED: usize = 4096;

/// A supply of what one sink is to have.
#[derive(Debug)]
pub struct Routed<S> {
    inner: S,
    totals: Arc<SinkTotals>,
    changes: watch::Receiver<Arc<Rules>>,
    rules: Arc<Rules>,
    known: HashMap<StreamName, bool>,
}

// === impl Routed ===

impl<S: Source> Routed<S> {
    /// What of `inner` the rules of the moment have for the sink of these totals.
    pub fn new(inner: S, mut changes: watch::Receiver<Arc<Rules>>, totals: Arc<SinkTotals>) -> Self {
        let rules = Arc::clone(&changes.borrow_and_update());
        Self { inner, totals, changes, rules, known: HashMap::new() }
    }

    /// The batch, where it is for this sink; else it is done with.
    fn pass(&mut self, waiting: Waiting) -> Option<Waiting> {
        if self.is_for_us(&waiting.batch) {
            return Some(waiting);
        }
        self.totals.elsewhere_bytes.add(waiting.batch.records.iter().map(Record::output_bytes).sum());
        waiting.batch.done();
        None
    }

    fn is_for_us(&mut self, batch: &Batch) -> bool {
        // An error means that nobody changes them any more, and the last ones hold.
        if self.changes.has_changed().unwrap_or(false) {
            self.rules = Arc::clone(&self.changes.borrow_and_update());
            self.known.clear();
        }
        if !self.rules.route() {
            return true;
        }
        let name = &batch.origin.name;
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let ours = self.rules.judge(&batch.origin.identity, name.stream).goes_to(self.totals.name);
        self.known.insert(name.clone(), ours);
        ours
    }
}

impl<S: Source> Source for Routed<S> {
    // Cancel-safe as the inner one: nothing is awaited while a batch is in hand.
    async fn recv(&mut self) -> Option<Waiting> {
        loop {
            for _ in 0..AT_ONCE {
                let waiting = self.inner.recv().await?;
                if let Some(ours) = self.pass(waiting) {
                    return Some(ours);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn try_recv(&mut self) -> Option<Waiting> {
        for _ in 0..AT_ONCE {
            let waiting = self.inner.try_recv()?;
            if let Some(ours) = self.pass(waiting) {
                return Some(ours);
            }
        }
        None
    }

    async fn gather(&mut self, limit: Duration) {
        self.inner.gather(limit).await;
    }

    fn settle_first(&mut self, settle: Arc<dyn Settle>) -> bool {
        self.inner.settle_first(settle)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        event::{Body, Flags, HoleReason, Origin, Progress, StreamKind},
        rules::{Match, Rule},
        sinks::{Exit, Outlet},
    };

    /// A batch of this stream, ten bytes and a hole of five; its progress.
    async fn send(outlet: &Outlet, stream: StreamKind, from: u64) -> Arc<Progress> {
        let mut origin = Origin::unknown();
        origin.name.stream = stream;
        let progress: Arc<Progress> = Arc::default();
        let body = Body::Line(Bytes::from_static(b"nine chars"));
        let hole = Body::hole(HoleReason::Overflow);
        let batch = Batch {
            origin: Arc::new(origin),
            records: vec![
                Record { from, to: from + 10, time_ns: 1, flags: Flags::NONE, body },
                Record { from: from + 10, to: from + 15, time_ns: 2, flags: Flags::NONE, body: hole },
            ],
            end: from + 15,
            ending: None,
            receipt: Arc::clone(&progress) as _,
            received: Instant::now(),
            last: false,
        };
        let room = outlet.room(1, 10).await;
        outlet.submit(batch, room);
        progress
    }

    fn stderr_to(sinks: &[&'static str]) -> Arc<Rules> {
        let rule = Rule {
            of: Match { stream: Some(StreamKind::Stderr), ..Match::default() },
            sinks: Some(sinks.to_vec()),
            ..Rule::default()
        };
        Arc::new(Rules::new(vec![rule]))
    }

    fn next_stream(source: &mut Routed<Exit>) -> Option<StreamKind> {
        source.try_recv().map(|waiting| waiting.batch.origin.name.stream)
    }

    #[tokio::test]
    async fn what_goes_elsewhere_is_acknowledged_and_counted_and_rules_change_at_once() {
        let (outlet, exit) = Outlet::queue(1 << 20);
        let rules = watch::Sender::new(stderr_to(&["otlp"]));
        let totals = Arc::new(SinkTotals::new("file"));
        let mut source = Routed::new(exit, rules.subscribe(), Arc::clone(&totals));
        let passed_over = send(&outlet, StreamKind::Stderr, 0).await;
        let taken = send(&outlet, StreamKind::Stdout, 0).await;
        assert_eq!(next_stream(&mut source), Some(StreamKind::Stdout));
        assert_eq!((passed_over.durable(), taken.durable()), (15, 0));
        assert_eq!(totals.elsewhere_bytes.get(), 10);
        rules.send_replace(stderr_to(&["otlp", "file"]));
        send(&outlet, StreamKind::Stderr, 10).await;
        assert_eq!(next_stream(&mut source), Some(StreamKind::Stderr));
        rules.send_replace(stderr_to(&[]));
        send(&outlet, StreamKind::Stderr, 20).await;
        assert_eq!(next_stream(&mut source), None);
        assert_eq!(totals.elsewhere_bytes.get(), 20);
    }
}
