//! `shimtap doctor` on real nodes: what is not covered is named with its reason, what is in trouble or in danger is named, and a
//! node that is well is called so.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::cri::{Pod, Wanted};
use shimtap_tests::rig::run::{Finished, run};
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, process, tools};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    who_is_not_covered_is_named_with_the_reason,
    what_rules_and_clients_take_away_is_named,
    trouble_of_the_pipeline_is_named,
    dangers_are_named,
    a_pilot_is_as_wanted,
);

/// From a plain node to one where all is well, step by step.
fn who_is_not_covered_is_named_with_the_reason(version: Version) -> Result<()> {
    Setup::new(version, Shim::Unwrapped).with_collector().run(|node| {
        let early = run_pod(node, "early")?;
        let report = doctor(node)?;
        report.names("handler_not_wrapped", &["runc"])?;
        report.names("not_wrapped", &["rig/early/c", "rig/early (sandbox)"])?;
        report.counts(0, 2)?;

        let node_toml = node.dir().join("containerd.toml");
        let mut install = shimtap(node, "install")?;
        install.arg("--yes").arg("--containerd").arg(&node.tools().containerd);
        run(install, LIMIT)?.ok()?;
        let between = run_pod(node, "between")?;
        let report = doctor(node)?;
        report.names("started_before", &["rig/early/c", "rig/early (sandbox)"])?;
        ensure!(!report.has("handler_not_wrapped") && !report.has("not_wrapped"), "{}", report.0);
        // containerd keeps the path of a shim that it has looked up once: also a link counts only from its restart on.
        report.names("containerd_not_restarted", &["rig/between/c", "rig/between (sandbox)"])?;
        report.counts(0, 4)?;

        node.restart()?;
        node.cri()?.await_ready()?;
        let late = run_pod(node, "late")?;
        attached(node, |report| {
            let left = report.of("started_before")?.to_string();
            ensure!(left.contains("rig/early/c") && !left.contains("rig/late"), "left: {left}");
            Ok(())
        })?;
        for pod in [early, between] {
            node.cri()?.remove_pod(&pod)?;
        }
        let report = attached(node, |report| report.counts(2, 2))?;
        for id in ["started_before", "not_wrapped", "containerd_not_restarted", "permissions", "gaps"] {
            ensure!(!report.has(id), "on a node that is well: {}", report.0);
        }
        node.cri()?.remove_pod(&late)?;
        let text = run(command(node, &[])?, LIMIT)?.text();
        ensure!(
            text.contains("0 of 0 containers") && text.contains(&node_toml.display().to_string()),
            "{text}"
        );
        let mut uninstall = shimtap(node, "uninstall")?;
        uninstall.arg("--yes");
        run(uninstall, LIMIT)?.ok().map(drop)
    })
}

/// Pods of the handler beside a pilot are not seen, which is no fault.
fn a_pilot_is_as_wanted(version: Version) -> Result<()> {
    if !version.tools()?.honours_runtime_path() {
        // There is no pilot without runtime_path: `install` refuses it, which its own test says.
        return Ok(());
    }
    Setup::new(version, Shim::Unwrapped).with_collector().run(|node| {
        let mut install = shimtap(node, "install")?;
        install.args(["--yes", "--pilot"]).arg("--containerd").arg(&node.tools().containerd);
        run(install, LIMIT)?.ok()?;
        node.restart()?;
        node.cri()?.await_ready()?;
        let plain = run_pod(node, "plain")?;
        let asks = node.cri()?.run_pod_of_handler("asks", "runc-tap")?;
        let report = attached(node, |report| report.counts(1, 3))?;
        report.names("not_wrapped", &["rig/plain/c", "rig/plain (sandbox)"])?;
        ensure!(report.of("not_wrapped")?["severity"] == "note", "{}", report.0);
        ensure!(!report.has("handler_not_wrapped"), "{}", report.0);
        node.cri()?.remove_pod(&asks)?;
        node.cri()?.remove_pod(&plain)
    })
}

