//! How long is a frame held up by the death of worker or keeper? Target: 99 of 100 answered within 20 ms of the death.
//!
//! A real container that writes and is asked State all the time, a collector attached; SIGKILL at random instants. The
//! figure is the time from just before kill(2) until a request that was sent after it is answered: the shim's own time
//! is in it, and nothing that the victim had begun. It is asked on a connection that was there and on a new one, because a
//! worker's death holds up the first and a keeper's the second; and both without any death, for comparison.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use protobuf::Message;
use shimtap_tests::chaos::dice::{Dice, SEED};
use shimtap_tests::chaos::pair::Pair;
use shimtap_tests::chaos::real::keepers;
use shimtap_tests::chaos::schedule::Role;
use shimtap_tests::rig::{Node, eventually};
use shimtap_tests::standin::client::pod::{connect, state};

use crate::bed::{Side, one_side, run_command};
use crate::line::{Line, sockets};
use crate::options::Options;
use crate::report::Report;
use crate::spread::quantile;
use crate::witness::Witness;

const ID: &str = "busy";
const LIMIT: Duration = Duration::from_secs(30);
/// A keeper that lived for less than 50 ms is replaced with a delay (docs/failure-modes.md): not what is asked here.
const LIVED: Duration = Duration::from_millis(55);
/// On top of that, at random: the container's writes and the other connection's requests are 1 ms apart.
const SPREAD: Duration = Duration::from_millis(30);
/// Workers die faster here than any fault would make them: without this it would be safe mode that is measured.
const NEVER_SAFE: &str = "[safe_mode]\ndeaths = 0\n";

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("death", options)?;
    let node = one_side(options.version, Side::Wrapped, NEVER_SAFE)?;
    let witness = Witness::start(&node, false)?;
    let mut client = busy(&node)?;
    let measured = measure(&node, options, &mut report);
    // Its ctr removes it.
    node.kill(ID, "SIGKILL")?;
    client.wait().context("wait for ctr")?;
    measured?;
    witness.stop()?;
    node.finish()
}

/// A container that writes a line of 216 bytes each millisecond, and whose output is read.
fn busy(node: &Node) -> Result<Child> {
    let command =
        ["/host/pour", "width=216", "batch=1", "rate=1000", "lines=100000000", "report=/host/death"];
    let mut ctr: Command = run_command(node, Side::Wrapped, ID, &["--rm"], &command);
    let client = ctr.spawn().context("start ctr")?;
    node.await_status(ID, "RUNNING")?;
    Ok(client)
}

fn measure(node: &Node, options: &Options, report: &mut Report) -> Result<()> {
    let line = Line::to_shim_of(&sockets(&node.run_dir().join("s"))?, ID)?;
    let other = line.another()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asked = scope.spawn(|| keep_asking(&other, &over));
        let mut asker = Asker { line, stream: 101, payload: connect(ID).write_to_bytes()? };
        let roles = [("worker", Role::Worker), ("keeper", Role::Keeper)];
        let done: Result<()> = roles
            .into_iter()
            .filter(|(name, _)| options.wants(name))
            .try_for_each(|(_, role)| of_role(node, options, role, &mut asker, report));
        over.store(true, Ordering::Relaxed);
        let asked = asked.join().expect("nothing in it panics");
        done?;
        report.note(&format!("{} other requests meanwhile, each answered", asked?))
    })
}

/// The traffic: State, again and again, on a connection of its own.
fn keep_asking(line: &Line, over: &AtomicBool) -> Result<u64> {
    let payload = state(ID, "").write_to_bytes().context("encode a request")?;
    let (mut stream, mut asked) = (101, 0);
    while !over.load(Ordering::Relaxed) {
        line.ask(stream, "State", &payload).context("the other connection")?;
        (stream, asked) = (stream + 2, asked + 1);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(asked)
}

/// Asks Connect, which passes through unseen and is answered by the shim at once.
struct Asker {
    line: Line,
    stream: u32,
    payload: Vec<u8>,
}

impl Asker {
    fn ask(&mut self, anew: bool) -> Result<()> {
        if anew {
            return self.line.another()?.ask(1, "Connect", &self.payload).map(drop);
        }
        self.stream += 2;
        self.line.ask(self.stream, "Connect", &self.payload).map(drop)
    }
}

fn of_role(node: &Node, options: &Options, role: Role, asker: &mut Asker, report: &mut Report) -> Result<()> {
    let mut dice = Dice::new(SEED, role.name());
    let mut took: [[Vec<f64>; 2]; 2] = Default::default();
    let [quiet, deaths] = &mut took;
    for _ in 0..options.turns(20, 500) {
        for ((anew, quiet), deaths) in [false, true].into_iter().zip(quiet.iter_mut()).zip(deaths.iter_mut())
        {
            let pair = pair(node)?;
            thread::sleep(LIVED + dice.pause(SPREAD));
            quiet.push(timed(|| asker.ask(anew))?);
            let victim = if role == Role::Worker { &pair.worker } else { &pair.keeper };
            deaths.push(timed(|| {
                kill(victim.pid, Signal::SIGKILL).with_context(|| format!("kill {victim:?}"))?;
                asker.ask(anew).with_context(|| format!("after the death of {victim:?}"))
            })?);
            eventually(LIMIT, "its end", || Ok((!victim.alive()).then_some(())))?;
        }
    }
    let names = ["on a connection that was there", "on a new connection"];
    for ((name, quiet), deaths) in names.into_iter().zip(quiet).zip(deaths) {
        report.heading(&format!("{name}, to the answer"))?;
        report.row("no death", "ms", quiet, "")?;
        report.row(&format!("the {role} dies"), "ms", deaths, "")?;
        for percent in [50, 99, 100] {
            let at = |samples: &[f64]| quantile(samples, percent).unwrap_or_default();
            let target = if percent == 99 { "20" } else { "" };
            report.figure(&format!("p{percent} without a death"), "ms", at(quiet), "")?;
            report.figure(&format!("p{percent} with a death"), "ms", at(deaths), target)?;
        }
    }
    Ok(())
}

/// Milliseconds.
fn timed(body: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    body()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Keeper and worker of the one wrapper that there is.
fn pair(node: &Node) -> Result<Pair> {
    let keepers = || keepers(node);
    eventually(LIMIT, "a keeper and its worker", || {
        let mut all = Pair::all(&keepers)?;
        ensure!(all.len() < 2, "one wrapper expected: {all:?}");
        Ok(all.pop())
    })
}
