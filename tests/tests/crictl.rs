//! An operator's hands: what `crictl`, as cri-tools ships it, shows of a pod and does to it is the same with and without
//! the wrapper.
//!
//! Other suites drive CRI by a client of the rig's own, which asks only what it knows to ask. The program that people use
//! asks more (`inspect`, `stats`, streams over SPDY or WebSocket), and it is not ours.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::image::IMAGE;
use shimtap_tests::rig::run::{Finished, run};
use shimtap_tests::rig::{Hook, Node, Version, eventually, same_with_and_without, tools};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(crictl_sees_and_does_the_same,);

fn crictl_sees_and_does_the_same(version: Version) -> Result<()> {
    let hook = if version.tools()?.honours_runtime_path() { Hook::Path } else { Hook::Opt };
    let shown = same_with_and_without(version, hook, life_of_a_pod)?;
    assert_eq!(shown.logs, "told\n");
    assert_eq!(shown.exit_code, json!(7));
    Ok(())
}

/// What was shown of one pod, without what differs from run to run (ids, times, figures).
#[derive(Debug, PartialEq)]
struct Shown {
    logs: String,
    after: String,
    executed: String,
    refused: i32,
    /// Which figures `stats` has, by name; not their values.
    figures: Vec<String>,
    state: Value,
    exit_code: Value,
    left: Value,
}

fn life_of_a_pod(node: &Node) -> Result<Shown> {
    // Waits until CRI answers and knows the image.
    node.cri()?;
    let (sandbox, container) = configs(node)?;
    let crictl = |args: &[&str]| crictl(node, args);
    let pod = word(crictl(&["runp", &sandbox])?)?;
    let id = word(crictl(&["create", &pod, &container, &sandbox])?)?;
    crictl(&["start", &id])?.ok()?;
    let logs = eventually(LIMIT, "the first line to be shown", || {
        let logs = crictl(&["logs", &id])?.ok()?.text();
        Ok(logs.ends_with('\n').then_some(logs))
    })?;
    let executed = crictl(&["exec", &id, "sh", "-c", "echo within; echo aside >&2"])?;
    let synchronous = crictl(&["exec", "--sync", &id, "echo", "at once"])?.ok()?.text();
    let refused = crictl(&["exec", "--sync", &id, "sh", "-c", "exit 9"])?.code;
    let figures = figures(&json_of(&crictl(&["stats", "-o", "json", &id])?)?)?;
    // What the container waits for.
    std::fs::write(node.host_dir().join("end"), "").context("let the container end")?;
    let ended = eventually(LIMIT, "the container to be shown as exited", || {
        let shown = json_of(&crictl(&["inspect", &id])?)?;
        Ok((field(&shown, "/status/state") == "CONTAINER_EXITED").then_some(shown))
    })?;
    let after = crictl(&["logs", "--tail", "1", &id])?.ok()?.text();
    crictl(&["rm", &id])?.ok()?;
    crictl(&["stopp", &pod])?.ok()?;
    crictl(&["rmp", &pod])?.ok()?;
    let left = field(&json_of(&crictl(&["ps", "-a", "-o", "json"])?)?, "/containers");
    Ok(Shown {
        logs,
        after,
        executed: format!("{}{}{synchronous}", executed.text(), executed.stderr),
        refused,
        figures,
        state: field(&ended, "/status/state"),
        exit_code: field(&ended, "/status/exitCode"),
        left,
    })
}

/// The two files that `crictl` wants, of a pod with the host's network, and of a container in it that says a line, waits,
/// says another and exits with 7.
fn configs(node: &Node) -> Result<(String, String)> {
    let security = json!({ "namespace_options": { "network": 2 } });
    let sandbox = json!({
        "metadata": { "name": "operated", "uid": "uid-operated", "namespace": "rig", "attempt": 0 },
        "log_directory": node.dir().join("operated"),
        "linux": { "cgroup_parent": format!("/{}", node.mark()), "security_context": security },
    });
    let script = "echo told; while ! [ -e /host/end ]; do sleep 0.05; done; echo untold; exit 7";
    let container = json!({
        "metadata": { "name": "c" },
        "image": { "image": IMAGE },
        "command": ["sh", "-c", script],
        "log_path": "c.log",
        "mounts": [{ "container_path": "/host", "host_path": node.host_dir() }],
        "linux": { "security_context": security },
    });
    let written = |name: &str, what: &Value| -> Result<String> {
        let file = node.dir().join(name);
        std::fs::write(&file, what.to_string()).with_context(|| format!("write {}", file.display()))?;
        file.into_os_string().into_string().ok().context("a path in UTF-8")
    };
    Ok((written("sandbox.json", &sandbox)?, written("container.json", &container)?))
}

/// The one word that a program has said, an id.
fn word(said: Finished) -> Result<String> {
    Ok(said.ok()?.text().trim().to_owned())
}

fn crictl(node: &Node, args: &[&str]) -> Result<Finished> {
    let endpoint = format!("unix://{}", node.socket().display());
    let mut command = Command::new(tools::crictl()?);
    // A file of the machine that runs the test must not reach in.
    command.args(["--config", "/dev/null", "--timeout", "60s", "-r", &endpoint, "-i", &endpoint]).args(args);
    run(command, LIMIT)
}

fn json_of(said: &Finished) -> Result<Value> {
    let said = said.clone().ok()?;
    serde_json::from_slice(&said.stdout).with_context(|| format!("read {:?} as JSON", said.text()))
}

/// What stands at a JSON pointer; null where nothing does.
fn field(of: &Value, pointer: &str) -> Value {
    of.pointer(pointer).cloned().unwrap_or(Value::Null)
}

/// The names of all figures that a container's statistics hold, where CPU and memory must be among them.
fn figures(stats: &Value) -> Result<Vec<String>> {
    let of_it = field(stats, "/stats/0");
    let mut names = Vec::new();
    for family in ["cpu", "memory", "swap"] {
        let values = of_it.get(family).and_then(Value::as_object).into_iter().flatten();
        names.extend(
            values.filter(|(_, value)| value.is_object()).map(|(name, _)| format!("{family}.{name}")),
        );
    }
    ensure!(names.iter().any(|name| name == "cpu.usageCoreNanoSeconds"), "no CPU time in {stats}");
    ensure!(names.iter().any(|name| name == "memory.workingSetBytes"), "no working set in {stats}");
    Ok(names)
}
