//! Spool files and disks that are not as they should be: the container does not notice, what is right is taken, and what is
//! lost is said. `room` has what a file system is to keep free.

mod room;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::oracle::one_tape;
use shimtap_tests::rig::collector::Collector;
use shimtap_tests::rig::disk::Disk;
use shimtap_tests::rig::eventually;
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        in_time::{self, goes_through},
        pod::{Fifos, Pod},
        spooled::{
            LIMIT, bytes, cleared, comes_to, count, counted, gone, has, judged, spool_files, spooled, steady,
            to_its_end, value, whole,
        },
        wrapped::{wrapped, wrapped_as, wrapped_in},
    },
    procs::{self, Process},
    script::{Output, Script},
};

fn short() -> Script {
    Script { stdout: Output::lines(3000, 100), ..Script::default() }
}

/// A pod that ended with nobody there, and its one spool file.
fn left_behind(script: &Script) -> Result<(Pod, PathBuf)> {
    left_behind_as("task", script)
}

fn left_behind_as(id: &str, script: &Script) -> Result<(Pod, PathBuf)> {
    let pod = wrapped_as(id, script, |_| Ok(()))?;
    to_its_end(&pod, script)?;
    gone(&pod)?;
    let mut files = spooled(&pod)?;
    ensure!(files.len() == 1, "{files:?}");
    let file = files.pop().context("one file")?;
    Ok((pod, file))
}

fn aside(collector: &Collector, reason: &str) -> Result<()> {
    let row = format!("shimtap_spool_set_aside_total{{reason=\"{reason}\"}}");
    comes_to(collector, &row, 1)
}

fn bad(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".bad");
    name.into()
}

/// What a spool file says before its first fault is in the sink, and nothing else; the file is kept for a person.
fn taken_as_far_as_it_is_right(reason: &str, spoil: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let script = short();
    let (pod, file) = left_behind(&script)?;
    spoil(&file)?;
    let collector = pod.lab.collector()?;
    aside(&collector, reason)?;
    eventually(LIMIT, "it to be set aside", || Ok((!file.exists() && bad(&file).exists()).then_some(())))?;
    let written = script.stdout.bytes("stdout");
    let tapes = collector.sink()?;
    if let Some(tape) = one_tape(&tapes, "task", "stdout")? {
        // Nothing is claimed of what nobody can know.
        let judgement = tape.judge(&written)?;
        ensure!(judgement.gaps.is_empty() && judgement.delivered < u64::try_from(written.len())?);
    }
    collector.stop()
}

#[test]
fn a_flipped_bit() -> Result<()> {
    taken_as_far_as_it_is_right("corrupt", |file| {
        let mut all = bytes(file)?;
        let middle = all.len() / 2;
        *all.get_mut(middle).context("a middle")? ^= 4;
        fs::write(file, all).context("spoil it")
    })
}

#[test]
fn a_torn_end() -> Result<()> {
    taken_as_far_as_it_is_right("truncated", |file| {
        let all = bytes(file)?;
        let part = all.get(..all.len() * 2 / 3).context("a part")?;
        fs::write(file, part).context("spoil it")
    })
}

#[test]
fn an_empty_file_and_a_header_of_zeros() -> Result<()> {
    taken_as_far_as_it_is_right("truncated", |file| fs::write(file, b"").context("spoil it"))?;
    taken_as_far_as_it_is_right("foreign", |file| fs::write(file, [0; 4096]).context("spoil it"))
}

#[test]
fn a_file_of_another_wrapper_under_this_name() -> Result<()> {
    taken_as_far_as_it_is_right("foreign", |file| {
        let all = bytes(file)?;
        fs::remove_file(file)?;
        let name = file.file_name().and_then(|n| n.to_str()).context("its name")?;
        let other = name.replacen(name.get(..4).context("digits")?, "0000", 1);
        let other = file.with_file_name(other);
        fs::write(&other, all).context("under another name")?;
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600))?;
        fs::rename(&other, file.with_file_name("x")).context("put it back")?;
        let mut all = bytes(&file.with_file_name("x"))?;
        // Another number, with a checksum that is right: as a wrapper would have made it.
        *all.get_mut(12).context("its number")? ^= 1;
        sealed(&mut all)?;
        fs::remove_file(file.with_file_name("x"))?;
        fs::write(file, all)?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).context("its mode")
    })
}

