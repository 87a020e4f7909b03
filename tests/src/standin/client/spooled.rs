//! A pod whose output may have to wait in files: what its sink must hold in the end, and what is left of the files.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    PATIENCE,
    lab::files,
    pod::{Fifos, Pod},
};
use crate::{
    oracle::{Judgement, one_tape},
    rig::{collector::Collector, eventually},
    standin::{
        procs,
        script::{Output, Script},
    },
};

/// On a machine that compiles and tests at the same time.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Lines for some seconds, at a pace (1 MB/s at most) that a spool writer keeps up with on a busy machine.
#[must_use]
pub fn steady(lines: u64) -> Script {
    let stdout = Output { lines_per_write: 20, pause_us: 2000, ..Output::lines(lines, 100) };
    Script { stdout, ..Script::default() }
}

/// Half as much a second without an end, for a test that takes a busy machine longer than those seconds: until the task is killed.
#[must_use]
pub fn endless() -> Script {
    let stdout = Output { pause_us: 4000, ..steady(10_000_000).stdout };
    Script { stdout, until_killed: true, ..Script::default() }
}

/// Waits for all that containerd's side has of a task's stdout, which has ended, and demands that nothing of it is missing.
///
/// # Errors
/// Something is.
pub fn whole_as_read(collector: &Collector, pod: &Pod, fifos: &Fifos) -> Result<()> {
    let judgement = judged(collector, &pod.id, "stdout", &fifos.stdout.so_far())?;
    ensure!(judgement.gaps.is_empty(), "{}'s stdout: {judgement:?}", pod.id);
    Ok(())
}

/// Waits until the sink has `written` to its last byte, and judges it: each byte is there and right, or admitted to miss.
///
/// # Errors
/// It does not come to that.
pub fn judged(collector: &Collector, id: &str, stream: &str, written: &[u8]) -> Result<Judgement> {
    let end = u64::try_from(written.len())?;
    let mut reached = 0;
    let whole = eventually(LIMIT, &format!("all of {id}'s {stream}"), || {
        let tapes = collector.sink()?;
        let tape = one_tape(&tapes, id, stream)?;
        reached = tape.map_or(0, |tape| tape.end());
        Ok(tape.filter(|tape| tape.end() >= end).cloned())
    });
    let judgement = whole.with_context(|| format!("{reached} of {end} bytes"))?.judge(written)?;
    ensure!(judgement.accounted() == end, "{judgement:?} of {end} bytes");
    Ok(judgement)
}

/// Waits for all that a script writes, and demands that nothing of it is missing.
///
/// # Errors
/// Something is.
pub fn whole(collector: &Collector, id: &str, script: &Script) -> Result<()> {
    for (name, output) in [("stdout", &script.stdout), ("stderr", &script.stderr)] {
        if output.lines > 0 {
            let judgement = judged(collector, id, name, &output.bytes(name))?;
            ensure!(judgement.gaps.is_empty(), "{id}'s {name}: {judgement:?}");
        }
    }
    Ok(())
}

/// Waits until the sink has so many bytes of a stream: what they tell of a collector is known to its wrapper.
///
/// # Errors
/// They do not come.
pub fn has(collector: &Collector, id: &str, bytes: u64) -> Result<()> {
    eventually(LIMIT, &format!("{bytes} bytes of {id}"), || {
        let tapes = collector.sink()?;
        let end = one_tape(&tapes, id, "stdout")?.map_or(0, |tape| tape.end());
        Ok((end >= bytes).then_some(()))
    })
}

/// The regular files below the spool directories of a lab.
#[must_use]
pub fn spool_files(pod: &Pod) -> Vec<PathBuf> {
    files(&pod.lab.spool_dir()).into_iter().filter(|path| path.is_file()).collect()
}

/// Waits until spool files are gone, as they are when everything in them is in the sink.
///
/// # Errors
/// One stays.
pub fn cleared(pod: &Pod) -> Result<()> {
    eventually(LIMIT, "the spool files to be removed", || Ok(spool_files(pod).is_empty().then_some(())))
        .with_context(|| format!("{:?}", spool_files(pod)))
}

/// Waits until there are files (of one kind, where a folder is named) with something in them, and nobody writes them.
///
/// # Errors
/// There are none.
pub fn spooled(pod: &Pod) -> Result<Vec<PathBuf>> {
    eventually(LIMIT, "spool files that nobody writes", || {
        let written = !procs::spoolers(pod.lab.namespace())?.is_empty();
        let files = spool_files(pod);
        Ok((!written && !files.is_empty()).then_some(files))
    })
}

/// Runs the task to its end, as containerd does.
///
/// # Errors
/// containerd's side noticed something.
pub fn to_its_end(pod: &Pod, script: &Script) -> Result<()> {
    let fifos = pod.run()?;
    pod.wait()?;
    fifos.check(script)?;
    pod.finish()
}

/// Waits until the wrapper's two processes are gone.
///
/// # Errors
/// They stay.
pub fn gone(pod: &Pod) -> Result<()> {
    // containerd hangs up when its shim has; who stays connected keeps the wrapper for its time. Refused where it is closed.
    let _hung_up = pod.connection.shutdown_write();
    let none = || procs::keepers(pod.lab.namespace()).ok().filter(Vec::is_empty);
    procs::wait(PATIENCE, || format!("the wrapper to leave: {:?}", procs::of(pod.lab.namespace())), none)
        .map(drop)
}

/// The value of one row of the collector's own metrics, which begins so.
///
/// # Errors
/// There is no such row.
pub fn value(collector: &Collector, row: &str) -> Result<u64> {
    let text = collector.get("/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(row)?.trim().parse().ok());
    value.with_context(|| format!("{row} in {text}"))
}

/// Waits until a row of the collector's own metrics has this value; above it, it fails at once.
///
/// # Errors
/// It does not come to that.
pub fn comes_to(collector: &Collector, row: &str, wanted: u64) -> Result<()> {
    let mut last = 0;
    let same = eventually(LIMIT, &format!("{row} to be {wanted}"), || {
        last = value(collector, row)?;
        ensure!(last <= wanted, "{row} is {last}, not {wanted}");
        Ok((last == wanted).then_some(()))
    });
    same.with_context(|| format!("it is {last}"))
}

/// The value of one of the wrappers' own counters.
///
/// # Errors
/// No wrapper has reported it.
pub fn count(collector: &Collector, name: &str) -> Result<u64> {
    value(collector, &format!("shimtap_wrapper_counts_total{{name=\"{name}\"}}"))
}

/// Waits until one of the wrappers' own counters is above zero.
///
/// # Errors
/// It stays there.
pub fn counted(collector: &Collector, name: &str) -> Result<()> {
    eventually(LIMIT, name, || Ok(count(collector, name).is_ok_and(|n| n > 0).then_some(())))
}

/// The child that writes spool files, once it is there.
///
/// # Errors
/// None comes.
pub fn spooler(pod: &Pod) -> Result<procs::Process> {
    let one = || procs::spoolers(pod.lab.namespace()).ok()?.pop();
    procs::wait(PATIENCE, || "a spool writer".to_owned(), one)
}

/// A file's bytes.
///
/// # Errors
/// It cannot be read.
pub fn bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
