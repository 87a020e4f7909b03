//! What a file system is to keep free: the spool leaves it, counts that it had to, and the container does not notice.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::rig::disk::Disk;
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        pod::{Fifos, Pod},
        spooled::{LIMIT, comes_to, counted, has, judged, spool_files, spooler, steady, whole},
        wrapped::{wrapped, wrapped_in},
    },
    procs,
    script::Script,
};

/// Until it is killed.
fn endless() -> Script {
    Script { until_killed: true, ..steady(10_000_000) }
}

/// With no collector: a writer comes, finds that it may not write, and leaves without having made a file. The oldest bytes go
/// from memory then, and the hole says how many; containerd's side has every one.
fn nothing_is_written(pod: &Pod, fifos: &Fifos, script: &Script) -> Result<()> {
    // Twice what memory holds of a stream.
    let more = fifos.stdout.len_so_far() + (2 << 20);
    let writer = spooler(pod)?;
    procs::wait(PATIENCE, || "the writer to leave".to_owned(), || (!writer.alive()).then_some(()))?;
    fifos.stdout.wait_len(more, LIMIT)?;
    ensure!(spool_files(pod).is_empty(), "{:?}", spool_files(pod));
    let collector = pod.lab.collector()?;
    counted(&collector, "spool_full")?;
    pod.end_whole(fifos, &script.stdout)?;
    let judgement = judged(&collector, "task", "stdout", &fifos.stdout.so_far())?;
    ensure!(judgement.gaps.keys().eq(["overflow"]), "{judgement:?}");
    ensure!(spool_files(pod).is_empty(), "{:?}", spool_files(pod));
    collector.stop()
}

/// On a disk that a collector has allowed, with this reserve.
fn a_disk_keeps(reserve: &str) -> Result<()> {
    let script = endless();
    let text = format!("deaths = 0\n[spool]\n{reserve}\n");
    let pod = wrapped_in(&script, |lab| lab.reconfigure("deaths = 0\n", &text))?;
    // There before there is output, none of which is to wait in memory's files.
    let mut collector = pod.lab.collector()?;
    comes_to(&collector, "shimtap_wrappers", 1)?;
    let fifos = pod.run()?;
    has(&collector, "task", 50_000)?;
    collector.end(Signal::SIGTERM)?;
    nothing_is_written(&pod, &fifos, &script)
}

#[test]
fn a_disk_that_is_to_keep_more_bytes_free_than_it_has() -> Result<()> {
    a_disk_keeps("disk_free_percent = 0\ndisk_free_bytes = 1152921504606846976")
}

#[test]
fn a_disk_that_is_to_keep_all_of_itself_free() -> Result<()> {
    a_disk_keeps("disk_free_percent = 100\ndisk_free_bytes = 0")
}

/// The disk has refused one container's output a moment ago; another's, of which no collector has spoken, goes to memory.
#[test]
fn a_disk_that_refuses_keeps_nothing_from_memory() -> Result<()> {
    let pod = wrapped_in(&endless(), |lab| {
        lab.reconfigure("deaths = 0\n", "deaths = 0\n[spool]\ndisk_free_percent = 100\n")
    })?;
    let mut collector = pod.lab.collector()?;
    comes_to(&collector, "shimtap_wrappers", 1)?;
    let _fifos = pod.run()?;
    has(&collector, "task", 50_000)?;
    collector.end(Signal::SIGTERM)?;
    let writer = spooler(&pod)?;
    procs::wait(PATIENCE, || "the writer to leave".to_owned(), || (!writer.alive()).then_some(()))?;
    // Twice what memory holds of a stream.
    let late = Script { until_killed: true, ..steady(20_000) };
    let fifos = pod.run_beside("late", &late, &[])?;
    fifos.stdout.wait_len(late.stdout.bytes("stdout").len(), LIMIT)?;
    let collector = pod.lab.collector()?;
    whole(&collector, "late", &late)?;
    counted(&collector, "spool_full")?;
    collector.stop()
}

/// Whatever is said of disks: a file system in memory keeps half of itself free, and a writer asks for room a MiB at a time.
#[test]
fn a_file_system_in_memory_keeps_half_of_itself_free() -> Result<()> {
    let script = endless();
    let pod = wrapped(&script)?;
    let memory = pod.lab.spool_dir().join("memory");
    fs::create_dir_all(&memory)?;
    fs::set_permissions(&memory, Permissions::from_mode(0o700))?;
    let _small = Disk::in_memory(&memory, 1 << 20)?;
    let fifos = pod.run()?;
    nothing_is_written(&pod, &fifos, &script)
}
