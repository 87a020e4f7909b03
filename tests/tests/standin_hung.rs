//! Hung is dead: a worker, its link thread or a keeper that stands still or spins is found out and replaced, and whoever
//! asks meanwhile gets an answer.
//!
//! Nothing in the wrapper helps to make it hang: processes are stopped, threads are held by a tracer or sent into
//! an endless loop (`standin::stall`). Each time an exec, a new connection, an exit and the removal are under way, and a
//! second worker beside the first is looked for all the time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shimtap_tests::rig::{eventually, patience::throughout};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        in_time::{LATE, LIMIT, exec, knock, prompt, through},
        lab::Lab,
        pod::{self, Fifos, Pod},
        wrapped::{wrapped, wrapped_in},
    },
    procs,
    script::{Output, Script},
    stall::{self, Held},
};

/// A stuck link thread is given its longest sleep, and five seconds.
const LINK_LIMIT: Duration = Duration::from_secs(60);

/// Writes all the time, stays until it is killed.
fn talker() -> Script {
    let stdout = Output { pause_us: 500, ..Output::lines(10_000_000, 80) };
    Script { stdout, until_killed: true, ..Script::default() }
}

/// A process that is ended and, unless it was, let go again: a stopped one must not outlive its test.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // Gone is what it should be.
        let _gone = kill(self.0, Signal::SIGCONT);
    }
}

fn stop(pid: Pid) -> Result<Stopped> {
    kill(pid, Signal::SIGSTOP).with_context(|| format!("stopping {pid}"))?;
    Ok(Stopped(pid))
}

#[test]
fn a_worker_that_is_stopped() -> Result<()> {
    let pod = wrapped(&talker())?;
    through(&pod, |pod| stop(pod.worker()?.pid))
}

#[test]
fn a_worker_that_spins() -> Result<()> {
    let pod = wrapped(&talker())?;
    through(&pod, |pod| stall::spin(pod.worker()?.pid))
}

#[test]
fn a_keeper_that_is_stopped() -> Result<()> {
    let pod = wrapped(&talker())?;
    through(&pod, |pod| stop(pod.keeper()?.pid))
}

#[test]
fn a_keeper_that_spins() -> Result<()> {
    let pod = wrapped(&talker())?;
    through(&pod, |pod| stall::spin(pod.keeper()?.pid))
}

/// One hangs, and the other one dies before that is found out: nobody is left to act, as with a shim that is stopped. Nothing ends and
/// nothing is lost: where the one that hung goes on, it replaces the other.
fn the_other_one_dies(hung: Pid, pod: &Pod, fifos: &Fifos, dies: Pid) -> Result<()> {
    let stopped = stop(hung)?;
    procs::kill(dies)?;
    let asked = pod.connection.send("State", &pod::state("task", ""))?;
    ensure!(
        pod.connection.answer(asked, LIMIT).is_err(),
        "somebody has answered: the docs say that nobody can"
    );
    ensure!(pod.connection.ended().is_none(), "the connection has ended");
    drop(stopped);
    pod.connection.answer(asked, PATIENCE)?.message::<api::StateResponse>()?;
    let before = fifos.stdout.len_so_far();
    fifos.stdout.wait_len(before + 4000, PATIENCE).context("output goes on")?;
    let _reached = knock(pod)?;
    pod.end()
}

#[test]
fn a_worker_that_dies_while_its_keeper_is_stopped() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    the_other_one_dies(pod.keeper()?.pid, &pod, &fifos, pod.worker()?.pid)
}

#[test]
fn a_keeper_that_dies_while_its_worker_is_stopped() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    the_other_one_dies(pod.worker()?.pid, &pod, &fifos, pod.keeper()?.pid)
}

/// Each new connection waits for the worker too; the next one must not give it more time.
#[test]
fn a_worker_that_is_stopped_while_others_keep_connecting() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(4000, PATIENCE)?;
    let (keeper, worker) = (pod.keeper()?, pod.worker()?);
    let _stopped = stop(worker.pid)?;
    let began = Instant::now();
    let next = || procs::worker(keeper.pid).ok().filter(|next| next.pid != worker.pid);
    let mut waiting = Vec::new();
    loop {
        let c = pod.connect()?;
        let stream = c.send("Connect", &pod::connect("task"))?;
        waiting.push((c, stream));
        // The pace of those who connect.
        if procs::wait(Duration::from_millis(500), || "another worker".to_owned(), next).is_ok() {
            break;
        }
        ensure!(began.elapsed() < LATE, "{} connections came, and it still hangs", waiting.len());
    }
    for (c, stream) in &waiting {
        c.answer(*stream, PATIENCE)?.message::<api::ConnectResponse>().context("who had to wait")?;
    }
    let before = fifos.stdout.len_so_far();
    fifos.stdout.wait_len(before + 4000, PATIENCE).context("output goes on")
}

/// The removal is what needs the keeper: the end of containerd's FIFO is its last duplicate's.
#[test]
fn a_keeper_that_is_stopped_just_before_the_exit() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(4000, PATIENCE)?;
    let _stopped = stop(pod.keeper()?.pid)?;
    prompt::<_, api::Empty>(&pod.connection, "Kill", &pod::kill("task", "", 9))?;
    prompt::<_, api::WaitResponse>(&pod.connection, "Wait", &pod::wait("task", ""))?;
    fifos.stdout.to_end(LATE).context("containerd's FIFO ends")?;
    prompt::<_, api::DeleteResponse>(&pod.connection, "Delete", &pod::delete("task", ""))?;
    exactly_once(&pod.lab, &[&pod.connection])
}

