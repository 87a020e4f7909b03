//! Hung is dead, on real containerd: exec, exit and removal go on while a worker or a keeper stands still or spins, and the
//! collector says what became of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::{cri_log, one_tape};
use shimtap_tests::rig::busy::Busy;
use shimtap_tests::rig::cri::{Cri, Pod, Wanted};
use shimtap_tests::rig::deaths::{Death, deaths, told};
use shimtap_tests::rig::process::signal;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};
use shimtap_tests::standin::stall;

const LIMIT: Duration = Duration::from_secs(60);
on_each_containerd!(
    a_worker_is_stopped,
    a_worker_spins,
    a_keeper_is_stopped,
    a_keeper_spins,
    faults_mean_safe_mode,
);

fn pod(node: &Node) -> Result<(&Cri, Pod, Busy)> {
    let cri = node.cri()?;
    let pod = cri.run_pod("p")?;
    let busy = Busy::start(node, cri, &pod)?;
    Ok((cri, pod, busy))
}

fn role(node: &Node, name: &str) -> Result<i32> {
    let found = eventually(LIMIT, name, || {
        let mut found = node.wrappers(name)?;
        Ok((found.len() == 1).then(|| found.pop()).flatten())
    })?;
    Ok(found.pid)
}

/// All that containerd does to a pod, in time, while `hang` has its effect.
fn goes_on(version: Version, name: &'static str, hang: fn(i32) -> Result<()>) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        let (cri, pod, busy) = pod(node)?;
        let victim = role(node, name)?;
        hang(victim)?;
        // containerd 2 itself gives up a State after two seconds; what asked for it is then asked again. How soon answers come is
        // `standin_hung`'s.
        let said = eventually(LIMIT, "an exec", || match cri.exec(&busy.id, &["sh", "-c", "exit 7"], 30) {
            Err(e) if format!("{e:#}").contains("DeadlineExceeded") => Ok(None),
            said => said.map(Some),
        })?;
        ensure!(said.exit_code == 7, "exec: {said:?}");
        let reason = if name == "tap-keeper" { "keeper_hung" } else { "hung" };
        let death = node.collector(|collector| told(collector, victim, reason))?;
        ensure!(death.signal.as_deref() == Some("SIGKILL"), "{death:?}");
        let second = Wanted { name: "second", command: &["sh", "-c", "exit 5"], ..Wanted::default() };
        let second = cri.run(&pod, &second).context("a container beside it")?;
        ensure!(cri.await_exit(&second)?.exit_code == 5, "its exit");
        let next =
            eventually(LIMIT, "a successor", || Ok(role(node, name).ok().filter(|next| *next != victim)))?;
        ensure!(next != victim, "the old one");
        let (_, written) = busy.finish(cri)?;
        let log = cri_log(&cri.log_path(&pod, Busy::NAME))?;
        ensure!(log.stdout == written, "{} bytes in the log, of {}", log.stdout.len(), written.len());
        cri.remove_pod(&pod)
    })
}

fn stop(pid: i32) -> Result<()> {
    signal(pid, Signal::SIGSTOP)
}

fn spin(pid: i32) -> Result<()> {
    stall::spin(Pid::from_raw(pid))
}

fn a_worker_is_stopped(version: Version) -> Result<()> {
    goes_on(version, "tap-worker", stop)
}

fn a_worker_spins(version: Version) -> Result<()> {
    goes_on(version, "tap-worker", spin)
}

fn a_keeper_is_stopped(version: Version) -> Result<()> {
    goes_on(version, "tap-keeper", stop)
}

fn a_keeper_spins(version: Version) -> Result<()> {
    goes_on(version, "tap-keeper", spin)
}

