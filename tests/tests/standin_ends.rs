//! The end of a pod leaves nothing behind, whenever one of the two processes dies in it, and nobody in the dark.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use shimtap_tests::{
    oracle::{StreamKey, exposition::family, journal, one_tape, sink},
    rig::{
        collector::{Collector, Settings},
        eventually, leftovers,
        patience::throughout,
        process::signal,
    },
    standin::{
        client::{
            PATIENCE,
            lab::files,
            pod::{self, Pod},
            spooled::{cleared, has, whole},
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

/// As containerd does when a shim hangs up.
fn hang_up(pod: &Pod) -> Result<()> {
    pod.connection.wait_end(PATIENCE)?;
    pod.connection.shutdown_write().or_else(|_| anyhow::Ok(()))
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
        hang_up(&pod)?;
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

/// A worker that is made in a pod's last moments, with a collector about that does not answer. `spool`: may it write files?
fn succeeded_at_the_end(spool: bool) -> Result<(Pod, Collector, Script)> {
    let script = Script { stdout: Output::lines(500, 80), until_killed: true, ..Script::default() };
    let mut collector = None;
    let pod = wrapped_in(&script, |lab| {
        collector = Some(lab.collector()?);
        if spool { Ok(()) } else { lab.without_spool() }
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
    hang_up(&pod)?;
    Ok((pod, collector, script))
}

/// Where it may not, it waits for the collector as long as its predecessor would have.
#[test]
fn a_successor_at_the_end_waits_for_a_collector_that_is_about() -> Result<()> {
    let (pod, collector, script) = succeeded_at_the_end(false)?;
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

/// Where it may, it leaves at once, and the collector finds the file.
#[test]
fn a_successor_at_the_end_leaves_a_file_to_a_collector_that_is_about() -> Result<()> {
    let (pod, collector, script) = succeeded_at_the_end(true)?;
    nothing_is_left(&pod)?;
    signal(collector.pid(), Signal::SIGCONT)?;
    whole(&collector, "task", &script)?;
    cleared(&pod)?;
    collector.stop()
}

/// The stdout of the container `brief` comes to an end that is known.
fn ends_exactly(collector: &Collector) -> Result<()> {
    let ending = || {
        let kept = journal(&collector.journal_dir())?;
        let its = |name: &StreamKey| name.container == "brief" && name.stream == "stdout";
        Ok(kept.streams.into_iter().find(|(name, _)| its(name)).and_then(|(_, stream)| stream.ending))
    };
    let ending = eventually(PATIENCE, "the end of a stream that is over", ending)?;
    ensure!(ending == "exact", "it is {ending}");
    Ok(())
}

/// How many exits the collector has counted, of any class.
fn exits(collector: &Collector) -> Result<f64> {
    let text = collector.get("/metrics")?;
    Ok(family(&text, "shimtap_container_exits_total")?.into_iter().map(|(_, n)| n).sum())
}

/// Longer than what is durable waits for its acknowledgement (500 ms).
const ACKNOWLEDGED: Duration = Duration::from_secs(2);

/// A container is deleted whose bytes are all acknowledged, and the collector dies with its end unread: the next one is told of that
/// again. Else the stream would be taken for one that was cut off, whole as it is.
#[test]
fn an_end_that_died_with_its_collector_is_told_to_the_next() -> Result<()> {
    an_end_is_told_again("")
}

/// The same of output that no rule wants.
#[test]
fn an_end_of_what_is_not_collected_is_told_to_the_next_collector_as_well() -> Result<()> {
    an_end_is_told_again("[[rule]]\ncollect = false\n")
}

fn an_end_is_told_again(rules: &str) -> Result<()> {
    let told = Settings { sections: rules.to_owned(), ..Settings::default() };
    let script = Script { stdout: Output::lines(500, 80), until_killed: true, ..Script::default() };
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let mut collector = pod.lab.collector_told(&told)?;
    let fifos = pod.run_beside("brief", &script, &[])?;
    fifos.stdout.wait_len(500 * 80, PATIENCE)?;
    if rules.is_empty() {
        has(&collector, "brief", 500 * 80)?;
    }
    thread::sleep(ACKNOWLEDGED);
    signal(collector.pid(), Signal::SIGSTOP)?;
    pod.end_beside("brief")?;
    // What its wrapper has to say of that is said by now.
    thread::sleep(Duration::from_millis(500));
    collector.end(Signal::SIGKILL)?;
    let collector = pod.lab.collector_told(&told)?;
    ends_exactly(&collector)?;
    pod.end()?;
    collector.stop()
}

/// What `shimtap ps` says of a container: its state, and the exit status where there is one.
fn shown(collector: &Collector, id: &str) -> Result<Option<(String, Option<u64>)>> {
    let all = collector.ps()?;
    let text = |one: &Value, key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let containers = all.get("containers").and_then(Value::as_array).context("it lists containers")?;
    let its = containers.iter().find(|one| text(one, "id") == id);
    Ok(its.map(|one| (text(one, "state"), one.get("exit_status").and_then(Value::as_u64))))
}

/// A container's exit was told to a collector, which is replaced before the Delete: the next one knows of it, and does not count it
/// again. One that was not told of it counts it.
#[test]
fn an_exit_that_another_collector_was_told_of_is_known_to_the_next() -> Result<()> {
    let script = Script { exit_status: 7, ..Script::default() };
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let ends = |id: &str| -> Result<()> {
        let answer = pod.connection.call("Wait", &pod::wait(id, ""))?.message::<api::WaitResponse>()?;
        ensure!(answer.exit_status == 7, "{answer:?}");
        Ok(())
    };
    let is_shown = |collector: &Collector, id: &str| {
        eventually(PATIENCE, &format!("{id} to be shown as over"), || {
            Ok(shown(collector, id)?.filter(|said| *said == ("exited".to_owned(), Some(7))))
        })
    };
    let mut collector = pod.lab.collector()?;
    let _early = pod.run_beside("early", &script, &[])?;
    ends("early")?;
    is_shown(&collector, "early")?;
    let is_counted = |collector: &Collector| {
        eventually(PATIENCE, "an exit to be counted", || Ok((exits(collector)? > 0.0).then_some(())))
    };
    is_counted(&collector)?;
    // What was read of an event is acknowledged by then.
    thread::sleep(ACKNOWLEDGED);
    collector.end(Signal::SIGKILL)?;
    let _late = pod.run_beside("late", &script, &[])?;
    ends("late")?;

    let collector = pod.lab.collector()?;
    is_shown(&collector, "late")?;
    is_shown(&collector, "early")?;
    is_counted(&collector)?;
    for id in ["early", "late"] {
        pod.connection.call("Delete", &pod::delete(id, ""))?.message::<api::DeleteResponse>()?;
        eventually(PATIENCE, "its Delete", || {
            Ok(shown(&collector, id)?.filter(|(state, _)| state == "deleted"))
        })?;
    }
    ensure!(exits(&collector)? == 1.0, "late's, and not early's again");
    pod.end()?;
    collector.stop()
}

/// Kata's shims open a container's FIFOs at Start: where that is refused nobody ever does, and its streams are over with the Delete.
#[test]
fn a_container_whose_fifos_nobody_opened_is_over_with_its_delete() -> Result<()> {
    let script = Script { opened_at_start: true, start_refused: 13, ..Script::default() };
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let collector = pod.lab.collector()?;
    let c = &pod.connection;
    let bundle = pod.lab.bundle("brief", Some(&pod.id), &script)?;
    let fifos = pod.fifos("brief")?;
    let create = pod::create_request("brief", &bundle, &fifos);
    c.call("Create", &create)?.message::<api::CreateTaskResponse>()?;
    ensure!(c.call("Start", &pod::start("brief", ""))?.code() == 13, "Start was to be refused");
    c.call("Delete", &pod::delete("brief", ""))?.message::<api::DeleteResponse>()?;
    fifos.stdout.to_end(PATIENCE).context("containerd's end of its stdout")?;
    ends_exactly(&collector)?;
    pod.end()?;
    collector.stop()
}

/// A shim that tells of an exit when the task is deleted: the collector is told as well.
#[test]
fn an_exit_that_is_told_after_the_delete_is_counted() -> Result<()> {
    let script = Script { until_killed: true, wait_delay_ms: 1000, ..Script::default() };
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let collector = pod.lab.collector()?;
    let _brief = pod.run_beside("brief", &script, &[])?;
    let c = &pod.connection;
    let waiting = c.send("Wait", &pod::wait("brief", ""))?;
    c.call("Kill", &pod::kill("brief", "", 9))?.message::<api::Empty>()?;
    let deleted = || Ok((c.call("Delete", &pod::delete("brief", ""))?.code() == 0).then_some(()));
    eventually(PATIENCE, "its Delete to be answered", deleted)?;
    ends_exactly(&collector)?;
    c.answer(waiting, PATIENCE)?.message::<api::WaitResponse>()?;
    eventually(PATIENCE, "its exit to be counted", || Ok((exits(&collector)? == 1.0).then_some(())))?;
    pod.end()?;
    collector.stop()
}

/// containerd hangs and keeps its connection: what the shim took along is told when that has been waited for.
#[test]
fn a_dead_shim_is_told_of_though_containerd_holds_on() -> Result<()> {
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let collector = pod.lab.collector()?;
    eventually(PATIENCE, "the wrapper to be connected", || {
        Ok(collector.ps()?.pointer("/wrappers/0").map(drop))
    })?;
    pod.lab.inner_pids()?.into_iter().try_for_each(procs::kill)?;
    eventually(PATIENCE, "the death to be counted", || Ok((exits(&collector)? == 1.0).then_some(())))?;
    nothing_is_left(&pod)?;
    collector.stop()
}

/// A process that outlives its shim and holds its output: what it had said by the time that it is given up is in a file.
#[test]
fn what_a_shims_survivor_has_said_is_kept() -> Result<()> {
    let script = Script { stdout: Output::lines(500, 80), until_killed: true, ..Script::default() };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(500 * 80, PATIENCE)?;
    // The container's end, as its child would have it.
    let inner =
        files(&pod.lab.run_dir()).into_iter().find(|path| path.extension().is_some_and(|end| end == "out"));
    let held = fs::File::options().write(true).open(inner.context("our FIFO")?).context("hold it")?;
    pod.lab.inner_pids()?.into_iter().try_for_each(procs::kill)?;
    hang_up(&pod)?;
    nothing_is_left(&pod)?;
    drop(held);
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    cleared(&pod)?;
    collector.stop()
}