/// A keeper that nobody needs is found out too: were it not, the worker's death would be the pod's.
#[test]
fn a_keeper_that_is_stopped_while_all_is_quiet() -> Result<()> {
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let before = pod.keeper()?;
    let worker = pod.worker()?;
    let _stopped = stop(before.pid)?;
    pod.next_keeper(before.pid)?;
    ensure!(worker.alive(), "the worker is as it was");
    procs::kill(worker.pid)?;
    pod.answers()
}

/// A pod that has ended, and its keeper, which is stopped in the second that it has for a collector; none where that was over.
fn stopped_as_its_pod_ends() -> Result<Option<(Pod, Stopped)>> {
    let pod = wrapped_in(&Script { until_killed: true, ..Script::default() }, |lab| lab.without_spool())?;
    let _fifos = pod.run()?;
    prompt::<_, api::Empty>(&pod.connection, "Kill", &pod::kill("task", "", 9))?;
    prompt::<_, api::WaitResponse>(&pod.connection, "Wait", &pod::wait("task", ""))?;
    prompt::<_, api::DeleteResponse>(&pod.connection, "Delete", &pod::delete("task", ""))?;
    let keeper = pod.keeper()?;
    let down = api::ShutdownRequest { id: pod.id.clone(), ..Default::default() };
    pod.connection.send("Shutdown", &down)?;
    let ended = || pod.connection.ended();
    procs::wait(PATIENCE, || "the connection to end".to_owned(), ended)?;
    // What the shim's end needs of the keeper is done by then.
    throughout(Duration::from_millis(300), "a pause", || Ok(true))?;
    Ok(stop(keeper.pid).ok().filter(|_| keeper.alive()).map(|stopped| (pod, stopped)))
}

/// Nobody needs the keeper any more but for its own end: it must not stay behind, stopped or spinning, with all it holds.
#[test]
fn a_keeper_that_is_stopped_as_its_pod_ends() -> Result<()> {
    // On a busy machine that second may be over.
    let (pod, _stopped) = eventually(PATIENCE, "a keeper that has yet to end", stopped_as_its_pod_ends)?;
    let gone = || procs::of(pod.lab.namespace()).ok().filter(Vec::is_empty);
    procs::wait(PATIENCE, || format!("all to leave: {:?}", procs::of(pod.lab.namespace())), gone)?;
    let files = shimtap_tests::rig::leftovers::live_files(&pod.lab.run_dir())?;
    ensure!(files.is_empty(), "files are left: {files:?}");
    Ok(())
}

/// Each with its own settings, since what a link thread is given follows the stats interval.
fn with_link(hang: impl FnOnce(Pid) -> Result<Option<Held>> + Send) -> Result<()> {
    let brisk = |lab: &mut Lab| lab.reconfigure("[start]", "[stats]\ninterval_ms = 1000\n[start]");
    let pod = wrapped_in(&talker(), brisk)?;
    let before = pod.worker()?;
    let link = || stall::threads(before.pid, "tap-link").ok()?.pop();
    let link = procs::wait(PATIENCE, || "the link thread".to_owned(), link)?;
    let began = Instant::now();
    through(&pod, |pod| {
        let held = hang(link)?;
        // Relay and tee do not feel it, and then there is another worker.
        exec(pod, &pod.connection, "beside")?;
        ensure!(before.alive() || began.elapsed() > LIMIT, "the worker died at once");
        let next = || procs::worker(pod.keeper().ok()?.pid).ok().filter(|w| w.pid != before.pid);
        procs::wait(LINK_LIMIT, || "another worker".to_owned(), next)?;
        Ok(held)
    })
}

#[test]
fn a_link_thread_that_is_held() -> Result<()> {
    with_link(|link| stall::hold(link).map(Some))
}

#[test]
fn a_link_thread_that_spins() -> Result<()> {
    with_link(|link| stall::spin(link).map(|()| None))
}

/// What a hung process costs must not become the price of a healthy one.
#[test]
fn a_quiet_pod_is_left_alone() -> Result<()> {
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let (keeper, worker) = (pod.keeper()?, pod.worker()?);
    let switches = |pid: Pid| -> Result<u64> {
        let path = format!("/proc/{pid}/task/{pid}/status");
        let status = std::fs::read_to_string(&path).context(path)?;
        let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        Ok(line.context("voluntary_ctxt_switches")?.trim().parse()?)
    };
    // What the start left to do is done when the worker has slept for a whole beat.
    throughout(Duration::from_secs(4), "a pause", || Ok(true))?;
    let began = Instant::now();
    let before = (switches(keeper.pid)?, switches(worker.pid)?);
    throughout(Duration::from_secs(12), "quiet", || Ok(worker.alive() && keeper.alive()))?;
    let after = (switches(keeper.pid)?, switches(worker.pid)?);
    let span = began.elapsed();
    ensure!(after.0 == before.0, "the keeper was woken {} times", after.0 - before.0);
    // A sign of life every 3.5 s.
    let most = span.as_secs() * 2 / 7 + 1;
    ensure!(after.1 - before.1 <= most, "the worker was woken {} times in {span:?}", after.1 - before.1);
    pod.answers()
}
