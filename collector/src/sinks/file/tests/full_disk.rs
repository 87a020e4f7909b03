//! What a mount is needed for. A disk that is full in the middle of a line, and what is done to the file meanwhile: no line is
//! lost, none is in pieces. A file that cannot be renamed.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;
use crate::sinks::file::unsynced::Unsynced;

/// A place where something is mounted, until it is dropped.
struct Mounted(PathBuf);

/// A file system in memory, which holds two files beside its folder.
struct Disk {
    /// Goes first.
    _mounted: Mounted,
    dir: tempfile::TempDir,
}

/// A sink on such a disk.
struct Setting {
    disk: Disk,
    path: PathBuf,
    to_file: ToFile,
    unsynced: Arc<Unsynced>,
    sink: Arc<SinkTotals>,
}

/// How long each line is.
const LINE: usize = 100;
/// No number of whole pages, nor of lines in what is left of the last.
const FIRST: usize = 3_001;
/// More than is left of the last page.
const SECOND: usize = 1_000;

impl Mounted {
    /// `what` at `at`; `None` where the system does not let us mount, which only root may.
    fn mount(
        what: &Path,
        at: &Path,
        kind: Option<&str>,
        flags: MsFlags,
        options: Option<&str>,
    ) -> Option<Self> {
        let mounted = mount(Some(what), at, kind, flags, options);
        if mounted.is_err() {
            eprintln!("skipped: a mount was refused; it runs as root with CAP_SYS_ADMIN");
        }
        mounted.is_ok().then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

impl Disk {
    fn small() -> Option<Self> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let options = Some("size=2m,nr_inodes=3");
        let none = Path::new("none");
        let mounted = Mounted::mount(none, dir.path(), Some("tmpfs"), MsFlags::empty(), options)?;
        Some(Self { _mounted: mounted, dir })
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }

    /// Takes all the room it has left.
    fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).expect("a file");
        while file.write_all(&[0; 4_096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.ballast()).expect("it is there");
    }
}

impl Setting {
    fn new(disk: Disk, path: PathBuf) -> Self {
        let sink = Arc::new(SinkTotals::new("file"));
        let output = Output::open(&config(&path, 1 << 30, 1), Arc::clone(&sink)).expect("opens");
        // Somebody asks for what is not on the disk, and so holds on to files.
        let unsynced = output.unsynced();
        unsynced.begin();
        let to_file = ToFile::new(output, Arc::clone(&sink));
        Self { disk, path, to_file, unsynced, sink }
    }

    fn on(disk: Disk) -> Self {
        let path = disk.dir.path().join("log");
        Self::new(disk, path)
    }

    /// Has taken one request; of the next, the disk took a beginning that ends within a line.
    async fn torn(mut self) -> (Self, Pending) {
        self.deliver(&mut pending(0..FIRST)).await.expect("there is room");
        self.disk.fill();
        let mut second = pending(FIRST..FIRST + SECOND);
        self.deliver(&mut second).await.expect_err("no room");
        let text = read(&self.path);
        assert!(text.len() > FIRST * LINE && !text.ends_with('\n'), "{} bytes", text.len());
        (self, second)
    }

    async fn deliver(&mut self, pending: &mut Pending) -> Result<(), String> {
        match self.to_file.deliver(pending).await {
            Verdict::Taken { rejected: 0 } => {
                assert!(pending.is_empty());
                Ok(())
            }
            Verdict::Later { label, .. } => Err(label.expect("an errno").into_owned()),
            other => panic!("{other:?}"),
        }
    }
}

fn lines(numbers: Range<usize>) -> String {
    numbers.map(|n| format!("{n:099}\n")).collect()
}

fn pending(numbers: Range<usize>) -> Pending {
    let mut pending = Pending::default();
    pending.text().extend_from_slice(lines(numbers).as_bytes());
    pending
}

#[tokio::test]
async fn a_file_that_was_removed_gives_its_room_back_and_what_was_not_acknowledged_is_in_the_next() {
    for has_room_elsewhere in [false, true] {
        let Some(disk) = Disk::small() else { return };
        let (mut setting, mut second) = Setting::on(disk).torn().await;
        if has_room_elsewhere {
            setting.disk.empty();
        }
        fs::remove_file(&setting.path).expect("ours");
        assert_eq!(setting.deliver(&mut second).await, Ok(()));
        assert_eq!(read(&setting.path), lines(FIRST..FIRST + SECOND));
        let repeated = setting.sink.bytes.get() - ((FIRST + SECOND) * LINE) as u64;
        assert!((1..1 << 16).contains(&repeated), "a page at most: {repeated}");
        assert_eq!(setting.sink.errors().len(), 0, "those are the frame's to count");
    }
}

