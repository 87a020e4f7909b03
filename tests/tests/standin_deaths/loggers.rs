//! A container whose stdout names a logger (`binary://`): while it is handed over, and while it reads.

use anyhow::{Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::standin::client::{
    logged,
    pod::{self, Fifos, Pod},
};

use super::{
    tasks::dripper,
    trap::{Alive, Done, Sweep, talker, traced, traced_to_the_end},
};

/// A Create whose stdout names a logger, which passes on to the FIFOs that are judged.
fn with_logger(pod: &Pod) -> Result<(Fifos, api::CreateTaskRequest)> {
    let fifos = pod.fifos("task")?;
    let mut request = pod.create_request(&fifos);
    logged::name_one(&pod.lab, "task", &mut request)?;
    logged::is_believed(&pod.lab)?;
    Ok((fifos, request))
}

/// The logger is led to us, handed the container's ends over, and has become itself.
fn is_led_to_us(pod: &Pod, request: &api::CreateTaskRequest) -> Result<()> {
    let creates = pod.lab.requests()?.into_iter().filter(|entry| entry.method == "Create");
    let stdout: Vec<String> = creates.map(|entry| entry.stdout).collect();
    ensure!(stdout.len() == 1 && stdout.iter().all(|uri| uri.contains("tap-logger")), "{stdout:?}");
    let state = pod.connection.call("State", &pod::state("task", ""))?.message::<api::StateResponse>()?;
    ensure!(state.stdout == request.stdout, "State says {}", state.stdout);
    Ok(())
}

fn creates(sweep: Sweep<'_>) -> Result<()> {
    sweep.run(&talker(), |pod, trap| {
        let (fifos, request) = with_logger(pod)?;
        let (outcome, _) = traced::<_, api::CreateTaskResponse>(pod, trap, "Create", &request)?;
        is_led_to_us(pod, &request)?;
        Ok(Done::of_init(outcome, fifos, Alive::Created))
    })
}

#[test]
fn create_with_a_logger() -> Result<()> {
    creates(Sweep::of_worker("Create with a logger").a_third())
}

#[test]
fn create_with_a_logger_and_the_keeper_dies() -> Result<()> {
    creates(Sweep::of_keeper("Create with a logger"))
}

#[test]
fn output_to_a_logger() -> Result<()> {
    Sweep::of_worker("output to a logger").a_third().run(&dripper(), |pod, trap| {
        let (fifos, request) = with_logger(pod)?;
        pod.connection.call("Create", &request)?.message::<api::CreateTaskResponse>()?;
        let outcome = traced_to_the_end(pod, trap, &fifos)?;
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}
