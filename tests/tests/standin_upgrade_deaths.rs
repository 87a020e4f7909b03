//! Deaths while a process begins anew in place: in an upgrade, at system calls of either process and at random under
//! load; and at the end of safe mode. Whatever dies when, the pod goes on with every request and line in its place, and keeper
//! and worker are of one release, old or new.
//!
//! A sweep takes every tenth stop, and with `SHIMTAP_EVERY_STOP=1` each of the thousand or so.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use containerd_shim_protos::{api, protobuf::well_known_types::any::Any};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shimtap_proto::control::{Answer, Ask, Step};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        pod::{self, Fifos, Pod},
        upgrade::{Control, NEXT, hand_over},
        wrapped::{WRAPPER, binary, faulty, five_faults, wrapped},
    },
    journal::Kind,
    procs,
    script::{Output, Script},
    tracer::{self, Stop},
};

/// No upgrade has that many stops.
const MOST: u32 = 5_000;
/// Upgrades of the random run.
const TURNS: u32 = 60;

fn talker() -> Script {
    let endless = |bytes| Output { pause_us: 200, lines_per_write: 3, ..Output::lines(10_000_000, bytes) };
    Script { stdout: endless(80), stderr: endless(31), until_killed: true, ..Script::default() }
}

/// Nothing more will come of it.
fn is_over(answer: &Answer) -> bool {
    !matches!(answer.upgrade, Step::Asked | Step::KeeperDone)
}

/// Waits for one keeper and one worker of one image, and says which.
fn settled(pod: &Pod) -> Result<&'static str> {
    let id = |path: &str| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let of = |pid: Pid| id(&format!("/proc/{pid}/exe"));
    let both = || {
        let keeper = pod.keeper().ok()?;
        let worker = procs::worker(keeper.pid).ok()?;
        let image = of(keeper.pid).filter(|image| of(worker.pid) == Some(*image))?;
        (procs::workers(pod.lab.namespace()).ok()?.len() == 1).then_some(image)
    };
    let what = || {
        let all = procs::of(pod.lab.namespace()).unwrap_or_default();
        let image = |p: &procs::Process| fs::read_link(format!("/proc/{}/exe", p.pid));
        let all: Vec<_> = all.iter().map(|p| (p.pid, p.parent, &p.name, p.argv.get(1), image(p))).collect();
        format!("one keeper and one worker of one image: {all:?}")
    };
    let image = procs::wait(PATIENCE, what, both)?;
    let named = |name: &'static str| {
        let path = binary(name).ok()?;
        (id(&path.display().to_string()) == Some(image)).then_some(name)
    };
    named(NEXT).or_else(|| named(WRAPPER)).context("an image that nobody handed over")
}

/// A second connection works, and all that was written and asked arrived once and in order.
fn judge(pod: &Pod, fifos: &Fifos) -> Result<()> {
    pod.answers().context("the old connection")?;
    let fresh = pod.connect()?;
    fresh.call("Connect", &pod::connect("task"))?.message::<api::ConnectResponse>().context("a new one")?;
    let before = fifos.stdout.len_so_far();
    fifos.stdout.wait_len(before + 1000, PATIENCE).context("output goes on")?;
    ends_well(pod, fifos)?;
    exactly_once(&pod.lab, &[&pod.connection, &fresh])
}

fn ends_well(pod: &Pod, fifos: &Fifos) -> Result<()> {
    pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    ensure!(pod.wait()? == 137, "exit status");
    let (out, err) = (fifos.stdout.to_end(PATIENCE)?, fifos.stderr.to_end(PATIENCE)?);
    pod.finish()?;
    let entries = pod.lab.requests()?;
    let wrote = entries.iter().find(|e| e.kind == Kind::Wrote && e.exec_id.is_empty()).context("figures")?;
    let script = talker();
    for (name, have, wrote, output) in
        [("stdout", &out, &wrote.stdout, &script.stdout), ("stderr", &err, &wrote.stderr, &script.stderr)]
    {
        let wrote: usize = wrote.parse()?;
        let lines = u64::try_from(wrote / output.line_bytes)? + 1;
        let mut want = Output { lines, ..output.clone() }.bytes(name);
        want.truncate(wrote);
        ensure!(*have == want, "{name}: {} bytes came of {wrote} written", have.len());
    }
    Ok(())
}

