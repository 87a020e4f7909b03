//! A piece on the stand-in shim: every request is counted where it arrives, every byte is known beforehand.
//!
//! Most deaths of a run are here, because a pod costs nothing here but the wrapper itself.

mod frames;
mod lane;
mod lives;

use std::{
    sync::{PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use containerd_shim_protos::api;

use lane::{Lane, PATIENCE};

use super::{
    Order,
    dice::Dice,
    judge::{self, Written},
    pair::{Pair, Struck},
    schedule::{Schedule, Strike},
    tally::{Ledger, lines_in},
};
use crate::{
    rig::{collector::Collector, eventually, leftovers, process},
    standin::{
        client::{
            audit::exactly_once,
            connection::Connection,
            logged,
            pod::{self, Fifos, Pod},
            wrapped::wrapped_as,
        },
        journal::Kind,
        procs,
        script::{Output, Script},
    },
};

/// How long a wrapper may stay when its pod is over: it waits 5 s at most for the collector.
const LEAVE: Duration = Duration::from_secs(60);

/// All lanes of a piece, side by side; gives what their containers wrote.
///
/// # Errors
/// The first fault that was found.
pub fn run(order: &Order, collector: &Collector, ledger: &Ledger) -> Result<Vec<Written>> {
    thread::scope(|scope| {
        let lane = |number| {
            scope.spawn(move || {
                let name = format!("lane{number}");
                one_lane(order, &name, collector, ledger).with_context(|| name.clone())
            })
        };
        let lanes: Vec<_> = (0..order.lanes).map(lane).collect();
        let mut written = Vec::new();
        for lane in lanes {
            written.extend(lane.join().map_err(|_| anyhow!("a lane panicked"))??);
        }
        Ok(written)
    })
}

/// Writes on both streams until it is killed; slowly enough that the collector's file stays readable.
fn busy() -> Script {
    let endless =
        |line_bytes| Output { pause_us: 3_000, lines_per_write: 3, ..Output::lines(10_000_000, line_bytes) };
    Script { stdout: endless(80), stderr: endless(31), until_killed: true, ..Script::default() }
}

fn one_lane(order: &Order, name: &str, collector: &Collector, ledger: &Ledger) -> Result<Vec<Written>> {
    let id = format!("{name}-{}", order.seed);
    let script = busy();
    let pod = wrapped_as(&id, &script, |lab| {
        let ours = [
            ("SHIMTAP_COLLECTOR", collector.socket()),
            ("SHIMTAP_SPOOL_DIR", collector.spool_dir().to_owned()),
        ];
        lab.env.retain(|(name, _)| ours.iter().all(|(own, _)| own != name));
        lab.env.extend(ours.map(|(name, path)| (name.to_owned(), path.display().to_string())));
        if order.threshold { lab.reconfigure("[safe_mode]\ndeaths = 0\n", "") } else { Ok(()) }
    })?;
    logged::is_believed(&pod.lab)?;
    let fifos = pod.run()?;
    let lane = Lane::new(&pod, ledger, order);
    for kinds in [&frames::KINDS[..], &lives::EXECS, &lives::LIVES] {
        ledger.expects(kinds);
    }
    let (connections, written) = under_fire(order, name, &lane)?;
    judge::observe(collector, ledger)?;
    let init = ends(&lane, &fifos, &script)?;
    counted(&lane, &connections)?;
    nothing_is_left(&pod)?;
    // What is created in safe mode is not captured.
    Ok(if order.threshold { init } else { written.into_iter().chain(init).collect() })
}

/// Everybody works until there were enough deaths, or somebody has found a fault.
fn under_fire(order: &Order, name: &str, lane: &Lane<'_>) -> Result<(Vec<Connection>, Vec<Written>)> {
    let dice = |who: &str| Dice::new(order.seed, &format!("{name} {who}"));
    thread::scope(|scope| {
        let frames = scope.spawn(|| lane.ended_by("frames", frames::talk(lane, dice("frames"))));
        let knocks = scope.spawn(|| lane.ended_by("connections", frames::knock(lane, dice("connections"))));
        let execs = scope.spawn(|| lane.ended_by("execs", lives::exec(lane, dice("execs"))));
        let lives = scope.spawn(|| lane.ended_by("containers", lives::live(lane, dice("containers"))));
        let struck =
            lane.ended_by("strikes", strikes(order, lane, Schedule::new(dice("strikes"), order.mix)));
        lane.over.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a thread panicked");
        let (frames, knocks) = (frames.join().map_err(panicked)?, knocks.join().map_err(panicked)?);
        let (execs, lives) = (execs.join().map_err(panicked)?, lives.join().map_err(panicked)?);
        let asked_on = struck?;
        let at = || lane.last_strikes();
        frames.with_context(at)?;
        let mut connections = knocks.with_context(at)?;
        connections.extend(asked_on);
        connections.extend(execs.with_context(at)?);
        let (of_lives, written) = lives.with_context(at)?;
        connections.extend(of_lives);
        Ok((connections, written))
    })
}

fn note(lane: &Lane<'_>, strike: &Strike, struck: &Struck, took: Duration) {
    let became = match struck {
        Struck::Renewed { took, .. } => format!("renewed in {took:?}"),
        Struck::Ended { .. } => "ended".to_owned(),
        Struck::Missed => "missed".to_owned(),
    };
    let text = format!("{strike:?}, {became}, all of it {took:?}");
    lane.past.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

/// One strike after the other; gives connections that were asked on.
fn strikes(order: &Order, lane: &Lane<'_>, mut schedule: Schedule) -> Result<Vec<Connection>> {
    let namespace = lane.pod.lab.namespace();
    let keepers = || procs::keepers(namespace);
    let found = || Ok(Pair::all(&keepers)?.pop());
    let mut pair = eventually(PATIENCE, "a keeper and its worker", found)?;
    let until = Instant::now() + order.time;
    let (mut deaths, mut connections) = (0, Vec::new());
    let is_wanted = |deaths| deaths < order.deaths || (order.every_kind && lane.ledger.lacks_a_kind());
    while is_wanted(deaths) && lane.goes_on() && Instant::now() < until {
        let strike = schedule.next_strike();
        let body = || pair.strike(strike, &keepers);
        let began = Instant::now();
        let struck = lane.hangs.during(strike.fault.hangs(), body)?;
        note(lane, &strike, &struck, began.elapsed());
        deaths += u64::from(lane.ledger.struck(strike, &struck));
        match struck {
            Struck::Renewed { pair: next, .. } => pair = next,
            Struck::Missed => {
                // Held up by the tracer for long, it may be taken for hung this very moment, and the next strike would be the
                // second of two at once. Both are at work where a new connection is answered.
                let c = lane.pod.connect()?;
                lane.call(&c, "Connect", &pod::connect(&lane.pod.id))?.message::<api::ConnectResponse>()?;
                connections.push(c);
                pair = eventually(PATIENCE, "a keeper and its worker", found)?;
            }
            Struck::Ended { .. } => return Err(anyhow!("{strike:?} has ended keeper and worker both")),
        }
        // An administrator who has seen to the cause, now and then.
        if order.threshold && deaths % 12 == 0 {
            process::signal(pair.keeper.pid.as_raw(), nix::sys::signal::Signal::SIGUSR2)?;
        }
    }
    Ok(connections)
}

/// Ends the container that was there all the time, and compares both of its streams.
fn ends(lane: &Lane<'_>, fifos: &Fifos, script: &Script) -> Result<Vec<Written>> {
    let (pod, id) = (lane.pod, &lane.pod.id);
    lane.call(&pod.connection, "Kill", &pod::kill(id, "", 9))?.message::<api::Empty>()?;
    let exit = lane.call(&pod.connection, "Wait", &pod::wait(id, ""))?.message::<api::WaitResponse>()?;
    ensure!(exit.exit_status == 137, "exit status {}", exit.exit_status);
    let (out, err) = (fifos.stdout.to_end(PATIENCE)?, fifos.stderr.to_end(PATIENCE)?);
    pod.finish()?;
    let entries = pod.lab.requests()?;
    let is_init =
        |e: &&crate::standin::journal::Entry| e.kind == Kind::Wrote && e.id == *id && e.exec_id.is_empty();
    let wrote = entries.iter().find(is_init).context("init's figures")?;
    let mut all = Vec::new();
    for (stream, have, wrote, output) in
        [("stdout", out, &wrote.stdout, &script.stdout), ("stderr", err, &wrote.stderr, &script.stderr)]
    {
        let wrote: usize = wrote.parse()?;
        let lines = u64::try_from(wrote / output.line_bytes)? + 1;
        let mut bytes = Output { lines, ..output.clone() }.bytes(stream);
        bytes.truncate(wrote);
        let same = have.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
        ensure!(have == bytes, "{stream}: {} bytes came of {wrote}, {same} of them right", have.len());
        ensure!(lines_in(&have) > 0, "{stream}: nothing was written");
        lane.ledger.read_outside(&have);
        all.push(Written {
            container: id.clone(),
            kind: "the container that was there all the time",
            stream,
            bytes,
        });
    }
    Ok(all)
}

/// Every request arrived once.
fn counted(lane: &Lane<'_>, connections: &[Connection]) -> Result<()> {
    let mut all = vec![&lane.pod.connection];
    all.extend(connections);
    exactly_once(&lane.pod.lab, &all)?;
    let requests: usize = all.iter().map(|c| c.sent().len()).sum();
    let mut tally = lane.ledger.tally();
    tally.requests += u64::try_from(requests)?;
    tally.connections += u64::try_from(all.len())?;
    Ok(())
}

fn nothing_is_left(pod: &Pod) -> Result<()> {
    let all = || procs::of(pod.lab.namespace());
    let gone = || Ok(all()?.is_empty().then_some(()));
    eventually(LEAVE, "keeper, worker and shim to leave", gone)
        .with_context(|| format!("there are {:?}", all()))?;
    let files = leftovers::live_files(&pod.lab.run_dir())?;
    ensure!(files.is_empty(), "files are left: {files:?}");
    Ok(())
}
