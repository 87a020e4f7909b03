//! A worker dies between any two syscalls of an operation, and nobody notices.
//!
//! For each operation of containerd's, one fresh wrapper after the other: at the n-th stop of the worker's relay
//! thread it is killed, n = 1, 2, 3 … until the operation ends before the kill is reached. Each time the
//! operation must be answered once and rightly, the stand-in shim must have got every request once, every byte of
//! output must have passed in order, and the FIFOs must end. A doubled request is a failure even where containerd
//! would survive it.
//!
//! `cargo test --test standin_deaths -- --nocapture` prints where the deaths were.

use std::{cell::RefCell, time::Duration};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{
    api,
    protobuf::{Message, well_known_types::any::Any},
};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        connection::Connection,
        pod::{self, Fifos, Pod},
        wrapped::wrapped,
    },
    journal::Kind,
    procs,
    script::{Output, Script},
    tracer::{self, Armed, Edge, Outcome, name},
};

/// No operation has that many stops; a sweep that gets here is a loop.
const MOST: u32 = 3_000;
/// After so many failed deaths of one operation the rest would say the same.
const ENOUGH: usize = 4;

/// What a sweep hands to its operation: the means to place one death.
struct Trap<'a> {
    pod: &'a Pod,
    at: u32,
    /// The last stop, also where the operation failed afterwards.
    place: RefCell<Option<String>>,
}

impl Trap<'_> {
    /// Stops the worker where it waits for work.
    fn set(&self) -> Result<Armed> {
        tracer::arm(self.pod.worker()?.pid, self.at)
    }

    /// Stops the keeper where it waits, instead.
    fn set_for_keeper(&self) -> Result<Armed> {
        tracer::arm(self.pod.keeper()?.pid, self.at)
    }

    /// To be called once the operation is over, however it ended.
    fn spring(&self, armed: Armed) -> Result<Outcome> {
        let outcome = armed.finish()?;
        *self.place.borrow_mut() = outcome.stops.last().map(ToString::to_string);
        Ok(outcome)
    }
}

/// Sweeps one operation. `operation` prepares what it needs, sets the trap, lets the operation happen, and gives
/// the outcome together with the FIFOs that were opened and whatever connections it made.
fn sweep(what: &str, script: &Script, operation: impl Fn(&Pod, &Trap<'_>) -> Result<Done>) -> Result<()> {
    let mut failures = Vec::new();
    let mut deaths = Vec::new();
    for at in 1..MOST {
        let pod = wrapped(script)?;
        let trap = Trap { pod: &pod, at, place: RefCell::new(None) };
        let done = operation(&pod, &trap);
        let killed = done.as_ref().map_or(true, |d| d.outcome.killed);
        let place = trap.place.take();
        let judged = done.and_then(|done| done.judge(&pod, script));
        if let Err(e) = judged {
            failures.push(format!("{what}, death {at} at {place:?}: {e:#}"));
        }
        if !killed || failures.len() >= ENOUGH {
            break;
        }
        deaths.extend(place);
    }
    println!("{what}: {} deaths\n  {}", deaths.len(), deaths.join(", "));
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    ensure!(!deaths.is_empty(), "{what}: the operation never passed the worker");
    Ok(())
}

/// An operation that has been answered.
struct Done {
    outcome: Outcome,
    fifos: Option<Fifos>,
    /// Connections beside the pod's own.
    others: Vec<Connection>,
    /// Whether init was created, started and not yet deleted.
    alive: Alive,
}

/// How far init got.
#[derive(PartialEq, Eq)]
enum Alive {
    Nothing,
    Created,
    Started,
    Deleted,
    /// Shutdown was answered too.
    Finished,
}

impl Done {
    /// Lets the task live out its script and compares everything.
    fn judge(self, pod: &Pod, script: &Script) -> Result<()> {
        let c = &pod.connection;
        if self.alive == Alive::Created {
            c.call("Start", &pod::start("task", ""))?
                .message::<api::StartResponse>()
                .context("Start after")?;
        }
        if matches!(self.alive, Alive::Created | Alive::Started) {
            if script.until_killed {
                c.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>().context("Kill after")?;
            }
            let status = if script.until_killed { 137 } else { script.exit_status };
            let exit = c
                .call("Wait", &pod::wait("task", ""))?
                .message::<api::WaitResponse>()
                .context("Wait after")?;
            ensure!(exit.exit_status == status, "exit status {}", exit.exit_status);
        }
        if let Some(fifos) = &self.fifos {
            fifos.check(script)?;
        }
        match self.alive {
            Alive::Created | Alive::Started => pod.finish().context("Delete after")?,
            Alive::Finished => {}
            Alive::Nothing | Alive::Deleted => {
                pod.answers()?;
            }
        }
        let mut all = vec![c];
        all.extend(&self.others);
        exactly_once(&pod.lab, &all)
    }
}

/// Some lines on both streams, then an exit that can be told from others.
fn talker() -> Script {
    Script {
        stdout: Output::lines(40, 60),
        stderr: Output::lines(9, 200),
        exit_status: 3,
        ..Script::default()
    }
}

/// The same, but it stays until it is killed.
fn stayer() -> Script {
    Script { until_killed: true, ..talker() }
}

fn created(pod: &Pod) -> Result<Fifos> {
    let fifos = pod.fifos("task")?;
    pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
    Ok(fifos)
}

/// One request on the pod's connection, with the trap around it.
fn traced<M: Message, R: Message>(
    pod: &Pod,
    trap: &Trap<'_>,
    method: &str,
    request: &M,
) -> Result<(Outcome, R)> {
    let armed = trap.set()?;
    let stream = pod.connection.send(method, request)?;
    armed.go()?;
    let answer = pod.connection.answer(stream, PATIENCE).with_context(|| method.to_owned());
    let outcome = trap.spring(armed)?;
    Ok((outcome, answer?.message::<R>()?))
}

#[test]
fn create() -> Result<()> {
    sweep("Create", &talker(), |pod, trap| {
        let fifos = pod.fifos("task")?;
        let request = pod.create_request(&fifos);
        let (outcome, _) = traced::<_, api::CreateTaskResponse>(pod, trap, "Create", &request)?;
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Created })
    })
}

