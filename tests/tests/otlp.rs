//! Wrapper, collector and an OTLP backend that others wrote: what a container wrote arrives there, whole and under the
//! right names, also where the backend was away.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::{attribute, one_tape};
use shimtap_tests::rig::backend::{Backend, Kind};
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// A module of its own, so that `./dev test` can leave it out where the backends cannot be built.
mod backends {
    use super::{
        a_backend_that_was_away_gets_everything, every_byte_is_in_an_opentelemetry_collector,
        every_byte_is_in_victoria_logs, on_each_containerd,
    };

    on_each_containerd!(
        every_byte_is_in_an_opentelemetry_collector,
        every_byte_is_in_victoria_logs,
        a_backend_that_was_away_gets_everything,
    );
}

fn section(backend: &Backend, more: &str) -> String {
    format!("[node]\nname = \"n1\"\ncluster = \"c1\"\n[otlp]\nendpoint = \"{}\"\n{more}", backend.endpoint())
}

fn wrapped(version: Version, sink: &str) -> Setup {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_sink(sink)
}

/// A folder for a backend, which outlives the node's.
fn folder(name: &str, version: Version) -> Result<std::path::PathBuf> {
    let dir = std::env::temp_dir().join(format!("shimtap-{name}-{version:?}-{}", std::process::id()));
    if dir.exists() {
        fs::remove_dir_all(&dir).context("remove what an earlier run left")?;
    }
    Ok(dir)
}

/// Waits until the backend has all of a stream, and demands that it is right and without a gap.
fn whole(backend: &Backend, container: &str, stream: &str, written: &[u8]) -> Result<()> {
    let end = u64::try_from(written.len())?;
    let mut reached = 0;
    let tape = eventually(LIMIT, &format!("all of {container}'s {stream} in the backend"), || {
        let tapes = backend.tapes()?;
        let tape = one_tape(&tapes, container, stream)?;
        reached = tape.map_or(0, |tape| tape.end());
        Ok(tape.filter(|tape| tape.end() >= end).cloned())
    });
    let judgement = tape.with_context(|| format!("{reached} of {end} bytes"))?.judge(written)?;
    ensure!(judgement.gaps.is_empty() && judgement.delivered == end, "{judgement:?} of {end} bytes");
    Ok(())
}

/// Two containers of a pod write to both of their outputs; `during` happens while they do. Gives how many lines each wrote to each.
fn pod_arrives(
    node: &Node,
    backend: &mut Backend,
    during: impl FnOnce(&mut Backend) -> Result<()>,
) -> Result<[u64; 2]> {
    const NAMES: [(&str, &str); 2] = [("one", "seed=1"), ("two", "seed=2")];
    let cri = node.cri()?;
    let pod = cri.run_pod("p")?;
    let host = node.host_dir();
    let written = |name: &str| -> Result<u64> {
        Ok(fs::read_to_string(host.join(name)).unwrap_or_default().parse().unwrap_or(0))
    };
    let mut ids = Vec::new();
    for (name, seed) in NAMES {
        let count = format!("count=/host/{name}");
        let command = [
            "speaker",
            "lines=100000000",
            "rate=1000",
            "to=both",
            "width=100",
            seed,
            &count,
            "until=/host/over",
        ];
        let wanted = Wanted { name, command: &command, host: Some(&host), ..Wanted::default() };
        ids.push(cri.run(&pod, &wanted)?);
    }
    during(backend)?;
    for (name, _) in NAMES {
        eventually(LIMIT, "enough lines", || Ok((written(name)? > 3000).then_some(())))?;
    }
    fs::write(host.join("over"), "").context("tell them that it is enough")?;
    let mut all = [0; 2];
    for ((id, (name, _)), (seed, lines)) in ids.iter().zip(NAMES).zip((1..).zip(&mut all)) {
        cri.await_exit(id)?;
        *lines = written(name)?;
        let written = tape(seed, *lines, 100);
        whole(backend, id, "stdout", &written)?;
        whole(backend, id, "stderr", &written)?;
    }
    cri.remove_pod(&pod)?;
    Ok(all)
}

