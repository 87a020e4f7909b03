//! The end of a pod leaves nothing behind, whenever one of the two processes dies in it, and nobody in the dark.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::{sys::signal::Signal, unistd::Pid};
use shimtap_tests::{
    oracle::{one_tape, sink},
    rig::{
        collector::{Collector, Settings},
        eventually, leftovers,
        patience::throughout,
        process::signal,
    },
    standin::{
        client::{
            PATIENCE,
            pod::{self, Pod},
            wrapped::{wrapped, wrapped_in},
        },
        procs::{self, Process},
        script::{Output, Script},
        tracer,
    },
};

/// A pod's end has not that many stops.
const MOST: u32 = 600;
/// Each takes a second, since a successor gives the collector that much time.
const STEP: usize = 11;

fn nothing_is_left(pod: &Pod) -> Result<()> {
    let all = || procs::of(pod.lab.namespace());
    let gone = || Ok(all()?.is_empty().then_some(()));
    eventually(PATIENCE, "all to leave", gone).with_context(|| format!("there are {:?}", all()))?;
    let files = leftovers::live_files(&pod.lab.run_dir())?;
    ensure!(files.is_empty(), "files are left: {files:?}");
    Ok(())
}

/// Everything up to the Shutdown.
fn deleted(pod: &Pod) -> Result<()> {
    let _fifos = pod.run()?;
    let c = &pod.connection;
    c.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    ensure!(pod.wait()? == 137, "exit status");
    c.call("Delete", &pod::delete("task", ""))?.message::<api::DeleteResponse>().map(drop)
}

/// One pod after the other; each time `victim` dies some stops later in what follows Shutdown.
fn sweep(victim: impl Fn(&Pod) -> Result<Process>) -> Result<()> {
    let mut places = Vec::new();
    for at in (1..MOST).step_by(STEP) {
        let pod = wrapped(&Script { until_killed: true, ..Script::default() })?;
        deleted(&pod)?;
        let armed = tracer::arm(victim(&pod)?.pid, at)?;
        let down = api::ShutdownRequest { id: pod.id.clone(), ..Default::default() };
        pod.connection.send("Shutdown", &down)?;
        armed.go()?;
        // As containerd does when a shim hangs up.
        pod.connection.wait_end(PATIENCE)?;
        pod.connection.shutdown_write().or_else(|_| anyhow::Ok(()))?;
        eventually(PATIENCE, "death or end", || Ok(armed.is_over().then_some(())))
            .with_context(|| format!("death {at}: {:?}", procs::of(pod.lab.namespace())))?;
        // A tracer whose victim has ended by itself says so.
        let outcome = armed.finish();
        nothing_is_left(&pod).with_context(|| format!("death {at}: {outcome:?}"))?;
        let Ok(outcome) = outcome else { break };
        places.extend(outcome.place());
    }
    println!("{} deaths: {}", places.len(), places.join(", "));
    ensure!(places.len() > 3, "the end of a pod passes its processes");
    Ok(())
}

#[test]
fn the_worker_dies_in_it() -> Result<()> {
    sweep(Pod::worker)
}

#[test]
fn the_keeper_dies_in_it() -> Result<()> {
    sweep(Pod::keeper)
}

/// A worker that is made in a pod's last moments waits for the collector as long as its predecessor would have.
#[test]
fn a_successor_at_the_end_waits_for_a_collector_that_is_about() -> Result<()> {
    let script = Script { stdout: Output::lines(500, 80), until_killed: true, ..Script::default() };
    let mut collector = None;
    let pod = wrapped_in(&script, |lab| {
        let started = Collector::start(lab.dir(), lab.namespace(), &Settings::default())?;
        lab.env.push(("SHIMTAP_COLLECTOR".to_owned(), started.socket().display().to_string()));
        collector = Some(started);
        Ok(())
    })?;
    let collector = collector.context("a collector")?;
    signal(collector.pid(), Signal::SIGSTOP)?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(500 * 80, PATIENCE)?;
    let c = &pod.connection;
    c.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    ensure!(pod.wait()? == 137, "exit status");
    procs::kill(pod.worker()?.pid)?;
    pod.finish()?;
    // Without a collector it would leave after one second.
    let keeper: Pid = pod.keeper()?.pid;
    throughout(Duration::from_secs(2), "a worker", || Ok(procs::Process::read(keeper).is_some()))?;
    signal(collector.pid(), Signal::SIGCONT)?;
    nothing_is_left(&pod)?;
    let path = collector.file();
    collector.stop()?;
    let tapes = sink(&path)?;
    let tape = one_tape(&tapes, "task", "stdout")?
        .with_context(|| format!("not in {:?}", fs::metadata(&path).map(|m| m.len())))?;
    let judged = tape.judge(&script.stdout.bytes("stdout"))?;
    ensure!(judged.gaps.is_empty() && judged.delivered == 500 * 80, "{judged:?}");
    Ok(())
}
