//! Deaths: of the inner shim, of keeper and worker alone and together, of containerd. What containerd can
//! survive without the wrapper it survives with it, and nothing runs on that nobody manages.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::{cri_log, whole_but_for_ends_of_containerd};
use shimtap_tests::rig::busy::Busy;
use shimtap_tests::rig::collector::Settings;
use shimtap_tests::rig::cri::{ContainerState, Cri, Pod, Status, Wanted};
use shimtap_tests::rig::process::{Process, end, signal, wait_gone};
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, same_with_and_without};
use shimtap_tests::standin::procs;

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    inner_shim_is_killed,
    inner_shim_of_a_pod_is_killed,
    worker_is_killed,
    keeper_is_killed,
    worker_and_keeper_are_killed_in_turn_under_load,
    worker_and_keeper_are_killed_together,
    worker_and_keeper_of_a_pod_are_killed_together,
    worker_and_keeper_are_killed_while_their_shim_is_stopped,
    worker_and_keeper_are_killed_while_containerd_is_down,
    containerd_is_restarted_under_load,
    containerd_is_restarted_over_a_quiet_pod,
);

/// A pod with one container that writes numbered lines.
fn busy_pod(node: &Node) -> Result<(&Cri, Pod, Busy)> {
    let cri = node.cri()?;
    let pod = cri.run_pod("p")?;
    let busy = Busy::start(node, cri, &pod)?;
    Ok((cri, pod, busy))
}

/// The busy container ends when it is told to, with everything it wrote in containerd's log, once and in order.
fn ends_well(cri: &Cri, pod: &Pod, busy: &Busy) -> Result<()> {
    let (_, expected) = busy.finish(cri)?;
    let log = cri_log(&cri.log_path(pod, Busy::NAME))?;
    let same = expected.iter().zip(&log.stdout).take_while(|(a, b)| a == b).count();
    ensure!(
        log.stdout == expected,
        "{} bytes written, {} in the log, the first difference in line {}",
        expected.len(),
        log.stdout.len(),
        same / Busy::WIDTH
    );
    Ok(())
}

/// The same where containerd was killed `kills` times.
fn ends_but_for_kills(cri: &Cri, pod: &Pod, busy: &Busy, kills: usize) -> Result<Status> {
    let (status, expected) = busy.finish(cri)?;
    let log = cri_log(&cri.log_path(pod, Busy::NAME))?;
    whole_but_for_ends_of_containerd(&log.stdout, &expected, Busy::WIDTH, kills)?;
    Ok(status)
}

fn one(mut processes: Vec<Process>) -> Result<i32> {
    ensure!(processes.len() == 1, "one process was expected: {processes:?}");
    processes.pop().map(|process| process.pid).context("there is one")
}

/// Processes that run in a container's cgroup.
fn in_containers(node: &Node) -> Result<Vec<Process>> {
    let is_inside = |process: &Process| {
        let path = format!("/proc/{}/cgroup", process.pid);
        let cgroups = fs::read_to_string(path).unwrap_or_default();
        cgroups.contains(&format!("/{}/", node.mark()))
    };
    Ok(node.processes()?.into_iter().filter(is_inside).collect())
}

fn inner_shim_is_killed(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Path, |node| {
        node.run_detached("a", &["sleep", "1000"])?;
        end(one(node.inner_shims()?)?)?;
        // containerd runs `delete`, which kills the container.
        eventually(LIMIT, "containerd to notice", || Ok(node.task_status("a")?.is_none().then_some(())))?;
        eventually(LIMIT, "its process to be gone", || Ok(in_containers(node)?.is_empty().then_some(())))?;
        node.remove("a")?;
        same_id_again(node)
    })
    .map(drop)
}

fn inner_shim_of_a_pod_is_killed(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Opt, |node| {
        let (cri, pod, busy) = busy_pod(node)?;
        busy.await_lines(100)?;
        end(one(node.inner_shims()?)?)?;
        let status = cri.await_exit(&busy.id)?;
        eventually(LIMIT, "the sandbox to be not ready", || Ok((!cri.is_ready(&pod)?).then_some(())))?;
        remove_pod_of_a_dead_shim(cri, &pod)?;
        // containerd 2 leaves containers of a dead shim running, with or without us.
        for process in in_containers(node)? {
            procs::kill(Pid::from_raw(process.pid))?;
            wait_gone(process.pid, LIMIT)?;
        }
        Ok((status.state, status.exit_code))
    })
    .map(drop)
}

