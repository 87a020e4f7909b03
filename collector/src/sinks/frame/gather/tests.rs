//! Whatever the batches and the limits are, requests hold every record once and in order, and keep within the limits.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{
    event::{Batch, Body, Flags, Origin, Progress},
    sinks::{Outlet, Settle},
};

/// Batches that are all there.
struct Ready(VecDeque<Waiting>);

impl Source for Ready {
    async fn recv(&mut self) -> Option<Waiting> {
        self.0.pop_front()
    }

    fn try_recv(&mut self) -> Option<Waiting> {
        self.0.pop_front()
    }

    async fn gather(&mut self, _: Duration) {}

    fn settle_first(&mut self, _: Arc<dyn Settle>) -> bool {
        false
    }
}

/// Counts bytes.
#[derive(Clone)]
struct Plain;

impl Encode for Plain {
    type Parcel = Vec<u8>;

    fn weight(record: &Record) -> usize {
        match &record.body {
            Body::Line(line) => line.len(),
            Body::Hole(_) => 0,
        }
    }

    fn add(&mut self, parcel: &mut Vec<u8>, _: &Batch, record: &Record) {
        if let Body::Line(line) = &record.body {
            parcel.extend_from_slice(line);
        }
    }

    fn size(&self, parcel: &Vec<u8>) -> usize {
        parcel.len()
    }

    fn seal(&mut self, _: &mut Vec<u8>) {}

    fn clear(&mut self, parcel: &mut Vec<u8>) {
        parcel.clear();
    }
}

/// One batch per list, of records of these lengths; all of one stream.
async fn batches(lengths: &[Vec<usize>]) -> (Ready, Arc<Progress>) {
    let origin = Arc::new(Origin::unknown());
    let progress: Arc<Progress> = Arc::default();
    let (outlet, mut exit) = Outlet::queue(1 << 20);
    let mut at: u64 = 0;
    for lengths in lengths {
        let mut records = Vec::new();
        for length in lengths {
            let to = at + 1 + *length as u64;
            let body = Body::Line(Bytes::from(vec![b'x'; *length]));
            records.push(Record { from: at, to, time_ns: at, flags: Flags::NONE, body });
            at = to;
        }
        let room = outlet.room(1, 1).await;
        let batch = Batch {
            origin: Arc::clone(&origin),
            records,
            end: at,
            ending: None,
            receipt: Arc::clone(&progress) as _,
            received: Instant::now(),
            last: false,
        };
        outlet.submit(batch, room);
    }
    let mut ready = VecDeque::new();
    while let Some(waiting) = exit.try_recv() {
        ready.push_back(waiting);
    }
    (Ready(ready), progress)
}

async fn loads(lengths: &[Vec<usize>], limits: Limits) -> Vec<Load<Vec<u8>>> {
    let (source, _) = batches(lengths).await;
    let ceiling = Arc::new(Ceiling::new(&limits));
    let mut gather = Gather::new(source, Plain, limits, ceiling);
    let mut all = Vec::new();
    while let Some(load) = gather.next().await {
        all.push(load);
    }
    all
}

fn limits(bytes: usize, records: usize) -> Limits {
    Limits { bytes, records, wait: Duration::ZERO }
}

proptest! {
    #[test]
    fn requests_hold_every_record_once_in_order(
        lengths in prop::collection::vec(prop::collection::vec(0..40_usize, 1..9), 1..9),
        bytes in 1..100_usize,
        records in 1..20_usize,
        halved in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let loads = runtime.block_on(loads(&lengths, limits(bytes, records)));
        let mut seen = Vec::new();
        let mut ended = 0;
        for load in loads {
            prop_assert!(load.records() > 0 && load.records() <= records);
            prop_assert!(load.parcel.len() <= bytes || load.records() == 1);
            let lists = if halved && load.records() > 1 {
                let count = load.records();
                let (first, second) = load.halves();
                let len = |pieces: &[Piece]| pieces.iter().map(|piece| piece.records().len()).sum::<usize>();
                prop_assert_eq!((len(&first), len(&second)), (count / 2, count - count / 2));
                vec![first, second]
            } else {
                vec![load.pieces]
            };
            for piece in lists.iter().flatten() {
                prop_assert!(!piece.records().is_empty());
                seen.extend(piece.records().iter().map(|record| record.from));
                ended += usize::from(piece.is_last());
            }
        }
        let mut expected = Vec::new();
        let mut at = 0;
        for length in lengths.iter().flatten() {
            expected.push(at);
            at += 1 + *length as u64;
        }
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(ended, lengths.len(), "each batch is done with exactly once");
    }
}

#[tokio::test]
async fn a_lower_ceiling_makes_smaller_requests_and_has_a_floor() {
    let ceiling = Ceiling::new(&limits(4 << 20, 10));
    ceiling.lower(1 << 20);
    assert_eq!(ceiling.get(), 512 << 10);
    ceiling.lower(2 << 20);
    assert_eq!(ceiling.get(), 512 << 10, "never up again");
    ceiling.lower(10);
    assert_eq!(ceiling.get(), SMALLEST);
}
