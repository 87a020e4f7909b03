//! What is shown is true and well formed: `shimtap ps` names the shim inside and the pods that run without a wrapper, and
//! Prometheus' own linter finds nothing in our metrics, and in those with cAdvisor's names what it finds in cAdvisor's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::families::documented;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::process::signal;
use shimtap_tests::rig::run::Running;
use shimtap_tests::rig::{Hook, Setup, Shim, Version, eventually};
use shimtap_tests::standin::client::kata::wrapped_as_kata;
use shimtap_tests::standin::kata::Profile;
use shimtap_tests::standin::kata::guest::{Cgroup, Guest};
use shimtap_tests::standin::script::Script;

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    the_shim_inside_is_named,
    a_pod_that_runs_unwrapped_is_named,
    promtool_says_nothing_of_our_metrics_and_of_cadvisors_what_it_says_there
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
        // A collector that does not answer for longer than one greeting may take.
        let collector = node.collector(|collector| Ok(collector.pid()))?;
        signal(collector, Signal::SIGSTOP)?;
        let said = node.run("bare", &["sh", "-c", "exit 4"])?;
        ensure!(said.code == 4, "it ended with {}: {}", said.code, said.stderr);
        std::thread::sleep(Duration::from_secs(6));
        signal(collector, Signal::SIGCONT)?;
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
        let line = eventually(LIMIT, "a line in its log", || {
            let log = std::fs::read_to_string(node.dir().join("collector.log")).context("read its log")?;
            Ok(log.lines().find(|line| line.contains("pod runs unwrapped")).map(str::to_owned))
        })?;
        ensure!(line.contains("bare") && line.contains("no-such-folder"), "{line}");
        Ok(())
    })
}

/// Needs `promtool` (package prometheus); `./dev test` leaves it out, and says so, where that is not installed.
fn promtool_says_nothing_of_our_metrics_and_of_cadvisors_what_it_says_there(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        node.run_detached("a", &["sleep", "1000"])?;
        // Has what this machine's cgroups may not have.
        let guest = Some(Guest::worked(Cgroup::V1));
        let script = Script { guest, ..Script::stayer() };
        let vm = wrapped_as_kata("vm", Profile::Rust, &script, &node.collector_socket())?;
        let _fifos = vm.run()?;
        for (path, families, known) in [
            ("/metrics", ["shimtap_wrappers", "shimtap_container_log_bytes_total"], &[] as &[&str]),
            ("/metrics/cadvisor?scope=all", ["container_memory_failcnt", "container_processes"], &COMPLAINTS),
            (
                "/metrics/cadvisor?timestamps=0",
                ["container_memory_failcnt", "container_processes"],
                &COMPLAINTS,
            ),
        ] {
            let text = eventually(LIMIT, path, || {
                let text = node.collector(|collector| collector.get(path))?;
                Ok(families.iter().all(|family| text.contains(family)).then_some(text))
            })?;
            let said = promtool(&text)?;
            ensure!(said.iter().eq(known), "{path}: {said:#?}");
            kinds_are_cadvisors(&text)?;
        }
        vm.end()?;
        node.remove("a")
    })
}

/// What cAdvisor gets as well: the name is its own, and dashboards ask for it.
const COMPLAINTS: [&str; 1] = ["container_memory_failcnt counter metrics should have \"_total\" suffix"];

/// cAdvisor's own page.
const CADVISOR: &str = include_str!("../fixtures/cadvisor-families.prom");

/// The list above is what promtool says of cAdvisor's page about families that we have too.
#[test]
#[ignore = "needs promtool (package prometheus): `sudo ./dev test` runs it where that is installed"]
fn promtool_says_of_cadvisor_what_is_known() -> Result<()> {
    let ours = documented()?;
    let said = promtool(CADVISOR)?.into_iter();
    let of_ours: Vec<String> =
        said.filter(|row| row.split(' ').next().is_some_and(|name| ours.contains(name))).collect();
    ensure!(of_ours == COMPLAINTS, "{of_ours:#?}");
    Ok(())
}

/// What `promtool check metrics` says of a page, sorted.
fn promtool(page: &str) -> Result<Vec<String>> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    let mut promtool = Running::start(command).context("is promtool installed (package prometheus)?")?;
    promtool.say(page.as_bytes())?;
    promtool.close_stdin();
    let said = promtool.finish(LIMIT)?;
    let said = format!("{}{}", said.text(), said.stderr);
    let rows: BTreeSet<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    Ok(rows.into_iter().map(ToOwned::to_owned).collect())
}

/// A family that cAdvisor has too is of the same kind there.
fn kinds_are_cadvisors(page: &str) -> Result<()> {
    fn kind(row: &str) -> Option<(&str, &str)> {
        row.strip_prefix("# TYPE ")?.split_once(' ')
    }
    let theirs: BTreeMap<&str, &str> = CADVISOR.lines().filter_map(kind).collect();
    for (name, kind) in page.lines().filter_map(kind) {
        let other = theirs.get(name).is_some_and(|theirs| *theirs != kind);
        ensure!(!other, "{name} is a {kind}, and cAdvisor's is none");
    }
    Ok(())
}