/// Has workers crash until five did within ten seconds, which on a busy machine may take more than five; says how many.
fn crashes_in_a_row(node: &Node) -> Result<u32> {
    let mut began = Vec::new();
    while began.len() < 30 {
        began.push(Instant::now());
        let worker = role(node, "tap-worker")?;
        signal(worker, Signal::SIGSEGV)?;
        eventually(LIMIT, "the next worker", || {
            Ok(role(node, "tap-worker").ok().filter(|next| *next != worker))
        })?;
        if began.iter().rev().nth(4).is_some_and(|first| first.elapsed() < Duration::from_secs(10)) {
            return Ok(u32::try_from(began.len())?);
        }
    }
    bail!("no five of {} crashes came within ten seconds", began.len())
}

/// Safe mode passes everything on, is seen, survives a restart of containerd, and ends with a signal to the keeper.
fn faults_mean_safe_mode(version: Version) -> Result<()> {
    let setup = Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector();
    setup.shim_toml("[start]\nready_ms = 20000\n[stats]\ninterval_ms = 500\n").run(|node| {
        let (cri, pod, busy) = pod(node)?;
        let crashes = crashes_in_a_row(node)?;
        let said = |series: &str| -> Result<Option<f64>> {
            let page = node.collector(|collector| collector.get("/metrics"))?;
            let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            value.map(|value| value.parse().context("a number")).transpose()
        };
        eventually(LIMIT, "safe mode to be seen", || {
            Ok((said("shimtap_wrapper_safe_mode")? == Some(1.0)).then_some(()))
        })?;
        eventually(LIMIT, "its causes to be seen", || {
            let crashed = said("shimtap_wrapper_restarts_total{reason=\"crashed\"}")?;
            Ok((crashed == Some(f64::from(crashes))).then_some(()))
        })?;
        let of = node.collector(|collector| deaths(collector))?;
        let is_it = |death: &_| matches!(death, Death { signal: Some(signal), .. } if signal == "SIGSEGV");
        ensure!(of.len() >= 5 && of.iter().all(is_it), "{of:?}");
        ensure!(said("shimtap_wrapper_generation")?.is_some_and(|n| n >= 6.0), "generation");
        // In seconds.
        let without = said("shimtap_wrapper_without_worker_seconds_total")?;
        ensure!(without.is_some_and(|s| s > 0.0 && s < 60.0), "time without a worker: {without:?}");
        let exec = cri.exec(&busy.id, &["sh", "-c", "exit 7"], 10)?;
        ensure!(exec.exit_code == 7, "exec in safe mode: {exec:?}");
        node.stop_daemon(Signal::SIGKILL)?;
        node.start_daemon()?;
        node.cri()?.await_ready()?;
        ensure!(cri.is_ready(&pod)?, "the pod is lost");
        signal(role(node, "tap-keeper")?, Signal::SIGUSR2)?;
        eventually(LIMIT, "safe mode to end", || {
            Ok((said("shimtap_wrapper_safe_mode")? == Some(0.0)).then_some(()))
        })?;
        let (_, written) = busy.finish(cri)?;
        let log = cri_log(&cri.log_path(&pod, Busy::NAME))?;
        ensure!(log.stdout == written, "{} bytes in the log", log.stdout.len());
        // What safe mode passed on without a copy is admitted, by its name.
        let end = u64::try_from(written.len())?;
        let tape = eventually(LIMIT, "all of it in the sink", || {
            let tapes = node.collector(|collector| collector.sink())?;
            Ok(one_tape(&tapes, &busy.id, "stdout")?.filter(|tape| tape.end() >= end).cloned())
        })?;
        let judgement = tape.judge(&written)?;
        ensure!(judgement.accounted() == end && !judgement.gaps.is_empty(), "{judgement:?} of {end} bytes");
        let gap = said("shimtap_log_gap_bytes_total{stream=\"stdout\",reason=\"safe_mode\"}")?;
        ensure!(gap.is_some_and(|bytes| bytes > 0.0), "bytes of safe mode: {gap:?}");
        cri.remove_pod(&pod)
    })
}
