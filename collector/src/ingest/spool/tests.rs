//! When a file goes: not before all that it says is durable, and its streams' ends.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use protobuf::Message;
use shimtap_proto::{
    link::{Close, Data, FromWrapper, Hello, from_wrapper::Body as Up},
    spool::{HEADER, Header, VERSION, file_name, record},
};

use super::*;
use crate::{
    event::Store,
    ingest::session::tests::{hello, open, ruled_in},
    rules::{Match, Names, Rule, Rules},
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
    file_of(hello().wrapper, number, said)
}

/// What a file has that says this.
fn file_of(wrapper: u64, number: u32, said: impl IntoIterator<Item = Up>) -> Vec<u8> {
    let header = Header { wrapper, number, boot: [0; 16], created_ns: 1 };
    let mut bytes = header.encode().to_vec();
    for body in said {
        let message = FromWrapper { body: Some(body), ..Default::default() };
        bytes.extend(record(&message.write_to_bytes().expect("encodes")).expect("a message"));
    }
    bytes
}

/// Puts a file of that number there.
fn put(dir: &Path, number: u32, bytes: &[u8]) -> PathBuf {
    put_of(dir, hello().wrapper, number, bytes)
}

/// The same of that wrapper.
fn put_of(dir: &Path, wrapper: u64, number: u32, bytes: &[u8]) -> PathBuf {
    let dir = dir.join("disk");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).expect("a folder");
    let path = dir.join(file_name(wrapper, number));
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

/// The file of that number of a wrapper: a line of one stream, behind those of the files before it.
fn put_line(dir: &Path, wrapper: u64, handle: u32, number: u32) -> PathBuf {
    let offset = u64::from(number - 1) * 5;
    let data = Data { handle, offset, bytes: b"line\n".to_vec(), ..Default::default() };
    let hello = Hello { wrapper, ..hello() };
    let said = [Up::Hello(hello), Up::Open(open((handle - 1) / 2)), Up::Data(data)];
    put_of(dir, wrapper, number, &file_of(wrapper, number, said))
}

/// A rule that has two containers on the disk; others are in memory.
fn two_to_disk() -> Arc<Rules> {
    let names = Names::new(vec!["c0".to_owned(), "c9".to_owned()]).expect("patterns");
    let of = Match { container: Some(names), ..Match::default() };
    Arc::new(Rules::new(vec![Rule { line: 1, of, store: Some(Store::Disk), ..Rule::default() }]))
}

#[tokio::test(start_paused = true)]
async fn files_that_wait_for_a_disk_that_hangs_keep_no_others_from_being_taken() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (ingest, mut exit, rules) = ruled_in(dir.path());
    rules.send_replace(two_to_disk());
    let most = u32::try_from(PENDING_MAX).expect("a few");
    let hung: Vec<_> = (1..=most + 2).map(|number| put_line(dir.path(), 1, 1, number)).collect();
    let late = put_line(dir.path(), 9, 19, 1);
    // Others' files, behind all of these.
    let others: Vec<_> = (2u32..5).map(|n| put_line(dir.path(), n.into(), 2 * n, 1)).collect();
    let begun = Instant::now();
    ingest.spools.take_orphans(&ingest).await;
    assert!(begun.elapsed() < LOOK * 2, "it is waited for once: {:?}", begun.elapsed());
    let (waiting, free): (Vec<_>, Vec<_>) = std::iter::from_fn(|| exit.try_recv())
        .partition(|waiting| waiting.batch.origin.name.container == "c0");
    assert_eq!((waiting.len(), free.len()), (PENDING_MAX, others.len()));
    free.into_iter().for_each(|waiting| waiting.batch.done());
    ingest.spools.settle().await;
    assert!(others.iter().all(|file| !file.exists()));
    assert!(hung.iter().chain([&late]).all(|file| file.exists()));
    let announced = ingest.registry.containers();
    assert!(
        !announced.iter().any(|container| container.identity.container_id == "c9"),
        "it would be given up"
    );
    // It works again: those that were put off have their turn after a while.
    waiting.into_iter().for_each(|waiting| waiting.batch.done());
    ingest.spools.settle().await;
    assert_eq!(hung.iter().filter(|file| file.exists()).count(), 2);
    let newest = put_line(dir.path(), 1, 1, most + 3);
    ingest.spools.take_orphans(&ingest).await;
    assert!(exit.try_recv().is_none(), "what stands before it would be missing");
    tokio::time::advance(PUT_OFF).await;
    ingest.spools.take_orphans(&ingest).await;
    let rest = std::iter::from_fn(|| exit.try_recv());
    assert_eq!(rest.map(|waiting| waiting.batch.done()).count(), 4);
    ingest.spools.settle().await;
    assert!(hung.iter().chain([&late, &newest]).all(|file| !file.exists()));
}

#[tokio::test(start_paused = true)]
async fn more_files_than_may_wait_are_taken_at_once_where_the_disk_comes_along() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (ingest, mut exit, _rules) = ruled_in(dir.path());
    let most = u32::try_from(PENDING_MAX).expect("a few");
    let files: Vec<_> = (1..=2 * most + 1).map(|number| put_line(dir.path(), 1, 1, number)).collect();
    let writes = async {
        loop {
            std::iter::from_fn(|| exit.try_recv()).for_each(|waiting| waiting.batch.done());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = ingest.spools.take_orphans(&ingest) => {}
        () = writes => {}
    }
    assert_eq!(ingest.registry.totals.spool_files.get(), files.len() as u64);
    assert!(ingest.spools.held().is_empty(), "none was put off");
}
