//! A real Kata pod behind the wrapper: the workload does not notice, and what is said of it is there.
//!
//! Runs where `SHIMTAP_KATA` names a `containerd-shim-kata-v2` that can start VMs on this machine (its configuration in the
//! usual places, `/dev/kvm` or an emulator), and is skipped elsewhere, in words. What stand-ins promise of it: standin_kata,
//! standin_sandbox.

use std::{
    env,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use shimtap_tests::{
    on_each_containerd,
    oracle::exposition::{family, of_container},
    rig::{Hook, Node, Setup, Shim, Version, collector::Settings, eventually, run::run},
};

/// A VM under an emulator takes seconds to begin and a minute to fail.
const LIMIT: Duration = Duration::from_secs(180);
/// The collector waits for last words for five seconds, and looks every second.
const JUDGED_SECS: f64 = 10.0;
const KEY: &str = "SHIMTAP_KATA";

on_each_containerd!(a_real_pod_is_relayed_and_told, a_real_containers_output_and_status_arrive);

/// The node on which Kata is behind the wrapper; none where there is no Kata.
fn node(version: Version) -> Option<Setup> {
    let Some(shim) = env::var_os(KEY).map(PathBuf::from) else {
        println!(
            "skipped: {KEY} names no containerd-shim-kata-v2 (runs where one is installed that can start VMs)"
        );
        return None;
    };
    let toml = format!(
        "[inner]\n\"containerd-shim-tap-v2\" = \"{}\"\n[start]\nready_ms = 20000\n[safe_mode]\ndeaths = 0\n",
        shim.display()
    );
    let settings = Settings { sections: "[stats]\ninterval_secs = 1\n".to_owned(), ..Settings::default() };
    Some(Setup::new(version, Shim::Wrapped(Hook::Path)).shim_toml(&toml).telling(settings).with_collector())
}

fn a_real_containers_output_and_status_arrive(version: Version) -> Result<()> {
    let Some(setup) = node(version) else { return Ok(()) };
    setup.run(|node| {
        let id = format!("said-{}", node.mark());
        let ran =
            run(node.run_command(&id, &["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]), LIMIT)?;
        ensure!(ran.code == 7, "it ended with {}", ran.code);
        ensure!(ran.text() == "out\n", "stdout is {:?}", ran.text());
        Ok(())
    })
}

fn a_real_pod_is_relayed_and_told(version: Version) -> Result<()> {
    let Some(setup) = node(version) else { return Ok(()) };
    setup.run(|node| {
        let id = format!("told-{}", node.mark());
        let flags = ["--detach", "--null-io", "--memory-limit", "536870912"];
        run(node.run_command(&id, &flags, &["sleep", "1000"]), LIMIT)?.ok().context("run a pod")?;
        let told = told(node, &id);
        let stays = format!("stays-{}", node.mark());
        run(node.run_command(&stays, &flags, &["sleep", "1000"]), LIMIT)?.ok().context("run another pod")?;
        node.remove(&id)?;
        told?;
        // A death would be claimed by the time at which another pod's figures are this much younger than the end.
        let ended = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let judged = eventually(LIMIT, "figures of the other pod, long after the end", || {
            let shown = of_container(&node.collector(|c| c.get("/metrics/cadvisor?scope=vm"))?, &stays)?;
            let seen = shown.values.get("container_last_seen").copied();
            Ok(seen.filter(|seen| *seen >= ended + JUDGED_SECS))
        });
        node.remove(&stays)?;
        judged?;
        let deaths = node.collector(|collector| collector.get("/metrics"))?;
        let deaths: f64 = family(&deaths, "shimtap_sandbox_deaths_total")?.iter().map(|(_, n)| n).sum();
        ensure!(deaths == 0.0, "an ordinary end was taken for {deaths} deaths");
        Ok(())
    })
}

fn told(node: &Node, id: &str) -> Result<()> {
    let its = format!("sandbox=\"{id}\"");
    let text = eventually(LIMIT, "what it is", || {
        let text = node.collector(|collector| collector.get("/metrics"))?;
        let known = family(&text, "shimtap_sandbox_info")?.iter().any(|(labels, _)| {
            labels.contains(&its)
                && !labels.contains("shim_version=\"\"")
                && !labels.contains("hypervisor=\"\"")
        });
        Ok(known.then_some(text))
    })?;
    for (name, label, least) in [
        ("shimtap_component_memory_bytes", "component=\"shim\",kind=\"rss\"", 1e6),
        ("shimtap_component_threads", "component=\"wrapper\"", 2.0),
        ("shimtap_vm_memory_bytes", "kind=\"configured\"", 1e8),
        ("shimtap_vm_vcpus", "", 1.0),
        ("shimtap_pod_host_memory_bytes", "", 1e7),
    ] {
        let rows = family(&text, name)?;
        let row = rows.iter().find(|(labels, _)| labels.contains(&its) && labels.contains(label));
        let (_, value) = row.with_context(|| format!("{name} {label} is not shown"))?;
        ensure!(*value >= least, "{name} {label} is {value}");
    }
    let shown = eventually(LIMIT, "numbers of its container", || {
        let shown = of_container(&node.collector(|c| c.get("/metrics/cadvisor?scope=vm"))?, id)?;
        Ok(shown.values.contains_key("container_cpu_usage_seconds_total").then_some(shown))
    })?;
    let figure = |name: &str| shown.values.get(name).copied();
    let (set, usage) = (figure("container_memory_working_set_bytes"), figure("container_memory_usage_bytes"));
    ensure!(set <= usage && usage.is_some(), "working set {set:?} of {usage:?}");
    Ok(())
}