fn worker_is_killed(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).run(|node| {
        let (cri, pod, busy) = busy_pod(node)?;
        let keeper = one(node.wrappers("tap-keeper")?)?;
        for _ in 0..5 {
            busy.await_lines(200)?;
            let worker = one(node.wrappers("tap-worker")?)?;
            end(worker)?;
            let said = cri.exec(&busy.id, &["sh", "-c", "exit 7"], 10)?;
            ensure!(said.exit_code == 7, "exec after the death: {said:?}");
            let next = eventually(LIMIT, "the next worker", || Ok(one(node.wrappers("tap-worker")?).ok()))?;
            ensure!(next != worker, "the worker is the old one");
            ensure!(one(node.wrappers("tap-keeper")?)? == keeper, "the keeper has changed");
        }
        ends_well(cri, &pod, &busy)?;
        cri.remove_pod(&pod)
    })
}

fn keeper_is_killed(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).run(|node| {
        let (cri, pod, busy) = busy_pod(node)?;
        for _ in 0..3 {
            busy.await_lines(200)?;
            let keeper = one(node.wrappers("tap-keeper")?)?;
            end(keeper)?;
            let next = eventually(LIMIT, "the next keeper", || Ok(one(node.wrappers("tap-keeper")?).ok()))?;
            ensure!(next != keeper, "the keeper is the old one");
            let said = cri.exec(&busy.id, &["sh", "-c", "exit 7"], 10)?;
            ensure!(said.exit_code == 7, "exec after the death: {said:?}");
        }
        ends_well(cri, &pod, &busy)?;
        cri.remove_pod(&pod)
    })
}

fn worker_and_keeper_are_killed_in_turn_under_load(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).run(|node| {
        let ends = "until=/host/over";
        let command =
            ["speaker", "lines=100000000", "rate=20000", "batch=20", "count=/host/said", ends, "exit=3"];
        let client = node.run_beside("a", &["--rm"], &command)?;
        for death in 0..20 {
            let before = client.stdout_so_far().len();
            eventually(LIMIT, "output to go on", || {
                Ok((client.stdout_so_far().len() > before + (64 << 10)).then_some(()))
            })?;
            let role = if death % 2 == 0 { "tap-worker" } else { "tap-keeper" };
            let one_of_them = |what| eventually(LIMIT, what, || Ok(one(node.wrappers(role)?).ok()));
            end(one_of_them(role)?)?;
            one_of_them("the successor")?;
        }
        fs::write(node.host_dir().join("over"), "").context("tell it that it is enough")?;
        let said = client.finish(LIMIT)?;
        ensure!(said.code == 3, "{} {}", said.code, said.stderr);
        let lines = fs::read_to_string(node.host_dir().join("said")).context("how much it wrote")?.parse()?;
        node.complete(&said.stdout, &tape(1, lines, 64))
    })
}

/// A new container of the dead one's id starts, as soon as containerd has tidied up behind the dead shim.
fn same_id_again(node: &Node) -> Result<()> {
    let again = eventually(LIMIT, "the id to be free", || {
        let again = node.run("a", &["sh", "-c", "exit 3"])?;
        Ok((!again.stderr.contains("already exists")).then_some(again))
    })?;
    ensure!(again.code == 3, "the same id again: {again:?}");
    Ok(())
}

/// Kills both without giving either a chance to replace the other.
fn kill_both(node: &Node) -> Result<()> {
    let keeper = one(node.wrappers("tap-keeper")?)?;
    let worker = one(node.wrappers("tap-worker")?)?;
    signal(keeper, Signal::SIGSTOP)?;
    signal(worker, Signal::SIGSTOP)?;
    signal(keeper, Signal::SIGKILL)?;
    signal(worker, Signal::SIGKILL)?;
    wait_gone(keeper, LIMIT)?;
    wait_gone(worker, LIMIT)
}

fn worker_and_keeper_are_killed_together(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).run(|node| {
        node.run_detached("a", &["sleep", "1000"])?;
        kill_both(node)?;
        eventually(LIMIT, "containerd to notice", || Ok(node.task_status("a")?.is_none().then_some(())))?;
        // `finish` demands that container and inner shim are gone too.
        node.remove("a")?;
        same_id_again(node)
    })
}