/// The polynomial of IEEE 802.3, a bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A header that was changed, with a checksum that is right again.
fn sealed(file: &mut [u8]) -> Result<()> {
    let sum = crc32(file.get(..60).context("a header")?).to_le_bytes();
    file.get_mut(60..64).context("its sum")?.copy_from_slice(&sum);
    Ok(())
}

#[test]
fn files_that_others_could_have_made() -> Result<()> {
    taken_as_far_as_it_is_right("unsafe", |file| {
        fs::set_permissions(file, fs::Permissions::from_mode(0o620)).context("its mode")
    })?;
    taken_as_far_as_it_is_right("unsafe", |file| {
        fs::hard_link(file, file.with_file_name("second-name")).context("a second name")
    })?;
    taken_as_far_as_it_is_right("unsafe", |file| {
        let elsewhere = file.with_file_name("elsewhere");
        fs::rename(file, &elsewhere)?;
        symlink(&elsewhere, file).context("a link")
    })
}

/// A directory that others can write to is neither read nor written.
#[test]
fn a_directory_that_others_could_have_filled() -> Result<()> {
    let script = short();
    let (pod, file) = left_behind(&script)?;
    let dir = file.parent().context("its directory")?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o770))?;
    let collector = pod.lab.collector()?;
    let log = pod.lab.dir().join("collector.log");
    eventually(LIMIT, "its word on that", || {
        let said = fs::read_to_string(&log)?;
        Ok(said.contains("spool files are not looked for").then_some(()))
    })?;
    ensure!(value(&collector, "shimtap_spool_files_total")? == 0 && file.exists(), "it was read");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    whole(&collector, "task", &script)?;
    collector.stop()?;

    let pod = wrapped(&Script { until_killed: true, ..steady(15_000) })?;
    let memory = pod.lab.spool_dir().join("memory");
    fs::create_dir_all(&memory)?;
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o777))?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(1_500_000, LIMIT)?;
    ensure!(spool_files(&pod).is_empty(), "it was written to");
    let collector = pod.lab.collector()?;
    counted(&collector, "spool_unsafe")?;
    collector.stop()
}

/// Another boot of the node: its wrappers are no more, their files are taken like any orphan's.
#[test]
fn a_file_of_another_boot() -> Result<()> {
    let script = short();
    let (pod, file) = left_behind(&script)?;
    let mut all = bytes(&file)?;
    all.get_mut(24..40).context("its boot id")?.fill(0x5a);
    sealed(&mut all)?;
    fs::write(&file, all)?;
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    cleared(&pod)?;
    collector.stop()
}

/// One of a later release's version is for that release: this one leaves it as it is, takes what lies beside it, and the one that
/// comes and can read it finds all of it.
#[test]
fn a_file_of_a_later_release() -> Result<()> {
    let script = short();
    let (pod, file) = left_behind(&script)?;
    let (other, beside) = left_behind_as("other", &script)?;
    fs::copy(&beside, file.with_file_name(beside.file_name().context("its name")?))?;
    let ours = bytes(&file)?;
    let mut later = ours.clone();
    *later.get_mut(8).context("its version")? += 1;
    sealed(&mut later)?;
    fs::write(&file, &later)?;
    let collector = pod.lab.collector()?;
    whole(&collector, &other.id, &script)?;
    aside(&collector, "version")?;
    ensure!(one_tape(&collector.sink()?, &pod.id, "stdout")?.is_none(), "something of it was taken");
    // What lay beside it goes when it is durable.
    let alone = || Ok((spool_files(&pod) == [file.as_path()]).then_some(()));
    eventually(LIMIT, "it to be there alone", alone).with_context(|| format!("{:?}", spool_files(&pod)))?;
    collector.stop()?;
    ensure!(bytes(&file)? == later, "it is not as it was");
    let log = fs::read_to_string(pod.lab.dir().join("collector.log"))?;
    let said = log.lines().filter(|line| line.contains(&file.display().to_string()));
    let said: Vec<&str> = said.collect();
    ensure!(matches!(said.as_slice(), [line] if line.contains("update the collector")), "{said:?}");

    // As its own release would read it.
    fs::write(&file, &ours)?;
    let collector = pod.lab.collector()?;
    whole(&collector, &pod.id, &script)?;
    cleared(&pod)?;
    collector.stop()
}

