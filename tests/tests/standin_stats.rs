//! Stats through the wrapper: who is answered for a shim that is mute, and how samples are had (design of the relay: bound and
//! snoop; else poll; one more at the exit, which an exit waits for and a removal never does).
//!
//! What the wrapper makes up is counted, and the shim's late answer reaches nobody. The sweep of deaths at the end places a
//! death at the moments between a made-up answer and the real one (a third of them each run).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::{
    oracle::exposition::{family, of_label},
    rig::{
        collector::{Collector, Settings},
        eventually,
        patience::{quickly, throughout},
    },
    standin::{
        client::{
            PATIENCE,
            audit::exactly_once,
            connection::Connection,
            mute::{DEADLINE_EXCEEDED, Mute, asked_in_a_loop},
            pod::{self, Pod},
            spooled::whole,
            wrapped::wrapped_in,
        },
        script::{Output, Script},
    },
};

const LIMIT: Duration = Duration::from_secs(60);
/// Who asks within this of a Stats that was answered asks in a loop (`FREQUENT_NS` of the wrapper).
const FREQUENT: Duration = Duration::from_millis(1_200);

/// Stays until it is killed; its shim takes so long for a Stats.
fn slow(stats_delay_ms: u64) -> Script {
    Script { stats_delay_ms, ..Script::stayer() }
}

/// A running pod whose wrapper has this section of shim.toml, and a collector that it tells something every second.
fn observed(script: &Script, section: &str) -> Result<(Pod, Collector)> {
    let mut collector = None;
    let pod = wrapped_in(script, |lab| {
        lab.reconfigure("deaths = 0\n", &format!("deaths = 0\n{section}"))?;
        collector = Some(lab.collector_told(&Settings::each_second())?);
        Ok(())
    })?;
    let collector = collector.context("it was started")?;
    eventually(LIMIT, "the wrapper to attach", || {
        Ok((sum(&collector, "shimtap_wrappers", "")? >= 1.0).then_some(()))
    })?;
    Ok((pod, collector))
}

/// The sum of a family's rows that have this label.
fn sum(collector: &Collector, name: &str, label: &str) -> Result<f64> {
    let text = collector.get("/metrics")?;
    Ok(family(&text, name)?.iter().filter(|(row, _)| row.contains(label)).map(|(_, value)| value).sum())
}

/// Samples that the collector took of this source.
fn samples(collector: &Collector, source: &str) -> Result<f64> {
    sum(collector, "shimtap_stats_samples_total", &format!("source=\"{source}\""))
}

/// A Stats that was sent.
struct Asked {
    stream: u32,
    at: Instant,
}

fn ask(c: &Connection) -> Result<Asked> {
    let at = Instant::now();
    Ok(Asked { stream: c.send("Stats", &pod::stats("task"))?, at })
}

/// The code of its answer, and how long that took.
fn answered(c: &Connection, asked: &Asked) -> Result<(i32, Duration)> {
    let code = c.answer(asked.stream, PATIENCE)?.code();
    Ok((code, asked.at.elapsed()))
}

/// So many answers were made up, at least.
fn made_up(collector: &Collector, wanted: f64) -> Result<()> {
    eventually(LIMIT, "made-up answers to be counted", || {
        let made_up = sum(collector, "shimtap_wrapper_counts_total", "name=\"synthetic_answers\"")?;
        Ok((made_up >= wanted).then_some(()))
    })
}

/// A caller that asks in a loop hears after the bound; the shim's own answer comes later and to nobody.
#[test]
fn a_caller_in_a_loop_is_answered_after_two_seconds() -> Result<()> {
    let (pod, collector) = observed(&slow(0), "")?;
    pod.run()?;
    let (c, beside) = (&pod.connection, pod.connect_inner()?);
    let (mute, took) = asked_in_a_loop(&pod)?;
    ensure!(took >= Duration::from_secs(2), "after {took:?}");
    made_up(&collector, 1.0)?;
    // Asked later and without us: when this is answered, so is the other. What was written to a connection is read from it in
    // that order, so the late answer would be there before the next.
    let marker = ask(&beside)?;
    drop(mute);
    ensure!(answered(&beside, &marker)?.0 == 0, "the shim itself");
    pod.answers()?;
    exactly_once(&pod.lab, &[c, &beside])?;
    pod.end()?;
    let made_up = sum(&collector, "shimtap_wrapper_counts_total", "name=\"synthetic_answers\"")?;
    ensure!((made_up - 1.0).abs() < 0.1, "{made_up} answers were made up");
    collector.stop()
}

