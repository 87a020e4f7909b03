//! Hung is dead: a worker, its link thread or a keeper that stands still or spins is found out and replaced, and whoever
//! asks meanwhile gets an answer.
//!
//! Nothing in the wrapper helps to make it hang: processes are stopped, threads are held by a tracer or sent into
//! an endless loop (`standin::stall`). Each time an exec, a new connection, an exit and the removal are under way, and a
//! second worker beside the first is looked for all the time.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use containerd_shim_protos::{api, protobuf::Message};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        connection::Connection,
        lab::Lab,
        pod::{self, Pod},
        wrapped::{wrapped, wrapped_in},
    },
    procs,
    script::{Output, Script},
    stall::{self, Held},
};

/// What an answer may take while something hangs: a worker gives a sign every 3.5 s and has 2 s more.
const LIMIT: Duration = Duration::from_secs(6);
/// A stuck link thread is given its longest sleep, and five seconds.
const LINK_LIMIT: Duration = Duration::from_secs(30);

/// Writes all the time, stays until it is killed.
fn talker() -> Script {
    let stdout = Output { pause_us: 500, ..Output::lines(10_000_000, 80) };
    Script { stdout, until_killed: true, ..Script::default() }
}

/// A request and its answer, which must come within the limit.
fn prompt<M: Message, R: Message>(c: &Connection, method: &str, request: &M) -> Result<R> {
    let began = Instant::now();
    let stream = c.send(method, request)?;
    let answer = c.answer(stream, PATIENCE).with_context(|| method.to_owned())?;
    ensure!(began.elapsed() <= LIMIT, "{method} was answered after {:?}", began.elapsed());
    answer.message().with_context(|| method.to_owned())
}

/// An exec from its request to its removal, each step in time.
fn exec(pod: &Pod, c: &Connection, id: &str) -> Result<()> {
    let script = Script { stdout: Output::lines(20, 77), exit_status: 7, ..Script::default() };
    let fifos = pod.fifos(id)?;
    let request = pod::exec_request("task", id, &script, &fifos);
    prompt::<_, api::Empty>(c, "Exec", &request)?;
    let wait = c.send("Wait", &pod::wait("task", id))?;
    prompt::<_, api::StartResponse>(c, "Start", &pod::start("task", id))?;
    let exit = c.answer(wait, LIMIT).context("Wait of the exec")?.message::<api::WaitResponse>()?;
    ensure!(exit.exit_status == 7, "exit status {}", exit.exit_status);
    fifos.check(&script).with_context(|| id.to_owned())?;
    prompt::<_, api::DeleteResponse>(c, "Delete", &pod::delete("task", id)).map(drop)
}

/// A connection that is made now and asks once.
fn knock(pod: &Pod) -> Result<Connection> {
    let c = pod.connect()?;
    prompt::<_, api::ConnectResponse>(&c, "Connect", &pod::connect("task")).context("a new connection")?;
    Ok(c)
}

/// Looks for a second worker until it is over.
fn never_two(pod: &Pod, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let workers = procs::workers(pod.lab.namespace())?;
        ensure!(workers.len() <= 1, "two workers at once: {workers:?}");
        thread::yield_now();
    }
    Ok(())
}

/// Hangs something once an exec has passed, then does all that containerd does, to the end.
fn through<T>(pod: &Pod, hang: impl FnOnce(&Pod) -> Result<T> + Send) -> Result<()> {
    let fifos = pod.run()?;
    fifos.stdout.wait_len(4000, PATIENCE)?;
    let over = AtomicBool::new(false);
    let others = thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| never_two(pod, &over));
        let body = || -> Result<_> {
            let aside = knock(pod)?;
            exec(pod, &pod.connection, "before")?;
            let held = hang(pod)?;
            // All at once: nobody waits for somebody else to find it out.
            let (asked, execed, knocked) = thread::scope(|s| {
                let execed = s.spawn(|| exec(pod, &aside, "during"));
                let knocked = s.spawn(|| knock(pod));
                let state =
                    prompt::<_, api::StateResponse>(&pod.connection, "State", &pod::state("task", ""));
                (state, execed.join(), knocked.join())
            });
            let panicked = |_| anyhow!("a thread panicked");
            asked?;
            execed.map_err(panicked)??;
            let fresh = knocked.map_err(panicked)??;
            let before = fifos.stdout.len_so_far();
            fifos.stdout.wait_len(before + 4000, PATIENCE).context("output goes on")?;
            prompt::<_, api::Empty>(&pod.connection, "Kill", &pod::kill("task", "", 9))?;
            let exit = prompt::<_, api::WaitResponse>(&pod.connection, "Wait", &pod::wait("task", ""))?;
            ensure!(exit.exit_status == 137, "exit status {}", exit.exit_status);
            fifos.stdout.to_end(PATIENCE).context("containerd's FIFO ends")?;
            drop(held);
            pod.finish()?;
            Ok(vec![aside, fresh])
        };
        let others = body();
        over.store(true, Ordering::Relaxed);
        watcher.join().map_err(|_| anyhow!("the watcher panicked"))??;
        others
    })?;
    let mut all = vec![&pod.connection];
    all.extend(&others);
    exactly_once(&pod.lab, &all)
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

/// The removal is what needs the keeper: the end of containerd's FIFO is its last duplicate's.
#[test]
fn a_keeper_that_is_stopped_just_before_the_exit() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(4000, PATIENCE)?;
    let _stopped = stop(pod.keeper()?.pid)?;
    prompt::<_, api::Empty>(&pod.connection, "Kill", &pod::kill("task", "", 9))?;
    prompt::<_, api::WaitResponse>(&pod.connection, "Wait", &pod::wait("task", ""))?;
    fifos.stdout.to_end(LIMIT).context("containerd's FIFO ends")?;
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
    let next = || pod.keeper().ok().filter(|k| k.pid != before.pid);
    procs::wait(PATIENCE, || "another keeper".to_owned(), next)?;
    ensure!(worker.alive(), "the worker is as it was");
    procs::kill(worker.pid)?;
    pod.answers()
}

/// Nobody needs the keeper any more but for its own end: it must not stay behind, stopped or spinning, with all it holds.
#[test]
fn a_keeper_that_is_stopped_as_its_pod_ends() -> Result<()> {
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
    // What the shim's end needs of the keeper is done by then; what is left to wait for is the collector, for a second.
    shimtap_tests::rig::patience::throughout(Duration::from_millis(300), "a pause", || Ok(keeper.alive()))?;
    let _stopped = stop(keeper.pid)?;
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
    let span = Duration::from_secs(12);
    shimtap_tests::rig::patience::throughout(Duration::from_secs(4), "a pause", || Ok(true))?;
    let before = (switches(keeper.pid)?, switches(worker.pid)?);
    shimtap_tests::rig::patience::throughout(span, "quiet", || Ok(worker.alive() && keeper.alive()))?;
    let after = (switches(keeper.pid)?, switches(worker.pid)?);
    ensure!(after.0 == before.0, "the keeper was woken {} times", after.0 - before.0);
    ensure!(after.1 - before.1 <= 4, "the worker was woken {} times in {span:?}", after.1 - before.1);
    pod.answers()
}