/// One death of `victim` at its stop number `at`; gives the last stop, and whether it was reached.
fn death_at(
    victim: impl Fn(&Pod) -> Result<Pid>,
    at: u32,
) -> Result<(Option<Stop>, bool, Step, &'static str)> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let armed = tracer::arm(victim(&pod)?, at)?;
    let image = fs::File::open(binary(NEXT)?)?;
    let mut control = Control::open(&pod)?;
    control.send(Ask::Become, Some(&image))?;
    armed.go()?;
    // Every answer is awaited, so there is one for the first request too.
    let over = control.await_step(is_over);
    let outcome = armed.finish()?;
    let last = outcome.stops.last().copied();
    let judged = || -> Result<(Step, &'static str)> {
        let over = over?;
        let image = settled(&pod)?;
        judge(&pod, &fifos)?;
        Ok((over.upgrade, image))
    };
    let (step, image) = judged()
        .with_context(|| format!("death {at} at {}", last.map(|s| s.to_string()).unwrap_or_default()))?;
    Ok((last, outcome.killed, step, image))
}

fn sweep(what: &str, victim: impl Fn(&Pod) -> Result<Pid>) -> Result<()> {
    let stride = if env::var_os("SHIMTAP_EVERY_STOP").is_some() { 1 } else { 10 };
    let (mut deaths, mut new, mut old) = (0, 0, 0);
    let mut at = 1;
    while at < MOST {
        let (last, killed, step, image) = death_at(&victim, at).with_context(|| what.to_owned())?;
        if !killed {
            break;
        }
        deaths += 1;
        *if image == NEXT { &mut new } else { &mut old } += 1;
        println!("{what} {}: {step:?}, {image}", last.map(|s| s.to_string()).unwrap_or_default());
        at += stride;
    }
    println!("{what}: {deaths} deaths, then {new} times the new release and {old} times the old");
    // A dead worker's keeper forks one of what it is itself, which is mostly the new release by then.
    ensure!(new > 0 && (old > 0 || what == "worker"), "{what}: deaths on one side of the exec only");
    Ok(())
}

#[test]
fn the_keeper_dies_at_each_step() -> Result<()> {
    sweep("keeper", |pod| Ok(pod.keeper()?.pid))
}

#[test]
fn the_worker_dies_at_each_step() -> Result<()> {
    sweep("worker", |pod| Ok(pod.worker()?.pid))
}

/// One death of `victim` at its stop number `at`, while safe mode is ended by a signal to the keeper; gives the last stop, and
/// whether it was reached.
fn death_at_the_end_of_safe_mode(
    victim: impl Fn(&Pod) -> Result<Pid>,
    at: u32,
) -> Result<(Option<Stop>, bool)> {
    let pod = faulty(&talker())?;
    let fifos = pod.run()?;
    five_faults(&pod)?;
    let (keeper, worker) = (pod.keeper()?.pid, pod.worker()?.pid);
    ensure!(named_stdout(&pod)? != fifos.stdout.path(), "five faults mean safe mode");
    let armed = tracer::arm(victim(&pod)?, at)?;
    kill(keeper, Signal::SIGUSR2).context("to the keeper")?;
    armed.go()?;
    let left = || {
        let told = named_stdout(&pod).ok()?;
        // A keeper that died before it had heard the signal has taken it along.
        if let Some(next) = pod.keeper().ok().filter(|next| next.pid != keeper) {
            let _gone_too = kill(next.pid, Signal::SIGUSR2);
        }
        (told == fifos.stdout.path()).then_some(())
    };
    let left = procs::wait(PATIENCE, || "the end of safe mode".to_owned(), left);
    let outcome = armed.finish()?;
    let last = outcome.stops.last().copied();
    let judged = || -> Result<()> {
        left?;
        settled(&pod)?;
        let is_same = pod.worker()?.pid == worker;
        ensure!(outcome.killed || is_same, "nobody died, and yet the worker is another one");
        judge(&pod, &fifos)
    };
    judged().with_context(|| format!("death {at} at {}", last.map(|s| s.to_string()).unwrap_or_default()))?;
    Ok((last, outcome.killed))
}

/// Where State's answer says that the task writes to: to containerd's FIFO, but in safe mode.
fn named_stdout(pod: &Pod) -> Result<PathBuf> {
    let state = pod.connection.call("State", &pod::state("task", ""))?;
    Ok(PathBuf::from(state.message::<api::StateResponse>()?.stdout))
}

