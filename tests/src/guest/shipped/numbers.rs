//! Whoever wants numbers: installs the package, lets `shimtap install` put the wrapper in front of the node's handlers, and has CPU
//! and working set of each container in Prometheus, once, beside the kubelet's; and takes it away again with pods running.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::fresh::{Files, Fresh};
use super::kubelet;
use super::package::{install, purge, shimtap, sweep, unit_is};
use super::patiently;
use crate::guest::node::{get, pid_of, systemctl, write};
use crate::oracle::board::Board;
use crate::oracle::exposition::of_container;
use crate::oracle::{cgroup, cri_log};
use crate::rig::Version;
use crate::rig::cri::{ContainerState, Cri, Pod, Wanted};
use crate::rig::prometheus::{Labels, Prometheus};
use crate::rig::tools::in_path;
use crate::rig::vm::plan::DEB;

const SCRAPED: &str = "/usr/share/shimtap/prometheus/prometheus.yml";
const DASHBOARD: &str = "/usr/share/shimtap/grafana/pods.json";
/// The panels that such a user looks at.
const CPU: &str = "CPU by container";
const MEMORY: &str = "Working set by container";
/// What the dashboard's variable `cluster` is told: one whose Prometheus reads shimtap, and one where it reads the kubelet too.
const ALONE: &str = "alone";
const BOTH: &str = "both";
/// Rows of the container that a dashboard groups by these.
const BY: [&str; 3] = ["namespace", "pod", "container"];
const BUSY: &str = "rig/one/busy";
/// What its working set may move by between two looks, bytes.
const MOVES: f64 = 2_097_152.0;

/// The whole of it, on containerd 2: there a file is changed and not only a link made.
pub fn a_user_who_wants_numbers() -> Result<()> {
    let version = Version::Pinned;
    sweep()?;
    let node = Fresh::start(version)?;
    install(DEB)?;
    unit_is(true, true)?;
    // As docs/quickstart.md has it for Prometheus.
    write("/etc/shimtap/collector.toml", "[metrics]\nlisten = \"0.0.0.0:9851\"\n")?;
    systemctl(&["restart", "shimtap.service"])?;
    let early = node.cri.run_pod("early")?;
    let before = node.configuration()?;
    let said = shimtap(&["install", "--yes"])?.ok()?.text();
    ensure!(said.contains("wrap        runc"), "it said {said}");
    let during = node.configuration()?;
    ensure!(
        during != before,
        "nothing of containerd's configuration was changed, so nothing can be put back"
    );
    systemctl(&["restart", "containerd.service"])?;
    node.cri.await_ready()?;

    let one = node.cri.run_pod("one")?;
    let script = "while :; do i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; echo tick; sleep 0.1; done";
    let command = ["sh", "-c", script];
    let id = node.cri.run(&one, &Wanted { name: "busy", command: &command, ..Wanted::default() })?;
    let group = cgroup::of_process(pid_of(version, &id)?)?;
    if in_path("prometheus").is_some() {
        are_in_the_dashboard(&id, &group)?;
    } else {
        println!("the page itself is read: SHIMTAP_SKIP_PROMTOOL leaves Prometheus out");
        patiently("its rows", || {
            let values = of_container(&get("/metrics/cadvisor")?, "busy")?.values;
            Ok(values.get("container_memory_working_set_bytes").map(drop))
        })?;
    }

    shimtap(&["uninstall", "--yes", "--restart"])?.ok()?;
    ensure!(node.configuration()? == before, "containerd's configuration is not as it was");
    println!(
        "{} files of containerd's were changed or added, and are as they were",
        changed(&during, &before)
    );
    node.cri.await_ready()?;
    lives_on(&node.cri, &early, &one, &id)?;
    node.cri.remove_pod(&one)?;
    node.cri.remove_pod(&early)?;
    if Path::new("/var/lib/shimtap/install.json").exists() {
        // A link that a living bundle named had to stay until now.
        shimtap(&["uninstall", "--yes"])?.ok()?;
    }
    purge()?;
    node.end()
}

/// How many files are there on one side only or differ.
fn changed(during: &Files, before: &Files) -> usize {
    let paths: BTreeSet<&PathBuf> = during.keys().chain(before.keys()).collect();
    paths.into_iter().filter(|path| during.get(*path) != before.get(*path)).count()
}

