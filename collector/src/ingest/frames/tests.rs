//! Frames come out the same however the bytes come in, and no limit is passed.

use std::time::Duration;

use shimtap_proto::ttrpc::{Header, Kind};
use tokio::io::{AsyncWriteExt, duplex};

use super::{FrameReader, READ_LEAST, write};
use crate::ingest::fault::{FaultKind, IngestFault};

const LIMIT: usize = 100;
const TIME: Duration = Duration::from_secs(10);

fn frame(length: usize, flags: u8) -> Vec<u8> {
    let header =
        Header { length: u32::try_from(length).expect("small"), stream_id: 1, kind: Kind::Data, flags };
    [header.encode().to_vec(), vec![b'x'; length]].concat()
}

#[tokio::test]
async fn frames_do_not_depend_on_how_bytes_arrive() {
    let bytes = [frame(0, 1), frame(LIMIT, 2), frame(3, 4)].concat();
    for step in 1..=bytes.len() {
        let (mut near, far) = duplex(step);
        let sent = bytes.clone();
        let writing = tokio::spawn(async move {
            for chunk in sent.chunks(step) {
                near.write_all(chunk).await.expect("read on the other side");
            }
        });
        let mut reader = FrameReader::new(far, LIMIT, TIME);
        let mut seen = Vec::new();
        while let Some(frame) = reader.next().await.expect("frames") {
            seen.push((frame.header.flags, frame.body.len()));
        }
        assert_eq!(seen, [(1, 0), (2, LIMIT), (4, 3)], "{step} bytes at a time");
        writing.await.expect("everything was read");
    }
}

#[tokio::test]
async fn one_that_waits_between_frames_holds_no_memory() {
    let (mut near, far) = duplex(1_000);
    let mut reader = FrameReader::new(far, LIMIT, TIME);
    for begun in [0, 5] {
        near.write_all(&[frame(7, 0), frame(7, 0)[..begun].to_vec()].concat()).await.expect("taken");
        assert!(reader.next().await.expect("whole").is_some());
        assert!(tokio::time::timeout(Duration::from_millis(1), reader.next()).await.is_err(), "no more came");
        assert_eq!((reader.buffer.capacity() == 0, reader.buffer.len()), (begun == 0, begun));
    }
    near.write_all(&frame(7, 0)[5..]).await.expect("taken");
    assert_eq!(reader.next().await.expect("whole").map(|frame| frame.body.len()), Some(7));
}

#[tokio::test]
async fn buffers_are_as_large_as_messages() {
    let (mut near, far) = duplex(1 << 20);
    let mut reader = FrameReader::new(far, 1 << 20, TIME);
    let mut capacity = async |length: usize| {
        // The next one has begun, so that the buffer stays.
        let begun = frame(length, 0)[..20].to_vec();
        near.write_all(&[frame(length, 0), frame(length, 0), begun].concat()).await.expect("taken");
        for _ in 0..2 {
            assert_eq!(reader.next().await.expect("whole").map(|frame| frame.body.len()), Some(length));
        }
        assert!(tokio::time::timeout(Duration::from_millis(1), reader.next()).await.is_err(), "no more came");
        let capacity = reader.buffer.capacity();
        near.write_all(&frame(length, 0)[20..]).await.expect("taken");
        assert!(reader.next().await.expect("whole").is_some());
        capacity
    };
    assert!(capacity(2_000).await <= READ_LEAST);
    assert!(capacity(64 << 10).await > 64 << 10, "in one read");
    assert!(capacity(300 << 10).await > 64 << 10, "in several");
}

async fn fault(bytes: &[u8]) -> IngestFault {
    let mut reader = FrameReader::new(bytes, LIMIT, TIME);
    loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no fault"),
            Err(fault) => return fault,
        }
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_at_its_header() {
    let header = &frame(LIMIT + 1, 0)[..10];
    assert!(matches!(fault(header).await, IngestFault::Oversize { bytes: 101, limit: LIMIT }));
    let insane = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 3, 0];
    assert_eq!(fault(&insane).await.kind(), FaultKind::Framing);
    assert_eq!(fault(&[0, 0, 0, 1, 0, 0, 0, 1, 9, 0, b'x']).await.kind(), FaultKind::Framing);
}

#[tokio::test]
async fn the_end_in_a_frame_is_a_fault_and_between_frames_it_is_not() {
    let whole = frame(5, 0);
    for cut in 1..whole.len() {
        assert_eq!(fault(&whole[..cut]).await.kind(), FaultKind::Io, "cut at {cut}");
    }
    let mut reader = FrameReader::new(&whole[..], LIMIT, TIME);
    assert!(reader.next().await.expect("whole").is_some());
    assert!(reader.next().await.expect("the end").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_frame_has_its_time_and_a_pause_between_frames_has_none() {
    let (mut near, far) = duplex(1_000);
    let mut reader = FrameReader::new(far, LIMIT, TIME);
    let late = tokio::time::timeout(TIME * 100, reader.next()).await;
    assert!(late.is_err(), "nothing came, and nothing was due");
    near.write_all(&frame(5, 0)[..12]).await.expect("taken");
    assert!(matches!(reader.next().await, Err(IngestFault::MessageTimeout(TIME))));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_has_its_time() {
    let (mut near, _far) = duplex(4);
    let slow = write(&mut near, b"more than four", TIME).await;
    assert!(matches!(slow, Err(IngestFault::WriteTimeout(TIME))));
}