/// Once a container has been mute for longer than the bound, everybody is bounded, until it answers again.
#[test]
fn a_container_that_was_mute_keeps_nobody_waiting_until_it_answers() -> Result<()> {
    let (pod, collector) = observed(&slow(0), "[stats]\nforeign_bound_ms = 500\n")?;
    pod.run()?;
    let c = &pod.connection;
    let (mute, _) = asked_in_a_loop(&pod)?;
    // Long enough for the next to belong to no loop.
    throughout(FREQUENT, "silence", || Ok(true))?;
    let (code, took) = answered(c, &ask(c)?)?;
    ensure!(code == DEADLINE_EXCEEDED, "{code} after {took:?}");
    drop(mute);
    eventually(LIMIT, "the shim's own answer", || Ok((answered(c, &ask(c)?)?.0 == 0).then_some(())))?;
    // The shim has spoken, and nobody asks in a row: its answer is waited for.
    throughout(FREQUENT, "silence", || Ok(true))?;
    let mute = Mute::shim_of(&pod)?;
    let asked = ask(c)?;
    throughout(Duration::from_millis(1_500), "silence", || {
        Ok(c.frames().iter().all(|frame| frame.stream != asked.stream))
    })?;
    drop(mute);
    ensure!(answered(c, &asked)?.0 == 0, "it was left alone");
    exactly_once(&pod.lab, &[c])?;
    made_up(&collector, 2.0)?;
    pod.end()?;
    collector.stop()
}

#[test]
fn without_a_bound_the_shims_answer_is_waited_for() -> Result<()> {
    let (pod, collector) = observed(&slow(0), "[stats]\nforeign_bound_ms = 0\n")?;
    pod.run()?;
    let c = &pod.connection;
    ensure!(answered(c, &ask(c)?)?.0 == 0, "the first of a loop");
    let mute = Mute::shim_of(&pod)?;
    let asked = [ask(c)?, ask(c)?];
    throughout(Duration::from_millis(2_700), "silence", || Ok(true))?;
    drop(mute);
    for asked in asked {
        ensure!(answered(c, &asked)?.0 == 0, "the shim's own");
    }
    let made_up = sum(&collector, "shimtap_wrapper_counts_total", "name=\"synthetic_answers\"")?;
    ensure!(made_up < 0.1, "{made_up} answers were made up");
    pod.end()?;
    collector.stop()
}

/// More Stats than there is room for, none of which is ever answered: whatever else containerd asks for is seen all the same.
#[test]
fn a_shim_that_answers_no_stats_hides_nothing_else() -> Result<()> {
    const ASKED: u32 = 600;
    const ROOM: u32 = 512;
    let (pod, collector) = observed(&slow(3_600_000), "")?;
    pod.run()?;
    let beside = pod.connect()?;
    for _ in 0..ASKED {
        beside.send("Stats", &pod::stats("task"))?;
    }
    eventually(LIMIT, "them at the shim", || {
        Ok((pod.lab.count("Stats", "task", "")? >= usize::try_from(ASKED)?).then_some(()))
    })?;
    let script = Script { stdout: Output::lines(20, 77), until_killed: true, ..Script::default() };
    let _fifos = pod.run_beside("late", &script, &[])?;
    whole(&collector, "late", &script)?;
    pod.end_beside("late")?;
    for kind in ["create", "start", "kill", "exit", "delete"] {
        let label = format!("kind=\"{kind}\"");
        let wanted = if matches!(kind, "create" | "start") { 2.0 } else { 1.0 };
        eventually(LIMIT, kind, || {
            Ok((sum(&collector, "shimtap_events_total", &label)? >= wanted).then_some(()))
        })?;
    }
    eventually(LIMIT, "those that nobody looked at to be counted", || {
        let unseen = sum(&collector, "shimtap_wrapper_counts_total", "name=\"table_overflow\"")?;
        Ok((unseen >= f64::from(ASKED - ROOM)).then_some(()))
    })?;
    collector.stop()
}

/// Whoever asks often enough spares us the asking, and the collector can tell.
#[test]
fn what_passes_by_is_taken_and_only_else_is_asked() -> Result<()> {
    let (pod, collector) = observed(&slow(0), "")?;
    pod.run()?;
    eventually(LIMIT, "samples of our own asking", || {
        Ok((samples(&collector, "polled")? >= 2.0).then_some(()))
    })?;
    ensure!(samples(&collector, "snooped")? < 0.1, "nobody has asked yet");
    let before = samples(&collector, "polled")?;
    let (mut last, mut owed) = (Instant::now(), 0);
    eventually(LIMIT, "samples that passed by", || {
        pod.connection.call("Stats", &pod::stats("task"))?.message::<api::StatsResponse>()?;
        // Where a busy machine lets nobody ask for an interval, the wrapper is to ask.
        owed += u32::try_from((last.elapsed() + Duration::from_millis(100)).as_secs())?;
        last = Instant::now();
        Ok((samples(&collector, "snooped")? >= 6.0).then_some(()))
    })?;
    // Six seconds: one sample of ours may have been under way, and one fall between two that passed by.
    let more = samples(&collector, "polled")? - before;
    let most = 3.0 + f64::from(owed);
    ensure!(more <= most, "{more} samples were asked for beside those that passed by, {most} at most");
    pod.end()?;
    collector.stop()
}

