//! The first half of a sink: batches in, whole requests out.
//!
//! A request is bounded in bytes, records and time. A batch may be larger than a request: then its pieces travel in
//! several, in order, and it is done with its last one.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::Encode;
use crate::{
    event::Record,
    sinks::{Source, Waiting},
};

/// How large a request becomes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Encoded bytes, before compression. A single record that is larger has a request to itself.
    pub bytes: usize,
    /// Records.
    pub records: usize,
    /// How long the first record of a request waits for others while few come.
    pub wait: Duration,
}

/// What the two halves of a sink know of its requests' size: the limit, lower where the other end took no more.
#[derive(Debug)]
pub(super) struct Ceiling(AtomicUsize);

/// Part of a batch.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    waiting: Arc<Waiting>,
    range: Range<usize>,
}

/// One request, and whose records are in it.
#[derive(Debug)]
pub(super) struct Load<P> {
    pub(super) pieces: Vec<Piece>,
    pub(super) parcel: P,
}

/// Takes batches and packs them.
pub(super) struct Gather<S, E: Encode> {
    source: S,
    encoder: E,
    limits: Limits,
    ceiling: Arc<Ceiling>,
    /// What did not fit into the last request.
    left: Option<Piece>,
    /// Memory of a request that was delivered.
    spare: Option<E::Parcel>,
}

/// Requests are not made smaller than this, whatever the other end says: one record may have 256 KiB.
const SMALLEST: usize = 64 << 10;

// === impl Ceiling ===

impl Ceiling {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(AtomicUsize::new(limits.bytes))
    }

    /// A request of this size was too large.
    pub(super) fn lower(&self, size: usize) {
        self.0.fetch_min((size / 2).max(SMALLEST), Ordering::Relaxed);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Piece ===

impl Piece {
    fn whole(waiting: Waiting) -> Self {
        let range = 0..waiting.batch.records.len();
        Self { waiting: Arc::new(waiting), range }
    }

    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    pub(super) fn records(&self) -> &[Record] {
        self.waiting.batch.records.get(self.range.clone()).unwrap_or_default()
    }

    /// True where the batch is done with this piece.
    pub(super) fn is_last(&self) -> bool {
        self.range.end == self.waiting.batch.records.len()
    }

    /// The first `count` records, and the others.
    fn split(self, count: usize) -> (Self, Self) {
        let at = self.range.start.saturating_add(count).min(self.range.end);
        let head = Self { waiting: Arc::clone(&self.waiting), range: self.range.start..at };
        (head, Self { waiting: self.waiting, range: at..self.range.end })
    }
}

// === impl Load ===

impl<P: Default> Load<P> {
    /// Packs pieces as they are.
    pub(super) fn pack<E: Encode<Parcel = P>>(encoder: &mut E, pieces: Vec<Piece>) -> Self {
        let mut parcel = P::default();
        for piece in &pieces {
            let batch = &piece.waiting().batch;
            for record in piece.records() {
                encoder.add(&mut parcel, batch, record);
            }
        }
        encoder.seal(&mut parcel);
        Self { pieces, parcel }
    }
}

impl<P> Load<P> {
    pub(super) fn records(&self) -> usize {
        self.pieces.iter().map(|piece| piece.records().len()).sum()
    }

    /// Bytes of container output that its records stand for, those of holes not counted.
    pub(super) fn output_bytes(&self) -> u64 {
        let records = self.pieces.iter().flat_map(Piece::records);
        records.fold(0, |sum, record| sum.saturating_add(record.output_bytes()))
    }

    /// Two of half as many records each; for one that has more than one.
    pub(super) fn halves(self) -> (Vec<Piece>, Vec<Piece>) {
        let mut room = self.records() / 2;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for piece in self.pieces {
            let count = piece.records().len();
            if count <= room {
                first.push(piece);
            } else if room == 0 {
                second.push(piece);
            } else {
                let (head, tail) = piece.split(room);
                first.push(head);
                second.push(tail);
            }
            room = room.saturating_sub(count);
        }
        (first, second)
    }
}

// === impl Gather ===

impl<S: Source, E: Encode> Gather<S, E> {
    pub(super) fn new(source: S, encoder: E, limits: Limits, ceiling: Arc<Ceiling>) -> Self {
        Self { source, encoder, limits, ceiling, left: None, spare: None }
    }

    /// The next request; waits for it. `None` when no more will come.
    pub(super) async fn next(&mut self) -> Option<Load<E::Parcel>> {
        let mut next = match self.left.take() {
            Some(piece) => piece,
            None => {
                let first = self.source.recv().await?;
                // A wait for no time is one to the end of the millisecond.
                if !self.limits.wait.is_zero() {
                    self.source.gather(self.limits.wait).await;
                }
                Piece::whole(first)
            }
        };
        let mut load = Load { pieces: Vec::new(), parcel: self.spare.take().unwrap_or_default() };
        let mut records = 0;
        loop {
            let fits = self.fill(&mut load.parcel, &next, &mut records);
            if fits < next.records().len() {
                let (head, tail) = next.split(fits);
                if fits > 0 {
                    load.pieces.push(head);
                }
                self.left = Some(tail);
                break;
            }
            load.pieces.push(next);
            if self.encoder.size(&load.parcel) >= self.ceiling.get() {
                break;
            }
            let Some(more) = self.source.try_recv() else { break };
            next = Piece::whole(more);
        }
        self.encoder.seal(&mut load.parcel);
        Some(load)
    }

    /// Takes a delivered request's memory back.
    pub(super) fn recycle(&mut self, mut parcel: E::Parcel) {
        self.encoder.clear(&mut parcel);
        self.spare = Some(parcel);
    }

    /// Adds records while they fit; gives how many did. The first record of a request always does.
    fn fill(&mut self, parcel: &mut E::Parcel, piece: &Piece, records: &mut usize) -> usize {
        let batch = &piece.waiting.batch;
        let most = self.ceiling.get();
        for (done, record) in piece.records().iter().enumerate() {
            let size = self.encoder.size(parcel).saturating_add(E::weight(record));
            if *records > 0 && (*records >= self.limits.records || size > most) {
                return done;
            }
            self.encoder.add(parcel, batch, record);
            *records = records.saturating_add(1);
        }
        piece.records().len()
    }
}

#[cfg(test)]
mod tests;
