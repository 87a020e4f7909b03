//! What is asked of an exec, from its request to its removal.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        pod::{self, Fifos, Pod},
    },
    script::{Output, Script},
};

use super::{
    tasks::wait_reaches_the_shim,
    trap::{Alive, Done, Sweep, stayer, traced},
};

/// Its id.
const PROBE: &str = "probe";

fn script() -> Script {
    Script { stdout: Output::lines(5, 50), exit_status: 9, ..Script::default() }
}

/// A running task with an exec that was asked for; the FIFOs of both.
fn execed(pod: &Pod) -> Result<(Fifos, Fifos)> {
    let fifos = pod.run()?;
    let exec = pod.fifos(PROBE)?;
    let request = pod::exec_request("task", PROBE, &script(), &exec);
    pod.connection.call("Exec", &request)?.message::<api::Empty>().context("Exec")?;
    Ok((fifos, exec))
}

fn starts(pod: &Pod) -> Result<()> {
    let started = pod.connection.call("Start", &pod::start("task", PROBE))?;
    started.message::<api::StartResponse>().context("Start").map(drop)
}

/// It ends as its script says, with all of its output.
fn exits(pod: &Pod, wait: u32, exec: &Fifos) -> Result<()> {
    let exit = pod.connection.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
    ensure!(exit.exit_status == 9, "exec's exit status {}", exit.exit_status);
    exec.check(&script())
}

fn is_deleted(pod: &Pod) -> Result<()> {
    let deleted = pod.connection.call("Delete", &pod::delete("task", PROBE))?;
    deleted.message::<api::DeleteResponse>().context("Delete").map(drop)
}

#[test]
fn exec_with_a_large_spec() -> Result<()> {
    Sweep::of_worker("Exec of 20 KB").run(&stayer(), |pod, trap| {
        let fifos = pod.run()?;
        let exec = pod.fifos(PROBE)?;
        let mut request = pod::exec_request("task", PROBE, &script(), &exec);
        request.spec.mut_or_insert_default().value.extend_from_slice(&[b' '; 20_000]);
        let (outcome, _) = traced::<_, api::Empty>(pod, trap, "Exec", &request)?;
        let wait = pod.connection.send("Wait", &pod::wait("task", PROBE))?;
        starts(pod)?;
        exits(pod, wait, &exec)?;
        is_deleted(pod)?;
        // The killed init may have said all by now or not; only its order is judged by the others.
        fifos.stdout.wait_len(40 * 60, PATIENCE)?;
        fifos.stderr.wait_len(9 * 200, PATIENCE)?;
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}

/// The answer of its Wait is in it too: it follows at once.
#[test]
fn start_of_an_exec_and_its_exit() -> Result<()> {
    Sweep::of_worker("Start of an exec").run(&Script::stayer(), |pod, trap| {
        let (fifos, exec) = execed(pod)?;
        let wait = pod.connection.send("Wait", &pod::wait("task", PROBE))?;
        let armed = trap.set()?;
        let start = pod.connection.send("Start", &pod::start("task", PROBE))?;
        armed.go()?;
        let started = pod.connection.answer(start, PATIENCE).context("Start");
        let ended = exits(pod, wait, &exec);
        let outcome = trap.spring(armed)?;
        started?.message::<api::StartResponse>()?;
        ended?;
        is_deleted(pod)?;
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}

#[test]
fn wait_of_an_exec() -> Result<()> {
    Sweep::of_worker("Wait of an exec").run(&Script::stayer(), |pod, trap| {
        let (fifos, exec) = execed(pod)?;
        let (outcome, wait) = wait_reaches_the_shim(pod, trap, PROBE)?;
        starts(pod)?;
        exits(pod, wait, &exec)?;
        is_deleted(pod)?;
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}

#[test]
fn delete_of_an_exec() -> Result<()> {
    Sweep::of_worker("Delete of an exec").run(&Script::stayer(), |pod, trap| {
        let (fifos, exec) = execed(pod)?;
        let wait = pod.connection.send("Wait", &pod::wait("task", PROBE))?;
        starts(pod)?;
        exits(pod, wait, &exec)?;
        let request = pod::delete("task", PROBE);
        let (outcome, deleted) = traced::<_, api::DeleteResponse>(pod, trap, "Delete", &request)?;
        ensure!(deleted.exit_status == 9, "Delete repeats the exit status");
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}
