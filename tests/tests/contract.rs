//! Rows of containerd's contract with a shim that its own runc shim never shows: a shim that announces more than it serves, one
//! whose answer cannot be wrapped, one that is slow to tell statistics, or that is asked for output over ttrpc streams.
//!
//! The real containerd on one side; on the other the stand-in, or the real shim stopped or asked for what it cannot do. What is
//! the same without us is compared with just that.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::image::IMAGE;
use shimtap_tests::rig::patience::throughout;
use shimtap_tests::rig::program::script;
use shimtap_tests::rig::run::Finished;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, process};
use shimtap_tests::standin::client::wrapped::{STANDIN, binary};
use shimtap_tests::standin::journal::{self, Entry, Kind};
use shimtap_tests::standin::procs::Process;

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    a_shim_that_announces_more_than_it_serves,
    answers_that_cannot_be_wrapped,
    statistics_that_are_slow_are_told_to_all_who_ask,
    output_over_streams_is_refused_as_without_us,
);

/// A shim that is the stand-in with this environment, and its place.
struct Scripted {
    dir: PathBuf,
    program: PathBuf,
}

impl Scripted {
    fn new(node: &Node, name: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let dir = node.dir().join(name);
        fs::create_dir_all(&dir).context("a place for the shim")?;
        let program = dir.join("containerd-shim-scripted-v2");
        let mut text = format!("#!/bin/sh\nexport STANDIN_DIR={}", dir.display());
        for (key, value) in environment {
            text += &format!(" {key}={value}");
        }
        text += &format!("\nexec {} \"$@\"\n", binary(STANDIN)?.display());
        script(&program, &text)?;
        Ok(Self { dir, program })
    }

    /// Puts the wrapper before it.
    fn wrap(&self, node: &Node) -> Result<()> {
        let name =
            node.wrapper().file_name().context("the wrapper has a name")?.to_string_lossy().into_owned();
        let line =
            format!("[inner]\n\"{name}\" = \"{}\"\n[start]\nready_ms = 20000\n", self.program.display());
        fs::write(node.dir().join("shim.toml"), line).context("shim.toml")
    }

    /// Requests that reached it, in order.
    fn requests(&self) -> Result<Vec<Entry>> {
        let mut all = journal::read::<Entry>(&self.dir, journal::REQUESTS)?;
        all.retain(|entry| entry.kind == Kind::Request);
        Ok(all)
    }

    /// Ends those that nobody will ask to end.
    fn end(&self) -> Result<()> {
        for file in fs::read_dir(&self.dir).context("the shim's place")? {
            let path = file.context("a file of it")?.path();
            let pid = path.file_stem().and_then(|stem| stem.to_str()?.parse::<i32>().ok());
            if let Some(pid) = pid.filter(|_| path.extension().is_some_and(|e| e == "pid")) {
                process::end(pid)?;
            }
        }
        Ok(())
    }
}

fn on_path(version: Version) -> Setup {
    Setup::new(version, Shim::Wrapped(Hook::Path))
}

/// A detached container with the shim at `runtime`.
fn run_with(node: &Node, runtime: &Path, id: &str) -> Result<Finished> {
    node.note(node.namespace(), id);
    let runtime = runtime.to_string_lossy();
    node.ctr(&["run", "--detach", "--null-io", "--runtime", &runtime, IMAGE, id, "true"])
}

/// 2.x creates by version 3, is told that nobody serves it, and creates once more by version 2; 1.6 speaks that one only and
/// takes no version from an answer.
fn a_shim_that_announces_more_than_it_serves(version: Version) -> Result<()> {
    on_path(version).run(|node| {
        let is_v2 = node.tools().is_v2();
        let form = if is_v2 { "protobuf" } else { "plain" };
        let announces = [("STANDIN_API", "2"), ("STANDIN_VERSION", "3"), ("STANDIN_ANSWER", form)];
        let shim = Scripted::new(node, "scripted", &announces)?;
        shim.wrap(node)?;
        run_with(node, node.wrapper(), "down")?.ok().context("run a container")?;
        ensure!(node.task_status("down")?.as_deref() == Some("RUNNING"), "it runs");
        ensure!(node.wrappers("tap-keeper")?.len() == 1, "it is wrapped");
        let creates: Vec<_> = shim.requests()?.into_iter().filter(|entry| entry.method == "Create").collect();
        let services: Vec<&str> = creates.iter().map(|entry| entry.service.as_str()).collect();
        let (two, three) = ("containerd.task.v2.Task", "containerd.task.v3.Task");
        ensure!(services == if is_v2 { vec![three, two] } else { vec![two] }, "created by {services:?}");
        node.remove("down")
    })
}

