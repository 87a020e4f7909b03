//! What is shown is true and well formed: `shimtap ps` names the shim inside and the pods that run without a wrapper, and
//! Prometheus' own linter finds nothing in the metrics.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::run::Running;
use shimtap_tests::rig::{Hook, Setup, Shim, Version, eventually};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    the_shim_inside_is_named,
    a_pod_that_runs_unwrapped_is_named,
    promtool_has_nothing_to_say_of_the_metrics
);

fn the_shim_inside_is_named(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        let shims = node.inner_shims()?;
        let [shim] = shims.as_slice() else { anyhow::bail!("several shims: {shims:?}") };
        // It is learnt from the first Connect and goes with the next report.
        let said = eventually(LIMIT, "the shim's pid", || {
            let ps = node.collector(|collector| collector.ps())?;
            let said = ps.pointer("/wrappers/0/inner_pid").and_then(|pid| pid.as_i64());
            Ok(said.filter(|pid| *pid != 0))
        })?;
        ensure!(said == i64::from(shim.pid), "ps says {said}, and it is {}", shim.pid);
        cri.remove_pod(&pod)
    })
}

fn a_pod_that_runs_unwrapped_is_named(version: Version) -> Result<()> {
    // No folder can be made there.
    let nowhere = Path::new("/proc/no-such-folder");
    Setup::new(version, Shim::Wrapped(Hook::Path)).with_collector().run_dir(nowhere).run(|node| {
        let said = node.run("bare", &["sh", "-c", "exit 4"])?;
        ensure!(said.code == 4, "it ended with {}: {}", said.code, said.stderr);
        let pod = eventually(LIMIT, "the unwrapped pod in ps", || {
            let ps = node.collector(|collector| collector.ps())?;
            Ok(ps.pointer("/unwrapped/0").cloned())
        })?;
        let field = |name: &str| pod.get(name).and_then(|text| text.as_str()).unwrap_or_default().to_owned();
        ensure!(
            (field("namespace"), field("pod")) == (node.namespace().to_owned(), "bare".to_owned()),
            "{pod}"
        );
        ensure!(field("why").contains("/proc/no-such-folder"), "{pod}");
        let log = std::fs::read_to_string(node.dir().join("collector.log")).context("read its log")?;
        let line =
            log.lines().find(|line| line.contains("pod runs unwrapped")).context("a line in its log")?;
        ensure!(line.contains("bare") && line.contains("no-such-folder"), "{line}");
        Ok(())
    })
}

/// Needs `promtool` (package prometheus); `./dev test` leaves it out, and says so, where that is not installed.
fn promtool_has_nothing_to_say_of_the_metrics(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        node.run_detached("a", &["sleep", "1000"])?;
        for (path, family) in [
            ("/metrics", "shimtap_wrappers"),
            ("/metrics/cadvisor?scope=all", "container_cpu_usage_seconds_total"),
            ("/metrics/cadvisor?scope=all&timestamps=0", "container_memory_rss"),
        ] {
            let text = eventually(LIMIT, family, || {
                let text = node.collector(|collector| collector.get(path))?;
                Ok(text.contains(family).then_some(text))
            })?;
            let mut command = Command::new("promtool");
            command.args(["check", "metrics"]);
            let mut promtool =
                Running::start(command).context("is promtool installed (package prometheus)?")?;
            promtool.say(text.as_bytes())?;
            promtool.close_stdin();
            let said = promtool.finish(LIMIT)?;
            // The name is cAdvisor's, and dashboards ask for it.
            let known = "container_memory_failcnt counter metrics should have \"_total\" suffix";
            let said = format!("{}{}", said.text(), said.stderr);
            let new: Vec<_> = said.lines().filter(|line| !line.is_empty() && *line != known).collect();
            ensure!(new.is_empty(), "{path}: {new:#?}");
        }
        node.remove("a")
    })
}
