//! Workers killed at random under load, and nobody notices.
//!
//! Frames of all sizes, new connections, execs and two streams of lines go through one wrapper while its worker is
//! killed 200 times, and in a second run its keeper now and then. Seeded: `SHIMTAP_SEED=n` repeats the dice (not the scheduler).

use std::{
    env,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use containerd_shim_protos::{api, protobuf::well_known_types::any::Any};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        connection::Connection,
        pod::{self, Pod},
        wrapped::wrapped,
    },
    journal::Kind,
    procs,
    script::{Output, Script},
};

/// Deaths per run.
const KILLS: u32 = 200;

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

/// Updates of all sizes, State and Stats, in no particular order and several at a time.
fn talk(pod: &Pod, mut dice: Dice, over: &AtomicBool) -> Result<u32> {
    let c = &pod.connection;
    let mut asked = 0;
    while !over.load(Ordering::Relaxed) {
        let size = match dice.roll(10) {
            0..7 => dice.roll(300),
            7..9 => dice.roll(20_000),
            _ => dice.roll(300_000),
        };
        let value = vec![u8::try_from(dice.roll(256))?; usize::try_from(size)?];
        let resources = Some(Any { value, ..Default::default() }).into();
        let update = api::UpdateTaskRequest { id: "task".to_owned(), resources, ..Default::default() };
        let frame = c.prepare("Update", &update)?;
        if dice.roll(3) == 0 {
            c.send_pieces(&frame.bytes(), &[3, 7, 4096, 100_000])?;
        } else {
            c.send_bytes(&frame.bytes())?;
        }
        let state = c.send("State", &pod::state("task", ""))?;
        let stats = c.send("Stats", &pod::stats("task"))?;
        c.answer(frame.stream, PATIENCE)?.message::<api::Empty>().context("Update")?;
        let state = c.answer(state, PATIENCE)?.message::<api::StateResponse>().context("State")?;
        ensure!(
            state.stdout.starts_with(&pod.lab.fifo_dir().display().to_string()),
            "State: {}",
            state.stdout
        );
        c.answer(stats, PATIENCE)?.message::<api::StatsResponse>().context("Stats")?;
        asked += 3;
    }
    Ok(asked)
}

/// One exec after the other, each with its own streams, on a connection of its own.
fn exec(pod: &Pod, over: &AtomicBool) -> Result<(Connection, u32)> {
    let c = pod.connect()?;
    let mut n = 0;
    while !over.load(Ordering::Relaxed) {
        let id = format!("exec-{n}");
        let script = Script { stdout: Output::lines(20, 77), exit_status: n % 200, ..Script::default() };
        let fifos = pod.fifos(&id)?;
        c.call("Exec", &pod::exec_request("task", &id, &script, &fifos))?
            .message::<api::Empty>()
            .context("Exec")?;
        let wait = c.send("Wait", &pod::wait("task", &id))?;
        c.call("Start", &pod::start("task", &id))?.message::<api::StartResponse>().context("Start")?;
        let exit = c.answer(wait, PATIENCE)?.message::<api::WaitResponse>().context("Wait")?;
        ensure!(exit.exit_status == n % 200, "{id}: exit status {}", exit.exit_status);
        fifos.check(&script).context(id.clone())?;
        c.call("Delete", &pod::delete("task", &id))?.message::<api::DeleteResponse>().context("Delete")?;
        n += 1;
    }
    Ok((c, n))
}

/// Connections that come, ask once, and go; and some that only come and go.
fn knock(pod: &Pod, over: &AtomicBool) -> Result<Vec<Connection>> {
    let mut all = Vec::new();
    let request = pod::connect("task");
    while !over.load(Ordering::Relaxed) {
        drop(pod.connect()?);
        let c = pod.connect()?;
        c.call("Connect", &request)?.message::<api::ConnectResponse>().context("a new connection")?;
        c.shutdown_write()?;
        c.wait_end(PATIENCE)?;
        all.push(c);
    }
    Ok(all)
}

