//! What no collector takes is in files, and in the sink when one comes: every byte once, or admitted to be missing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::{
    oracle::{Judgement, one_tape},
    rig::{collector::Collector, eventually},
    standin::{
        client::{PATIENCE, lab::files, pod::Pod, wrapped::wrapped},
        procs,
        script::{Output, Script},
    },
};

const LIMIT: Duration = Duration::from_secs(60);

/// Three times what the ring of a stream holds, and less than files in memory may; at a pace (2 MB/s at most) that a writer
/// on a busy machine keeps up with.
fn chatty() -> Script {
    let stdout = Output { lines_per_write: 20, pause_us: 1000, ..Output::lines(30_000, 100) };
    Script { stdout, ..Script::default() }
}

/// Waits until the sink has `written` to its last byte, and judges it.
fn judged(collector: &Collector, id: &str, stream: &str, written: &[u8]) -> Result<Judgement> {
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

fn whole(collector: &Collector, id: &str, script: &Script) -> Result<()> {
    for (name, output) in [("stdout", &script.stdout), ("stderr", &script.stderr)] {
        if output.lines > 0 {
            let judgement = judged(collector, id, name, &output.bytes(name))?;
            ensure!(judgement.gaps.is_empty(), "{id}'s {name}: {judgement:?}");
        }
    }
    Ok(())
}

/// Spool files are gone when everything in them is in the sink.
fn cleared(pod_spool: &std::path::Path) -> Result<()> {
    let left = || files(pod_spool).into_iter().filter(|path| path.is_file()).collect::<Vec<_>>();
    eventually(LIMIT, "the spool files to be removed", || Ok(left().is_empty().then_some(())))
        .with_context(|| format!("{:?}", left()))
}

/// Runs the task to its end.
fn to_its_end(pod: &Pod, script: &Script) -> Result<()> {
    let fifos = pod.run()?;
    pod.wait()?;
    fifos.check(script)?;
    pod.finish()
}

/// The wrapper's two processes are gone.
fn gone(pod: &Pod) -> Result<()> {
    let none = || procs::keepers(pod.lab.namespace()).ok().filter(Vec::is_empty);
    procs::wait(PATIENCE, || "the wrapper to leave".to_owned(), none).map(drop)
}

fn value(collector: &Collector, row: &str) -> Result<u64> {
    let text = collector.get("/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(row)?.trim().parse().ok());
    value.with_context(|| format!("{row} in {text}"))
}

#[test]
fn a_pod_that_ended_while_nobody_was_there() -> Result<()> {
    let script = Script {
        stdout: Output::lines(2000, 100),
        stderr: Output::lines(10, 80),
        exit_status: 7,
        ..Script::default()
    };
    let pod = wrapped(&script)?;
    to_its_end(&pod, &script)?;
    gone(&pod)?;
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    for kind in ["create", "start", "exit", "delete"] {
        ensure!(value(&collector, &format!("shimtap_events_total{{kind=\"{kind}\"}}"))? == 1, "{kind}");
    }
    cleared(&pod.lab.spool_dir())?;
    ensure!(value(&collector, "shimtap_spool_files_total")? == 1, "one file was taken");
    collector.stop()
}

#[test]
fn a_pod_that_says_three_times_what_its_memory_holds() -> Result<()> {
    let script = Script { until_killed: true, ..chatty() };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), PATIENCE)?;
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    cleared(&pod.lab.spool_dir())?;
    collector.stop()
}