/// Both pods are there, and the container goes on writing.
fn lives_on(cri: &Cri, early: &Pod, one: &Pod, id: &str) -> Result<()> {
    ensure!(cri.is_ready(early)? && cri.is_ready(one)?, "a pod is lost");
    ensure!(cri.status(id)?.state == ContainerState::Running, "the container is lost");
    let log = cri.log_path(one, "busy");
    let written = || Ok::<_, anyhow::Error>(cri_log(&log)?.stdout.len());
    let by_now = written()?;
    patiently("another line of it", || Ok((written()? > by_now).then_some(())))
}

/// What the panels of the installed dashboard show where Prometheus reads shimtap alone, and where it reads the kubelet too, by the
/// scrape configuration that is shipped. Each is a cluster of its own, as a user of the dashboard would choose it.
fn are_in_the_dashboard(id: &str, group: &str) -> Result<()> {
    kubelet::serve("one", "busy", id, group)?;
    let prometheus = Prometheus::start(Path::new("/var/tmp"), "prometheus", &scraped()?)?;
    let board = Board::read(Path::new(DASHBOARD))?;
    let shown = |panel: &str, cluster: &str| -> Result<Vec<f64>> {
        let rows = prometheus.ask(&board.query(panel, &[("cluster", cluster)])?)?;
        let name = |labels: &Labels| BY.map(|label| labels.get(label).map_or("", String::as_str)).join("/");
        Ok(rows.into_iter().filter(|(labels, _)| name(labels) == BUSY).map(|(_, value)| value).collect())
    };
    for cluster in [ALONE, BOTH] {
        let cores = patiently(&format!("its CPU where {cluster} is read"), || {
            Ok(shown(CPU, cluster)?.first().copied().filter(|cores| *cores > 0.0))
        })?;
        let bytes = patiently(&format!("its working set where {cluster} is read"), || {
            Ok(shown(MEMORY, cluster)?.first().copied())
        })?;
        let figures = cgroup::figures(group)?;
        let is =
            figures.get("container_memory_working_set_bytes").context("its cgroup has no working set")?;
        ensure!((bytes - is).abs() < MOVES, "{cluster}: its working set is shown as {bytes} and is {is}");
        println!(
            "where {cluster} is read: {cores:.3} cores, {bytes} bytes of working set, {is} in its cgroup"
        );
    }
    // From here on the collector certainly had its row when it was asked.
    let asked = format!("count(timestamp(up{{job=~\"kubelet|shimtap\"}} == 1) > {})", prometheus.now()?);
    patiently("both jobs to be read again", || {
        Ok(prometheus.ask(&asked)?.first().filter(|(_, jobs)| *jobs >= 2.0).map(drop))
    })?;
    for panel in [CPU, MEMORY] {
        let rows = shown(panel, BOTH)?;
        ensure!(rows.len() == 1, "{panel:?} shows it as {rows:?} beside the kubelet's row");
        // This panel would have shown it.
        let doubled = shown(panel, ".*")?;
        ensure!(doubled.len() == 2, "{panel:?} shows it as {doubled:?} where both are read");
    }
    Ok(())
}

/// The shipped configuration with this node in the place of those that Kubernetes would name, and one job more: shimtap alone.
fn scraped() -> Result<String> {
    let mut text = fs::read_to_string(SCRAPED).with_context(|| format!("read {SCRAPED}"))?;
    let discovery = "    kubernetes_sd_configs:\n      - role: node\n";
    let secured = text.lines().skip_while(|line| *line != "    scheme: https");
    let secured: String = secured
        .take_while(|line| !line.contains("kubernetes_sd_configs"))
        .map(|line| format!("{line}\n"))
        .collect();
    ensure!(text.contains(discovery) && !secured.is_empty(), "{SCRAPED} is not what this knows: {text}");
    let here = |address: &str, cluster: &str| {
        format!(
            "    static_configs:\n      - targets: [\"{address}\"]\n        labels: {{cluster: {cluster}}}\n"
        )
    };
    text = text.replace(discovery, &here(kubelet::ADDRESS, BOTH)).replace(&secured, "");
    // A scrape that takes longer than its interval has is none, and an emulated machine on a busy host may take seconds for each.
    Ok(format!(
        "global:\n  scrape_interval: 10s\n  scrape_timeout: 10s\n{text}\
         \x20 - job_name: alone\n    metrics_path: /metrics/cadvisor\n    honor_labels: true\n{}",
        here("127.0.0.1:9851", ALONE)
    ))
}
