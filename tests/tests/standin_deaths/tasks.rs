//! What is asked of a task, and its output.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{
    api,
    protobuf::{Message, well_known_types::any::Any},
};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        pod::{self, Pod},
        wrapped::wrapped_in,
    },
    journal::Kind,
    procs,
    script::{Output, Script},
    tracer::Outcome,
};

use super::trap::{Alive, Done, Sweep, Trap, created, stayer, talker, traced, traced_to_the_end};

/// A Create with FIFOs.
pub fn creates(sweep: Sweep<'_>) -> Result<()> {
    sweep.run(&talker(), |pod, trap| {
        let fifos = pod.fifos("task")?;
        let request = pod.create_request(&fifos);
        let (outcome, _) = traced::<_, api::CreateTaskResponse>(pod, trap, "Create", &request)?;
        Ok(Done::of_init(outcome, fifos, Alive::Created))
    })
}

#[test]
fn create() -> Result<()> {
    creates(Sweep::of_worker("Create"))
}

/// The one death that there is means safe mode, in which nothing is looked into: a Create that was changed by then goes to the shim as
/// it is, and what the shim opens is still ours; one that was not is none of ours. Either way both outputs come, and end.
#[test]
fn create_at_the_beginning_of_safe_mode() -> Result<()> {
    let faulty = || wrapped_in(&talker(), |lab| lab.reconfigure("deaths = 0", "deaths = 1"));
    Sweep::of_worker("Create, safe mode").a_third().run_in(&talker(), faulty, |pod, trap| {
        let fifos = pod.fifos("task")?;
        let request = pod.create_request(&fifos);
        let (outcome, _) = traced::<_, api::CreateTaskResponse>(pod, trap, "Create", &request)?;
        Ok(Done::of_init(outcome, fifos, Alive::Created))
    })
}

#[test]
fn create_that_needs_many_pieces() -> Result<()> {
    Sweep::of_worker("Create of 120 KB").run(&talker(), |pod, trap| {
        let fifos = pod.fifos("task")?;
        let mut request = pod.create_request(&fifos);
        request.options =
            Some(Any { type_url: "large".to_owned(), value: vec![7; 120_000], ..Default::default() }).into();
        let (outcome, _) = traced::<_, api::CreateTaskResponse>(pod, trap, "Create", &request)?;
        Ok(Done::of_init(outcome, fifos, Alive::Created))
    })
}

#[test]
fn create_that_is_refused() -> Result<()> {
    let script = Script { create_refused: 5, ..Script::default() };
    Sweep::of_worker("Create refused").run(&script, |pod, trap| {
        let fifos = pod.fifos("task")?;
        let armed = trap.set()?;
        let stream = pod.connection.send("Create", &pod.create_request(&fifos))?;
        armed.go()?;
        let answer = pod.connection.answer(stream, PATIENCE);
        let outcome = trap.spring(armed)?;
        ensure!(answer?.code() == 5, "the refusal arrives as it was");
        // Both FIFOs end though nothing was ever written: the client's error path waits for that.
        Ok(Done::of_init(outcome, fifos, Alive::Nothing))
    })
}