/// What such an answer means is containerd's business: with the wrapper it says and does the same.
fn answers_that_cannot_be_wrapped(version: Version) -> Result<()> {
    on_path(version).run(|node| {
        for form in ["garbage", "truncated", "grpc", "fail"] {
            let shim = Scripted::new(node, form, &[("STANDIN_ANSWER", form), ("STANDIN_API", "2,3")])?;
            shim.wrap(node)?;
            let said = |runtime: &Path, id: &str| -> Result<(i32, String)> {
                let ended = run_with(node, runtime, id)?;
                let said = ended.stderr.replace(&*runtime.to_string_lossy(), "RUNTIME").replace(id, "ID");
                // A socket is named by containerd's address and the container's id.
                // ctr's own log has the time of day.
                let said: String = said.lines().filter(|line| !line.starts_with("time=")).collect();
                let words = said.split(|c: char| c.is_whitespace() || c == '/' || c == '"');
                let words = words.filter(|word| !word.contains(".sock"));
                let said = words.collect::<Vec<_>>().join(" ");
                if ended.code == 0 {
                    node.remove(id)?;
                }
                let _not_there_after_a_refusal = node.ctr(&["containers", "delete", id])?;
                Ok((ended.code, said))
            };
            let plain = said(&shim.program, &format!("{form}-plain"))?;
            let wrapped = said(node.wrapper(), &format!("{form}-wrapped"))?;
            shim.end()?;
            ensure!(plain == wrapped, "{form}: without {plain:?}, with {wrapped:?}");
            let keepers = node.wrappers("tap-keeper")?;
            ensure!(keepers.is_empty(), "{form}: {keepers:?}");
            println!("{form}: {plain:?}");
        }
        Ok(())
    })
}

/// CRI and `ctr` ask at once while the shim stands still for a second: both wait as long as they would without us, and both hear.
fn statistics_that_are_slow_are_told_to_all_who_ask(version: Version) -> Result<()> {
    on_path(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        let shims = node.inner_shims()?;
        ensure!(!shims.is_empty(), "there is a shim: {:?}", node.processes()?);
        for shim in &shims {
            process::signal(shim.pid, Signal::SIGSTOP)?;
            let stands = || Process::read(Pid::from_raw(shim.pid)).is_some_and(|p| p.state == 'T');
            eventually(LIMIT, "the shim to stand still", || Ok(stands().then_some(())))?;
        }
        let (by_cri, by_ctr) = std::thread::scope(|scope| -> Result<_> {
            let by_cri = scope.spawn(|| cri.cpu_usage_ns(&id));
            let by_ctr = scope.spawn(|| node.ctr_in("k8s.io", &["tasks", "metrics", &id]));
            let silent = throughout(Duration::from_secs(1), "silence", || {
                Ok(!by_cri.is_finished() && !by_ctr.is_finished())
            });
            for shim in &shims {
                process::signal(shim.pid, Signal::SIGCONT)?;
            }
            let panicked = |_| anyhow!("it panicked");
            let (by_cri, by_ctr) = (by_cri.join().map_err(panicked)?, by_ctr.join().map_err(panicked)?);
            silent.with_context(|| format!("CRI: {by_cri:?}, ctr: {by_ctr:?}"))?;
            Ok((by_cri?, by_ctr?))
        })?;
        ensure!(by_cri.is_some_and(|used| used > 0), "CRI: {by_cri:?}");
        let said = by_ctr.ok()?.text();
        ensure!(said.contains(&id) && said.contains("cpu"), "ctr: {said}");
        cri.remove_pod(&pod)
    })
}

/// A handler with `io_type = "streaming"` before containerd's own runc shim, which has nobody to stream to: containerd refuses such a
/// container by itself, with us as without, and the pod lives. Before 2.0 there is no such setting. That streams pass unseen is
/// asked in `standin_wrapped`.
fn output_over_streams_is_refused_as_without_us(version: Version) -> Result<()> {
    if version != Version::Pinned {
        return Ok(());
    }
    let refused = |shim: Shim| {
        Setup::new(version, shim).runtime_lines("io_type = \"streaming\"\n").run(|node| {
            let cri = node.cri()?;
            let pod = cri.run_pod("p")?;
            let wanted = Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() };
            let said = match cri.create(&pod, &wanted).and_then(|id| cri.start(&id)) {
                Ok(()) => "it runs".to_owned(),
                Err(fault) => format!("{fault:#}"),
            };
            ensure!(cri.is_ready(&pod)?, "the pod is lost");
            cri.remove_pod(&pod)?;
            // Ids and places differ from node to node.
            let words = said.split_whitespace().filter(|word| !word.contains('/') && word.len() < 60);
            Ok(words.collect::<Vec<_>>().join(" "))
        })
    };
    let (without, with) = (refused(Shim::Unwrapped)?, refused(Shim::Wrapped(Hook::Opt))?);
    println!("{without}");
    ensure!(without == with, "without {without:?}, with {with:?}");
    Ok(())
}
