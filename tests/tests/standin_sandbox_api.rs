//! containerd's sandbox API (`sandboxer = "shim"`) passes the wrapper untouched: requests and answers to the byte, and the one
//! call that takes a sandbox's whole life for as long as that takes, over a worker's death too.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{
    protobuf::{Message, well_known_types::any::Any},
    sandbox_api as api,
};
use nix::sys::signal::{Signal, kill};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        connection::Connection,
        frame::Frame,
        lab::Lab,
        launch::{Flavour, Shim},
        pod::Pod,
        wrapped::{STANDIN, binary, unharmed, wrapped},
    },
    procs,
    sandbox::SANDBOX,
    script::Script,
};

fn connect(pod: &Pod) -> Result<Connection> {
    Connection::open(&pod.endpoint.path()?, SANDBOX)
}

fn named<M: Message>(set: impl FnOnce(&mut M, String)) -> M {
    let mut message = M::new();
    set(&mut message, "task".to_owned());
    message
}

/// A CreateSandbox as large as CRI's, with options of a type that nobody here knows.
fn create() -> api::CreateSandboxRequest {
    let options = Any {
        type_url: "runtime.v1.PodSandboxConfig".to_owned(),
        value: vec![7; 3_000],
        ..Default::default()
    };
    api::CreateSandboxRequest {
        sandbox_id: "task".to_owned(),
        bundle_path: "/run/bundle".to_owned(),
        netns_path: "/run/netns/x".to_owned(),
        options: Some(options).into(),
        annotations: [("a".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    }
}

/// Every call of a sandbox's life, refused ones and unknown ones among them; and the frames that answered them.
fn life(pod: &Pod) -> Result<Vec<Frame>> {
    let c = connect(pod)?;
    c.call("CreateSandbox", &create())?;
    c.call("StartSandbox", &named::<api::StartSandboxRequest>(|m, id| m.sandbox_id = id))?;
    let wait = c.send("WaitSandbox", &named::<api::WaitSandboxRequest>(|m, id| m.sandbox_id = id))?;
    c.call("Platform", &named::<api::PlatformRequest>(|m, id| m.sandbox_id = id))?;
    let status = named::<api::SandboxStatusRequest>(|m, id| m.sandbox_id = id);
    let ready = c.call("SandboxStatus", &status)?.message::<api::SandboxStatusResponse>()?;
    ensure!(ready.state == "SANDBOX_READY", "{ready}");
    c.call("CreateSandbox", &create())?;
    c.call("PingSandbox", &named::<api::PingRequest>(|m, id| m.sandbox_id = id))?;
    c.call("SandboxMetrics", &named::<api::SandboxMetricsRequest>(|m, id| m.sandbox_id = id))?;
    c.call("FrobnicateSandbox", &status)?;
    ensure!(c.frames().iter().all(|frame| frame.stream != wait), "WaitSandbox was answered while it runs");
    c.call("StopSandbox", &named::<api::StopSandboxRequest>(|m, id| m.sandbox_id = id))?;
    let exit = c.answer(wait, PATIENCE)?.message::<api::WaitSandboxResponse>()?;
    ensure!(exit.exit_status == 137, "{exit}");
    c.call("SandboxStatus", &status)?;
    c.call("ShutdownSandbox", &named::<api::ShutdownSandboxRequest>(|m, id| m.sandbox_id = id))?;
    exactly_once(&pod.lab, &[&c])?;
    // The shim answers what waits beside the rest.
    let mut frames = c.frames();
    frames.sort_by_key(|frame| frame.stream);
    Ok(frames)
}

#[test]
fn requests_and_answers_pass_to_the_byte() -> Result<()> {
    let shim = Shim { binary: binary(STANDIN)?, flavour: Flavour::V1_6 };
    let bare = life(&Pod::start(Lab::new()?, shim, "task", &Script::stayer())?)?;
    ensure!(bare.len() == 12, "{} answers without us", bare.len());
    unharmed(&Script::stayer(), |pod| {
        let with_us = life(pod)?;
        ensure!(with_us == bare, "with the wrapper: {with_us:?}\nwithout: {bare:?}");
        pod.answers()
    })
}

#[test]
fn a_wait_for_the_sandbox_outlives_a_worker_and_ends_with_the_shim() -> Result<()> {
    let pod = wrapped(&Script::stayer())?;
    let c = connect(&pod)?;
    c.call("CreateSandbox", &create())?.message::<api::CreateSandboxResponse>()?;
    let wait =
        |c: &Connection| c.send("WaitSandbox", &named::<api::WaitSandboxRequest>(|m, id| m.sandbox_id = id));
    let stream = wait(&c)?;
    let worker = pod.worker()?;
    kill(worker.pid, Signal::SIGKILL).context("a death")?;
    procs::next_worker(pod.keeper()?.pid, Some(worker.pid), PATIENCE)?;
    c.call("StopSandbox", &named::<api::StopSandboxRequest>(|m, id| m.sandbox_id = id))?
        .message::<api::StopSandboxResponse>()?;
    c.answer(stream, PATIENCE)?.message::<api::WaitSandboxResponse>()?;
    exactly_once(&pod.lab, &[&c])?;

    let pod = wrapped(&Script::stayer())?;
    let c = connect(&pod)?;
    c.call("CreateSandbox", &create())?.message::<api::CreateSandboxResponse>()?;
    let stream = wait(&c)?;
    pod.lab.inner_pids()?.into_iter().try_for_each(procs::kill)?;
    c.wait_end(PATIENCE)?;
    ensure!(c.answer(stream, PATIENCE).is_err(), "nobody makes up an answer");
    Ok(())
}