fn every_byte_is_in_an_opentelemetry_collector(version: Version) -> Result<()> {
    let dir = folder("otelcol", version)?;
    let mut backend = Backend::start(Kind::OpenTelemetry, &dir)?;
    wrapped(version, &section(&backend, "compression = \"zstd\"\n")).run(|node| {
        let [one, two] = pod_arrives(node, &mut backend, |_| Ok(()))?;
        names_are_those_of_the_conventions(&backend)?;
        let series = format!("shimtap_sink_records_total{{sink=\"otlp\"}} {}\n", 2 * (one + two));
        eventually(LIMIT, &series, || {
            let page = node.collector(|collector| collector.get("/metrics"))?;
            Ok(page.contains(&series).then_some(()))
        })
    })?;
    backend.stop()?;
    fs::remove_dir_all(&dir).context("remove its folder")
}

fn names_are_those_of_the_conventions(backend: &Backend) -> Result<()> {
    let text = fs::read_to_string(backend.file()).context("read its file")?;
    let first: Value = serde_json::from_str(text.lines().next().context("it is empty")?)?;
    let resource = first.pointer("/resourceLogs/0/resource/attributes").and_then(Value::as_array);
    let resource = resource.context("no resource")?;
    let said = |key: &str| attribute(resource, key).and_then(|value| value.get("stringValue")?.as_str());
    for (key, value) in [
        ("k8s.cluster.name", "c1"),
        ("k8s.node.name", "n1"),
        ("k8s.pod.name", "p"),
        ("container.runtime.name", "containerd"),
    ] {
        ensure!(said(key) == Some(value), "{key} is {:?} in {resource:?}", said(key));
    }
    for key in ["k8s.namespace.name", "k8s.pod.uid", "container.id", "host.name", "container.image.name"] {
        ensure!(said(key).is_some_and(|value| !value.is_empty()), "no {key} in {resource:?}");
    }
    ensure!(matches!(said("k8s.container.name"), Some("one" | "two")), "{resource:?}");
    let scope = first.pointer("/resourceLogs/0/scopeLogs/0/scope/name").and_then(Value::as_str);
    ensure!(scope == Some("shimtap"), "the scope is {scope:?}");
    Ok(())
}

fn every_byte_is_in_victoria_logs(version: Version) -> Result<()> {
    let dir = folder("victoria", version)?;
    let mut backend = Backend::start(Kind::VictoriaLogs, &dir)?;
    wrapped(version, &section(&backend, "")).run(|node| {
        let [lines, _] = pod_arrives(node, &mut backend, |_| Ok(()))?;
        let one = backend.query(
            "%7Bk8s.pod.name%3Dp%7D%20k8s.container.name%3Aone%20log.iostream%3Astdout%20%7C%20count()%20n",
        )?;
        ensure!(one.trim() == format!("{{\"n\":\"{lines}\"}}"), "asked for one container's stdout: {one}");
        Ok(())
    })?;
    backend.stop()?;
    fs::remove_dir_all(&dir).context("remove its folder")
}

fn a_backend_that_was_away_gets_everything(version: Version) -> Result<()> {
    let dir = folder("away", version)?;
    let mut backend = Backend::start(Kind::OpenTelemetry, &dir)?;
    wrapped(version, &section(&backend, "retry_most_secs = 1\n")).run(|node| {
        pod_arrives(node, &mut backend, |backend| {
            backend.stop()?;
            let stalls = |n: &str| {
                let page = node.collector(|collector| collector.get("/metrics"))?;
                Ok(page.contains(&format!("shimtap_sink_stalled{{sink=\"otlp\"}} {n}\n")).then_some(()))
            };
            eventually(LIMIT, "the sink to stall", || stalls("1"))?;
            backend.resume()?;
            eventually(LIMIT, "the sink to go on", || stalls("0"))
        })
        .map(drop)
    })?;
    backend.stop()?;
    fs::remove_dir_all(&dir).context("remove its folder")
}
