//! What `shimtap ps` says of wrappers is true: the shim inside is the process that it names, and a pod that runs without a
//! wrapper is listed with the reason, and in the collector's log.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::{Hook, Setup, Shim, Version, eventually};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(the_shim_inside_is_named, a_pod_that_runs_unwrapped_is_named);

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
