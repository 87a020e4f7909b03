//! The limits that are shown of a container are those that hold: the OCI spec's, and after an Update its own; whoever was away
//! meanwhile, collector or worker. What an Update asked for and nobody can tell is absent. The request goes on as it came.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{api, protobuf::well_known_types::any::Any};
use serde_json::{Value, json};
use shimtap_tests::{
    oracle::exposition::of_label,
    rig::{collector::Collector, eventually},
    standin::{
        client::{PATIENCE, kata::wrapped_as_kata, lab::Lab, pod::Pod},
        kata::Profile,
        procs,
        script::Script,
    },
};

const LIMIT: Duration = Duration::from_secs(60);
const QUOTA: &str = "container_spec_cpu_quota";
const PERIOD: &str = "container_spec_cpu_period";
const SHARES: &str = "container_spec_cpu_shares";
const MEMORY: &str = "container_spec_memory_limit_bytes";
const SWAP: &str = "container_spec_memory_swap_limit_bytes";

/// A pod whose bundle has these resources, in a VM by its shim's name.
fn limited(id: &str, resources: &Value, collector: &Collector) -> Result<Pod> {
    let pod = wrapped_as_kata(id, Profile::Rust, &Script::stayer(), &collector.socket())?;
    pod.specify("linux", json!({ "resources": resources }))?;
    Ok(pod)
}

fn update(pod: &Pod, resources: &[u8]) -> Result<()> {
    let resources = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
        value: resources.to_vec(),
        ..Default::default()
    };
    let request = api::UpdateTaskRequest {
        id: pod.id.clone(),
        resources: Some(resources).into(),
        ..Default::default()
    };
    pod.connection.call("Update", &request)?.message::<api::Empty>()?;
    Ok(())
}

/// Waits until these limits are shown and no others.
fn shown(collector: &Collector, id: &str, limits: &[(&str, f64)]) -> Result<()> {
    let mut last = Vec::new();
    eventually(LIMIT, &format!("limits {limits:?}"), || {
        let text = collector.get("/metrics/cadvisor?scope=vm")?;
        let shown = of_label(&text, "name", id)?;
        // Else the container is not known yet.
        let known = shown.values.contains_key("container_start_time_seconds");
        last = shown.values.into_iter().filter(|(name, _)| name.starts_with("container_spec_")).collect();
        let same = last.iter().map(|(name, value)| (name.as_str(), *value)).eq(limits.iter().copied());
        Ok((known && same).then_some(()))
    })
    .with_context(|| format!("shown are {last:?}"))
}

/// Whoever was away learns it from the wrapper's block.
fn after_deaths(lab: &Lab, pod: &Pod, collector: Collector, limits: &[(&str, f64)]) -> Result<Collector> {
    let keeper = pod.keeper()?.pid;
    let worker = pod.worker()?;
    collector.stop()?;
    procs::kill(worker.pid)?;
    procs::next_worker(keeper, Some(worker.pid), PATIENCE)?;
    let collector = lab.collector()?;
    shown(&collector, &pod.id, limits)?;
    Ok(collector)
}

#[test]
fn limits_are_the_last_that_were_taken_whoever_was_away() -> Result<()> {
    let lab = Lab::new()?;
    let mut collector = lab.collector()?;
    let resources = json!({
        "cpu": {"quota": 50_000, "period": 100_000, "shares": 512},
        "memory": {"limit": 1_u64 << 62, "swap": -1},
    });
    let pod = limited("limited", &resources, &collector)?;
    let _fifos = pod.run()?;
    let of_spec = [(PERIOD, 100_000.0), (QUOTA, 50_000.0), (SHARES, 512.0)];
    shown(&collector, "limited", &of_spec)?;
    // One that names some changes these.
    update(&pod, br#"{"cpu":{"quota":70000},"memory":{"limit":1000000,"swap":2000000}}"#)?;
    let partly =
        [(PERIOD, 100_000.0), (QUOTA, 70_000.0), (SHARES, 512.0), (MEMORY, 1_000_000.0), (SWAP, 2_000_000.0)];
    shown(&collector, "limited", &partly)?;
    collector = after_deaths(&lab, &pod, collector, &partly)?;
    // containerd's names all: then it does not matter that there was one before.
    let all = json!({"cpu": {"quota": -1, "period": 50_000, "shares": 2}, "memory": {"limit": 7, "swap": 9}});
    update(&pod, all.to_string().as_bytes())?;
    let whole = [(PERIOD, 50_000.0), (SHARES, 2.0), (MEMORY, 7.0), (SWAP, 9.0)];
    shown(&collector, "limited", &whole)?;
    collector = after_deaths(&lab, &pod, collector, &whole)?;
    pod.end()?;
    collector.stop()
}

#[test]
fn what_an_update_asked_for_and_nobody_can_tell_is_absent() -> Result<()> {
    let lab = Lab::new()?;
    let mut collector = lab.collector()?;
    let long = format!("{{\"cpu\":{{\"quota\":1}},\"x\":\"{}\"}}", "y".repeat(9 << 10));
    for (n, resources) in
        [b"".as_slice(), b"no json", br#"{"cpu":7}"#, b"\xff\xfe", long.as_bytes()].into_iter().enumerate()
    {
        let id = format!("odd{n}");
        let pod = limited(&id, &json!({"cpu": {"quota": 50_000}}), &collector)?;
        let _fifos = pod.run()?;
        shown(&collector, &id, &[(QUOTA, 50_000.0)])?;
        let before = pod.worker()?;
        update(&pod, resources)?;
        shown(&collector, &id, &[]).with_context(|| format!("update {n}"))?;
        ensure!(before.alive(), "the worker died of update {n}");
        collector = after_deaths(&lab, &pod, collector, &[])?;
        pod.end()?;
    }
    collector.stop()
}
