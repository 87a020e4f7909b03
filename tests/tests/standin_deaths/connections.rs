//! Connections that come, end, and begin with the wrong version.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::standin::{
    client::{PATIENCE, connection::Connection, pod},
    journal::Kind,
    procs,
};

use super::trap::{Alive, Done, Sweep, created, talker};

/// A connection is made, and answers.
pub fn a_connection_comes(sweep: Sweep<'_>) -> Result<()> {
    sweep.run(&talker(), |pod, trap| {
        let fifos = created(pod)?;
        let armed = trap.set()?;
        let other = pod.connect()?;
        let request = pod::connect("task");
        let stream = other.send("Connect", &request)?;
        armed.go()?;
        let answer = other.answer(stream, PATIENCE).context("on the new connection");
        let outcome = trap.spring(armed)?;
        answer?.message::<api::ConnectResponse>()?;
        Ok(Done { others: vec![other], ..Done::of_init(outcome, fifos, Alive::Created) })
    })
}

#[test]
fn a_new_connection() -> Result<()> {
    a_connection_comes(Sweep::of_worker("accept"))
}

#[test]
fn a_connection_that_ends() -> Result<()> {
    Sweep::of_worker("close").run(&talker(), |pod, trap| {
        let fifos = created(pod)?;
        let other = pod.connect()?;
        let request = pod::connect("task");
        other.call("Connect", &request)?.message::<api::ConnectResponse>()?;
        let armed = trap.set()?;
        other.shutdown_write()?;
        armed.go()?;
        let ended = other.wait_end(PATIENCE).context("the wrapper hangs up too");
        let outcome = trap.spring(armed)?;
        ended?;
        let closed = |kind| move |e: &shimtap_tests::standin::journal::Entry| e.kind == kind;
        let one_left = || {
            let entries = pod.lab.requests().ok()?;
            entries.iter().any(closed(Kind::Close)).then_some(())
        };
        procs::wait(PATIENCE, || "the shim's side ends".to_owned(), one_left)?;
        Ok(Done { others: vec![other], ..Done::of_init(outcome, fifos, Alive::Created) })
    })
}

/// 2.x downgrades from v3 to v2 when Create is Unimplemented: the same Create comes again on another service.
#[test]
fn a_downgrade() -> Result<()> {
    Sweep::of_worker("downgrade").run(&talker(), |pod, trap| {
        let fifos = pod.fifos("task")?;
        let v3 = Connection::open(&pod.endpoint.path()?, "containerd.task.v3.Task")?;
        let armed = trap.set()?;
        let refused = v3.send("Create", &pod.create_request(&fifos))?;
        armed.go()?;
        let answer = v3.answer(refused, PATIENCE).context("v3");
        let outcome = trap.spring(armed)?;
        ensure!(answer?.code() == 12, "v3 is not implemented");
        // An unwrapped shim would not have touched the FIFOs: the second Create finds them as they were.
        pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
        Ok(Done { others: vec![v3], ..Done::of_init(outcome, fifos, Alive::Created) })
    })
}
