//! Pods of the node's own containerd, in systemd's slices on cgroup v2, with the collector under its unit.

use anyhow::{Context, Result, ensure};

use super::node::{LIMIT, get, lines, pid_of, start_collector, start_containerd, systemctl};
use crate::line::tape;
use crate::oracle::exposition::of_container;
use crate::oracle::{cgroup, cri_log, one_tape, whole_but_for_ends_of_containerd};
use crate::rig::cri::{ContainerState, Cri, Pod, Wanted};
use crate::rig::{Version, eventually, process};

/// Lines, exit status, numbers and an OOM kill of a pod's containers are right, each in a scope of systemd's.
pub fn in_systemd_slices(version: Version) -> Result<()> {
    start_collector()?;
    let cri = start_containerd(version)?;
    let pod = cri.run_pod("slices")?;
    speaks(&cri, &pod)?;
    rests(version, &cri, &pod)?;
    eats(version, &cri, &pod)?;
    cri.remove_pod(&pod)
}

/// What it wrote is in containerd's log and in the collector's file, and its status is its own.
fn speaks(cri: &Cri, pod: &Pod) -> Result<()> {
    let command = ["speaker", "lines=3000", "batch=20", "to=both", "width=100", "exit=3"];
    let id = cri.run(pod, &Wanted { name: "speaks", command: &command, ..Wanted::default() })?;
    let status = cri.await_exit(&id)?;
    ensure!(status.exit_code == 3, "{status:?}");
    let written = tape(1, 3000, 100);
    let log = cri_log(&cri.log_path(pod, "speaks"))?;
    for (stream, logged) in [("stdout", &log.stdout), ("stderr", &log.stderr)] {
        ensure!(*logged == written, "containerd's log of its {stream} differs: {} bytes", logged.len());
        let gaps = in_the_file(&id, stream, &written)?;
        ensure!(gaps == 0, "{gaps} bytes of its {stream} are missing in the file");
    }
    Ok(())
}

/// Waits until all of a stream is accounted for in the collector's file; the bytes that are missing by its own account.
fn in_the_file(id: &str, stream: &str, written: &[u8]) -> Result<u64> {
    let end = u64::try_from(written.len())?;
    let whole = eventually(LIMIT, &format!("all of {id}'s {stream} in the file"), || {
        Ok(one_tape(&lines()?, id, stream)?.filter(|tape| tape.end() >= end).cloned())
    })?;
    let judgement = whole.judge(written)?;
    ensure!(judgement.accounted() == end, "{judgement:?} of {end} bytes");
    Ok(end - judgement.delivered)
}

/// A container that rests: its figures are those of its scope.
fn rests(version: Version, cri: &Cri, pod: &Pod) -> Result<()> {
    let command = ["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo rests; sleep 1000"];
    let id = cri.run(pod, &Wanted { name: "rests", command: &command, ..Wanted::default() })?;
    let log = cri.log_path(pod, "rests");
    eventually(LIMIT, "it to rest", || Ok((cri_log(&log)?.stdout == b"rests\n").then_some(())))?;
    let group = cgroup::of_process(pid_of(version, &id)?)?;
    ensure!(group == format!("/rig.slice/cri-containerd-{id}.scope"), "its cgroup is {group}");
    let before = cgroup::at_rest(&group, LIMIT)?;
    let since = cgroup::now_ms()?;
    let shown = eventually(LIMIT, "a sample of it", || {
        let shown = of_container(&get("/metrics/cadvisor?scope=all")?, "rests")?;
        Ok(cgroup::is_sampled_after(&shown, since).then_some(shown))
    })?;
    cgroup::agree(&before, &shown, &cgroup::figures(&group)?)?;
    cri.stop(&id, 0)
}

/// A process that is killed for want of memory is counted while its container lives, and a container's first process that is
/// killed so has the status of one. (Whether containerd's reason is `OOMKilled` or `Error` depends on which of two events it
/// takes first; that is not ours to promise.)
fn eats(version: Version, cri: &Cri, pod: &Pod) -> Result<()> {
    let memory_limit_bytes = 32 << 20;
    let command = ["sh", "-c", "speaker eat=200; echo $?; sleep 1000"];
    let wanted = Wanted { name: "child-eats", command: &command, memory_limit_bytes, ..Wanted::default() };
    let id = cri.run(pod, &wanted)?;
    let log = cri.log_path(pod, "child-eats");
    eventually(LIMIT, "the kill", || Ok((cri_log(&log)?.stdout == b"137\n").then_some(())))?;
    let family = "container_oom_events_total";
    let group = cgroup::of_process(pid_of(version, &id)?)?;
    let kills = *cgroup::figures(&group)?.get(family).context("the kernel counts no kills")?;
    ensure!(kills > 0.0, "the kernel counted {kills} kills");
    eventually(LIMIT, "the kill in a sample", || {
        let shown = of_container(&get("/metrics/cadvisor?scope=all")?, "child-eats")?;
        Ok(shown.values.get(family).filter(|shown| **shown == kills).map(drop))
    })?;
    cri.stop(&id, 0)?;

    let command = ["speaker", "eat=200"];
    let wanted = Wanted { name: "eats", command: &command, memory_limit_bytes, ..Wanted::default() };
    let status = cri.await_exit(&cri.run(pod, &wanted)?)?;
    ensure!(status.exit_code == 137, "{status:?}");
    Ok(())
}

/// The collector's unit is stopped and containerd restarted while a container runs; the unit's runtime directory stays, since
/// the journal lies there.
pub fn outlive_the_unit(version: Version) -> Result<()> {
    start_collector()?;
    let cri = start_containerd(version)?;
    let pod = cri.run_pod("outlives")?;
    // Its life is as long as the units' changes take here.
    let script = "speaker lines=2000 rate=200 width=100; until [ -e /enough ]; do sleep 0.1; done; exit 4";
    let command = ["sh", "-c", script];
    let id = cri.run(&pod, &Wanted { name: "outlives", command: &command, ..Wanted::default() })?;
    let pid = pid_of(version, &id)?;
    systemctl(&["stop", "shimtap.service"])?;
    ensure!(std::path::Path::new("/run/shimtap").exists(), "its runtime directory went with the unit");
    systemctl(&["restart", "containerd.service"])?;
    cri.await_ready()?;
    ensure!(cri.is_ready(&pod)?, "the pod is lost");
    ensure!(process::is_alive(pid), "the container is dead");
    ensure!(cri.status(&id)?.state == ContainerState::Running, "the container is lost");
    start_collector()?;
    let told = cri.exec(&id, &["touch", "/enough"], 0)?;
    ensure!(told.exit_code == 0, "it could not be told: {told:?}");
    ensure!(cri.await_exit(&id)?.exit_code == 4, "its exit status is lost");
    let written = tape(1, 2000, 100);
    let log = cri_log(&cri.log_path(&pod, "outlives"))?;
    whole_but_for_ends_of_containerd(&log.stdout, &written, 100, 1)?;
    in_the_file(&id, "stdout", &written)?;
    cri.remove_pod(&pod)
}
