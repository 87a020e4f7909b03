//! What a wrapper tells of itself. Each death of its own processes, with its reason, its pid and, where it can be known, its signal:
//! in `shimtap ps`, in the collector's log and in `shimtap_wrapper_restarts_total`. And for how long containerd took nothing of a
//! container's output.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shimtap_tests::{
    oracle::exposition::family,
    rig::{
        collector::Collector,
        deaths::{Death, told},
        eventually, now_and_then,
    },
    standin::{
        client::{
            PATIENCE,
            pod::{self, Fifos, Pod},
            upgrade::{NEXT, brought_to},
            wrapped::wrapped_in,
        },
        procs,
        script::{Output, Script},
        stall,
    },
};

/// A hung link thread is given its longest sleep, and five seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A quiet pod, and a collector to which its wrapper is connected.
fn attached() -> Result<(Pod, Collector)> {
    attached_with(&Script::stayer())
}

/// The same with this script.
fn attached_with(script: &Script) -> Result<(Pod, Collector)> {
    let mut collector = None;
    let pod = wrapped_in(script, |lab| {
        lab.reconfigure("[start]", "[stats]\ninterval_ms = 1000\n[start]")?;
        collector = Some(lab.collector()?);
        Ok(())
    })?;
    let collector = collector.context("a collector")?;
    eventually(LIMIT, "the wrapper to be connected", || {
        let ps = collector.ps()?;
        Ok(ps.pointer("/wrappers/0").map(drop))
    })?;
    Ok((pod, collector))
}

fn is_of(death: &Death, process: &str, signal: Option<&str>) -> Result<()> {
    ensure!(death.process == process && death.signal.as_deref() == signal, "{death:?}");
    ensure!(death.exit_status.is_none(), "{death:?}");
    Ok(())
}

fn over(pod: &Pod, collector: Collector) -> Result<()> {
    pod.answers()?;
    pod.end()?;
    collector.stop()
}

/// Of loggers, files, and the streams of clients of the sandbox API no copy is made, and whoever asks learns why.
#[test]
fn stdio_that_is_left_alone_is_told_with_the_reason() -> Result<()> {
    let (pod, collector) = attached()?;
    let fifos = pod.fifos("unused")?;
    let forms = [
        ("file:///dev/null", "file_uri"),
        ("binary:///bin/true?x=y", "binary_uri"),
        ("ttrpc+unix:///x?streaming_id=1", "streaming"),
        ("grpc+vsock://3:4?streaming_id=a", "streaming"),
        ("streaming+ttrpc:///x?id=1", "streaming"),
    ];
    for (n, (uri, why)) in forms.into_iter().enumerate() {
        let mut create = pod.create_request(&fifos);
        create.id = format!("plain-{n}");
        (create.stdout, create.stderr) = (uri.to_owned(), uri.to_owned());
        pod.connection.call("Create", &create)?.message::<api::CreateTaskResponse>()?;
        let reasons = eventually(LIMIT, &format!("a task with {uri}"), || {
            let ps = collector.ps()?;
            let mut all = ps["containers"].as_array().into_iter().flatten();
            let streams = all.find(|task| task["id"] == *create.id).map(|task| task["streams"].clone());
            let streams = streams.as_ref().and_then(|streams| streams.as_array()).into_iter().flatten();
            let each: Vec<_> = streams.map(|stream| stream["not_captured"].clone()).collect();
            Ok((each.len() == 2).then_some(each))
        })?;
        // Of a file or a logger for both, stderr has nothing of its own.
        ensure!(reasons.first().is_some_and(|reason| reason == why), "{uri}: {reasons:?}");
    }
    pod.answers()?;
    collector.stop()
}

#[test]
fn a_worker_that_is_killed() -> Result<()> {
    a_signal(Signal::SIGKILL, "killed")
}

#[test]
fn a_worker_that_crashes() -> Result<()> {
    a_signal(Signal::SIGBUS, "crashed")
}

fn a_signal(signal: Signal, reason: &str) -> Result<()> {
    let (pod, collector) = attached()?;
    let _fifos = pod.run()?;
    let worker = pod.worker()?.pid;
    kill(worker, signal)?;
    is_of(&told(&collector, worker.as_raw(), reason)?, "worker", Some(signal.as_str()))?;
    let table = collector.ps_with(&[])?;
    let cell = format!("worker {reason} {}, ", signal.as_str());
    ensure!(table.contains("LAST DEATH") && table.contains(&cell), "{table}");
    over(&pod, collector)
}

