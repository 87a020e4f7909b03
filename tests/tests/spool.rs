//! The collector is away and containerd goes on: what pods wrote meanwhile, also those that are gone by then, is in the sink
//! after its return, once.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::{cri_log, one_tape};
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};

const LIMIT: Duration = Duration::from_secs(90);

on_each_containerd!(
    a_flood_of_short_pods_while_the_collector_is_away,
    a_pod_that_lives_through_a_long_outage,
);

fn wrapped(version: Version) -> Setup {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector()
}

/// Waits until the sink has all of a stream, and demands that nothing of it is missing.
fn without_gap(node: &Node, container: &str, stream: &str, written: &[u8]) -> Result<()> {
    let end = u64::try_from(written.len())?;
    let whole = eventually(LIMIT, &format!("all of {container}'s {stream} in the sink"), || {
        let tapes = node.collector(|collector| collector.sink())?;
        Ok(one_tape(&tapes, container, stream)?.filter(|tape| tape.end() >= end).cloned())
    })?;
    let judgement = whole.judge(written)?;
    ensure!(judgement.delivered == end, "{container}'s {stream}: {judgement:?} of {end} bytes");
    Ok(())
}

fn metric(node: &Node, row: &str) -> Result<u64> {
    let text = node.collector(|collector| collector.get("/metrics"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(row)?.trim().parse().ok());
    value.with_context(|| row.to_owned())
}

/// Spool files go when everything in them is in the sink.
fn cleared(node: &Node) -> Result<()> {
    eventually(LIMIT, "the spool to be empty", || {
        let dirs = ["disk", "memory"].map(|kind| node.spool_dir().join(kind));
        let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().count();
        Ok((entries == 0).then_some(()))
    })
}

fn a_flood_of_short_pods_while_the_collector_is_away(version: Version) -> Result<()> {
    const PODS: u64 = 15;
    wrapped(version).run(|node| {
        node.collector(|collector| collector.end(Signal::SIGKILL))?;
        for seed in 0..PODS {
            let count = 10 + seed * 100;
            let command = ["speaker", &format!("lines={count}"), "batch=100", &format!("seed={seed}")];
            let said = node.run(&format!("short{seed}"), &command)?;
            node.complete(&said.stdout, &tape(seed, count, 64))?;
        }
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let command = ["speaker", "lines=3000", "to=both", "width=100", "seed=77"];
        let id = cri.run(&pod, &Wanted { name: "c", command: &command, ..Wanted::default() })?;
        cri.await_exit(&id)?;
        let log = cri_log(&cri.log_path(&pod, "c"))?;
        node.complete(&log.stdout, &tape(77, 3000, 100))?;
        cri.remove_pod(&pod)?;
        eventually(LIMIT, "all wrappers to be gone", || {
            Ok(node.wrappers("tap-keeper")?.is_empty().then_some(()))
        })?;
        node.start_collector()?;
        for seed in 0..PODS {
            without_gap(node, &format!("short{seed}"), "stdout", &tape(seed, 10 + seed * 100, 64))?;
        }
        without_gap(node, &id, "stdout", &tape(77, 3000, 100))?;
        without_gap(node, &id, "stderr", &tape(77, 3000, 100))?;
        cleared(node)?;
        // Each with its end: short ones, the pod's container, and its sandbox.
        for kind in ["exit", "delete"] {
            let row = format!("shimtap_events_total{{kind=\"{kind}\"}}");
            let told = || metric(node, &row);
            eventually(LIMIT, &row, || Ok((told()? >= PODS + 2).then_some(())))?;
            ensure!(told()? == PODS + 2, "{row} {}", told()?);
        }
        ensure!(metric(node, "shimtap_events_missed_total")? == 0, "events are missing");
        Ok(())
    })
}

fn a_pod_that_lives_through_a_long_outage(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        // 3 MB each: three times what a ring holds.
        let mut ids = Vec::new();
        for (name, seed) in [("one", "seed=1"), ("two", "seed=2")] {
            let command = ["speaker", "lines=6000", "rate=1000", "batch=10", "width=500", seed];
            ids.push(cri.run(&pod, &Wanted { name, command: &command, ..Wanted::default() })?);
        }
        eventually(LIMIT, "its first lines in the sink", || {
            let tapes = node.collector(|collector| collector.sink())?;
            let begun = |id: &String| Ok::<_, anyhow::Error>(one_tape(&tapes, id, "stdout")?.is_some());
            Ok((begun(ids.first().context("one")?)? && begun(ids.last().context("two")?)?).then_some(()))
        })?;
        node.collector(|collector| collector.end(Signal::SIGKILL))?;
        for id in &ids {
            cri.await_exit(id)?;
        }
        let spooled = fs::read_dir(node.spool_dir().join("disk")).is_ok_and(|mut dir| dir.next().is_some());
        ensure!(spooled, "nothing was written to the disk");
        node.start_collector()?;
        for (id, (name, seed)) in ids.iter().zip([("one", 1), ("two", 2)]) {
            let written = tape(seed, 6000, 500);
            node.complete(&cri_log(&cri.log_path(&pod, name))?.stdout, &written)?;
            without_gap(node, id, "stdout", &written)?;
        }
        cleared(node)?;
        cri.remove_pod(&pod)
    })
}