fn sweep_the_end_of_safe_mode(stride: u32, victim: impl Fn(&Pod) -> Result<Pid>) -> Result<()> {
    let stride = if env::var_os("SHIMTAP_EVERY_STOP").is_some() { 1 } else { stride };
    let mut at = 1;
    loop {
        let (last, killed) = death_at_the_end_of_safe_mode(&victim, at)?;
        println!("{}: {killed}", last.map(|s| s.to_string()).unwrap_or_default());
        if !killed {
            break;
        }
        at += stride;
    }
    ensure!(at > 5, "the operation has only {at} stops");
    Ok(())
}

/// Nobody ends for it, so there is no moment in which the keeper is alone.
#[test]
fn the_keeper_dies_at_each_step_of_the_end_of_safe_mode() -> Result<()> {
    sweep_the_end_of_safe_mode(1, |pod| Ok(pod.keeper()?.pid))
}

#[test]
fn the_worker_dies_at_each_step_of_the_end_of_safe_mode() -> Result<()> {
    sweep_the_end_of_safe_mode(10, |pod| Ok(pod.worker()?.pid))
}

/// Numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Requests of all sizes and execs, until it is over.
fn talk(pod: &Pod, mut dice: Dice, over: &AtomicBool) -> Result<u32> {
    let c = &pod.connection;
    let mut asked = 0;
    while !over.load(Ordering::Relaxed) {
        let size = if dice.roll(4) == 0 { dice.roll(200_000) } else { dice.roll(300) };
        let value = vec![u8::try_from(dice.roll(256))?; usize::try_from(size)?];
        let resources = Some(Any { value, ..Default::default() }).into();
        let update = api::UpdateTaskRequest { id: "task".to_owned(), resources, ..Default::default() };
        let update = c.send("Update", &update)?;
        let state = c.send("State", &pod::state("task", ""))?;
        c.answer(update, PATIENCE)?.message::<api::Empty>().context("Update")?;
        c.answer(state, PATIENCE)?.message::<api::StateResponse>().context("State")?;
        pod.exec(&format!("exec-{asked}"))?;
        asked += 1;
    }
    Ok(asked)
}

/// Upgrades back and forth; in two of three somebody dies a moment after it was asked for.
fn go_back_and_forth(pod: &Pod, mut dice: Dice) -> Result<[u32; 2]> {
    let mut ended = [0, 0];
    for turn in 0..TURNS {
        let from = settled(pod).with_context(|| format!("turn {turn}"))?;
        let to = if from == NEXT { WRAPPER } else { NEXT };
        let victim = match dice.roll(3) {
            0 => None,
            1 => Some(pod.keeper()?.pid),
            _ => Some(pod.worker()?.pid),
        };
        let moment = Duration::from_micros(dice.roll(12_000));
        let (mut control, answer) = hand_over(pod, &binary(to)?)?;
        if let Some(victim) = victim {
            // The moment of death is what is random here.
            thread::sleep(moment);
            procs::kill(victim)?;
            // One that is still dying would pass for a living one.
            let gone = || procs::Process::read(victim).is_none_or(|p| p.state == 'Z').then_some(());
            procs::wait(PATIENCE, || format!("the end of {victim}"), gone)?;
        }
        println!("{turn}: {from} to {to}, {victim:?} after {moment:?}: {answer:?}");
        let step = control.await_step(is_over).with_context(|| format!("turn {turn}"))?.upgrade;
        let image = settled(pod).with_context(|| format!("turn {turn}, {step:?}"))?;
        ensure!(victim.is_some() || image == to, "nobody died, and yet: {step:?}, {image}");
        *ended.get_mut(usize::from(image == to)).context("two sides")? += 1;
    }
    Ok(ended)
}

#[test]
fn sixty_upgrades_back_and_forth_with_random_deaths_under_load() -> Result<()> {
    let seed = env::var("SHIMTAP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_121);
    println!("SHIMTAP_SEED={seed}");
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let over = AtomicBool::new(false);
    let (asked, ended) = thread::scope(|scope| {
        let talker = scope.spawn(|| talk(&pod, Dice(seed), &over));
        let ended = go_back_and_forth(&pod, Dice(seed ^ 0xdead));
        over.store(true, Ordering::Relaxed);
        let asked = talker.join().map_err(|_| anyhow!("a thread panicked"))?.context("requests")?;
        anyhow::Ok((asked, ended?))
    })?;
    println!("{TURNS} upgrades, {} kept the old release; {asked} execs", ended[0]);
    ensure!(ended[1] > TURNS / 3 && asked > 10, "{ended:?} {asked}");
    judge(&pod, &fifos)
}