/// Its keeper is not its parent, so nobody of ours can wait for it; the kernel tells all the same.
#[test]
fn a_worker_that_is_older_than_its_keeper() -> Result<()> {
    let (pod, collector) = attached()?;
    let _fifos = pod.run()?;
    let (keeper, worker) = (pod.keeper()?.pid, pod.worker()?.pid);
    procs::kill(keeper)?;
    told(&collector, keeper.as_raw(), "keeper_lost")?;
    let next = pod.next_keeper(keeper)?;
    ensure!(pod.worker()?.pid == worker, "the worker is the older one");
    kill(worker, Signal::SIGSEGV)?;
    procs::next_worker(next.pid, Some(worker), PATIENCE)?;
    is_of(&told(&collector, worker.as_raw(), "crashed")?, "worker", Some("SIGSEGV"))?;
    over(&pod, collector)
}

#[test]
fn a_worker_that_hangs() -> Result<()> {
    let (pod, collector) = attached()?;
    let _fifos = pod.run()?;
    let worker = pod.worker()?.pid;
    kill(worker, Signal::SIGSTOP)?;
    is_of(&told(&collector, worker.as_raw(), "hung")?, "worker", Some("SIGKILL"))?;
    over(&pod, collector)
}

#[test]
fn a_keeper_that_hangs() -> Result<()> {
    let (pod, collector) = attached()?;
    let _fifos = pod.run()?;
    let keeper = pod.keeper()?.pid;
    kill(keeper, Signal::SIGSTOP)?;
    is_of(&told(&collector, keeper.as_raw(), "keeper_hung")?, "keeper", Some("SIGKILL"))?;
    over(&pod, collector)
}

#[test]
fn a_link_thread_that_hangs() -> Result<()> {
    let (pod, collector) = attached()?;
    let _fifos = pod.run()?;
    let worker = pod.worker()?.pid;
    let link = || stall::threads(worker, "tap-link").ok()?.pop();
    let link: Pid = procs::wait(PATIENCE, || "the link thread".to_owned(), link)?;
    let _held = stall::hold(link)?;
    let death = told(&collector, worker.as_raw(), "link_hung")?;
    ensure!(death.process == "worker", "{death:?}");
    over(&pod, collector)
}

/// No process ends for an upgrade: its pid is the same, and that is no warning.
#[test]
fn a_worker_that_begins_anew() -> Result<()> {
    let (pod, collector) = attached()?;
    let _fifos = pod.run()?;
    let worker = pod.worker()?.pid;
    brought_to(&pod, NEXT)?;
    is_of(&told(&collector, worker.as_raw(), "replaced")?, "worker", None)?;
    over(&pod, collector)
}

/// A reader that has stopped holds a container up, which nobody else tells of: of the stream that it stopped at, for as long as it
/// did, while it does so too.
#[test]
fn how_long_containerd_took_nothing_of_a_stream_is_told_of_that_stream() -> Result<()> {
    // More than all FIFOs and pipes on the way hold.
    let script =
        Script { stdout: Output::lines(4_000, 100), stderr: Output::lines(3, 64), ..Script::stayer() };
    let (pod, collector) = attached_with(&script)?;
    let fifos = Fifos::create_stalled(&pod.lab.fifo_dir(), &pod.id)?;
    fifos.stderr.resume();
    pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
    pod.connection.call("Start", &pod::start(&pod.id, ""))?.message::<api::StartResponse>()?;
    let waited = |stream: &str| -> Result<Option<f64>> {
        let text = collector.get("/metrics")?;
        let rows = family(&text, "shimtap_container_log_stalled_seconds_total")?;
        let its = |(labels, _): &&(&str, f64)| labels.contains(&format!("stream=\"{stream}\""));
        Ok(rows.iter().find(its).map(|(_, value)| *value))
    };
    eventually(LIMIT, "more than a second", || Ok(waited("stdout")?.filter(|s| *s > 1.0).map(drop)))?;
    ensure!(waited("stderr")? == Some(0.0), "stderr waited for {:?}", waited("stderr")?);
    fifos.stdout.resume();
    fifos.stdout.wait_len(400_000, PATIENCE)?;
    // After one more round of the wrapper's it is what it was after the one before.
    let mut last = None;
    let whole = now_and_then(Duration::from_millis(1_500), LIMIT, "it to stand still", || {
        let now = waited("stdout")?;
        Ok(now.filter(|_| std::mem::replace(&mut last, now) == now))
    })?;
    ensure!(whole > 1.0, "{whole} s");
    // It is the worker's own: the next one counts anew.
    procs::kill(pod.worker()?.pid)?;
    eventually(LIMIT, "the next worker's word", || Ok((waited("stdout")? == Some(0.0)).then_some(())))?;
    over(&pod, collector)
}
