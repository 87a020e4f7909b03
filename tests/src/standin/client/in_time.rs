//! What containerd does while something hangs: execs, new connections, questions, an exit and a removal, each answered in
//! time; and a look-out for a second worker beside the first.
//!
//! It hangs nothing itself: who calls it does.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use containerd_shim_protos::{api, protobuf::Message};

use super::{
    PATIENCE,
    audit::exactly_once,
    connection::Connection,
    pod::{self, Fifos, Pod},
};
use crate::standin::{
    procs,
    script::{Output, Script},
};

/// After so long a hung process is found out, by a machine that has the time: a worker gives a sign every 3.5 s and has 2 s more.
pub const LIMIT: Duration = Duration::from_secs(6);
/// What an answer may take while something hangs, on a machine that has not.
pub const LATE: Duration = Duration::from_secs(15);

/// Output by which it is seen that the pod goes on, in bytes.
const SOME: usize = 4000;

/// A request and its answer, which must come within the limit.
///
/// # Errors
/// It does not, or it is an error.
pub fn prompt<M: Message, R: Message>(c: &Connection, method: &str, request: &M) -> Result<R> {
    let began = Instant::now();
    let stream = c.send(method, request)?;
    let answer = c.answer(stream, PATIENCE).with_context(|| method.to_owned())?;
    ensure!(began.elapsed() <= LATE, "{method} was answered after {:?}", began.elapsed());
    answer.message().with_context(|| method.to_owned())
}

/// An exec from its request to its removal, each step in time.
///
/// # Errors
/// One is not, or the exec is not as it should be.
pub fn exec(pod: &Pod, c: &Connection, id: &str) -> Result<()> {
    let script = Script { stdout: Output::lines(20, 77), exit_status: 7, ..Script::default() };
    let fifos = pod.fifos(id)?;
    let request = pod::exec_request(&pod.id, id, &script, &fifos);
    prompt::<_, api::Empty>(c, "Exec", &request)?;
    let wait = c.send("Wait", &pod::wait(&pod.id, id))?;
    prompt::<_, api::StartResponse>(c, "Start", &pod::start(&pod.id, id))?;
    let exit = c.answer(wait, LATE).context("Wait of the exec")?.message::<api::WaitResponse>()?;
    ensure!(exit.exit_status == 7, "exit status {}", exit.exit_status);
    fifos.check(&script).with_context(|| id.to_owned())?;
    prompt::<_, api::DeleteResponse>(c, "Delete", &pod::delete(&pod.id, id)).map(drop)
}

/// A connection that is made now and asks once.
///
/// # Errors
/// Nobody answered in time.
pub fn knock(pod: &Pod) -> Result<Connection> {
    let c = pod.connect()?;
    prompt::<_, api::ConnectResponse>(&c, "Connect", &pod::connect(&pod.id)).context("a new connection")?;
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

/// Runs a pod whose container writes until it is killed, and does all that containerd does while something hangs.
///
/// # Errors
/// As [`goes_through`].
pub fn through<T>(pod: &Pod, hang: impl FnOnce(&Pod) -> Result<T> + Send) -> Result<()> {
    let fifos = pod.run()?;
    fifos.stdout.wait_len(SOME, PATIENCE)?;
    goes_through(pod, &fifos, hang)
}

/// Hangs something once an exec has passed, then does all that containerd does with a pod that runs, to the end.
///
/// # Errors
/// An answer came too late or was wrong, output stood still, a request arrived twice or never, or there were two workers.
pub fn goes_through<T>(pod: &Pod, fifos: &Fifos, hang: impl FnOnce(&Pod) -> Result<T> + Send) -> Result<()> {
    let over = AtomicBool::new(false);
    let others = thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| never_two(pod, &over));
        let others = to_the_end(pod, fifos, hang);
        over.store(true, Ordering::Relaxed);
        watcher.join().map_err(|_| anyhow!("the watcher panicked"))??;
        others
    })?;
    let mut all = vec![&pod.connection];
    all.extend(&others);
    exactly_once(&pod.lab, &all)
}

fn to_the_end<T>(pod: &Pod, fifos: &Fifos, hang: impl FnOnce(&Pod) -> Result<T>) -> Result<Vec<Connection>> {
    let (c, id) = (&pod.connection, &pod.id);
    let aside = knock(pod)?;
    exec(pod, c, "before")?;
    let held = hang(pod)?;
    // All at once: nobody waits for somebody else to find it out.
    let (asked, execed, knocked) = thread::scope(|s| {
        let execed = s.spawn(|| exec(pod, &aside, "during"));
        let knocked = s.spawn(|| knock(pod));
        let state = prompt::<_, api::StateResponse>(c, "State", &pod::state(id, ""));
        (state, execed.join(), knocked.join())
    });
    let panicked = |_| anyhow!("a thread panicked");
    asked?;
    execed.map_err(panicked)??;
    let fresh = knocked.map_err(panicked)??;
    let before = fifos.stdout.len_so_far();
    fifos.stdout.wait_len(before + SOME, PATIENCE).context("output goes on")?;
    prompt::<_, api::Empty>(c, "Kill", &pod::kill(id, "", 9))?;
    let exit = prompt::<_, api::WaitResponse>(c, "Wait", &pod::wait(id, ""))?;
    ensure!(exit.exit_status == 137, "exit status {}", exit.exit_status);
    fifos.stdout.to_end(PATIENCE).context("containerd's FIFO ends")?;
    drop(held);
    pod.finish()?;
    Ok(vec![aside, fresh])
}
