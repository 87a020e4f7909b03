//! A node's first boot from an image that `packaging/image` has made: nobody has done anything to it since.

use anyhow::{Result, ensure};

use super::package::{shimtap, unit_is};
use super::patiently;
use crate::guest::checks::the_node_is_what_it_is_meant_to_be;
use crate::guest::node::{connect, property};
use crate::line::tape;
use crate::oracle::{cri_log, one_tape, sink_text};
use crate::rig::Version;
use crate::rig::cri::Wanted;

/// systemd and cgroup v2, both units, and a pod whose container is seen.
pub fn is_wrapped_from_the_first_boot() -> Result<()> {
    the_node_is_what_it_is_meant_to_be()?;
    patiently("both units", || {
        let containerd = property("containerd.service", "ActiveState")?;
        Ok((containerd == "active" && unit_is(true, true).is_ok()).then_some(()))
    })?;
    let plan = shimtap(&["install", "--dry-run"])?.ok()?.text();
    ensure!(plan.contains("is wrapped  runc") && plan.contains("nothing to do"), "it would {plan}");

    let cri = connect(&Version::Packaged.tools()?)?;
    let pod = cri.run_pod("first")?;
    let command = ["speaker", "lines=200", "width=100", "exit=3"];
    let id = cri.run(&pod, &Wanted { name: "speaks", command: &command, ..Wanted::default() })?;
    ensure!(cri.await_exit(&id)?.exit_code == 3, "its exit status is lost");
    let written = tape(1, 200, 100);
    ensure!(cri_log(&cri.log_path(&pod, "speaks"))?.stdout == written, "containerd's log differs");
    let end = u64::try_from(written.len())?;
    let kept = patiently("its lines in the journal", || {
        let said = shimtap(&["logs", "--container", "speaks", "--output", "json"])?.ok()?.stdout;
        Ok(one_tape(&sink_text(&said)?, &id, "stdout")?.filter(|tape| tape.end() >= end).cloned())
    })?;
    let judgement = kept.judge(&written)?;
    ensure!(judgement.gaps.is_empty() && judgement.delivered == end, "{judgement:?} of {end} bytes");
    let mut said = String::new();
    let well = patiently("the doctor to be content", || {
        let came = shimtap(&["doctor"])?;
        said = came.text();
        Ok((came.code == 0).then_some(()))
    });
    // The pod's sandbox, and the container that has ended for as long as its task is kept.
    let all = ["1 of 1", "2 of 2"].map(|count| format!("{count} containers are wrapped"));
    ensure!(well.is_ok() && all.iter().any(|count| said.contains(count)), "the doctor says {said}");
    cri.remove_pod(&pod)
}
