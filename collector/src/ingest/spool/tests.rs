//! When a file goes: not before all that it says is durable, and its streams' ends.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use protobuf::Message;
use shimtap_proto::{
    link::{Close, Data, FromWrapper, from_wrapper::Body as Up},
    spool::{HEADER, Header, VERSION, file_name, record},
};

use super::*;
use crate::{
    ingest::session::tests::{hello, open, ruled_in},
    sinks::Source,
};

/// The first file of a wrapper that is gone: two streams, of which one ends, and the other within a line.
fn left_behind(dir: &Path) -> PathBuf {
    put(dir, 1, &said_by(1))
}

/// What such a file says, of this number.
fn said_by(number: u32) -> Vec<u8> {
    let data = |handle, offset, text: &str| {
        Up::Data(Data { handle, offset, bytes: text.as_bytes().to_vec(), ..Default::default() })
    };
    let said = [
        Up::Hello(hello()),
        Up::Open(open(0)),
        data(1, 0, "line\n"),
        Up::Close(Close { handle: 1, end: 5, exact: true, ..Default::default() }),
        data(2, 0, "half a li"),
        data(2, 9, "ne\n"),
    ];
    let header = Header { wrapper: hello().wrapper, number, boot: [0; 16], created_ns: 1 };
    let mut bytes = header.encode().to_vec();
    for body in said {
        let message = FromWrapper { body: Some(body), ..Default::default() };
        bytes.extend(record(&message.write_to_bytes().expect("encodes")).expect("a message"));
    }
    bytes
}

/// Puts a file of that number there.
fn put(dir: &Path, number: u32, bytes: &[u8]) -> PathBuf {
    let dir = dir.join("disk");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).expect("a folder");
    let path = dir.join(file_name(hello().wrapper, number));
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    std::io::Write::write_all(&mut file.expect("a file"), bytes).expect("written");
    path
}

#[tokio::test]
async fn a_file_goes_when_its_bytes_are_durable_and_the_ends_of_its_streams() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (ingest, mut exit, _rules) = ruled_in(dir.path());
    let file = left_behind(dir.path());
    ingest.spools.take_of(&ingest, hello().wrapper).await;
    let mut batches: Vec<_> = std::iter::from_fn(|| exit.try_recv()).collect();
    assert_eq!(batches.len(), 3, "a line, an end and a line");
    let end = batches.remove(1);
    batches.into_iter().for_each(|waiting| waiting.batch.done());
    ingest.spools.settle().await;
    assert!(file.exists(), "an end is not durable yet, and no other file has it");
    end.batch.done();
    ingest.spools.settle().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn a_spoilt_file_is_set_aside_when_what_is_right_of_it_is_durable() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (ingest, mut exit, _rules) = ruled_in(dir.path());
    let file = left_behind(dir.path());
    let mut bytes = fs::read(&file).expect("readable");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&file, bytes).expect("writable");
    ingest.spools.take_of(&ingest, hello().wrapper).await;
    assert_eq!(ingest.registry.totals.spool_aside.get(Aside::Corrupt), 1);
    // A line, an end, and what there is of a line.
    for done in 0..3 {
        ingest.spools.settle().await;
        assert!(file.exists(), "with {done} of 3 batches");
        exit.try_recv().expect("a batch").batch.done();
    }
    assert!(exit.try_recv().is_none(), "that is all");
    ingest.spools.settle().await;
    let aside = file.with_file_name(format!("{}.bad", file_name(hello().wrapper, 1)));
    assert!(aside.exists() && !file.exists(), "a person may want to see it");
}

/// A file as the next version may have it: its header as long and as sound as ours, the rest is nobody's business.
fn of_next_version(number: u32) -> Vec<u8> {
    let mut bytes = said_by(number);
    bytes[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let sum = crc32fast::hash(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes[HEADER..].reverse();
    bytes
}

/// However often it is looked, with its wrapper there or gone; the file behind it is taken.
#[tokio::test]
async fn a_file_of_a_later_version_is_left_as_it_is_and_keeps_no_other_from_being_taken() {
    for is_written in [false, true] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (ingest, mut exit, _rules) = ruled_in(dir.path());
        let later = put(dir.path(), 0, &of_next_version(0));
        let writer = is_written.then(|| {
            let file = fs::File::open(&later).expect("it is there");
            Flock::lock(file, FlockArg::LockExclusive).expect("nobody else has it")
        });
        let file = left_behind(dir.path());
        for look in 1..=3 {
            if look == 2 {
                ingest.spools.take_of(&ingest, hello().wrapper).await;
            } else {
                ingest.spools.take_orphans(&ingest).await;
            }
            while let Some(waiting) = exit.try_recv() {
                waiting.batch.done();
            }
            ingest.spools.settle().await;
            let aside = &ingest.registry.totals.spool_aside;
            assert_eq!(aside.get(Aside::Version), 1, "look {look}: counted once");
            assert_eq!(aside.total(), 1, "look {look}");
            assert_eq!(fs::read(&later).expect("under its name"), of_next_version(0), "look {look}");
            assert_eq!(ingest.registry.totals.spool_files.get(), 1, "look {look}: the other one");
            assert!(!file.exists(), "look {look}");
        }
        drop(writer);
        // Another collector looks anew: one that knows this version finds the file.
        let (ingest, ..) = ruled_in(dir.path());
        ingest.spools.take_orphans(&ingest).await;
        assert_eq!(ingest.registry.totals.spool_aside.get(Aside::Version), 1);
        assert!(ingest.spools.put_off().is_empty(), "it is not tried again");
    }
}