#[test]
fn create_that_needs_many_pieces() -> Result<()> {
    sweep("Create of 120 KB", &talker(), |pod, trap| {
        let fifos = pod.fifos("task")?;
        let mut request = pod.create_request(&fifos);
        request.options =
            Some(Any { type_url: "large".to_owned(), value: vec![7; 120_000], ..Default::default() }).into();
        let (outcome, _) = traced::<_, api::CreateTaskResponse>(pod, trap, "Create", &request)?;
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Created })
    })
}

#[test]
fn create_that_is_refused() -> Result<()> {
    let script = Script { create_refused: 5, ..Script::default() };
    sweep("Create refused", &script, |pod, trap| {
        let fifos = pod.fifos("task")?;
        let armed = trap.set()?;
        let stream = pod.connection.send("Create", &pod.create_request(&fifos))?;
        armed.go()?;
        let answer = pod.connection.answer(stream, PATIENCE);
        let outcome = trap.spring(armed)?;
        ensure!(answer?.code() == 5, "the refusal arrives as it was");
        // Both FIFOs end though nothing was ever written: the client's error path waits for that.
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Nothing })
    })
}

#[test]
fn start_and_the_output_that_follows() -> Result<()> {
    sweep("Start", &talker(), |pod, trap| {
        let fifos = created(pod)?;
        let (outcome, _) = traced::<_, api::StartResponse>(pod, trap, "Start", &pod::start("task", ""))?;
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Started })
    })
}

#[test]
fn output_through_the_tee() -> Result<()> {
    let stdout = Output { pause_us: 300, ..Output::lines(12, 60) };
    let script = Script { stdout, exit_status: 3, ..Script::default() };
    sweep("output", &script, |pod, trap| {
        let fifos = created(pod)?;
        let armed = trap.set()?;
        let stream = pod.connection.send("Start", &pod::start("task", ""))?;
        armed.go()?;
        // Up to the end of file: opening, moving and closing are all in it.
        let ended = fifos.stdout.to_end(PATIENCE).and_then(|_| fifos.stderr.to_end(PATIENCE));
        let outcome = trap.spring(armed)?;
        ended?;
        pod.connection.answer(stream, PATIENCE)?.message::<api::StartResponse>()?;
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Started })
    })
}

#[test]
fn wait_until_it_has_reached_the_shim() -> Result<()> {
    sweep("Wait, request", &stayer(), |pod, trap| {
        let fifos = created(pod)?;
        let armed = trap.set()?;
        let stream = pod.connection.send("Wait", &pod::wait("task", ""))?;
        armed.go()?;
        let there = || pod.lab.count("Wait", "task", "").ok().filter(|n| *n > 0);
        let came = procs::wait(PATIENCE, || "Wait reaches the shim".to_owned(), there);
        let outcome = trap.spring(armed)?;
        came?;
        pod.connection.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
        pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
        let exit = pod.connection.answer(stream, PATIENCE)?.message::<api::WaitResponse>()?;
        ensure!(exit.exit_status == 137, "exit status {}", exit.exit_status);
        pod.finish()?;
        fifos.stdout.to_end(PATIENCE)?;
        fifos.stderr.to_end(PATIENCE)?;
        Ok(Done { outcome, fifos: None, others: Vec::new(), alive: Alive::Finished })
    })
}