/// Kills the worker again and again, and every `keepers`-th time (0 = never) its keeper instead. Never both at once:
/// that would be the end of the pod, as the death of the shim is.
fn kill(pod: &Pod, mut dice: Dice, keepers: u64, kills: &AtomicU32, over: &AtomicBool) -> Result<()> {
    let mut keeper = pod.keeper()?.pid;
    let mut before = None;
    while kills.load(Ordering::Relaxed) < KILLS && !over.load(Ordering::Relaxed) {
        let worker = procs::next_worker(keeper, before, PATIENCE)?;
        // Not waiting for anything: the moment of death is what is random here.
        thread::sleep(Duration::from_micros(200 + dice.roll(15_000)));
        if keepers > 0 && dice.roll(keepers) == 0 {
            procs::kill(keeper)?;
            // A keeper's child that accepts is called like it for a moment; only a keeper has to do with a worker.
            let next = || {
                let found = pod.keeper().ok().filter(|k| k.pid != keeper && k.name == "tap-keeper")?;
                procs::worker(found.pid).ok().map(|_| found)
            };
            let what = || format!("a keeper after {keeper}: {:?}", procs::of(pod.lab.namespace()));
            keeper = procs::wait(PATIENCE, what, next)?.pid;
            before = None;
        } else {
            procs::kill(worker.pid)?;
            before = Some(worker.pid);
        }
        kills.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn two_hundred_random_deaths_of_workers_under_load() -> Result<()> {
    deaths_under_load(0)
}

#[test]
fn random_deaths_of_workers_and_keepers_under_load() -> Result<()> {
    deaths_under_load(5)
}

fn deaths_under_load(keepers: u64) -> Result<()> {
    let seed = env::var("SHIMTAP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_121);
    println!("SHIMTAP_SEED={seed}");
    let endless =
        |line_bytes| Output { pause_us: 100, lines_per_write: 3, ..Output::lines(10_000_000, line_bytes) };
    let script = Script { stdout: endless(80), stderr: endless(31), until_killed: true, ..Script::default() };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    let (over, kills) = (AtomicBool::new(false), AtomicU32::new(0));
    // Whoever fails stops all others; the first fault is what is reported.
    let guarded = |name: &'static str, result: Result<()>| {
        over.store(true, Ordering::Relaxed);
        result.context(name)
    };
    let (asked, execs, knocks) = thread::scope(|scope| {
        let talker = scope
            .spawn(|| talk(&pod, Dice(seed), &over).inspect_err(|_| over.store(true, Ordering::Relaxed)));
        let execs = scope.spawn(|| exec(&pod, &over).inspect_err(|_| over.store(true, Ordering::Relaxed)));
        let knocks = scope.spawn(|| knock(&pod, &over).inspect_err(|_| over.store(true, Ordering::Relaxed)));
        let killed = guarded("killing", kill(&pod, Dice(seed ^ 0xdead), keepers, &kills, &over));
        let panicked = |_| anyhow!("a thread panicked");
        let asked = talker.join().map_err(panicked)?.context("frames");
        let execs = execs.join().map_err(panicked)?.context("execs");
        let knocks = knocks.join().map_err(panicked)?.context("connections");
        let at = || format!("after {} deaths", kills.load(Ordering::Relaxed));
        killed.with_context(at)?;
        anyhow::Ok((asked.with_context(at)?, execs.with_context(at)?, knocks.with_context(at)?))
    })?;
    pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    ensure!(pod.wait()? == 137, "exit status");
    let (out, err) = (fifos.stdout.to_end(PATIENCE)?, fifos.stderr.to_end(PATIENCE)?);
    pod.finish()?;
    let entries = pod.lab.requests()?;
    let wrote =
        entries.iter().find(|e| e.kind == Kind::Wrote && e.exec_id.is_empty()).context("init's figures")?;
    for (name, have, wrote, output) in
        [("stdout", &out, &wrote.stdout, &script.stdout), ("stderr", &err, &wrote.stderr, &script.stderr)]
    {
        let wrote: usize = wrote.parse()?;
        let lines = u64::try_from(wrote / output.line_bytes)? + 1;
        let mut want = Output { lines, ..output.clone() }.bytes(name);
        want.truncate(wrote);
        ensure!(*have == want, "{name}: {} bytes came of {wrote} written", have.len());
    }
    let (connection, execs) = execs;
    let mut all = vec![&pod.connection, &connection];
    all.extend(&knocks);
    exactly_once(&pod.lab, &all)?;
    println!(
        "{} deaths; {asked} requests of up to 300 KB, {execs} execs, {} connections, {} + {} bytes of output",
        kills.load(Ordering::Relaxed),
        knocks.len(),
        out.len(),
        err.len()
    );
    Ok(())
}
