//! What passing something on asks of the kernel: a few calls, and none that opens a file.
//!
//! A look at /proc in the path of every byte once doubled the CPU of a wrapper, and nothing failed by it. Speed itself is
//! measured in benches/ and never judged by a test; the calls are the same on every machine.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        pod::{self, Pod},
        wrapped::wrapped,
    },
    script::{Output, Script},
    tracer::{self, Edge, Outcome, name},
};

/// A stop that no operation reaches: the tracer only watches.
const NEVER: u32 = u32::MAX;
/// A sign of life, and the look at the keeper that goes with it, come every other second; a traced worker is slow, and on a busy
/// machine slower.
const TURNS_PER_LOOK: usize = 8;
/// What such a look may take, in calls.
const LOOK: usize = 8;

/// The calls of the worker's relay thread while `body` runs, by name, and how long it ran.
fn calls(pod: &Pod, body: impl FnOnce() -> Result<()>) -> Result<(BTreeMap<String, usize>, Duration)> {
    let began = Instant::now();
    let armed = tracer::arm(pod.worker()?.pid, NEVER)?;
    armed.go()?;
    let done = body();
    let Outcome { stops, .. } = armed.finish()?;
    done?;
    let mut count = BTreeMap::new();
    for stop in stops.iter().filter(|stop| stop.edge == Edge::Exit) {
        *count.entry(name(stop.call)).or_default() += 1;
    }
    Ok((count, began.elapsed()))
}

/// Files are opened for a sign of life at most, `least` turns of the loop having been seen.
fn opens_nothing(calls: &BTreeMap<String, usize>, span: Duration, least: usize) -> Result<()> {
    let of = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<usize>();
    let turns = of(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]);
    ensure!(turns >= least, "only {turns} turns: {calls:?}");
    let looks = of(&["open", "openat", "statx", "newfstatat", "readlink", "getdents64"]);
    let of_life = usize::try_from(span.as_secs())? / 2 * LOOK;
    let most = turns / TURNS_PER_LOOK + of_life;
    ensure!(looks <= most, "{looks} looks at files in {turns} turns and {span:?}: {calls:?}");
    Ok(())
}

#[test]
fn requests_are_passed_on_without_a_look_at_any_file() -> Result<()> {
    let pod = wrapped(&Script::stayer())?;
    let fifos = pod.fifos("task")?;
    pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
    pod.connection.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
    let (calls, span) = calls(&pod, || {
        for _ in 0..100 {
            pod.connection.call("State", &pod::state("task", ""))?.message::<api::StateResponse>()?;
        }
        Ok(())
    })?;
    opens_nothing(&calls, span, 100)?;
    pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    ensure!(pod.wait()? == 137, "killed");
    pod.finish()
}

#[test]
fn output_is_passed_on_without_a_look_at_any_file() -> Result<()> {
    let stdout = Output { pause_us: 5_000, ..Output::lines(600, 80) };
    let script = Script { stdout, ..Script::stayer() };
    let pod = wrapped(&script)?;
    let fifos = pod.fifos("task")?;
    pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
    pod.connection.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
    fifos.stdout.wait_len(80, PATIENCE).context("the first line")?;
    let (calls, span) = calls(&pod, || fifos.stdout.wait_len(600 * 80, PATIENCE).context("the last line"))?;
    opens_nothing(&calls, span, 50)?;
    pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    ensure!(pod.wait()? == 137, "killed");
    pod.finish()
}
