//! An upgrade in place, from one release to the next and back, and nobody notices.
//!
//! The next release is the same source built with another version and another layout of its block (tests/next).

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::unistd::Pid;
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        pod::{self, Fifos, Pod},
        upgrade::{NEXT, brought_to},
        wrapped::{WRAPPER, binary, wrapped},
    },
    procs,
    script::{Output, Script},
};

const NOW: &str = "0.1.0";
const THEN: &str = "0.2.0";

fn talker() -> Script {
    let stdout = Output { pause_us: 300, ..Output::lines(10_000_000, 80) };
    Script { stdout, until_killed: true, ..Script::default() }
}

/// Device and inode of the image that a process runs.
fn image_of(pid: Pid) -> Result<(u64, u64)> {
    let meta = fs::metadata(format!("/proc/{pid}/exe")).context("the image of a process")?;
    Ok((meta.dev(), meta.ino()))
}

/// Keeper and worker run this binary, are two, and are all there is.
fn both_run(pod: &Pod, name: &str) -> Result<()> {
    let meta = fs::metadata(binary(name)?)?;
    let (keeper, worker) = (pod.keeper()?, pod.worker()?);
    for process in [&keeper, &worker] {
        ensure!(image_of(process.pid)? == (meta.dev(), meta.ino()), "{process:?} does not run {name}");
    }
    let workers = procs::workers(pod.lab.namespace())?;
    ensure!(workers.len() == 1, "one worker: {workers:?}");
    Ok(())
}

/// The pod answers, its output goes on, an exec works, and a new connection is served.
fn is_well(pod: &Pod, fifos: &Fifos, exec_id: &str) -> Result<()> {
    pod.answers().context("the old connection")?;
    let fresh = pod.connect()?;
    fresh.call("Connect", &pod::connect("task"))?.message::<api::ConnectResponse>().context("a new one")?;
    let before = fifos.stdout.len_so_far();
    fifos.stdout.wait_len(before + 4000, PATIENCE).context("output goes on")?;
    let state = pod.connection.call("State", &pod::state("task", ""))?.message::<api::StateResponse>()?;
    ensure!(Path::new(&state.stdout) == fifos.stdout.path(), "State names {}", state.stdout);
    exec(pod, exec_id)
}

fn exec(pod: &Pod, id: &str) -> Result<()> {
    let script = Script { stdout: Output::lines(20, 77), exit_status: 7, ..Script::default() };
    let fifos = pod.fifos(id)?;
    let c = &pod.connection;
    c.call("Exec", &pod::exec_request("task", id, &script, &fifos))?.message::<api::Empty>()?;
    let wait = c.send("Wait", &pod::wait("task", id))?;
    c.call("Start", &pod::start("task", id))?.message::<api::StartResponse>()?;
    let exit = c.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
    ensure!(exit.exit_status == 7, "exit status {}", exit.exit_status);
    fifos.check(&script)?;
    c.call("Delete", &pod::delete("task", id))?.message::<api::DeleteResponse>().map(drop)
}

/// The rest of its life: every line in its place.
fn ends_well(pod: &Pod, fifos: &Fifos) -> Result<()> {
    pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    ensure!(pod.wait()? == 137, "exit status");
    let out = fifos.stdout.to_end(PATIENCE)?;
    let mut want = Output { lines: u64::try_from(out.len() / 80)? + 1, ..talker().stdout }.bytes("stdout");
    want.truncate(out.len());
    ensure!(out == want, "{} bytes, not all in their place", out.len());
    pod.finish()
}

#[test]
fn to_the_next_release_and_back() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let waiting = pod.connection.send("Wait", &pod::wait("task", ""))?;
    let before = (pod.keeper()?.pid, pod.worker()?.pid);
    for (turn, (from, to, name)) in
        [(NOW, THEN, NEXT), (THEN, NOW, WRAPPER), (NOW, THEN, NEXT)].into_iter().enumerate()
    {
        let told = brought_to(&pod, name)?;
        ensure!((told.from.as_deref(), told.to.as_deref()) == (Some(from), Some(to)), "{told:?}");
        ensure!(told.generation == Some(u64::try_from(turn)? + 2), "{told:?}");
        both_run(&pod, name)?;
        is_well(&pod, &fifos, &format!("exec-{turn}"))?;
    }
    ensure!((pod.keeper()?.pid, pod.worker()?.pid) == before, "the processes are the same");
    ends_well(&pod, &fifos)?;
    let exit = pod.connection.answer(waiting, PATIENCE)?.message::<api::WaitResponse>()?;
    ensure!(exit.exit_status == 137, "the Wait that was asked before all that: {}", exit.exit_status);
    exactly_once(&pod.lab, &[&pod.connection])
}
