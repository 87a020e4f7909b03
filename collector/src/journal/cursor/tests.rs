//! How far a sink is, as it is written down.

use std::sync::Weak;

use super::*;

/// A disk that can be out of order, and during whose work a batch is acknowledged.
#[derive(Debug, Default)]
struct Disk {
    fails: AtomicBool,
    cursor: OnceLock<Weak<Cursor>>,
}

impl Settle for Disk {
    fn settle(&self) -> bool {
        let fails = self.fails.load(Ordering::Relaxed);
        if !fails {
            self.cursor.get().and_then(Weak::upgrade).expect("it is told").acknowledge(&[2]);
        }
        !fails
    }
}

#[test]
fn a_place_says_only_what_a_power_cut_leaves_with_the_sink() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = Cursor::path(dir.path(), "file");
    let cursor = Arc::new(Cursor::new(Some(path.clone()), Place::default()));
    let disk = Arc::new(Disk::default());
    disk.cursor.set(Arc::downgrade(&cursor)).expect("once");
    cursor.settle_first(Arc::clone(&disk) as _);
    let open = |seq: u64| Open { stream: 1, from: seq * 10, to: seq * 10 + 10, time_ns: 1, parts: 1 };
    (0..4).for_each(|seq| cursor.give(seq, open(seq)));
    cursor.acknowledge(&[0]);

    disk.fails.store(true, Ordering::Relaxed);
    cursor.write(|_| true).expect("its disk is out of order, which is no fault of the journal's");
    assert_eq!(Cursor::read(&path), None, "nothing is claimed");

    disk.fails.store(false, Ordering::Relaxed);
    let said = || Cursor::read(&path).expect("a place").open.into_keys().collect::<Vec<_>>();
    cursor.write(|_| true).expect("it is tried again though nothing has changed");
    assert_eq!(said(), [1, 2, 3], "2 was acknowledged while the disk was at work: it may not have it");
    cursor.write(|_| true).expect("written");
    assert_eq!(said(), [1, 3]);
}

#[test]
fn who_is_asked_for_a_stream_may_have_a_lock_that_others_hold_who_want_ours() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = Cursor::path(dir.path(), "otlp");
    let cursor = Cursor::new(Some(path.clone()), Place::default());
    for stream in 1..=3 {
        cursor.skip(stream, 10);
    }
    cursor
        .write(|stream| {
            assert!(cursor.state.try_lock().is_ok(), "its own lock is free");
            stream != 2
        })
        .expect("written");
    let mut ends: Vec<u32> = Cursor::read(&path).expect("a place").ends.into_keys().collect();
    ends.sort_unstable();
    assert_eq!(ends, [1, 3]);
}

/// Its place was read, and what comes of that entry has nothing that could be acknowledged: it is not waited for.
#[test]
fn an_entry_of_which_nothing_is_left_is_not_open() {
    let open = Open { stream: 1, from: 0, to: 10, time_ns: 1, parts: 1 };
    let place = Place { open: [(2, open), (3, open)].into(), given: 4, ..Place::default() };
    let cursor = Cursor::new(None, place);
    cursor.give(2, Open { parts: 0, ..open });
    assert_eq!(cursor.lag(0), (10, Some(1)));
    cursor.give(3, Open { parts: 2, ..open });
    cursor.acknowledge(&[3]);
    assert_eq!(cursor.lag(0).1, Some(1), "one of its parts is still out");
    cursor.acknowledge(&[3]);
    assert_eq!(cursor.lag(0), (0, None));
}
