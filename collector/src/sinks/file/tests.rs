//! Rotation and repair, against real files.

mod full_disk;

use std::{
    fs,
    ops::Range,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use super::{
    deliver::ToFile,
    output::{FileFault, Output},
};
use crate::{
    config,
    metrics::SinkTotals,
    sinks::{
        Format,
        frame::{Deliver, Verdict},
        lines::Pending,
    },
};

fn config(path: &Path, rotate_bytes: u64, keep: u32) -> config::File {
    config::File { path: path.to_owned(), rotate_bytes, keep, format: Format::Json }
}

fn open(config: &config::File) -> Output {
    Output::open(config, Arc::new(SinkTotals::new("file"))).expect("opens")
}

fn write(output: &mut Output, text: &str) -> Result<(), FileFault> {
    let mut pending = Pending::default();
    pending.text().extend_from_slice(text.as_bytes());
    output.write(&mut pending)?;
    assert!(pending.is_empty());
    Ok(())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the file is there")
}

#[test]
fn a_file_is_renamed_at_its_size_and_holds_whole_lines() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    let numbered = |n: u32| dir.path().join(format!("log.{n}"));
    let mut output = open(&config(&path, 10, 2));
    write(&mut output, "11111\n222\n33333\n").expect("writes");
    assert_eq!((read(&path).as_str(), read(&numbered(1)).as_str()), ("33333\n", "11111\n222\n"));
    write(&mut output, "a line longer than a file\n4\n").expect("writes");
    assert_eq!((read(&path).as_str(), read(&numbered(1)).as_str()), ("4\n", "a line longer than a file\n"));
    assert_eq!(read(&numbered(2)), "33333\n");
    assert!(!numbered(3).exists(), "two are kept");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn with_nothing_to_keep_the_old_file_is_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    let mut output = open(&config(&path, 4, 0));
    write(&mut output, "111\n222\n").expect("writes");
    assert_eq!(read(&path), "222\n");
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
}

#[test]
fn a_torn_last_line_is_cut_off_at_the_next_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    for (left, whole) in [
        ("a\nb\ntorn".to_owned(), "a\nb\n"),
        ("only torn".to_owned(), ""),
        (String::new(), ""),
        ("a\n".to_owned(), "a\n"),
        (format!("a\n{}", "x".repeat(10_000)), "a\n"),
    ] {
        fs::write(&path, left).expect("writable");
        let mut output = open(&config(&path, 1 << 20, 1));
        write(&mut output, "next\n").expect("writes");
        assert_eq!(read(&path), format!("{whole}next\n"));
    }
}

#[test]
fn a_file_that_was_moved_or_removed_is_made_anew() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, moved) = (dir.path().join("log"), dir.path().join("moved"));
    let mut output = open(&config(&path, 1 << 20, 1));
    write(&mut output, "1\n").expect("writes");
    fs::rename(&path, &moved).expect("ours");
    write(&mut output, "2\n").expect("writes");
    fs::remove_file(&path).expect("ours");
    write(&mut output, "3\n").expect("writes");
    assert_eq!((read(&moved).as_str(), read(&path).as_str()), ("1\n", "3\n"));
}

#[test]
fn a_device_is_never_renamed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    symlink("/dev/null", &path).expect("nothing is there");
    let mut output = open(&config(&path, 4, 1));
    for _ in 0..3 {
        write(&mut output, "111\n222\n333\n").expect("writes");
    }
    assert!(path.is_symlink());
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1, "and nothing beside it");
}

#[test]
fn an_old_file_that_somebody_removed_makes_room_for_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    let numbered = |n: u32| dir.path().join(format!("log.{n}"));
    let mut output = open(&config(&path, 4, 3));
    write(&mut output, "111\n222\n333\n444\n").expect("writes");
    fs::remove_file(numbered(2)).expect("ours");
    write(&mut output, "555\n").expect("writes");
    let old = [1, 2, 3].map(|n| read(&numbered(n)));
    assert_eq!((read(&path).as_str(), old), ("555\n", ["444\n", "333\n", "111\n"].map(str::to_owned)));
}

#[test]
fn a_full_disk_keeps_what_is_pending() {
    let mut output = open(&config(Path::new("/dev/full"), 1 << 20, 1));
    let mut pending = Pending::default();
    pending.text().extend_from_slice(b"line\n");
    let fault = output.write(&mut pending).expect_err("no room");
    assert_eq!(crate::sinks::errno_name(fault.source()), "ENOSPC");
    assert_eq!(pending.len(), 5);
}

#[test]
fn a_directory_that_is_not_there_is_said_at_once() {
    let fault = Output::open(&config(Path::new("/nonexistent/log"), 1, 1), Arc::new(SinkTotals::new("file")))
        .expect_err("no directory");
    assert!(fault.to_string().starts_with("opening the log file /nonexistent/log: "), "{fault}");
}