/// Nobody is left to tell where its streams ended: they are listed, by the collector that waited for a wrapper in vain.
fn worker_and_keeper_of_a_pod_are_killed_together(version: Version) -> Result<()> {
    let told = Settings { ingest: "orphan_secs = 2\n".to_owned(), ..Settings::default() };
    Setup::new(version, Shim::Wrapped(Hook::Opt)).telling(told).with_collector().run(|node| {
        let (cri, pod, busy) = busy_pod(node)?;
        busy.await_lines(100)?;
        let listed = || node.collector(|collector| collector.ps_with(&["--open-ended"]));
        let id = busy.id.get(..12).context("as it is shown")?;
        ensure!(!listed()?.contains(id), "its wrapper lives");
        kill_both(node)?;
        nothing_is_unmanaged(node, cri, &pod, &busy.id)?;
        let counted = "shimtap_streams_open_ended{reason=\"wrapper_lost\"}";
        eventually(LIMIT, "streams whose end nobody tells", || {
            let page = node.collector(|collector| collector.get("/metrics"))?;
            let count = page.lines().find_map(|line| line.strip_prefix(counted)?.trim().parse::<u32>().ok());
            Ok(count.filter(|count| *count >= 2))
        })?;
        let listed = listed()?;
        let its = |stream| listed.lines().any(|line| line.contains(id) && line.contains(stream));
        ensure!(its("stdout") && its("stderr") && listed.contains("wrapper_lost"), "{listed}");
        Ok(())
    })
}

/// The shim answers nothing any more, so it is ended, and so is what would run on under it.
fn worker_and_keeper_are_killed_while_their_shim_is_stopped(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).run(|node| {
        let (cri, pod, busy) = busy_pod(node)?;
        let beside = Wanted { name: "beside", command: &["sleep", "1000"], ..Wanted::default() };
        cri.run(&pod, &beside)?;
        busy.await_lines(100)?;
        signal(one(node.inner_shims()?)?, Signal::SIGSTOP)?;
        kill_both(node)?;
        nothing_is_unmanaged(node, cri, &pod, &busy.id)
    })
}

/// Nobody looks until containerd is there again, and then it does what it does over a shim that died meanwhile.
fn worker_and_keeper_are_killed_while_containerd_is_down(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).run(|node| {
        let (cri, pod, busy) = busy_pod(node)?;
        busy.await_lines(100)?;
        node.stop_daemon(Signal::SIGKILL)?;
        kill_both(node)?;
        node.start_daemon()?;
        cri.await_ready()?;
        nothing_is_unmanaged(node, cri, &pod, &busy.id)
    })
}

/// containerd has written the pod off, and nothing of it is left; of files `finish` demands that.
fn nothing_is_unmanaged(node: &Node, cri: &Cri, pod: &Pod, id: &str) -> Result<()> {
    let status = cri.await_exit(id)?;
    ensure!(status.state == ContainerState::Exited, "{status:?}");
    eventually(LIMIT, "the sandbox to be not ready", || Ok((!cri.is_ready(pod)?).then_some(())))?;
    eventually(LIMIT, "nothing to run unmanaged", || Ok(in_containers(node)?.is_empty().then_some(())))?;
    eventually(LIMIT, "the inner shim to end", || Ok(node.inner_shims()?.is_empty().then_some(())))?;
    remove_pod_of_a_dead_shim(cri, pod)
}

/// containerd tidies up behind a dead shim by itself, and refuses a removal that meets it in the midst of that; the kubelet comes again.
fn remove_pod_of_a_dead_shim(cri: &Cri, pod: &Pod) -> Result<()> {
    eventually(LIMIT, "the pod to be removed", || match cri.remove_pod(pod) {
        Err(fault) if format!("{fault:#}").contains("ttrpc: closed") => Ok(None),
        removed => removed.map(Some),
    })
}

fn containerd_is_restarted_under_load(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let (cri, pod, busy) = busy_pod(node)?;
        for how in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
            busy.await_lines(200)?;
            node.stop_daemon(how)?;
            node.start_daemon()?;
            node.cri()?.await_ready()?;
            ensure!(cri.is_ready(&pod)?, "the pod is lost");
            ensure!(cri.status(&busy.id)?.state == ContainerState::Running, "the container is lost");
        }
        let status = ends_but_for_kills(cri, &pod, &busy, 3)?;
        cri.remove_pod(&pod)?;
        Ok(status.exit_code)
    })?;
    assert_eq!(answer, 3);
    Ok(())
}

fn containerd_is_restarted_over_a_quiet_pod(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        node.restart()?;
        cri.await_ready()?;
        let said = cri.exec(&id, &["sh", "-c", "exit 7"], 10)?;
        cri.stop(&id, 0)?;
        let status = cri.await_exit(&id)?;
        cri.remove_pod(&pod)?;
        Ok((said.exit_code, status.exit_code))
    })
    .map(drop)
}
