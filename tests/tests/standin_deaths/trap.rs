//! The means of a sweep: one operation again and again, each time with a death at its next stop, and the judgement of what
//! came of it.
//!
//! An operation that fails is a finding, never a reason to go on less far: a sweep names its failures when it has enough of them.

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{api, protobuf::Message};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        connection::Connection,
        pod::{self, Fifos, Pod},
        wrapped::wrapped,
    },
    procs,
    script::{Output, Script},
    tracer::{self, Armed, Edge, Outcome, Stop, Whose, name},
};

/// No operation has that many stops; a sweep that gets here is a loop.
const MOST: u32 = 3_000;
/// After so many failed deaths of one operation the rest would say the same.
const ENOUGH: usize = 4;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Worker,
    Keeper,
    /// The first child that the keeper makes beside itself, or the keeper while that stands at a call.
    Beside(Whose),
}

/// One operation's deaths.
#[derive(Clone, Copy, Debug)]
pub struct Sweep<'a> {
    what: &'a str,
    victim: Victim,
    first: u32,
    step: usize,
}

impl<'a> Sweep<'a> {
    /// The worker dies, at each stop.
    pub fn of_worker(what: &'a str) -> Self {
        Self { what, victim: Victim::Worker, first: 1, step: 1 }
    }

    /// The keeper dies, at each stop.
    pub fn of_keeper(what: &'a str) -> Self {
        Self { victim: Victim::Keeper, ..Self::of_worker(what) }
    }

    /// One of the two, at each stop of the child that the keeper makes beside itself (docs/adr/0008).
    pub fn of_child_beside(what: &'a str, whose: Whose) -> Self {
        Self { victim: Victim::Beside(whose), ..Self::of_worker(what) }
    }

    /// Not before stop number `first`.
    pub fn from(self, first: u32) -> Self {
        Self { first, ..self }
    }

    /// The stops of an operation that nobody disturbs.
    pub fn stops(
        self,
        script: &Script,
        operation: impl FnOnce(&Pod, &Trap<'_>) -> Result<Outcome>,
    ) -> Result<Vec<Stop>> {
        let pod = wrapped(script)?;
        let trap = Trap { pod: &pod, victim: self.victim, at: u32::MAX, place: RefCell::new(None) };
        Ok(operation(&pod, &trap)?.stops)
    }

    /// At a third of the stops, another one from run to run: for operations all of whose deaths were seen to be survived (339
    /// of a Create with a logger, 172 while its output flows, 50 to 80 of what only passes), and take minutes together.
    pub fn a_third(self) -> Self {
        self.one_in(3)
    }

    /// At one of `n` stops, others from run to run.
    pub fn one_in(self, n: u16) -> Self {
        Self { first: 1 + std::process::id() % u32::from(n), step: n.into(), ..self }
    }

    /// Sweeps. `operation` prepares what it needs, sets the trap, lets the operation happen, and gives the outcome together
    /// with the FIFOs that were opened and whatever connections it made.
    pub fn run(self, script: &Script, operation: impl Fn(&Pod, &Trap<'_>) -> Result<Done>) -> Result<()> {
        self.run_in(script, || wrapped(script), operation)
    }

    /// The same in pods that are made otherwise.
    pub fn run_in(
        self,
        script: &Script,
        start: impl Fn() -> Result<Pod>,
        operation: impl Fn(&Pod, &Trap<'_>) -> Result<Done>,
    ) -> Result<()> {
        let what = self.what;
        let mut failures = Vec::new();
        let mut deaths = Vec::new();
        for at in (self.first..MOST).step_by(self.step) {
            let pod = start()?;
            let trap = Trap { pod: &pod, victim: self.victim, at, place: RefCell::new(None) };
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
        println!("{what}: {} deaths of the {:?}\n  {}", deaths.len(), self.victim, deaths.join(", "));
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        ensure!(!deaths.is_empty(), "{what}: the operation never passed the {:?}", self.victim);
        Ok(())
    }
}

/// What a sweep hands to its operation: the means to place one death.
pub struct Trap<'a> {
    pod: &'a Pod,
    victim: Victim,
    at: u32,
    /// The last stop, also where the operation failed afterwards.
    place: RefCell<Option<String>>,
}

impl Trap<'_> {
    /// Stops the victim where it waits for work.
    pub fn set(&self) -> Result<Armed> {
        let victim = match self.victim {
            Victim::Worker => self.pod.worker()?,
            Victim::Keeper | Victim::Beside(_) => self.pod.keeper()?,
        };
        let Victim::Beside(whose) = self.victim else { return tracer::arm(victim.pid, self.at) };
        let worker = self.pod.worker()?.pid;
        // It asks for what it wants together before it waits for an answer.
        let rests = move || {
            let what = || "the worker to wait".to_owned();
            procs::wait(PATIENCE, what, || tracer::is_waiting(worker).then_some(()))
        };
        tracer::arm_child(victim.pid, self.at, whose, rests)
    }

    /// To be called once the operation is over, however it ended.
    pub fn spring(&self, armed: Armed) -> Result<Outcome> {
        let outcome = armed.finish()?;
        *self.place.borrow_mut() = outcome.stops.last().map(ToString::to_string);
        Ok(outcome)
    }
}

/// An operation that has been answered.
pub struct Done {
    pub outcome: Outcome,
    pub fifos: Option<Fifos>,
    /// Connections beside the pod's own.
    pub others: Vec<Connection>,
    /// Whether init was created, started and not yet deleted.
    pub alive: Alive,
}

/// How far init got.
#[derive(PartialEq, Eq)]
pub enum Alive {
    Nothing,
    Created,
    Started,
    Deleted,
    /// Shutdown was answered too.
    Finished,
    /// The pod has ended as with a dead shim, as it is to, and was judged.
    Lost,
}

impl Done {
    /// Of init, on the pod's own connection.
    pub fn of_init(outcome: Outcome, fifos: Fifos, alive: Alive) -> Self {
        Self { outcome, fifos: Some(fifos), others: Vec::new(), alive }
    }

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
            Alive::Lost => return c.check_single_answers(),
        }
        let mut all = vec![c];
        all.extend(&self.others);
        exactly_once(&pod.lab, &all)
    }
}