/// Where the wrapper lives on, a later offset shows what a spoilt file has cost.
#[test]
fn what_a_spoilt_file_has_cost_is_a_hole() -> Result<()> {
    let script = Script { until_killed: true, ..steady(30_000) };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
    let files = spooled(&pod)?;
    let first = files.iter().min().context("a file")?;
    let mut all = bytes(first)?;
    let middle = all.len() / 2;
    *all.get_mut(middle).context("a middle")? ^= 1;
    fs::write(first, all)?;
    let collector = pod.lab.collector()?;
    let judgement = judged(&collector, "task", "stdout", &script.stdout.bytes("stdout"))?;
    ensure!(judgement.gaps.keys().eq(["spool_corrupt"]), "{judgement:?}");
    aside(&collector, "corrupt")?;

    // And one that is not there at all: nobody knows what became of it.
    collector.stop()?;
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
    for file in spooled(&pod)? {
        fs::remove_file(file)?;
    }
    let collector = pod.lab.collector()?;
    let judgement = judged(&collector, "task", "stdout", &script.stdout.bytes("stdout"))?;
    ensure!(judgement.gaps.keys().eq(["spool_lost"]), "{judgement:?}");
    collector.stop()
}

/// A pod that runs and whose output may be spooled to this disk, and no collector any more. The disk is to be let go of first:
/// the pod's lab removes what is on it.
fn abandoned(script: &Script, disk: impl FnOnce(&Path) -> Result<Disk>) -> Result<(Pod, Fifos, Disk)> {
    let text = "deaths = 0\n[spool]\ndisk_free_percent = 0\ndisk_free_bytes = 0\n";
    let pod = wrapped_in(script, |lab| lab.reconfigure("deaths = 0\n", text))?;
    let path = pod.lab.spool_dir().join("disk");
    fs::create_dir_all(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    let mounted = disk(&path)?;
    let fifos = pod.run()?;
    let mut collector = pod.lab.collector()?;
    has(&collector, "task", 50_000)?;
    // In order, so that all it has was acknowledged: what it took beyond that would come again, or be missed again.
    collector.end(Signal::SIGTERM)?;
    Ok((pod, fifos, mounted))
}

/// The same, when all was written.
fn on_disk(script: &Script, disk: impl FnOnce(&Path) -> Result<Disk>) -> Result<(Pod, Disk)> {
    let (pod, fifos, mounted) = abandoned(script, disk)?;
    let all = script.stdout.bytes("stdout").len();
    let began = Instant::now();
    fifos.stdout.wait_len(all, LIMIT)?;
    println!("the rest of {all} bytes came in {:?}", began.elapsed());
    Ok((pod, mounted))
}

#[test]
fn a_disk_that_is_full() -> Result<()> {
    let script = Script { until_killed: true, ..steady(30_000) };
    let (pod, _mounted) = on_disk(&script, |path| Disk::in_memory(path, 512 << 10))?;
    let collector = pod.lab.collector()?;
    let judgement = judged(&collector, "task", "stdout", &script.stdout.bytes("stdout"))?;
    ensure!(judgement.gaps.keys().all(|reason| reason == "overflow"), "{judgement:?}");
    counted(&collector, "spool_refused_space")?;
    ensure!(value(&collector, "shimtap_spool_set_aside_total{reason=\"truncated\"}")? == 0, "no half record");
    cleared(&pod)?;
    collector.stop()
}

/// A file system that takes no write: fsfreeze(8) on a loop device. Whoever writes to it hangs until it is thawed.
fn frozen_disk(path: &Path) -> Result<Disk> {
    let disk = Disk::on_loop(path, 64 << 20)?;
    disk.freeze()?;
    Ok(disk)
}

/// The child that writes, where there is one and it hangs.
fn hung_writer(pod: &Pod) -> Result<Process> {
    let one = || {
        let mut all = procs::spoolers(pod.lab.namespace()).ok()?;
        all.retain(|writer| writer.state == 'D');
        all.pop().filter(|_| all.is_empty())
    };
    procs::wait(LIMIT, || format!("a writer that hangs: {:?}", procs::spoolers(pod.lab.namespace())), one)
}

/// It still hangs, and no other one was made beside it.
fn hangs_alone(pod: &Pod, writer: &Process) -> Result<()> {
    let all = procs::spoolers(pod.lab.namespace())?;
    ensure!(all.len() == 1 && all.iter().all(|other| other.pid == writer.pid), "{all:?}, not {writer:?}");
    ensure!(writer.alive(), "it has ended");
    Ok(())
}

/// Worker and keeper die while the writer hangs; all that containerd asks is answered in time, then the pod ends.
#[test]
fn a_disk_that_is_frozen_holds_nobody() -> Result<()> {
    let script = Script { until_killed: true, ..steady(10_000_000) };
    let (pod, fifos, mounted) = abandoned(&script, frozen_disk)?;
    let writer = hung_writer(&pod)?;
    goes_through(&pod, &fifos, |pod| {
        let (keeper, worker) = (pod.keeper()?, pod.worker()?);
        procs::kill(worker.pid)?;
        procs::next_worker(keeper.pid, Some(worker.pid), PATIENCE)?;
        in_time::exec(pod, &pod.connection, "after-the-worker")?;
        procs::kill(keeper.pid)?;
        pod.next_keeper(keeper.pid)?;
        in_time::exec(pod, &pod.connection, "after-the-keeper")?;
        hangs_alone(pod, &writer)
    })?;
    gone(&pod).context("the disk holds the wrapper")?;
    hangs_alone(&pod, &writer)?;
    // Thawed, it goes on with what is in the block, which it still has.
    drop(mounted);
    let none = || procs::spoolers(pod.lab.namespace()).ok().filter(Vec::is_empty);
    procs::wait(PATIENCE, || "the writer to leave".to_owned(), none).map(drop)
}

/// A collector that comes while the writer hangs: what is in the ring comes over the link, and what the writer completes
/// later frees nothing.
#[test]
fn a_collector_that_comes_while_the_writer_hangs() -> Result<()> {
    let script = Script { until_killed: true, ..steady(30_000) };
    let (pod, mounted) = on_disk(&script, frozen_disk)?;
    let collector = pod.lab.collector()?;
    let judgement = judged(&collector, "task", "stdout", &script.stdout.bytes("stdout"))?;
    ensure!(judgement.gaps.keys().all(|reason| reason == "overflow"), "{judgement:?}");
    ensure!(judgement.delivered >= 1_000_000, "the ring was not delivered: {judgement:?}");
    drop(mounted);
    let none = || procs::spoolers(pod.lab.namespace()).ok().filter(Vec::is_empty);
    procs::wait(PATIENCE, || "the writer to leave".to_owned(), none)?;
    let judgement = judged(&collector, "task", "stdout", &script.stdout.bytes("stdout"))?;
    println!("{judgement:?}");
    ensure!(count(&collector, "spool_writers")? == 1, "one at a time");
    collector.stop()
}
