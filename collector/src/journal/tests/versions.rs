//! What the format's second version added, byte by byte, and what becomes of files of the first.

use super::*;
use crate::{
    event::Hole,
    journal::format::{
        HoleSum,
        entry::{Entries, Entry, put_batch},
        header::{VERSION, VERSION_AT},
    },
};

fn hole(from: u64, to: u64, reason: HoleReason, lines: Option<u64>) -> Record {
    let body = Body::Hole(Hole { reason, lines });
    Record { from, to, time_ns: from + 1, flags: Flags::NONE, body }
}

/// The version that a file says it is of.
fn version(path: &Path) -> u32 {
    let bytes = fs::read(path).expect("readable");
    u32::from_le_bytes(bytes[VERSION_AT].try_into().expect("four bytes"))
}

/// Makes a file of the first version of one that holds nothing which only the second knows.
fn as_of_version_1(path: &Path) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[VERSION_AT].copy_from_slice(&1u32.to_le_bytes());
    fs::write(path, bytes).expect("writable");
}

fn records(journal: &Arc<Journal>) -> Vec<Record> {
    drain(&mut journal.glance()).iter().flat_map(|waiting| waiting.batch.records.clone()).collect()
}

#[test]
fn a_hole_s_lines_stand_behind_its_reason_where_they_are_known() {
    let records = vec![
        hole(10, 30, HoleReason::RateLimit, Some(300)),
        hole(30, 34, HoleReason::Overflow, None),
        hole(34, 35, HoleReason::RuleDrop, Some(0)),
        line(35, "hi"),
    ];
    let mut payload = Vec::new();
    put_batch(&mut payload, 0, 5, &records, None);
    let expected: [&[u8]; 5] = [
        // A batch: nothing skipped, stream 5, 4 records, the first from 10 at 11 ns.
        &[2, 0, 5, 4, 10, 11],
        b"\xa0\x00\x14\x0arate_limit\xac\x02",
        b"\x80\x14\x04\x08overflow",
        b"\xa0\x04\x01\x09rule_drop\x00",
        b"\x20\x01\x02hi",
    ];
    assert_eq!(payload, expected.concat());
    let mut entries = Entries::new(Bytes::from(payload), 1);
    let Some(Entry::Batch(read)) = entries.next().expect("whole") else { panic!("no batch") };
    assert_eq!(read.records, records);
    assert!(entries.next().expect("whole").is_none());
}

#[test]
fn lines_of_holes_are_summed_where_they_are_known_and_counted_again_at_a_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let app = origin("app");
    let open = Open::new(&config);
    let holes = vec![
        hole(0, 10, HoleReason::RateLimit, Some(3)),
        hole(10, 14, HoleReason::Overflow, None),
        hole(14, 20, HoleReason::RateLimit, Some(4)),
        hole(20, 22, HoleReason::RuleDrop, None),
        hole(22, 30, HoleReason::RuleDrop, Some(2)),
    ];
    open.appended(&app, holes.clone());
    open.close();
    let sum = |reason, bytes, number, lines| HoleSum { reason, bytes, number, lines };
    let sums = vec![
        sum(HoleReason::RateLimit, 16, 2, Some(7)),
        sum(HoleReason::Overflow, 4, 1, None),
        sum(HoleReason::RuleDrop, 10, 2, Some(2)),
    ];
    // From the frames; then from a header, where another boot begins a file.
    for boot in ["a boot", "another", "a third"] {
        let open = Open::on(boot, &config).expect("opens");
        assert_eq!(open.journal.stream(&app.name).expect("known").holes, sums, "{boot}");
        assert_eq!(open.totals.limited_lines.get(), 7, "{boot}");
        assert_eq!(records(&open.journal), holes, "{boot}");
        open.close();
    }
}

#[test]
fn a_file_of_version_1_is_read_and_not_appended_to() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 8 << 20);
    let app = origin("app");
    let open = Open::new(&config);
    let old = vec![line(0, "old"), hole(4, 9, HoleReason::RateLimit, None)];
    open.appended(&app, old.clone());
    open.close();
    let first = files(dir.path()).pop().expect("a file");
    as_of_version_1(&first);
    let as_it_was = fs::read(&first).expect("readable");

    let open = Open::new(&config);
    assert!(!open.journal.figures().unclean);
    assert_eq!(records(&open.journal), old);
    let new = vec![hole(9, 12, HoleReason::RateLimit, Some(1)), line(12, "new")];
    open.appended(&app, new.clone());
    open.close();
    assert_eq!(fs::read(&first).expect("readable"), as_it_was, "who knows version 1 only can still read it");
    assert_eq!(files(dir.path()).iter().map(|path| version(path)).collect::<Vec<_>>(), [1, VERSION]);
    let open = Open::new(&config);
    assert_eq!(records(&open.journal), [old, new].concat());
    let row = open.journal.stream(&app.name).expect("known");
    assert_eq!((row.end, row.holes[0].number, row.holes[0].lines), (16, 2, Some(1)));
}

/// A rewritten file has the header of an older one, and frames of both.
#[test]
fn a_file_of_version_1_that_is_rewritten_is_of_this_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 4 << 20);
    let (loud, quiet) = (origin("loud"), origin("quiet"));
    let open = Open::new(&config);
    open.appended(&quiet, vec![line(0, "quiet")]);
    open.appended(&loud, vec![line(0, "loud")]);
    open.close();
    let first = files(dir.path()).pop().expect("a file");
    as_of_version_1(&first);
    let open = Open::new(&config);
    let kept = hole(6, 9, HoleReason::RateLimit, Some(2));
    open.appended(&quiet, vec![kept.clone()]);
    let mut end = 5;
    for i in 0..200 {
        open.appended(&loud, vec![line(end, &noise(i, 60_000))]);
        end += 60_001;
    }
    assert_eq!(version(&first), VERSION, "it has taken over what stood behind it");
    open.close();
    let open = Open::new(&config);
    let of_quiet: Vec<_> = drain(&mut open.journal.glance())
        .iter()
        .filter(|waiting| waiting.batch.origin.name == quiet.name)
        .flat_map(|waiting| waiting.batch.records.clone())
        .collect();
    assert_eq!(of_quiet, [line(0, "quiet"), kept]);
}

/// A file without an entry has the number, and so the name, of the one that is begun behind it.
#[test]
fn a_file_without_an_entry_gives_its_place_to_the_next() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path(), 4 << 20);
    let app = origin("app");
    let open = Open::on("a boot", &config).expect("opens");
    open.close();
    assert_eq!(files(dir.path()).len(), 1, "an end in order removes nothing");
    let open = Open::on("a boot", &config).expect("opens");
    open.appended(&app, lines(0, 2, "kept"));
    open.close();
    for (boot, from) in [("a quiet boot", None), ("another", None), ("a third", Some(10))] {
        let open = Open::on(boot, &config).expect("opens");
        if let Some(from) = from {
            open.appended(&app, lines(from, 2, "kept"));
        }
        let known = open.journal.figures().files;
        assert_eq!(
            known,
            files(dir.path()).len() as u64,
            "{boot}: each file that is known has a name of its own"
        );
        open.close();
    }
    let open = Open::on("a third", &config).expect("opens");
    let kept: Vec<_> = records(&open.journal).iter().map(|record| record.from).collect();
    assert_eq!(kept, [0, 5, 10, 15]);
}
