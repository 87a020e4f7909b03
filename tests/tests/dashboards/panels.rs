//! Every expression of the dashboards has data, and the alerts that a fault on one machine can cause fire: of a real collector
//! with containers of runc and in VMs, under faults that are really there.
//!
//! The faults: a collector stopped in its tracks under load, a worker killed, a wrapper that falls into safe mode, an endpoint that
//! refuses, one that is busy until the journal has to drop what it has not, a rule that drops lines, a container that is too
//! fat, a pod whose wrapper cannot start, and at the end a collector that is gone.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::{sys::signal::Signal, unistd::Pid};
use shimtap_tests::{
    oracle::{
        board::{self, Query},
        yaml,
    },
    rig::{
        Hook, Node, Setup, Shim, Version,
        collector::Settings,
        cri::Wanted,
        endpoint::{Endpoint, Mood},
        eventually,
        process::signal,
        prometheus::Prometheus,
    },
    standin::{
        client::wrapped::{five_faults, unwrapped_in, wrapped_in},
        kata::{
            Profile,
            guest::{Cgroup, Guest},
        },
        procs,
        script::{Output, Script},
    },
};

use super::{
    boards, pods,
    scrape::{self, Scope},
};

const LIMIT: Duration = Duration::from_secs(60);
/// Of 1000 bytes.
const FLOOD: &str = "lines=30000";
/// What the journal is to have dropped, in bytes (8 MB that nobody has read, and before these maybe the flood), and how many containers may
/// write for that.
const DROPPED: f64 = 38e6;
const DELUGES: usize = 60;
/// How the rules say that a collector was just started.
const JUST_STARTED: &str = "process_start_time_seconds < 1200";

/// Burns and waits, asks its network's other end, has a child killed for want of memory now and then, and says so.
const BUSY: &str = "gw=$(ip route | sed -n 's/.* via \\([^ ]*\\).*/\\1/p' | head -n 1); echo >/host/began; \
    while :; do i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo line $i; echo other >&2; \
    ping -c 1 $gw >/dev/null; dd if=/dev/zero of=/host/f bs=65536 count=4 oflag=direct 2>/dev/null; \
    speaker eat=200; sleep 0.2; done";

const RULES: &str = "[[rule]]\npod = \"chatty\"\nlines_per_sec = 1\nburst_lines = 1\nredact = [\"email\"]\n";

/// What fires by these faults; the others are only demanded to be answerable, and fire in `fires`.
pub const FIRES: [&str; 10] = [
    "ShimtapCollectorDown",
    "ShimtapContainerNearMemoryLimit",
    "ShimtapContainerOOMKilled",
    "ShimtapOutputLost",
    "ShimtapSafeMode",
    "ShimtapSinkMissedOutput",
    "ShimtapSinkRejects",
    "ShimtapSinkStalled",
    "ShimtapUnwrappedPods",
    "ShimtapWrapperRestarts",
];

/// The whole of it on one containerd.
pub fn every_panel_has_data(version: Version) -> Result<()> {
    let endpoint = Endpoint::start()?;
    let told = Settings {
        journal: "max_bytes = 4194304\n".to_owned(),
        sinks: Some(endpoint.section("batch_wait_ms = 10\nretry_most_secs = 1\n")),
        file_too: true,
        sections: format!("[stats]\ninterval_secs = 1\n{RULES}"),
        ..Settings::default()
    };
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().telling(told).run(|node| {
        let disk = std::env::temp_dir().join(format!("{}-disk", node.mark()));
        fs::create_dir_all(&disk).context("create a folder on a disk")?;
        // Where it fails a container may still write there, which must not hide why.
        observed(node, &disk, &endpoint)?;
        fs::remove_dir_all(&disk).context("remove the folder on the disk")
    })
}

