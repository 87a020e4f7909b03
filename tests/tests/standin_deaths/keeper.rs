//! The keeper dies: while it opens containerd's FIFOs, accepts, gives back, and while it makes the next worker.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::{
    rig::leftovers,
    standin::{
        client::{
            PATIENCE,
            frame::Answer,
            pod::{self, Pod},
        },
        procs,
        tracer::{Edge, Outcome, Stop, name},
    },
};

use super::{
    connections::a_connection_comes,
    tasks::{creates, deletes, output_flows},
    trap::{Alive, Done, Sweep, Trap, created, talker},
};

/// Opening the readers of containerd's FIFOs, and all else that a Create needs of it.
#[test]
fn create() -> Result<()> {
    creates(Sweep::of_keeper("Create"))
}

/// Opening their writers, which come with the first byte, and closing them at the end.
#[test]
fn output_through_the_tee() -> Result<()> {
    output_flows(Sweep::of_keeper("output"))
}

/// Giving everything back.
#[test]
fn delete() -> Result<()> {
    deletes(Sweep::of_keeper("Delete"))
}

/// The connection, or the place in the queue, is not lost with it.
#[test]
fn a_new_connection_while_the_keeper_dies() -> Result<()> {
    a_connection_comes(Sweep::of_keeper("accept"))
}

/// At the exit of that call there is a child.
fn is_forked(stop: &Stop) -> bool {
    let is_fork = ["clone", "clone3", "fork", "vfork"].contains(&name(stop.call).as_str());
    is_fork && stop.edge == Edge::Exit && stop.result > 0
}

/// The worker dies; gives what became of the keeper that makes the next one, and of a State that was asked meanwhile.
fn worker_dies(pod: &Pod, trap: &Trap<'_>) -> Result<(Outcome, Result<Answer>)> {
    let armed = trap.set()?;
    procs::kill(pod.worker()?.pid)?;
    armed.go()?;
    let stream = pod.connection.send("State", &pod::state("task", ""));
    let answer = stream.and_then(|stream| pod.connection.answer(stream, PATIENCE));
    Ok((trap.spring(armed)?, answer))
}

/// One keeper and one worker, which is another one.
fn has_another_worker(pod: &Pod, before: &procs::Process) -> Result<()> {
    let other = || {
        let worker = procs::worker(pod.keeper().ok()?.pid).ok()?;
        let all = procs::workers(pod.lab.namespace()).ok()?;
        (all.len() == 1 && worker.pid != before.pid).then_some(())
    };
    let what = || format!("one keeper and another worker: {:?}", procs::of(pod.lab.namespace()));
    procs::wait(PATIENCE, what, other)
}

/// The pod ends as with a dead shim: containerd sees the end of the connection, calls `delete`, and nothing is left.
fn ends_as_with_a_dead_shim(pod: &Pod) -> Result<()> {
    pod.connection.wait_end(PATIENCE).context("containerd's connection")?;
    let ran = pod.shim.delete(&pod.lab, "task", &pod.bundle)?;
    ensure!(ran.status.success(), "delete: {} {}", ran.status, String::from_utf8_lossy(&ran.stderr));
    let gone = || procs::of(pod.lab.namespace()).ok().filter(Vec::is_empty);
    procs::wait(PATIENCE, || format!("all to leave: {:?}", procs::of(pod.lab.namespace())), gone)?;
    let files = leftovers::live_files(&pod.lab.run_dir())?;
    ensure!(files.is_empty(), "files are left: {files:?}");
    Ok(())
}

/// Stops before the fork at which the keeper dies as well.
const LAST_ONES: u32 = 3;

/// The worker has died and the keeper dies while it makes the next one. Up to the fork nobody is left who has the pod's
/// connections, so it ends as with a dead shim. From the fork on the child goes on, whether its pid and its pidfd were noted or
/// not, and makes the next keeper: one, and no second worker.
#[test]
fn the_next_worker_is_made() -> Result<()> {
    let sweep = Sweep::of_keeper("the next worker");
    let stops = sweep.stops(&talker(), |pod, trap| {
        let _fifos = created(pod)?;
        let (outcome, answer) = worker_dies(pod, trap)?;
        answer?.message::<api::StateResponse>()?;
        Ok(outcome)
    })?;
    let forked = stops.iter().find(|stop| is_forked(stop)).context("no fork among the stops")?.n;
    // Of those before it all end alike, and `delete` gives each its seconds.
    sweep.from(forked.saturating_sub(LAST_ONES)).run(&talker(), |pod, trap| {
        let fifos = created(pod)?;
        let before = pod.worker()?;
        let (outcome, answer) = worker_dies(pod, trap)?;
        if outcome.killed && !outcome.stops.iter().any(is_forked) {
            ensure!(answer.is_err(), "nobody is left, and yet it was answered: {answer:?}");
            ends_as_with_a_dead_shim(pod)?;
            return Ok(Done { outcome, fifos: None, others: Vec::new(), alive: Alive::Lost });
        }
        answer?.message::<api::StateResponse>().context("State")?;
        has_another_worker(pod, &before)?;
        Ok(Done::of_init(outcome, fifos, Alive::Created))
    })
}
