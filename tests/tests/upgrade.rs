//! An upgrade of running wrappers on real containerd: a pod under output and a container of `ctr`'s go on with every line,
//! exec goes on, and the collector says which release is at work.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use shimtap_proto::control::{Outcome, Upgraded};
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::{cri_log, one_tape};
use shimtap_tests::rig::busy::Busy;
use shimtap_tests::rig::cri::{Cri, Pod, Wanted};
use shimtap_tests::rig::run::run;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, tools};
use shimtap_tests::standin::client::upgrade::was_too_slow;

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(a_pod_under_output_goes_to_the_next_release_and_back, all_wrappers_without_a_collector);

fn busy_pod(node: &Node) -> Result<(&Cri, Pod, Busy)> {
    let cri = node.cri()?;
    let pod = cri.run_pod("p")?;
    let busy = Busy::start(node, cri, &pod)?;
    Ok((cri, pod, busy))
}

/// Runs `shimtap upgrade` on this node; each wrapper must have come there.
fn bring(node: &Node, arguments: &[&str], next: bool) -> Result<Vec<Upgraded>> {
    let binary = if next { tools::next()? } else { tools::wrapper()? };
    let ask = || -> Result<Vec<Upgraded>> {
        let mut command = Command::new(tools::collector()?);
        command.args(["upgrade", "--json", "--binary"]).arg(&binary).args(arguments);
        command.arg("--run-dir").arg(node.run_dir());
        let said = run(command, 2 * LIMIT)?;
        let line =
            |line: &str| serde_json::from_str(line).with_context(|| format!("{line}\n{}", said.stderr));
        said.text().lines().map(line).collect()
    };
    let mut told = ask()?;
    if told.iter().any(was_too_slow) {
        // The others are there already.
        told.retain(|one| !was_too_slow(one));
        told.extend(ask()?.into_iter().filter(|one| one.outcome != Outcome::Same));
    }
    ensure!(told.iter().all(|t| t.outcome == Outcome::Upgraded) && !told.is_empty(), "{told:?}");
    Ok(told)
}

/// Waits until `shimtap ps` shows the one wrapper of this pod with this release and generation.
fn await_ps(node: &Node, pod: &str, version: &str, generation: u64) -> Result<()> {
    let socket = node.collector(|collector| Ok(collector.control()))?;
    let mut last = String::new();
    let shown = eventually(LIMIT, &format!("ps to show {version}, generation {generation}"), || {
        let mut command = Command::new(tools::collector()?);
        command.args(["ps", "--json", "--socket"]).arg(&socket);
        last = run(command, LIMIT)?.ok()?.text();
        let ps: Value = serde_json::from_str(&last).context("the JSON of ps")?;
        let wrappers = ps.get("wrappers").and_then(Value::as_array).context("wrappers")?;
        let is_it = |w: &&Value| w.get("pod").and_then(Value::as_str) == Some(pod);
        let wrapper = wrappers.iter().find(is_it);
        let has = |key: &str, value: Value| wrapper.and_then(|w| w.get(key)) == Some(&value);
        Ok((has("version", version.into()) && has("generation", generation.into())).then_some(()))
    });
    shown.with_context(|| last)
}

/// Ends the container; what it wrote.
fn ends_well(node: &Node, cri: &Cri, pod: &Pod, busy: &Busy) -> Result<Vec<u8>> {
    let (_, written) = busy.finish(cri)?;
    let log = cri_log(&cri.log_path(pod, Busy::NAME))?;
    node.complete(&log.stdout, &written)?;
    Ok(written)
}

fn a_pod_under_output_goes_to_the_next_release_and_back(version: Version) -> Result<()> {
    let setup = Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector();
    setup.run(|node| {
        let (cri, pod, busy) = busy_pod(node)?;
        await_ps(node, &pod.id, "0.1.0", 1)?;
        for (generation, next, release) in [(2, true, "0.2.0"), (3, false, "0.1.0"), (4, true, "0.2.0")] {
            // By the beginning of the pod's id, and of the container's.
            let by = if next { &pod.id } else { &busy.id };
            bring(node, &[by.get(..12).context("an id")?], next)?;
            await_ps(node, &pod.id, release, generation)?;
            let said = cri.exec(&busy.id, &["sh", "-c", "exit 7"], 10)?;
            ensure!(said.exit_code == 7, "exec after generation {generation}: {said:?}");
        }
        let second = Wanted { name: "second", command: &["sh", "-c", "exit 5"], ..Wanted::default() };
        let second = cri.run(&pod, &second).context("a container after the upgrades")?;
        ensure!(cri.await_exit(&second)?.exit_code == 5, "its exit");
        let written = ends_well(node, cri, &pod, &busy)?;
        let end = u64::try_from(written.len())?;
        let tape = eventually(LIMIT, "all of it in the sink", || {
            let tapes = node.collector(|collector| collector.sink())?;
            Ok(one_tape(&tapes, &busy.id, "stdout")?.filter(|tape| tape.end() >= end).cloned())
        })?;
        let judgement = tape.judge(&written)?;
        ensure!(judgement.accounted() == end && judgement.gaps.is_empty(), "{judgement:?} of {end} bytes");
        cri.remove_pod(&pod)
    })
}

/// A pod and a container of `ctr`'s, and a containerd that is killed afterwards and finds all of it again.
fn all_wrappers_without_a_collector(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).run(|node| {
        let (cri, pod, busy) = busy_pod(node)?;
        let ends = "until=/host/over";
        let command =
            ["speaker", "lines=100000000", "rate=20000", "batch=20", "count=/host/said", ends, "exit=4"];
        let client = node.run_beside("a", &["--rm"], &command)?;
        eventually(LIMIT, "its output", || Ok((client.stdout_so_far().len() > 1 << 16).then_some(())))?;
        let told = bring(node, &["--all"], true)?;
        ensure!(told.len() == 2, "two wrappers: {told:?}");
        bring(node, &["--all"], false)?;
        bring(node, &["--all"], true)?;
        let exec = node.exec("a", &["sh", "-c", "exit 7"])?;
        ensure!(exec.code == 7, "exec: {exec:?}");
        fs::write(node.host_dir().join("over"), "").context("tell it that it is enough")?;
        let said = client.finish(LIMIT)?;
        ensure!(said.code == 4, "{} {}", said.code, said.stderr);
        let lines = fs::read_to_string(node.host_dir().join("said")).context("how much it wrote")?.parse()?;
        node.complete(&said.stdout, &tape(1, lines, 64))?;
        ends_well(node, cri, &pod, &busy)?;
        node.stop_daemon(Signal::SIGKILL)?;
        node.start_daemon()?;
        node.cri()?.await_ready()?;
        ensure!(cri.is_ready(&pod)?, "the pod is lost");
        cri.remove_pod(&pod)
    })
}