fn observed(node: &Node, disk: &Path, endpoint: &Endpoint) -> Result<()> {
    let address = node.collector(|collector| Ok(collector.address().to_owned()))?;
    let targets = [None, Some(address.as_str()), Some(&address)];
    let config = scrape::configuration("prometheus.yml", Scope::All, targets)?;
    // The kubelet would have the network.
    let config = config.replace("regex: container_network_.*", "regex: nothing");
    let prometheus = Prometheus::start(node.dir(), "prometheus", &config)?;
    let from = prometheus.now()?;
    let (web, _) = pods::of_runc(node, disk, BUSY)?;
    pods::said(disk, "began")?;
    // Its working set is 97 % of its limit.
    let short = Guest { limit: Some(1_959_000), ..Guest::worked(Cgroup::V2) };
    let rust = pods::in_a_vm(node, "rust", Profile::Rust, &short, Script::stayer())?;
    let _rust = rust.run()?;
    let vm = pods::with_its_household(node, "vm", &Guest::worked(Cgroup::V2))?;
    // Of this one no working set is known.
    let go = pods::in_a_vm(node, "chatty", Profile::Go(Cgroup::V1), &Guest::worked(Cgroup::V2), chatty())?;
    let _go = go.run()?;
    let collector = ("SHIMTAP_COLLECTOR".to_owned(), node.collector_socket().display().to_string());
    let blind = wrapped_in(&Script::stayer(), |lab| {
        lab.env.push(collector.clone());
        lab.reconfigure("deaths = 0", "deaths = 5")
    })?;
    let _blind = blind.run()?;
    eventually(LIMIT, "no pod without a wrapper to be told as 0", || {
        let rows = prometheus.ask("shimtap_wrapper_counts_total{name=\"unwrapped_starts\"} == 0")?;
        Ok((rows.len() == 1).then_some(()))
    })?;
    let bare = unwrapped_in(&Script::stayer(), |lab| lab.env.push(collector))?;
    let _bare = bare.run()?;
    eventually(LIMIT, "a pod without a wrapper to be told", || {
        let text = node.collector(|collector| collector.get("/metrics"))?;
        Ok(text.contains("\nshimtap_wrapper_counts_total{name=\"unwrapped_starts\"} 1\n").then_some(()))
    })?;
    faults(node, endpoint)?;
    five_faults(&blind)?;
    eventually(LIMIT, "safe mode to be told", || {
        let text = node.collector(|collector| collector.get("/metrics"))?;
        Ok(text.contains("\nshimtap_wrapper_safe_mode 1\n").then_some(()))
    })?;
    // Requests that are made while Prometheus looks: of those before it came nothing is seen but their number.
    let late = Wanted { name: "late", command: &["true"], ..Wanted::default() };
    node.cri()?.await_exit(&node.cri()?.run(&web, &late)?)?;
    variables(&prometheus)?;
    panels(&prometheus, from)?;
    vm.end()?;
    for pod in [&rust, &go, &blind, &bare] {
        pod.end()?;
    }
    node.cri()?.remove_pod(&web)?;
    node.take_collector()?.stop()?;
    alerts(&prometheus, from)
}

/// Writes on both streams for as long as the test may take.
fn chatty() -> Script {
    let output = Output { lines: 1_000_000, pause_us: 100_000, ..Output::default() };
    Script { stdout: output.clone(), stderr: output, until_killed: true, ..Script::default() }
}

