//! Docker and nerdctl on a containerd whose runc shim is the wrapper: their commands say what they say without it, and the
//! collector has what their containers wrote and use.
//!
//! `docker_*` run on the distribution's dockerd with both containerds, `nerdctl_*` likewise. No container has a network.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::exposition::family;
use shimtap_tests::rig::docker::Docker;
use shimtap_tests::rig::run::Finished;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, same_with_and_without};

const LIMIT: Duration = Duration::from_secs(60);
/// The wrapper by the name of a link to it.
const BY_NAME: [&str; 2] = ["--runtime", "io.containerd.tap-runc.v2"];
/// What a container that is restarted writes each time, before it waits.
const SAYS: &str = "echo one; echo two >&2; exec sleep 1000";
/// Holds 8 MiB, says so, and waits.
const HOLDS: &str =
    "x=$(head -c 8388608 /dev/zero | tr '\\0' x); echo one; echo two >&2; sleep 1000; echo $x";
/// What two containers of the same program may differ by, in bytes.
const APART: f64 = 1_048_576.0;

on_each_containerd!(
    docker_says_what_it_says_without_us,
    docker_is_collected,
    nerdctl_says_what_it_says_without_us,
    nerdctl_is_collected,
    nerdctl_with_a_terminal,
    nerdctl_by_name,
);

fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // Two streams: their order is nobody's promise.
    lines.sort();
    lines
}

/// The id that a detached run prints.
fn id_of(said: Finished) -> Result<String> {
    let text = said.ok()?.text();
    Ok(text.lines().last().context("it printed no id")?.to_owned())
}

fn with_docker<T>(node: &Node, scenario: impl FnOnce(&Docker<'_>) -> Result<T>) -> Result<T> {
    let docker = node.docker()?;
    let answer = scenario(&docker)?;
    docker.stop()?;
    Ok(answer)
}

/// Waits until a client's `logs` says so many lines.
fn logs(client: impl Fn(&[&str]) -> Result<Finished>, name: &str, count: usize) -> Result<Vec<String>> {
    eventually(LIMIT, &format!("{count} lines of {name}"), || {
        let said = client(&["logs", name])?.ok()?;
        let all = lines(&format!("{}{}", said.text(), said.stderr));
        Ok((all.len() >= count).then_some(all))
    })
}

/// Bytes in use, of `8.1MiB / 64MiB`; the limit has to be the one that was asked for.
fn used(said: &str) -> Result<f64> {
    let (used, limit) = said.trim().split_once(" / ").with_context(|| format!("it says {said:?}"))?;
    ensure!(limit == "64MiB", "the limit is {limit}");
    let (number, unit) = used.split_at(used.find(|c: char| c.is_ascii_alphabetic()).context("a unit")?);
    let times = match unit {
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        other => anyhow::bail!("the unit is {other}"),
    };
    Ok(number.parse::<f64>().with_context(|| format!("it says {said:?}"))? * times)
}

/// What was seen without the wrapper and with it is the same, and what is held.
fn alike(seen: &RefCell<Vec<f64>>) -> Result<()> {
    let seen = seen.borrow();
    let [plain, wrapped] = seen.as_slice() else {
        anyhow::bail!("memory was asked for {} times", seen.len())
    };
    ensure!((plain - wrapped).abs() < APART, "without the wrapper {plain} bytes, with it {wrapped}");
    ensure!((8.0 * APART..32.0 * APART).contains(wrapped), "it holds 8 MiB, and {wrapped} bytes are said");
    Ok(())
}

fn docker_says_what_it_says_without_us(version: Version) -> Result<()> {
    let memory = RefCell::new(Vec::new());
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        with_docker(node, |docker| {
            let plain = docker.run(&["--rm"], &["sh", "-c", "echo hello; echo error >&2; exit 5"])?;
            let whole = docker.run(&["--rm"], &["speaker", "lines=20000", "width=90", "exit=3"])?;
            ensure!(whole.stdout == tape(1, 20_000, 90), "{} bytes of output", whole.stdout.len());
            docker.run(&["-d", "--name", "stays"], &["sh", "-c", SAYS])?.ok()?;
            let first = logs(|words| docker.client(words), "stays", 2)?;
            let exec = docker.client(&["exec", "stays", "sh", "-c", "echo inside; exit 4"])?;
            let stats =
                docker.client(&["stats", "--no-stream", "--format", "{{.PIDs}}", "stays"])?.ok()?.text();
            docker.run(&["-d", "--name", "holds", "--memory", "64m"], &["sh", "-c", HOLDS])?.ok()?;
            logs(|words| docker.client(words), "holds", 2)?;
            let holds = ["stats", "--no-stream", "--format", "{{.MemUsage}}", "holds"];
            memory.borrow_mut().push(used(&docker.client(&holds)?.ok()?.text())?);
            docker.client(&["rm", "-f", "holds"])?.ok()?;
            docker.client(&["restart", "-t", "0", "stays"])?.ok()?;
            let both = logs(|words| docker.client(words), "stays", 4)?;
            let state = ["inspect", "--format", "{{.State.Status}} {{.RestartCount}}", "stays"];
            let state = docker.client(&state)?.ok()?.text();
            docker.client(&["kill", "stays"])?.ok()?;
            let code = docker.client(&["wait", "stays"])?.ok()?.text();
            docker.client(&["rm", "stays"])?.ok()?;
            let plain = (plain.code, plain.text(), plain.stderr);
            Ok((plain, whole.code, first, (exec.code, exec.text()), stats, both, state, code))
        })
    })?;
    assert_eq!(answer.0, (5, "hello\n".to_owned(), "error\n".to_owned()));
    assert_eq!((answer.1, answer.3, answer.4.as_str()), (3, (4, "inside\n".to_owned()), "1\n"));
    assert_eq!(answer.5, ["one", "one", "two", "two"]);
    assert_eq!(answer.7, "137\n");
    alike(&memory)
}