/// The exit comes while the Wait's answer has to be held: lines follow it, and the FIFOs stay open for a while.
#[test]
fn wait_whose_answer_is_held() -> Result<()> {
    let stdout = Output { pause_us: 3_000, lines_after_exit: 8, ..Output::lines(10, 60) };
    let script = Script { stdout, exit_status: 3, hold_open_ms: 20, ..Script::default() };
    sweep("Wait, held answer", &script, |pod, trap| {
        let fifos = created(pod)?;
        let wait = pod.connection.send("Wait", &pod::wait("task", ""))?;
        let armed = trap.set()?;
        let start = pod.connection.send("Start", &pod::start("task", ""))?;
        armed.go()?;
        let answer = pod.connection.answer(wait, PATIENCE).context("held Wait");
        // The reader may have taken them and not told yet; lines not held back would take 24 ms more.
        let read = fifos.stdout.wait_len(600, Duration::from_millis(10));
        let outcome = trap.spring(armed)?;
        ensure!(answer?.message::<api::WaitResponse>()?.exit_status == 3, "exit status");
        // Readers that close at the answer of Wait would have lost the rest.
        ensure!(read.is_ok(), "Wait was answered before the lines: {read:?}");
        pod.connection.answer(start, PATIENCE)?.message::<api::StartResponse>()?;
        fifos.check(&script)?;
        pod.finish()?;
        Ok(Done { outcome, fifos: None, others: Vec::new(), alive: Alive::Finished })
    })
}

#[test]
fn state() -> Result<()> {
    sweep("State", &talker(), |pod, trap| {
        let fifos = created(pod)?;
        let request = pod::state("task", "");
        let (outcome, state) = traced::<_, api::StateResponse>(pod, trap, "State", &request)?;
        let want = (fifos.stdout.path().display().to_string(), fifos.stderr.path().display().to_string());
        ensure!((state.stdout, state.stderr) == want, "State names containerd's own FIFOs");
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Created })
    })
}

#[test]
fn exec_with_a_large_spec() -> Result<()> {
    sweep("Exec of 20 KB", &stayer(), |pod, trap| {
        let fifos = pod.run()?;
        let script = Script { stdout: Output::lines(5, 50), exit_status: 9, ..Script::default() };
        let exec_fifos = pod.fifos("probe")?;
        let mut request = pod::exec_request("task", "probe", &script, &exec_fifos);
        request.spec.mut_or_insert_default().value.extend_from_slice(&[b' '; 20_000]);
        let (outcome, _) = traced::<_, api::Empty>(pod, trap, "Exec", &request)?;
        let c = &pod.connection;
        let wait = c.send("Wait", &pod::wait("task", "probe"))?;
        c.call("Start", &pod::start("task", "probe"))?.message::<api::StartResponse>()?;
        let exit = c.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
        ensure!(exit.exit_status == 9, "exec's exit status {}", exit.exit_status);
        exec_fifos.check(&script)?;
        c.call("Delete", &pod::delete("task", "probe"))?.message::<api::DeleteResponse>()?;
        // The killed init may have said all by now or not; only its order is judged by the others.
        fifos.stdout.wait_len(40 * 60, PATIENCE)?;
        fifos.stderr.wait_len(9 * 200, PATIENCE)?;
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Started })
    })
}

#[test]
fn kill() -> Result<()> {
    let script = Script::stayer();
    sweep("Kill", &script, |pod, trap| {
        let fifos = pod.run()?;
        // Not deadly: what matters is that it arrives once.
        let request = pod::kill("task", "", 1);
        let (outcome, _) = traced::<_, api::Empty>(pod, trap, "Kill", &request)?;
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Started })
    })
}

#[test]
fn delete() -> Result<()> {
    sweep("Delete", &talker(), |pod, trap| {
        let fifos = pod.run()?;
        ensure!(pod.wait()? == 3, "exit status");
        let request = pod::delete("task", "");
        let (outcome, deleted) = traced::<_, api::DeleteResponse>(pod, trap, "Delete", &request)?;
        ensure!(deleted.exit_status == 3, "Delete repeats the exit status");
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Deleted })
    })
}