#[test]
fn start_and_the_output_that_follows() -> Result<()> {
    Sweep::of_worker("Start").run(&talker(), |pod, trap| {
        let fifos = created(pod)?;
        let (outcome, _) = traced::<_, api::StartResponse>(pod, trap, "Start", &pod::start("task", ""))?;
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}

/// Lines that come one by one, slowly enough that each is a move of its own.
pub fn dripper() -> Script {
    let stdout = Output { pause_us: 300, ..Output::lines(12, 60) };
    Script { stdout, exit_status: 3, ..Script::default() }
}

/// Output from the first byte to the end of file.
pub fn output_flows(sweep: Sweep<'_>) -> Result<()> {
    sweep.run(&dripper(), |pod, trap| {
        let fifos = created(pod)?;
        let outcome = traced_to_the_end(pod, trap, &fifos)?;
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}

#[test]
fn output_through_the_tee() -> Result<()> {
    output_flows(Sweep::of_worker("output"))
}

/// Sends a Wait with the trap around it, until it has reached the shim; gives its stream.
pub fn wait_reaches_the_shim(pod: &Pod, trap: &Trap<'_>, exec_id: &str) -> Result<(Outcome, u32)> {
    let armed = trap.set()?;
    let stream = pod.connection.send("Wait", &pod::wait("task", exec_id))?;
    armed.go()?;
    let there = || pod.lab.count("Wait", "task", exec_id).ok().filter(|n| *n > 0);
    let came = procs::wait(PATIENCE, || "Wait reaches the shim".to_owned(), there);
    let outcome = trap.spring(armed)?;
    came?;
    Ok((outcome, stream))
}

#[test]
fn wait_until_it_has_reached_the_shim() -> Result<()> {
    Sweep::of_worker("Wait, request").run(&stayer(), |pod, trap| {
        let fifos = created(pod)?;
        let (outcome, stream) = wait_reaches_the_shim(pod, trap, "")?;
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

/// `HOLD_MAX_NS` of the wrapper.
const HELD_MOST: Duration = Duration::from_secs(2);
/// `QUIET_NS` of the wrapper: who writes nothing for so long after the exit is not waited for.
const QUIET: Duration = Duration::from_millis(100);

/// The longest time for which the task's process wrote nothing, by its own clock.
fn longest_pause(pod: &Pod) -> Result<Duration> {
    let entries = pod.lab.requests()?;
    let wrote = entries.iter().find(|entry| entry.kind == Kind::Wrote).context("it has written all")?;
    Ok(Duration::from_micros(wrote.pause_us))
}

/// The exit comes while the Wait's answer has to be held: lines follow it, and the FIFOs stay open for a while.
#[test]
fn wait_whose_answer_is_held() -> Result<()> {
    let stdout = Output { pause_us: 3_000, lines_after_exit: 8, ..Output::lines(10, 60) };
    let script = Script { stdout, exit_status: 3, hold_open_ms: 20, ..Script::default() };
    Sweep::of_worker("Wait, held answer").run(&script, |pod, trap| {
        let fifos = created(pod)?;
        let wait = pod.connection.send("Wait", &pod::wait("task", ""))?;
        let armed = trap.set()?;
        let start = pod.connection.send("Start", &pod::start("task", ""))?;
        let began = Instant::now();
        armed.go()?;
        let answer = pod.connection.answer(wait, PATIENCE).context("held Wait");
        let (took, read) = (began.elapsed(), fifos.stdout.len_so_far());
        let outcome = trap.spring(armed)?;
        ensure!(answer?.message::<api::WaitResponse>()?.exit_status == 3, "exit status");
        pod.connection.answer(start, PATIENCE)?.message::<api::StartResponse>()?;
        fifos.check(&script)?;
        // Readers that close at the answer of Wait would have lost the rest. A machine that takes as long as a Wait may be held for
        // what takes 44 ms, or lets the writer stand between two lines for as long as silence may last, shows nothing.
        let pause = longest_pause(pod)?;
        ensure!(
            read >= 600 || took >= HELD_MOST || pause >= QUIET,
            "Wait was answered after {took:?} and {read} bytes of 600, which came without a pause above {pause:?}"
        );
        pod.finish()?;
        Ok(Done { outcome, fifos: None, others: Vec::new(), alive: Alive::Finished })
    })
}

#[test]
fn state() -> Result<()> {
    Sweep::of_worker("State").run(&talker(), |pod, trap| {
        let fifos = created(pod)?;
        let request = pod::state("task", "");
        let (outcome, state) = traced::<_, api::StateResponse>(pod, trap, "State", &request)?;
        let want = (fifos.stdout.path().display().to_string(), fifos.stderr.path().display().to_string());
        ensure!((state.stdout, state.stderr) == want, "State names containerd's own FIFOs");
        Ok(Done::of_init(outcome, fifos, Alive::Created))
    })
}

/// What a running task is asked and answers with nothing: it must arrive once, and the task goes on. All of these take the same
/// way through the relay: of one each stop is tried, of the others a third.
fn passes<M: Message>(method: &str, request: &M) -> Result<()> {
    answered_with_nothing(Sweep::of_worker(method).a_third(), method, request)
}

fn answered_with_nothing<M: Message>(sweep: Sweep<'_>, method: &str, request: &M) -> Result<()> {
    sweep.run(&Script::stayer(), |pod, trap| {
        let fifos = pod.run()?;
        let (outcome, _) = traced::<_, api::Empty>(pod, trap, method, request)?;
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}

fn task() -> String {
    "task".to_owned()
}

/// Not a deadly one.
#[test]
fn kill() -> Result<()> {
    answered_with_nothing(Sweep::of_worker("Kill"), "Kill", &pod::kill("task", "", 1))
}

#[test]
fn pause() -> Result<()> {
    passes("Pause", &api::PauseRequest { id: task(), ..Default::default() })
}

#[test]
fn resume() -> Result<()> {
    passes("Resume", &api::ResumeRequest { id: task(), ..Default::default() })
}

#[test]
fn update() -> Result<()> {
    let resources = Some(Any { value: vec![7; 2_000], ..Default::default() }).into();
    passes("Update", &api::UpdateTaskRequest { id: task(), resources, ..Default::default() })
}

#[test]
fn close_io() -> Result<()> {
    passes("CloseIO", &api::CloseIORequest { id: task(), stdin: true, ..Default::default() })
}

#[test]
fn resize_pty() -> Result<()> {
    passes("ResizePty", &api::ResizePtyRequest { id: task(), width: 80, height: 24, ..Default::default() })
}

/// One that the shim does not follow, since there is a task; the one that it follows is `standin_ends`'.
#[test]
fn shutdown() -> Result<()> {
    passes("Shutdown", &api::ShutdownRequest { id: task(), ..Default::default() })
}

/// A Delete of a task that has ended.
pub fn deletes(sweep: Sweep<'_>) -> Result<()> {
    sweep.run(&talker(), |pod, trap| {
        let fifos = pod.run()?;
        ensure!(pod.wait()? == 3, "exit status");
        let request = pod::delete("task", "");
        let (outcome, deleted) = traced::<_, api::DeleteResponse>(pod, trap, "Delete", &request)?;
        ensure!(deleted.exit_status == 3, "Delete repeats the exit status");
        Ok(Done::of_init(outcome, fifos, Alive::Deleted))
    })
}

#[test]
fn delete() -> Result<()> {
    deletes(Sweep::of_worker("Delete"))
}