/// The exit is told when the shim has answered once more, and what it said then is what the collector shows.
#[test]
fn the_last_sample_is_taken_at_the_exit() -> Result<()> {
    let (pod, collector) = observed(&slow(100), "")?;
    pod.run()?;
    eventually(LIMIT, "a first sample", || Ok((samples(&collector, "polled")? >= 1.0).then_some(())))?;
    let wait = pod.connection.send("Wait", &pod::wait("task", ""))?;
    let killed = Instant::now();
    pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    pod.connection.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
    let told = killed.elapsed();
    ensure!(told >= Duration::from_millis(95), "the exit was told after {told:?}, before the sample");
    eventually(LIMIT, "the last sample", || Ok((samples(&collector, "final")? >= 1.0).then_some(())))?;
    let shown = of_label(&collector.get("/metrics/cadvisor?scope=all")?, "name", "task")?;
    let used = shown.values.get("container_cpu_usage_seconds_total").context("its CPU time")?;
    // The stand-in counts a millisecond for each time it is asked.
    let asked = u32::try_from(pod.lab.count("Stats", "task", "")?)?;
    ensure!((used - f64::from(asked) / 1_000.0).abs() < 1e-6, "{used} s shown, the last of {asked} samples");
    ensure!((samples(&collector, "final")? - 1.0).abs() < 0.1, "once");
    pod.finish()?;
    collector.stop()
}

/// A container beside a quiet one, whose own Stats take longer than an exit may wait, and a Wait for it.
fn mute_at_its_end(pod: &Pod, n: u32) -> Result<(String, u32)> {
    let id = format!("task-{n}");
    let _fifos = pod.run_beside(&id, &slow(1_500), &[])?;
    let wait = pod.connection.send("Wait", &pod::wait(&id, ""))?;
    Ok((id, wait))
}

/// A guest that is mute at the end costs the exit 200 ms and no more.
#[test]
fn the_exit_waits_for_the_last_sample_and_not_for_long() -> Result<()> {
    let (pod, collector) = observed(&slow(0), "")?;
    pod.run()?;
    let c = &pod.connection;
    let mut turns = 0..;
    quickly(Duration::from_secs(1), "an exit", || {
        let (id, wait) = mute_at_its_end(&pod, turns.next().context("numbers")?)?;
        let killed = Instant::now();
        c.call("Kill", &pod::kill(&id, "", 9))?.message::<api::Empty>()?;
        c.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
        let told = killed.elapsed();
        ensure!(told >= Duration::from_millis(195), "the exit was told after {told:?}");
        c.call("Delete", &pod::delete(&id, ""))?.message::<api::DeleteResponse>()?;
        Ok(told)
    })?;
    pod.end()?;
    collector.stop()
}

/// A Delete waits for nothing, and takes with it what waits for a sample.
#[test]
fn a_removal_waits_for_no_sample() -> Result<()> {
    let (pod, collector) = observed(&slow(0), "")?;
    pod.run()?;
    let c = &pod.connection;
    let mut turns = 0..;
    quickly(Duration::from_millis(190), "from the exit to the answer of Delete", || {
        let (id, wait) = mute_at_its_end(&pod, turns.next().context("numbers")?)?;
        let is_told = || c.frames().iter().any(|frame| frame.stream == wait);
        // The exit is later than this.
        let killed = Instant::now();
        c.call("Kill", &pod::kill(&id, "", 9))?.message::<api::Empty>()?;
        eventually(LIMIT, "the exit", || {
            let state = c.call("State", &pod::state(&id, ""))?.message::<api::StateResponse>()?;
            Ok((state.status.enum_value_or_default() == api::Status::STOPPED).then_some(()))
        })?;
        c.call("Delete", &pod::delete(&id, ""))?.message::<api::DeleteResponse>()?;
        ensure!(is_told(), "the exit is told with it");
        Ok(killed.elapsed())
    })?;
    exactly_once(&pod.lab, &[c])?;
    collector.stop()
}

/// A shim may still answer for a container when that is gone: nobody asks for it any more, and the link is none the worse.
#[test]
fn an_answer_for_a_container_that_is_gone_breaks_no_link() -> Result<()> {
    let (pod, collector) = observed(&Script::stayer(), "")?;
    pod.run()?;
    let _fifos = pod.run_beside("late", &slow(1_500), &[])?;
    eventually(LIMIT, "its first Stats", || Ok((pod.lab.count("Stats", "late", "")? > 0).then_some(())))?;
    pod.end_beside("late")?;
    // They are asked for one after the other, so the answer has come by then.
    let before = samples(&collector, "polled")?;
    eventually(LIMIT, "samples of the other container", || {
        Ok((samples(&collector, "polled")? >= before + 3.0).then_some(()))
    })?;
    let faults = sum(&collector, "shimtap_ingest_faults_total", "")?;
    ensure!(faults == 0.0, "{}", std::fs::read_to_string(collector.log())?);
    collector.stop()
}