#[test]
fn stats() -> Result<()> {
    let script = Script { stats_delay_ms: 10, ..stayer() };
    sweep("Stats", &script, |pod, trap| {
        let fifos = pod.run()?;
        fifos.stdout.wait_len(40 * 60, PATIENCE)?;
        fifos.stderr.wait_len(9 * 200, PATIENCE)?;
        let (outcome, stats) = traced::<_, api::StatsResponse>(pod, trap, "Stats", &pod::stats("task"))?;
        ensure!(stats.stats.type_url == "io.containerd.cgroups.v1.Metrics", "the sample arrives as it was");
        Ok(Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Started })
    })
}

/// A connection is made, and answers, while a death awaits who `set` names.
fn a_connection_comes(what: &str, set: impl Fn(&Trap<'_>) -> Result<Armed>) -> Result<()> {
    sweep(what, &talker(), |pod, trap| {
        let fifos = created(pod)?;
        let armed = set(trap)?;
        let other = pod.connect()?;
        let request = pod::connect("task");
        let stream = other.send("Connect", &request)?;
        armed.go()?;
        let answer = other.answer(stream, PATIENCE).context("on the new connection");
        let outcome = trap.spring(armed)?;
        answer?.message::<api::ConnectResponse>()?;
        Ok(Done { outcome, fifos: Some(fifos), others: vec![other], alive: Alive::Created })
    })
}

#[test]
fn a_new_connection() -> Result<()> {
    a_connection_comes("accept", |trap| trap.set())
}

/// The keeper dies around accepting: the connection, or the place in the queue, is not lost with it.
#[test]
fn a_new_connection_while_the_keeper_dies() -> Result<()> {
    a_connection_comes("accept, keeper", |trap| trap.set_for_keeper())
}

#[test]
fn a_connection_that_ends() -> Result<()> {
    sweep("close", &talker(), |pod, trap| {
        let fifos = created(pod)?;
        let other = pod.connect()?;
        let request = pod::connect("task");
        other.call("Connect", &request)?.message::<api::ConnectResponse>()?;
        let armed = trap.set()?;
        other.shutdown_write()?;
        armed.go()?;
        let ended = other.wait_end(PATIENCE).context("the wrapper hangs up too");
        let outcome = trap.spring(armed)?;
        ended?;
        let closed = |kind| move |e: &shimtap_tests::standin::journal::Entry| e.kind == kind;
        let one_left = || {
            let entries = pod.lab.requests().ok()?;
            entries.iter().any(closed(Kind::Close)).then_some(())
        };
        procs::wait(PATIENCE, || "the shim's side ends".to_owned(), one_left)?;
        Ok(Done { outcome, fifos: Some(fifos), others: vec![other], alive: Alive::Created })
    })
}

/// 2.x downgrades from v3 to v2 when Create is Unimplemented: the same Create comes again on another service.
#[test]
fn a_downgrade() -> Result<()> {
    sweep("downgrade", &talker(), |pod, trap| {
        let fifos = pod.fifos("task")?;
        let v3 = Connection::open(&pod.endpoint.path()?, "containerd.task.v3.Task")?;
        let armed = trap.set()?;
        let refused = v3.send("Create", &pod.create_request(&fifos))?;
        armed.go()?;
        let answer = v3.answer(refused, PATIENCE).context("v3");
        let outcome = trap.spring(armed)?;
        ensure!(answer?.code() == 12, "v3 is not implemented");
        // An unwrapped shim would not have touched the FIFOs: the second Create finds them as they were.
        pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
        Ok(Done { outcome, fifos: Some(fifos), others: vec![v3], alive: Alive::Created })
    })
}

/// The tracer must have stopped at what it is meant to stop at; an empty sweep would pass for a good one.
#[test]
fn the_trap_sees_the_moves_of_a_relay() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = created(&pod)?;
    let trap = Trap { pod: &pod, at: u32::MAX, place: RefCell::new(None) };
    let (outcome, _) = traced::<_, api::StateResponse>(&pod, &trap, "State", &pod::state("task", ""))?;
    let seen =
        |call: &str| outcome.stops.iter().filter(|s| name(s.call) == call && s.edge == Edge::Exit).count();
    ensure!(seen("splice") + seen("write") >= 2, "a frame each way: {:?}", outcome.stops);
    ensure!(!outcome.killed, "nobody dies");
    Done { outcome, fifos: Some(fifos), others: Vec::new(), alive: Alive::Created }.judge(&pod, &talker())
}