/// Rules, redaction, stdio that no copy is made of, a wrapper that stood aside.
fn what_rules_and_clients_take_away_is_named(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        // No regular file.
        let writes = ["--detach", "--log-uri", "file:///dev/null"];
        let writes = node.run_command("writes", &writes, &["sleep", "1000"]);
        run(writes, LIMIT)?.ok().context("run with --log-uri")?;
        let quiet = run_pod(node, "quiet")?;
        let secret = run_pod(node, "secret")?;
        node.collector(|collector| {
            collector.configure(
                "\n[[rule]]\nname = \"hush\"\npod = \"quiet\"\ncollect = false\n\
                 [[rule]]\nname = \"pay\"\npod = \"secret\"\nredact = [\"email\"]\n",
            )?;
            collector.shimtap(&["reload"]).map(drop)
        })?;
        attached(node, |report| {
            let of = |stream| format!("{}/writes {stream}", node.namespace());
            report.names("not_captured", &[&of("stdout"), &of("stderr")])?;
            ensure!(report.of("not_captured")?.to_string().contains("file_uri"), "the reason: {}", report.0);
            let not_selected = report.of("not_selected")?.to_string();
            ensure!(not_selected.contains("hush") && not_selected.contains("rig/quiet/c"), "{not_selected}");
            let redacted = report.of("redacted")?.to_string();
            ensure!(redacted.contains("pay") && redacted.contains("rig/secret/c"), "{redacted}");
            ensure!(report.of("not_selected")?["severity"] == "note", "as wanted: {not_selected}");
            Ok(())
        })?;
        node.cri()?.remove_pod(&quiet)?;
        node.cri()?.remove_pod(&secret)?;
        node.remove("writes")
    })
}

/// A wrapper in safe mode, a sink without its disk, a collector that is away, one that looks for containerd elsewhere.
fn trouble_of_the_pipeline_is_named(version: Version) -> Result<()> {
    // One death is enough.
    let shim_toml = "[start]\nready_ms = 20000\n[safe_mode]\ndeaths = 1\n";
    let nowhere = "[otlp]\nendpoint = \"http://127.0.0.1:1\"\n";
    Setup::new(version, Shim::Wrapped(Hook::Opt)).shim_toml(shim_toml).with_sink(nowhere).run(|node| {
        let said = node.run("talks", &["echo", "here"])?;
        ensure!(said.code == 0, "{said:?}");
        node.run_detached("a", &["sleep", "1000"])?;
        let workers = node.wrappers("tap-worker")?;
        let [worker] = workers.as_slice() else { bail!("workers: {workers:?}") };
        process::signal(worker.pid, Signal::SIGKILL)?;
        let report = eventually(LIMIT, "safe mode and the sink's trouble", || {
            let report = doctor(node)?;
            Ok((report.has("safe_mode") && report.has("sink_stalled")).then_some(report))
        })?;
        let safe = report.of("safe_mode")?;
        ensure!(safe["severity"] == "fault" && safe["whose"] == "shimtap", "{safe}");
        report.names("sink_stalled", &["otlp"])?;
        ensure!(report.of("sink_stalled")?.to_string().contains("connect"), "the reason: {}", report.0);

        node.take_collector()?.stop()?;
        let report = doctor(node)?;
        let away = report.of("collector_away")?;
        ensure!(away["severity"] == "fault" && away["whose"] == "collector", "{away}");
        ensure!(!report.has("not_attached"), "one finding is enough: {}", report.0);
        report.counts(1, 1)?;

        // As on a node whose containerd has its socket elsewhere.
        let (socket, elsewhere) = (node.dir().join("c.sock"), node.dir().join("elsewhere"));
        fs::rename(&socket, &elsewhere).context("move containerd's socket")?;
        node.start_collector()?;
        let report = eventually(LIMIT, "its socket to be missed", || {
            let report = doctor(node)?;
            Ok(report.has("containerd_api").then_some(report))
        })?;
        let api = report.of("containerd_api")?;
        ensure!(api["whose"] == "setup" && api.to_string().contains(&*socket.to_string_lossy()), "{api}");
        fs::rename(&elsewhere, &socket).context("put it back")?;
        // The collector looks again in its own time; the socket is there now.
        ensure!(!doctor(node)?.has("containerd_api"), "{}", doctor(node)?.0);
        node.remove("a")
    })
}

