//! Collectors of this release and of the next, one after the other on one journal, under wrappers of both: link, settings, spool and
//! journal are understood, and what is not is refused and costs nothing.
//!
//! The next collector says what no release knows yet: a message, and fields in every message (collector/src/ingest/next.rs).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::{
    oracle::one_tape,
    rig::{
        collector::{Collector, Settings},
        eventually,
    },
    standin::{
        client::{
            lab::Lab,
            launch::{Flavour, Shim},
            pod::{Fifos, Pod},
            spooled::{LIMIT, endless, has, spool_files, whole_as_read},
            upgrade::NEXT,
            wrapped::{STANDIN, WRAPPER, binary},
        },
        script::Script,
    },
};

use super::{NOW, THEN};

/// Where the version stands in a file of the journal, of any release (docs/journal.md).
const VERSION_AT: std::ops::Range<usize> = 8..12;

/// A pod behind this wrapper, ready for its Create.
fn behind(wrapper: &str, script: &Script) -> Result<Pod> {
    let mut lab = Lab::new()?;
    lab.wrap(wrapper, &binary(STANDIN)?)?;
    for (key, value) in [("STANDIN_API", "2"), ("STANDIN_ANSWER", "plain")] {
        lab.env.push((key.to_owned(), value.to_owned()));
    }
    let pod = Pod::start(lab, Shim { binary: binary(wrapper)?, flavour: Flavour::V1_6 }, "task", script)?;
    pod.keeper()?;
    Ok(pod)
}

fn collector(pod: &Pod, next: bool) -> Result<Collector> {
    let collector = pod.lab.collector_told(&Settings { next, ..Settings::each_second() })?;
    let version = format!("version=\"{}\"", if next { THEN } else { NOW });
    ensure!(collector.get("/metrics")?.contains(&version), "the collector is not of {version}");
    Ok(collector)
}

/// How far the sink has the task's stdout.
fn reached(collector: &Collector) -> Result<u64> {
    let tapes = collector.sink()?;
    Ok(one_tape(&tapes, "task", "stdout")?.map_or(0, |tape| tape.end()))
}

/// It takes what was kept in files, and goes on; what it says of how often Stats is asked is done.
fn serves(pod: &Pod, collector: &Collector, version: &str) -> Result<()> {
    has(collector, "task", reached(collector)? + 200_000)?;
    let asked = || pod.lab.count("Stats", "task", "");
    let before = asked()?;
    eventually(LIMIT, "its interval to be kept", || Ok((asked()? >= before + 2).then_some(())))?;
    eventually(LIMIT, &format!("a wrapper of {version}"), || {
        let ps = collector.ps()?;
        let told = ps.pointer("/wrappers/0/version").and_then(serde_json::Value::as_str);
        Ok((told == Some(version)).then_some(()))
    })
}

/// Nobody is there, and the wrapper keeps what it has in files.
fn left_alone(pod: &Pod) -> Result<()> {
    eventually(LIMIT, "a spool file", || Ok((!spool_files(pod).is_empty()).then_some(())))
}

/// The rest of its life: containerd's side has all of it, and so has the sink.
fn ends(pod: &Pod, fifos: &Fifos, last: Collector) -> Result<()> {
    pod.end_whole(fifos, &endless().stdout)?;
    whole_as_read(&last, pod, fifos)?;
    last.stop()
}

fn one_tape_over_collectors_of_both(wrapper: &str, version: &str) -> Result<()> {
    let pod = behind(wrapper, &endless())?;
    let first = collector(&pod, false)?;
    let fifos = pod.run()?;
    serves(&pod, &first, version)?;
    first.stop()?;
    left_alone(&pod)?;
    let mut second = collector(&pod, true)?;
    serves(&pod, &second, version)?;
    second.end(Signal::SIGKILL)?;
    left_alone(&pod)?;
    ends(&pod, &fifos, collector(&pod, false)?)
}

#[test]
fn this_wrapper_under_collectors_of_both_releases() -> Result<()> {
    one_tape_over_collectors_of_both(WRAPPER, NOW)
}

#[test]
fn the_next_wrapper_under_collectors_of_both_releases() -> Result<()> {
    one_tape_over_collectors_of_both(NEXT, THEN)
}

/// The newest file of a journal.
fn newest(dir: &Path) -> Result<PathBuf> {
    let mut parts: Vec<PathBuf> = fs::read_dir(dir)
        .context("the journal's folder")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"shimtapj")))
        .collect();
    parts.sort();
    parts.pop().context("a journal without a file")
}

fn with_version(part: &Path, version: u32) -> Result<Vec<u8>> {
    let mut bytes = fs::read(part).context("a file of the journal")?;
    bytes.get_mut(VERSION_AT).context("its version")?.copy_from_slice(&version.to_le_bytes());
    fs::write(part, &bytes).context("write it")?;
    Ok(bytes)
}

/// Collectors of both releases refuse it, and what the pod writes meanwhile is kept for one that knows it.
#[test]
fn a_journal_of_an_unknown_release_is_refused_and_left_as_it_is() -> Result<()> {
    let pod = behind(WRAPPER, &endless())?;
    let first = collector(&pod, false)?;
    let fifos = pod.run()?;
    has(&first, "task", 200_000)?;
    let part = newest(&first.journal_dir())?;
    first.stop()?;
    let bytes = fs::read(&part).context("a file of the journal")?;
    let version = bytes.get(VERSION_AT).context("its version")?.try_into().map(u32::from_le_bytes)?;
    let unknown = with_version(&part, 77)?;
    for next in [false, true] {
        let refused =
            collector(&pod, next).err().context("a collector on a journal that it does not know")?;
        let said = format!("{refused:#}");
        ensure!(said.contains("is of version 77") && said.contains("nothing was"), "{said}");
        ensure!(fs::read(&part).context("read it")? == unknown, "it was changed");
    }
    left_alone(&pod)?;
    with_version(&part, version)?;
    ends(&pod, &fifos, collector(&pod, false)?)
}