/// Some lines on both streams, then an exit that can be told from others.
pub fn talker() -> Script {
    Script {
        stdout: Output::lines(40, 60),
        stderr: Output::lines(9, 200),
        exit_status: 3,
        ..Script::default()
    }
}

/// The same, but it stays until it is killed.
pub fn stayer() -> Script {
    Script { until_killed: true, ..talker() }
}

/// A Create that nothing befalls.
pub fn created(pod: &Pod) -> Result<Fifos> {
    let fifos = pod.fifos("task")?;
    pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
    Ok(fifos)
}

/// One request on the pod's connection, with the trap around it.
pub fn traced<M: Message, R: Message>(
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

/// A Start with the trap around it and around the output that follows, up to the end of file: opening, moving and closing are
/// all in it.
pub fn traced_to_the_end(pod: &Pod, trap: &Trap<'_>, fifos: &Fifos) -> Result<Outcome> {
    let armed = trap.set()?;
    let stream = pod.connection.send("Start", &pod::start("task", ""))?;
    armed.go()?;
    let ended = fifos.stdout.to_end(PATIENCE).and_then(|_| fifos.stderr.to_end(PATIENCE));
    let outcome = trap.spring(armed)?;
    ended?;
    pod.connection.answer(stream, PATIENCE)?.message::<api::StartResponse>()?;
    Ok(outcome)
}

/// The tracer must have stopped at what it is meant to stop at; an empty sweep would pass for a good one.
#[test]
fn the_trap_sees_the_moves_of_a_relay() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = created(&pod)?;
    let trap = Trap { pod: &pod, victim: Victim::Worker, at: u32::MAX, place: RefCell::new(None) };
    let (outcome, _) = traced::<_, api::StateResponse>(&pod, &trap, "State", &pod::state("task", ""))?;
    let seen =
        |call: &str| outcome.stops.iter().filter(|s| name(s.call) == call && s.edge == Edge::Exit).count();
    ensure!(seen("splice") + seen("write") >= 2, "a frame each way: {:?}", outcome.stops);
    ensure!(!outcome.killed, "nobody dies");
    Done::of_init(outcome, fifos, Alive::Created).judge(&pod, &talker())
}