/// A hook without effect, a shim that is not there, Kata that is asked each second, a foreign scraper.
fn dangers_are_named(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).with_collector().run(|node| {
        let report = doctor(node)?;
        if node.tools().honours_runtime_path() {
            ensure!(!report.has("runtime_path_ignored"), "{}", report.0);
        } else {
            report.names("runtime_path_ignored", &["runc"])?;
        }
        let main = node.dir().join("containerd.toml");
        let cri =
            if node.tools().is_v2() { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" };
        let kata = format!(
            "[plugins.\"{cri}\".containerd.runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n"
        );
        let text = fs::read_to_string(&main).context("read containerd's file")?;
        fs::write(&main, text + &kata).context("add a handler")?;
        fs::copy(&node.tools().runc_shim, node.dir().join("bin/containerd-shim-kata-v2"))
            .context("its shim")?;
        let shim_toml = node.dir().join("shim.toml");
        fs::write(&shim_toml, "[inner]\ncontainerd-shim-tap-kata-v2 = \"/nowhere/shim\"\n")
            .context("write shim.toml")?;
        let monitor = node.dir().join("kata-monitor");
        fs::copy(tools::in_path("sleep").context("there is no sleep")?, &monitor)
            .context("a foreign scraper")?;
        let mut scraper = Command::new(&monitor);
        let mut scraper = scraper.arg("1000").process_group(0).spawn().context("start it")?;
        let report = doctor(node);
        scraper.kill().context("end it")?;
        scraper.wait().context("wait for it")?;
        let report = report?;
        report.names("inner_missing", &["containerd-shim-tap-kata-v2: /nowhere/shim"])?;
        ensure!(report.of("handler_not_wrapped")?.to_string().contains("kata"), "{}", report.0);
        ensure!(report.of("kata_monitor")?.to_string().contains(&scraper.id().to_string()), "{}", report.0);
        // 2.3 asks each second; older ones have no such period.
        ensure!(report.has("stats_period") == node.tools().is_v2(), "{}", report.0);
        Ok(())
    })
}

/// What `shimtap doctor --json` said.
struct Report(Value);

impl Report {
    fn findings(&self) -> &[Value] {
        self.0.get("findings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    fn has(&self, id: &str) -> bool {
        self.findings().iter().any(|one| one["id"] == id)
    }

    fn of(&self, id: &str) -> Result<&Value> {
        self.findings().iter().find(|one| one["id"] == id).with_context(|| format!("no {id} in {}", self.0))
    }

    /// The finding is about exactly these.
    fn names(&self, id: &str, wanted: &[&str]) -> Result<()> {
        let which: Vec<&str> =
            self.of(id)?["which"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        ensure!(which == wanted, "{id} is about {which:?}, not {wanted:?}");
        Ok(())
    }

    fn counts(&self, covered: u64, containers: u64) -> Result<()> {
        let number = |key: &str| self.0.get(key).and_then(Value::as_u64);
        let said = (number("covered"), number("containers"));
        ensure!(said == (Some(covered), Some(containers)), "it counts {said:?} in {}", self.0);
        Ok(())
    }
}

/// Looks once. The exit status must be that of what was found.
fn doctor(node: &Node) -> Result<Report> {
    let said = run(command(node, &["--json"])?, LIMIT)?;
    judged(&said)
}

/// Looks until every wrapper is attached, since they come to a collector by themselves, and this is so: what they tell it comes later.
fn attached(node: &Node, is_so: impl Fn(&Report) -> Result<()>) -> Result<Report> {
    let mut last = None;
    let settled = eventually(LIMIT, "wrappers to be attached and told of", || {
        let report = doctor(node)?;
        if report.has("not_attached") {
            return Ok(None);
        }
        last = is_so(&report).err();
        Ok(last.is_none().then_some(report))
    });
    settled.map_err(|late| last.map_or(late, |why| why.context("in vain")))
}

fn judged(said: &Finished) -> Result<Report> {
    let report = Report(serde_json::from_slice(&said.stdout).with_context(|| format!("it said {said:?}"))?);
    let wrong = report.findings().iter().any(|one| one["severity"] != "note");
    ensure!(said.code == if wrong { 2 } else { 0 }, "it ended with {} and found {}", said.code, report.0);
    for one in report.findings() {
        let said = |key: &str| one[key].as_str().is_some_and(|text| !text.is_empty());
        ensure!(said("what") && said("whose") && said("remedy"), "says too little: {one}");
    }
    Ok(report)
}

fn command(node: &Node, args: &[&str]) -> Result<Command> {
    let mut doctor = shimtap(node, "doctor")?;
    doctor.args(args).arg("--run-dir").arg(node.run_dir());
    doctor.arg("--socket").arg(node.dir().join("col/control.sock"));
    Ok(doctor)
}

/// `shimtap VERB` on this node.
fn shimtap(node: &Node, verb: &str) -> Result<Command> {
    let mut command = Command::new(tools::collector()?);
    command.arg(verb).arg("--state-dir").arg(node.dir().join("state"));
    command.arg("--containerd-config").arg(node.dir().join("containerd.toml"));
    if verb != "uninstall" {
        command.arg("--shim-config").arg(node.dir().join("shim.toml"));
    }
    Ok(command)
}

fn run_pod(node: &Node, name: &str) -> Result<Pod> {
    let cri = node.cri()?;
    let pod = cri.run_pod(name)?;
    cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
    Ok(pod)
}
