//! The second half of a sink: requests out, acknowledgements back.
//!
//! One request at a time, so that the records of a stream arrive in their order whatever is tried again. What fails is
//! tried for ever; what is refused for good is counted and done with, so that nothing behind it waits.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{
    Deliver, Encode, Trouble, Verdict,
    gather::{Ceiling, Load, Piece},
    retry::{Pace, Retry},
};
use crate::{closed::Closed, limited::Limited, metrics::SinkTotals};

/// A destination that stays away is mentioned again after this.
const REMIND: Duration = Duration::from_secs(300);

/// Delivers requests.
#[derive(Debug)]
pub(super) struct Carry<E, D> {
    encoder: E,
    deliver: D,
    ceiling: Arc<Ceiling>,
    retry: Retry,
    sink: Arc<SinkTotals>,
    /// Since when nothing gets through, and when that was last said.
    stalled: Option<(Instant, Instant)>,
    rejects: Limited,
}

// === impl Carry ===

impl<E: Encode, D: Deliver<E::Parcel>> Carry<E, D> {
    pub(super) fn new(
        encoder: E,
        deliver: D,
        ceiling: Arc<Ceiling>,
        pace: Pace,
        sink: Arc<SinkTotals>,
    ) -> Self {
        let (retry, rejects) = (Retry::new(pace), Limited::new());
        Self { encoder, deliver, ceiling, retry, sink, stalled: None, rejects }
    }

    /// Delivers a request, however long that takes, in pieces where it must be. Gives its memory back.
    pub(super) async fn carry(&mut self, load: Load<E::Parcel>) -> E::Parcel {
        let mut spare = E::Parcel::default();
        let mut todo = vec![load];
        while let Some(mut load) = todo.pop() {
            let records = load.records();
            if records == 0 {
                // The end of a stream, and nothing else.
                self.done(&load.pieces);
                continue;
            }
            match self.settle(&mut load).await {
                Settled::Taken { rejected } => {
                    let rejected = rejected.min(wide(records));
                    self.sink.records.add(wide(records).saturating_sub(rejected));
                    self.sink.rejected.add(Trouble::PartialSuccess, rejected);
                    // Of a part of them nobody says which it was, and so how many bytes.
                    if rejected == wide(records) {
                        self.sink.rejected_bytes.add(Trouble::PartialSuccess, load.output_bytes());
                    }
                }
                Settled::TooLarge(size) if records > 1 => {
                    self.ceiling.lower(size);
                    self.sink.splits.add(1);
                    let (first, second) = load.halves();
                    todo.push(Load::pack(&mut self.encoder, second));
                    todo.push(Load::pack(&mut self.encoder, first));
                    continue;
                }
                Settled::TooLarge(_) => self.reject(&load, Trouble::TooLarge, "too large for the other end"),
                Settled::Never(trouble, error) => self.reject(&load, trouble, &error),
            }
            self.done(&load.pieces);
            spare = load.parcel;
        }
        spare
    }

    /// Tries until there is an answer that counts.
    async fn settle(&mut self, load: &mut Load<E::Parcel>) -> Settled {
        let size = self.encoder.size(&load.parcel);
        loop {
            self.sink.breaker.set(self.retry.breaker(false) as u64);
            self.sink.in_flight.up();
            let start = Instant::now();
            let verdict = self.deliver.deliver(&mut load.parcel).await;
            self.sink.in_flight.down();
            self.sink.duration.observe(start.elapsed());
            let settled = match verdict {
                Verdict::Taken { rejected } => Settled::Taken { rejected },
                Verdict::TooLarge => Settled::TooLarge(size),
                Verdict::Never { trouble, error } => Settled::Never(trouble, error),
                Verdict::Later { trouble, label, error, after } => {
                    self.sink.error(label.as_deref().unwrap_or(trouble.name()));
                    self.sink.retried.add(trouble, wide(load.records()));
                    self.sink.retried_bytes.add(trouble, load.output_bytes());
                    let pause = self.retry.failed(after, fastrand::f64());
                    self.stalls(&error);
                    self.sink.breaker.set(self.retry.breaker(true) as u64);
                    sleep(pause).await;
                    continue;
                }
            };
            self.retry.succeeded();
            self.sink.breaker.set(self.retry.breaker(false) as u64);
            self.goes_on();
            return settled;
        }
    }

    fn done(&self, pieces: &[Piece]) {
        for piece in pieces.iter().filter(|piece| piece.is_last()) {
            let batch = &piece.waiting().batch;
            batch.done();
            self.sink.delay.observe(batch.received.elapsed());
        }
    }

    fn reject(&self, load: &Load<E::Parcel>, trouble: Trouble, error: &str) {
        let records = wide(load.records());
        self.sink.rejected.add(trouble, records);
        self.sink.rejected_bytes.add(trouble, load.output_bytes());
        let (sink, reason) = (self.sink.name, trouble.name());
        self.rejects.say(|hidden| {
            warn!(sink, records, reason, %error, hidden, "records were refused for good; counted and passed over");
        });
    }

    fn stalls(&mut self, error: &str) {
        self.sink.stalled.set(1);
        let now = Instant::now();
        let sink = self.sink.name;
        match &mut self.stalled {
            None => {
                warn!(sink, %error, "sink cannot deliver; trying again");
                self.stalled = Some((now, now));
            }
            Some((since, said)) if now.duration_since(*said) >= REMIND => {
                let seconds = now.duration_since(*since).as_secs();
                warn!(sink, %error, seconds, "sink still cannot deliver");
                *said = now;
            }
            Some(_) => {}
        }
    }

    fn goes_on(&mut self) {
        if let Some((since, _)) = self.stalled.take() {
            self.sink.stalled.set(0);
            info!(sink = self.sink.name, seconds = since.elapsed().as_secs(), "sink delivers again");
        }
    }
}

/// A verdict that ends the trying.
enum Settled {
    Taken {
        rejected: u64,
    },
    /// Of this size.
    TooLarge(usize),
    Never(Trouble, String),
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