/// Demands both lines of each of two starts, and that memory and CPU time are served.
fn is_collected(node: &Node, id: &str) -> Result<()> {
    eventually(LIMIT, "what was written by both starts in the sink", || {
        let tapes = node.collector(|collector| collector.sink())?;
        let ours = |stream: &str, text: &[u8]| -> Result<usize> {
            let mut whole = 0;
            for (_, tape) in tapes.iter().filter(|(key, _)| key.container == id && key.stream == stream) {
                let judgement = tape.judge(text)?;
                whole += usize::from(judgement.delivered == u64::try_from(text.len())?);
            }
            Ok(whole)
        };
        Ok((ours("stdout", b"one\n")? == 2 && ours("stderr", b"two\n")? == 2).then_some(()))
    })?;
    let value = |name| -> Result<Option<f64>> {
        let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
        Ok(family(&text, name)?.into_iter().find(|(labels, _)| labels.contains(id)).map(|(_, value)| value))
    };
    eventually(LIMIT, "its memory", || {
        Ok(value("container_memory_usage_bytes")?.filter(|bytes| *bytes > 4096.0).map(drop))
    })?;
    let cpu = value("container_cpu_usage_seconds_total")?;
    ensure!(cpu.is_some_and(|seconds| seconds > 0.0), "CPU time: {cpu:?}");
    Ok(())
}

fn collecting(version: Version) -> Setup {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector()
}

fn docker_is_collected(version: Version) -> Result<()> {
    collecting(version).run(|node| {
        with_docker(node, |docker| {
            let whole = id_of(docker.run(&["-d"], &["speaker", "lines=5000", "to=both", "width=80"])?)?;
            ensure!(docker.client(&["wait", &whole])?.ok()?.text() == "0\n", "its exit status");
            for stream in ["stdout", "stderr"] {
                node.whole_in_sink(&whole, stream, &tape(1, 5000, 80))?;
            }
            docker.client(&["rm", &whole])?.ok()?;
            let id = id_of(docker.run(&["-d", "--name", "stays"], &["sh", "-c", SAYS])?)?;
            logs(|words| docker.client(words), "stays", 2)?;
            docker.client(&["restart", "-t", "0", "stays"])?.ok()?;
            is_collected(node, &id)?;
            docker.client(&["rm", "-f", "stays"])?.ok().map(drop)
        })
    })
}