fn faults(node: &Node, endpoint: &Endpoint) -> Result<()> {
    let pid = node.collector(|collector| Ok(collector.pid()))?;
    let metric = |series: &str| -> Result<f64> {
        let text = node.collector(|collector| collector.get("/metrics"))?;
        let rows = text.lines().filter(|row| row.starts_with(series));
        Ok(rows.filter_map(|row| row.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    };
    let until = |series: &str, wanted: fn(f64) -> bool| {
        eventually(LIMIT, series, || Ok(wanted(metric(series)?).then_some(())))
            .with_context(|| node.collector(|collector| Ok(collector.counted())).unwrap_or_default())
    };
    let some = |value| value > 0.0;
    // Many times what a wrapper holds for a collector that takes nothing. Nobody but it writes so much to stderr.
    signal(pid, Signal::SIGSTOP)?;
    node.run("flood", &["speaker", FLOOD, "width=1000", "to=err"])?;
    signal(pid, Signal::SIGCONT)?;
    until("shimtap_container_log_gap_bytes_total{container=\"flood\"", some)?;
    // That of the flood may be about to end.
    for worker in node.wrappers("tap-worker")? {
        procs::kill(Pid::from_raw(worker.pid))?;
    }
    until("shimtap_wrapper_restarts_total{reason=\"killed\"}", some)?;
    endpoint.be(Mood::Refuse);
    until("shimtap_sink_rejected_records_total{sink=\"otlp\",reason=\"client_error\"}", some)?;
    endpoint.be(Mood::Busy);
    until("shimtap_sink_stalled{sink=\"otlp\"}", some)?;
    // More than the journal and two requests hold, and than the flood, which the sink has had and which may be what is dropped first;
    // what is missed is known once the sink comes to it. How much of a deluge comes as far as the journal is up to the machine: a
    // wrapper drops what its collector has no time for.
    let dropped = "shimtap_journal_dropped_bytes_total{reason=\"size\"}";
    for n in 0..DELUGES {
        if metric(dropped)? > DROPPED {
            break;
        }
        node.run(&format!("deluge-{n}"), &["speaker", "noise=4000000"])?;
    }
    until(dropped, |value| value > DROPPED)?;
    endpoint.be(Mood::Take);
    until("shimtap_sink_gap_bytes_total{sink=\"otlp\",reason=\"retention\"}", some)?;
    until("shimtap_sink_stalled{sink=\"otlp\"}", |value| value == 0.0)
}

/// Each variable offers something.
fn variables(prometheus: &Prometheus) -> Result<()> {
    for name in boards::SHIPPED {
        for (variable, query) in boards::shipped(name)?.variables()? {
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) =
                inner.and_then(|inner| inner.rsplit_once(", ")).with_context(|| query.clone())?;
            let names = ["cluster", "namespace", "pod"].map(ToOwned::to_owned);
            let selector = board::filled(selector, names.into_iter());
            let values = prometheus.values_of(label, &selector)?;
            ensure!(!values.is_empty(), "{name}: {variable} offers nothing by {selector}");
        }
    }
    Ok(())
}

/// Each expression has at least one number at some time since `from`.
fn panels(prometheus: &Prometheus, from: f64) -> Result<()> {
    for name in boards::SHIPPED {
        let board = boards::shipped(name)?;
        let names: BTreeSet<String> = board.variables()?.into_keys().collect();
        for Query { panel, expression } in board.queries()? {
            let query = board::filled(&expression, names.iter().cloned());
            eventually(LIMIT, &format!("data for {name}, {panel}: {query}"), || {
                let rows = prometheus.ask_since(&query, from)?;
                let known = rows.iter().any(|(_, values)| values.iter().any(|value| value.is_finite()));
                Ok(known.then_some(()))
            })?;
        }
    }
    Ok(())
}

/// Each alert's expression can be asked for, and those of [`FIRES`] have come true since `from`.
fn alerts(prometheus: &Prometheus, from: f64) -> Result<()> {
    let mut fired = BTreeSet::new();
    let mut spared = 0;
    for rule in yaml::alerts()? {
        let (name, expression) = (yaml::text(&rule, "alert")?.to_owned(), yaml::text(&rule, "expr")?);
        spared += expression.matches(JUST_STARTED).count();
        // This collector is younger than those that the rules leave out.
        let expression = expression.replace(JUST_STARTED, "process_start_time_seconds < 0");
        let wanted = FIRES.contains(&name.as_str());
        let limit = if wanted { LIMIT } else { Duration::ZERO };
        let rows = eventually(limit, &format!("{name}: {expression}"), || {
            let rows = prometheus.ask_since(&expression, from)?;
            Ok((!wanted || !rows.is_empty()).then_some(rows))
        })?;
        if !rows.is_empty() {
            fired.insert(name);
        }
    }
    ensure!(spared > 0, "no rule says {JUST_STARTED:?}");
    let missing: Vec<_> = FIRES.iter().filter(|name| !fired.contains(**name)).collect();
    ensure!(missing.is_empty(), "{missing:?} did not come true");
    // None of these was caused.
    for quiet in ["ShimtapJournalStalled", "ShimtapSpoolFileSetAside", "ShimtapWrapperConfigFault"] {
        ensure!(!fired.contains(quiet), "{quiet} came true");
    }
    Ok(())
}
