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
use nix::sys::signal::Signal;
use shimtap_tests::{
    on_each_containerd,
    oracle::exposition::{family, of_container},
    rig::{Hook, Node, Setup, Shim, Version, collector::Settings, eventually, process::signal, run::run},
};

/// A VM under an emulator takes seconds to begin and a minute to fail.
const LIMIT: Duration = Duration::from_secs(180);
/// The collector waits for last words for five seconds, and looks every second.
const JUDGED_SECS: f64 = 10.0;
const KEY: &str = "SHIMTAP_KATA";

on_each_containerd!(
    a_real_pod_is_relayed_and_told,
    a_real_containers_output_and_status_arrive,
    a_real_shims_death_is_told_and_what_it_leaves_is_listed
);

/// The node on which Kata is behind the wrapper; none where there is no Kata.
fn node(version: Version) -> Option<Setup> {
    let Some(shim) = env::var_os(KEY).filter(|path| !path.is_empty()).map(PathBuf::from) else {
        println!(
            "skipped: {KEY} names no containerd-shim-kata-v2 (runs where one is installed that can start VMs)"
        );
        return None;
    };
    // The running process bears the name of the file, and not of a link to it.
    let shim = shim.canonicalize().unwrap_or(shim);
    let toml = format!(
        "[inner]\n\"containerd-shim-tap-v2\" = \"{}\"\n[start]\nready_ms = 20000\n[safe_mode]\ndeaths = 0\n",
        shim.display()
    );
    let settings = Settings { ingest: "orphan_secs = 2\n".to_owned(), ..Settings::each_second() };
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

/// Its hypervisor has the dead shim's listening socket (kata-observed of 4.1.0: connecting succeeds, nobody answers).
fn a_real_shims_death_is_told_and_what_it_leaves_is_listed(version: Version) -> Result<()> {
    let Some(setup) = node(version) else { return Ok(()) };
    setup.run(|node| {
        let id = format!("dies-{}", node.mark());
        let flags = ["--detach", "--null-io", "--memory-limit", "536870912"];
        run(node.run_command(&id, &flags, &["sleep", "1000"]), LIMIT)?.ok().context("run a pod")?;
        told(node, &id)?;
        let ps = node.collector(|collector| collector.ps())?;
        let of = |list: &str, key: &str| {
            let all = ps.get(list).and_then(|all| all.as_array()).into_iter().flatten();
            all.filter(|one| one[key] == id.as_str()).cloned().collect::<Vec<_>>()
        };
        let shim =
            of("wrappers", "pod").first().and_then(|one| one["inner_pid"].as_i64()).context("its shim")?;
        signal(i32::try_from(shim)?, Signal::SIGKILL)?;
        eventually(LIMIT, "the shim's death", || {
            let text = node.collector(|collector| collector.get("/metrics"))?;
            let count = |name: &str, label: &str| -> Result<f64> {
                Ok(family(&text, name)?.iter().filter(|(row, _)| row.contains(label)).map(|(_, n)| n).sum())
            };
            let exits = count("shimtap_container_exits_total", "class=\"shim_death\"")?;
            let deaths = count("shimtap_sandbox_deaths_total", "cause=\"shim\"")?;
            Ok((exits == 1.0 && deaths == 1.0).then_some(()))
        })?;
        // Where the hypervisor is a part of the shim nothing can be left.
        let left = of("sandboxes", "id").iter().any(|one| one["hypervisor_pids"].is_array());
        let orphans = eventually(LIMIT, "what it left", || {
            let ps = node.collector(|collector| collector.ps())?;
            let all = ps.get("orphans").and_then(|all| all.as_array()).into_iter().flatten();
            let pids = all.filter(|one| one["sandbox"] == id.as_str()).filter_map(|one| one["pid"].as_i64());
            let pids: Vec<i64> = pids.collect();
            Ok((!left || !pids.is_empty()).then_some(pids))
        });
        // Nobody else ends them.
        for pid in orphans? {
            signal(i32::try_from(pid)?, Signal::SIGKILL)
                .with_context(|| format!("{pid} was not let live"))?;
        }
        node.remove(&id)
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