/// The default runtime is the bare shim; one container names the wrapper. (dockerd 20.10 knows no runtimes by name.)
fn nerdctl_by_name(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Name)).with_collector().run(|node| {
        let command = ["speaker", "lines=200", "width=80"];
        let id = id_of(node.nerdctl_run(&[&["-d"], &BY_NAME[..]].concat(), &command)?)?;
        node.whole_in_sink(&id, "stdout", &tape(1, 200, 80))?;
        node.nerdctl(&["rm", "-f", &id])?.ok().map(drop)
    })
}

fn nerdctl_says_what_it_says_without_us(version: Version) -> Result<()> {
    let memory = RefCell::new(Vec::new());
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let plain = node.nerdctl_run(&["--rm"], &["sh", "-c", "echo hello; echo error >&2; exit 5"])?;
        node.nerdctl_run(&["-d", "--name", "whole"], &["speaker", "lines=20000", "width=90", "exit=3"])?
            .ok()?;
        let code = node.nerdctl(&["wait", "whole"])?.ok()?.text();
        let written = tape(1, 20_000, 90);
        eventually(LIMIT, "all of its output", || {
            Ok((node.nerdctl(&["logs", "whole"])?.ok()?.stdout == written).then_some(()))
        })?;
        node.nerdctl(&["rm", "whole"])?.ok()?;
        node.nerdctl_run(&["-d", "--name", "stays"], &["sh", "-c", SAYS])?.ok()?;
        let first = logs(|words| node.nerdctl(words), "stays", 2)?;
        let exec = node.nerdctl(&["exec", "stays", "sh", "-c", "echo inside; exit 4"])?;
        let stats = node.nerdctl(&["stats", "--no-stream", "--format", "{{.PIDs}}", "stays"])?.ok()?.text();
        node.nerdctl_run(&["-d", "--name", "holds", "--memory", "64m"], &["sh", "-c", HOLDS])?.ok()?;
        logs(|words| node.nerdctl(words), "holds", 2)?;
        let holds = ["stats", "--no-stream", "--format", "{{.MemUsage}}", "holds"];
        memory.borrow_mut().push(used(&node.nerdctl(&holds)?.ok()?.text())?);
        node.nerdctl(&["rm", "-f", "holds"])?.ok()?;
        node.nerdctl(&["restart", "-t", "0", "stays"])?.ok()?;
        let again = logs(|words| node.nerdctl(words), "stays", 2)?;
        node.nerdctl(&["rm", "-f", "stays"])?.ok()?;
        // nerdctl's own status is 1, and it says the other.
        ensure!(exec.stderr.contains("exit code 4"), "exec: {exec:?}");
        Ok(((plain.code, plain.text()), code, first, (exec.code, exec.text()), stats, again))
    })?;
    assert_eq!((answer.0, answer.1.as_str()), ((5, "hello\n".to_owned()), "3\n"));
    assert_eq!((answer.2, answer.3), (vec!["one".to_owned(), "two".to_owned()], (1, "inside\n".to_owned())));
    alike(&memory)
}

fn nerdctl_is_collected(version: Version) -> Result<()> {
    collecting(version).run(|node| {
        let whole = id_of(node.nerdctl_run(&["-d"], &["speaker", "lines=5000", "to=both", "width=80"])?)?;
        for stream in ["stdout", "stderr"] {
            node.whole_in_sink(&whole, stream, &tape(1, 5000, 80))?;
        }
        node.nerdctl(&["rm", "-f", &whole])?.ok()?;
        let id = id_of(node.nerdctl_run(&["-d", "--name", "stays"], &["sh", "-c", SAYS])?)?;
        logs(|words| node.nerdctl(words), "stays", 2)?;
        node.nerdctl(&["restart", "-t", "0", "stays"])?.ok()?;
        is_collected(node, &id)?;
        node.nerdctl(&["rm", "-f", "stays"])?.ok().map(drop)
    })
}

fn nerdctl_with_a_terminal(version: Version) -> Result<()> {
    collecting(version).run(|node| {
        let command = ["sh", "-c", "test -t 1 && echo a terminal"];
        let id = id_of(node.nerdctl_run(&["-d", "-t"], &command)?)?;
        let shown = logs(|words| node.nerdctl(words), &id, 1)?;
        ensure!(shown.iter().any(|line| line.trim_end() == "a terminal"), "{shown:?}");
        node.whole_in_sink(&id, "stdout", b"a terminal\r\n")?;
        node.nerdctl(&["rm", "-f", &id])?.ok().map(drop)
    })
}
