//! What rules send elsewhere, taken out before a sink sees it.
//!
//! Stands between the journal's reader and a sink. What is passed over is acknowledged at once, so that it holds no place of
//! the journal's, and counted, so that a sink's sums stay whole. Rules are asked once per stream and again when they change.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Settle, Source, Waiting};
use crate::{
    event::{Batch, StreamName},
    metrics::SinkTotals,
    rules::Rules,
};

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
        let records = waiting.batch.records.iter();
        self.totals.elsewhere_bytes.add(records.map(|record| record.to.saturating_sub(record.from)).sum());
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
            let waiting = self.inner.recv().await?;
            if let Some(ours) = self.pass(waiting) {
                return Some(ours);
            }
        }
    }

    fn try_recv(&mut self) -> Option<Waiting> {
        loop {
            let waiting = self.inner.try_recv()?;
            if let Some(ours) = self.pass(waiting) {
                return Some(ours);
            }
        }
    }

    async fn gather(&mut self, limit: Duration) {
        self.inner.gather(limit).await;
    }

    fn settle_first(&mut self, settle: Arc<dyn Settle>) {
        self.inner.settle_first(settle);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use bytes::Bytes;
    use shimtap_proto::link;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        enrich::Identity,
        event::{Body, Flags, Origin, Progress, Record, StreamKind},
        rules::{Match, Rule},
        sinks::{Exit, Outlet},
    };

    /// A batch of ten bytes of this stream; its progress.
    async fn send(outlet: &Outlet, stream: StreamKind, from: u64) -> Arc<Progress> {
        let open = link::Open { container: "c".into(), ..Default::default() };
        let identity = Arc::new(Identity::new(&open, &link::InnerShim::new()));
        let name = StreamName {
            namespace: String::new(),
            container: "c".into(),
            incarnation: 1,
            process: String::new(),
            stream,
        };
        let progress: Arc<Progress> = Arc::default();
        let body = Body::Line(Bytes::from_static(b"nine chars"));
        let batch = Batch {
            origin: Arc::new(Origin { name, identity, json: OnceLock::new() }),
            records: vec![Record { from, to: from + 10, time_ns: 1, flags: Flags::NONE, body }],
            end: from + 10,
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
        assert_eq!((passed_over.durable(), taken.durable()), (10, 0));
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