#[tokio::test]
async fn a_file_that_was_removed_between_two_lines_has_them_in_the_next() {
    let Some(disk) = Disk::small() else { return };
    let mut setting = Setting::on(disk);
    setting.disk.fill();
    let room = fs::OpenOptions::new().write(true).open(setting.disk.ballast()).expect("there");
    room.set_len(room.metadata().expect("there").len() - (1 << 16)).expect("made smaller");
    drop(room);
    let text = "abc\n".repeat(1 << 15);
    let mut pending = Pending::default();
    pending.text().extend_from_slice(text.as_bytes());
    assert_eq!(setting.deliver(&mut pending).await, Err("ENOSPC".to_owned()));
    assert_eq!(read(&setting.path), "abc\n".repeat(1 << 14));
    fs::remove_file(&setting.path).expect("ours");
    setting.disk.empty();
    assert_eq!(setting.deliver(&mut pending).await, Ok(()));
    assert_eq!(read(&setting.path), text);
}

#[tokio::test]
async fn a_file_that_was_emptied_has_what_was_not_acknowledged() {
    let Some(disk) = Disk::small() else { return };
    let (mut setting, mut second) = Setting::on(disk).torn().await;
    fs::File::create(&setting.path).expect("emptied");
    assert_eq!(setting.deliver(&mut second).await, Ok(()));
    assert_eq!(read(&setting.path), lines(FIRST..FIRST + SECOND));
}

#[tokio::test]
async fn a_file_that_was_moved_gets_the_rest_of_its_line_and_nothing_else() {
    let Some(disk) = Disk::small() else { return };
    let (mut setting, mut second) = Setting::on(disk).torn().await;
    let moved = setting.disk.dir.path().join("moved");
    fs::rename(&setting.path, &moved).expect("ours");
    setting.disk.empty();
    let before = read(&moved);
    assert_eq!(setting.deliver(&mut second).await, Ok(()));
    let (old, new) = (read(&moved), read(&setting.path));
    assert!(old.len() < before.len() + LINE && old.ends_with('\n'), "{} of {}", before.len(), old.len());
    assert_eq!(old + &new, lines(0..FIRST + SECOND), "once");
}

#[tokio::test]
async fn a_path_that_leads_to_another_disk_does_not_wait_for_the_full_one() {
    let Some(disk) = Disk::small() else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let (full, roomy) = (disk.dir.path().join("log"), dir.path().join("roomy"));
    let path = dir.path().join("log");
    symlink(&full, &path).expect("nothing is there");
    let (mut setting, mut second) = Setting::new(disk, path).torn().await;
    fs::remove_file(&setting.path).expect("the link is ours");
    symlink(&roomy, &setting.path).expect("nothing is there");
    assert_eq!(setting.deliver(&mut second).await, Ok(()));
    let (old, new) = (read(&full), read(&roomy));
    assert!(old.ends_with('\n') && new.ends_with('\n'));
    assert_eq!(old + &new, lines(0..FIRST + SECOND), "once");
}

#[tokio::test]
async fn an_old_file_that_was_removed_gives_its_room_back() {
    let Some(disk) = Disk::small() else { return };
    let (mut setting, mut second) = Setting::on(disk).torn().await;
    // As one that was renamed since the disk had everything.
    let old = fs::File::open(setting.disk.ballast()).expect("there");
    setting.unsynced.note(&Arc::new(old));
    setting.disk.empty();
    assert_eq!(setting.deliver(&mut second).await, Ok(()));
    assert_eq!(read(&setting.path), lines(0..FIRST + SECOND));
}

#[tokio::test]
async fn a_full_disk_that_has_room_again_gets_the_rest_and_nothing_twice() {
    let Some(disk) = Disk::small() else { return };
    let (mut setting, mut second) = Setting::on(disk).torn().await;
    assert_eq!(setting.deliver(&mut second).await, Err("ENOSPC".to_owned()));
    setting.disk.empty();
    assert_eq!(setting.deliver(&mut second).await, Ok(()));
    assert_eq!(read(&setting.path), lines(0..FIRST + SECOND));
    assert_eq!(setting.sink.bytes.get(), ((FIRST + SECOND) * LINE) as u64);
}

#[test]
fn a_file_that_cannot_be_renamed_costs_one_old_file_however_often_it_is_tried() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("log");
    let numbered = |n: u32| dir.path().join(format!("log.{n}"));
    for n in 0..=3 {
        fs::write(if n == 0 { path.clone() } else { numbered(n) }, format!("{n}\n")).expect("writable");
    }
    // What something is mounted on is busy.
    let Some(mounted) = Mounted::mount(&path, &path, None, MsFlags::MS_BIND, None) else { return };
    let mut output = open(&config(&path, 4, 3));
    for _ in 0..5 {
        let fault = write(&mut output, "next\n").expect_err("busy");
        assert_eq!(fault.source().kind(), io::ErrorKind::ResourceBusy, "{fault}");
    }
    assert_eq!([2, 3].map(|n| read(&numbered(n))), ["1\n", "2\n"]);
    drop(mounted);
    write(&mut output, "next\n").expect("nothing in its way");
    assert_eq!([1, 2, 3].map(|n| read(&numbered(n))), ["0\n", "1\n", "2\n"]);
    assert!(!numbered(4).exists(), "three are kept");
}
