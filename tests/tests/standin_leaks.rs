//! Nothing is left of a container that has ended: no descriptor, no memory, no file.
//!
//! One wrapper sees thousands of lives (whole ones, refused ones, execs, a downgrade from v3 to v2, connections that
//! only come and go), its worker and its keeper die in between, and in every pause both hold what they held before the
//! first: by kind, and no pipe, FIFO or socket twice in the same mode. `SHIMTAP_LIVES=10000` asks for ten times
//! as many, which take one to two minutes.

use std::{env, fs, ops::Range, path::Path, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use containerd_shim_protos::api;
use nix::unistd::Pid;
use shimtap_tests::rig::now_and_then;
use shimtap_tests::standin::{
    census::{self, Kinds, Memory, Open},
    client::{
        PATIENCE,
        connection::Connection,
        lab::files,
        pod::{self, Fifos, Pod},
        wrapped::wrapped,
    },
    procs,
    script::{Output, Script},
};

/// Lives of one run, unless told otherwise.
const LIVES: u32 = 1_000;
/// Lives that happen at the same time.
const LANES: u32 = 4;
/// Lives of each lane between two pauses.
const TURNS: u32 = 25;
/// Rounds before the first count: more tasks than the wrapper has entries for, so that what stays of ended ones
/// (their last bytes, for a collector) has reached its bound.
const WARM_UP: u32 = 4;
/// Free pipes that a worker may keep (`SPARE` of its pool).
const SPARE: usize = 2;
/// What the allocator of a worker may keep more or less than at the first count, in bytes.
const SLACK: u64 = 256 << 10;

fn lives() -> u32 {
    env::var("SHIMTAP_LIVES").ok().and_then(|n| n.parse().ok()).unwrap_or(LIVES)
}

/// Says what a process has written, waits for it, and takes it away.
fn ends(c: &Connection, id: &str, exec_id: &str, script: &Script, fifos: &Fifos) -> Result<()> {
    let exit = c.call("Wait", &pod::wait(id, exec_id))?.message::<api::WaitResponse>().context("Wait")?;
    let status = if script.until_killed { 137 } else { script.exit_status };
    ensure!(exit.exit_status == status, "exit status {}", exit.exit_status);
    fifos.check(script)?;
    c.call("Delete", &pod::delete(id, exec_id))?.message::<api::DeleteResponse>().context("Delete")?;
    Ok(())
}

/// Create and Start.
fn begins(c: &Connection, create: &api::CreateTaskRequest) -> Result<()> {
    c.call("Create", create)?.message::<api::CreateTaskResponse>().context("Create")?;
    c.call("Start", &pod::start(&create.id, ""))?.message::<api::StartResponse>().context("Start")?;
    Ok(())
}

/// One exec in a running task.
fn exec(c: &Connection, pod: &Pod, id: &str) -> Result<()> {
    let script = Script { stdout: Output::lines(5, 60), exit_status: 4, ..Script::default() };
    let fifos = pod.fifos(&format!("{id}-x"))?;
    c.call("Exec", &pod::exec_request(id, "x", &script, &fifos))?.message::<api::Empty>().context("Exec")?;
    c.call("Start", &pod::start(id, "x"))?.message::<api::StartResponse>().context("Start of an exec")?;
    ends(c, id, "x", &script, &fifos).context("exec")?;
    forget(&fifos)
}

fn forget(fifos: &Fifos) -> Result<()> {
    for fifo in [&fifos.stdout, &fifos.stderr] {
        fs::remove_file(fifo.path()).context("removing a FIFO")?;
    }
    Ok(())
}

/// Life `n`, of one of six kinds, on a connection of its own.
fn live(pod: &Pod, n: u32) -> Result<()> {
    let id = format!("life-{n}");
    let talker = Script {
        stdout: Output::lines(u64::from(n % 40), 70),
        stderr: Output::lines(u64::from(n % 7), 300),
        exit_status: n % 120,
        ..Script::default()
    };
    let script = match n % 6 {
        1 => Script { create_refused: 9, ..talker },
        2 => Script { until_killed: true, ..talker },
        _ => talker,
    };
    let bundle = pod.lab.bundle(&id, Some("task"), &script)?;
    let fifos = pod.fifos(&id)?;
    let create = pod::create_request(&id, &bundle, &fifos);
    let c = pod.connect()?;
    match n % 6 {
        // Refused: nobody deletes what was never created.
        1 => ensure!(c.call("Create", &create)?.code() == 9, "Create was to be refused"),
        // An exec in it, then killed.
        2 => {
            begins(&c, &create)?;
            exec(&c, pod, &id)?;
            let (out, err) = (talk_bytes(&script.stdout), talk_bytes(&script.stderr));
            fifos.stdout.wait_len(out, PATIENCE)?;
            fifos.stderr.wait_len(err, PATIENCE)?;
            c.call("Kill", &pod::kill(&id, "", 9))?.message::<api::Empty>().context("Kill")?;
            ends(&c, &id, "", &script, &fifos)?;
        }
        // 2.x asks for v3 first, and comes again with v2.
        3 => {
            let v3 = Connection::open(&pod.endpoint.path()?, "containerd.task.v3.Task")?;
            ensure!(v3.call("Create", &create)?.code() == 12, "there is no v3");
            begins(&c, &create)?;
            ends(&c, &id, "", &script, &fifos)?;
        }
        // Created and thought better of.
        4 => {
            c.call("Create", &create)?.message::<api::CreateTaskResponse>().context("Create")?;
            c.call("Delete", &pod::delete(&id, ""))?.message::<api::DeleteResponse>().context("Delete")?;
        }
        // A probe that hangs up at once, and one that says goodbye in order.
        5 => {
            drop(pod.connect()?);
            begins(&c, &create)?;
            ends(&c, &id, "", &script, &fifos)?;
            c.shutdown_write()?;
            c.wait_end(PATIENCE)?;
        }
        _ => {
            begins(&c, &create)?;
            ends(&c, &id, "", &script, &fifos)?;
        }
    }
    forget(&fifos)?;
    fs::remove_dir_all(&bundle).context("removing a bundle")
}

fn talk_bytes(output: &Output) -> usize {
    usize::try_from(output.lines).unwrap_or(usize::MAX) * output.line_bytes
}

/// Lives in all lanes, and the worker's death among them where it is wanted.
fn round(pod: &Pod, ids: Range<u32>, death: Option<Duration>) -> Result<()> {
    let panicked = |_| anyhow!("a lane panicked");
    thread::scope(|scope| {
        let lane = |lane: u32| {
            let mut ids = ids.clone().skip(usize::try_from(lane).unwrap_or(0)).step_by(4);
            scope.spawn(move || ids.try_for_each(|n| live(pod, n).with_context(|| format!("life {n}"))))
        };
        let lanes: Vec<_> = (0..LANES).map(lane).collect();
        if let Some(after) = death {
            let worker = pod.worker()?;
            // Not waiting for anything: the moment of death is what varies here.
            thread::sleep(after);
            procs::kill(worker.pid)?;
        }
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(panicked)?)
    })
}

/// What the two processes hold.
#[derive(Clone, Debug, PartialEq)]
struct Holdings {
    keeper: Kinds,
    /// What the keeper does not have.
    worker: Kinds,
    /// The tap, and free pipes of the pool.
    pool: usize,
    files: usize,
}

/// What a process has open, but for a glance at /proc: a watchdog's, which it may be taking just now.
fn lasting(pid: Pid) -> Result<Vec<Open>> {
    let (glances, open): (Vec<_>, Vec<_>) =
        census::open(pid)?.into_iter().partition(|open| open.target.starts_with("/proc/"));
    ensure!(glances.len() <= 1, "more than a glance: {glances:?}");
    Ok(open)
}

impl Holdings {
    fn of(pod: &Pod) -> Result<Self> {
        let (keeper, worker) = (lasting(pod.keeper()?.pid)?, lasting(pod.worker()?.pid)?);
        for (name, open) in [("keeper", &keeper), ("worker", &worker)] {
            let twice = census::twice(open);
            ensure!(twice.is_empty(), "the {name} has these twice: {twice:?} of {open:#?}");
        }
        // What the keeper has by slot the worker has too: pipes of the pool, FIFOs, the connections' sockets (one more
        // is the keeper's own, the end of its pair).
        let theirs = |o: &Open| worker.iter().any(|w| (&w.target, w.mode) == (&o.target, o.mode));
        let missing: Vec<_> =
            keeper.iter().filter(|o| !o.target.starts_with("anon_inode:") && !theirs(o)).collect();
        ensure!(
            missing.len() == 1 && missing.iter().all(|o| o.kind() == "socket"),
            "not handed on: {missing:?}"
        );
        let shared = |o: &&Open| keeper.iter().any(|k| k.target == o.target);
        let own: Vec<_> = worker.iter().filter(|o| !shared(o)).cloned().collect();
        let keeper = Kinds::of(&keeper);
        Ok(Self {
            pool: keeper.count("pipe") / 2,
            keeper: keeper.without("pipe"),
            worker: Kinds::of(&own),
            files: files(&pod.lab.run_dir()).len(),
        })
    }

    /// The same, once it stands still: what a Start left to do may take a busy machine a moment.
    fn at_rest(pod: &Pod) -> Result<Self> {
        let mut last = None;
        now_and_then(Duration::from_millis(100), PATIENCE, "descriptors to come to rest", || {
            let now = Self::of(pod).ok();
            let same = now.is_some() && now == last;
            last.clone_from(&now);
            Ok(now.filter(|_| same))
        })
        .map_err(|late| Self::of(pod).err().unwrap_or(late))
    }

    /// The same, but for the free pipes, which may be more or fewer within their bound.
    fn same(&self, before: &Self) -> bool {
        self.pool <= SPARE + 1 && Self { pool: before.pool, ..self.clone() } == *before
    }

    /// What differs, the first of many.
    fn beyond(&self, before: &Self) -> String {
        let more = |now: &Kinds, was: &Kinds| -> Vec<String> {
            let differ = now.0.iter().filter(|(kind, n)| was.count(kind) != **n);
            differ.map(|(kind, n)| format!("{n} {kind}")).collect()
        };
        let (keeper, worker) = (more(&self.keeper, &before.keeper), more(&self.worker, &before.worker));
        let first = |list: &[String]| list.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
        let (kept, had) = (first(&keeper), first(&worker));
        let (k, w) = (keeper.len(), worker.len());
        format!("keeper {k} ({kept}), worker {w} ({had}), pool {}, files {}", self.pool, self.files)
    }

    /// Waits until they hold what they held `before`: connections end some time after their client has left.
    fn settle(pod: &Pod, before: &Self) -> Result<()> {
        let mut last = String::new();
        let settled = || match Self::of(pod) {
            Ok(now) if now.same(before) => Some(()),
            other => {
                last = other.map_or_else(|e| format!("{e:#}"), |now| now.beyond(before));
                None
            }
        };
        let found = procs::wait(PATIENCE, || "the descriptors of before".to_owned(), settled);
        found.with_context(|| format!("{last}, before {before:?}"))
    }
}

fn memory(pod: &Pod) -> Result<(Memory, Memory)> {
    Ok((census::memory(pod.keeper()?.pid)?, census::memory(pod.worker()?.pid)?))
}

/// A keeper's death, in a pause: a connection that it has just accepted would go with it.
fn replace_keeper(pod: &Pod) -> Result<()> {
    let keeper = pod.keeper()?.pid;
    procs::kill(keeper)?;
    pod.next_keeper(keeper).map(drop)
}

/// All but the folders that wrappers share.
fn run_dir_is_empty(dir: &Path) -> Result<()> {
    let left = || {
        let mut left = files(dir);
        left.retain(|path| *path != dir.join("c") && *path != dir.join("s"));
        left
    };
    procs::wait(PATIENCE, || format!("nothing of ours: {:?}", left()), || left().is_empty().then_some(()))
}

#[test]
fn thousands_of_lives_leave_nothing_behind() -> Result<()> {
    let pod = wrapped(&Script::stayer())?;
    let fifos = pod.run()?;
    let first = Holdings::at_rest(&pod)?;
    let (mut done, mut before) = (0, None);
    let mut most = 0;
    for turn in 0.. {
        if done >= lives().max((WARM_UP + 1) * LANES * TURNS) {
            break;
        }
        let ids = done..done + LANES * TURNS;
        // Some rounds see a worker die in their midst, after 1 to 40 ms; in some pauses it is the keeper.
        let death = (turn % 5 == 1).then(|| Duration::from_millis(1 + u64::from(turn) * 7 % 40));
        round(&pod, ids.clone(), death)?;
        if turn % 10 == 7 {
            replace_keeper(&pod)?;
        }
        done = ids.end;
        Holdings::settle(&pod, &first).with_context(|| format!("after {done} lives"))?;
        let now = memory(&pod)?;
        if turn < WARM_UP {
            before = Some(now);
            continue;
        }
        let (keeper, worker) = before.context("a first count")?;
        most = most.max(now.1.anonymous);
        ensure!(now.0.anonymous <= keeper.anonymous + SLACK, "after {done} lives the keeper has {now:?}");
        ensure!(now.1.anonymous <= worker.anonymous + SLACK, "after {done} lives the worker has {now:?}");
        ensure!(now.1.memfd <= worker.memfd + SLACK, "after {done} lives the block has {now:?}");
    }
    pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    ends(&pod.connection, "task", "", &Script::stayer(), &fifos)?;
    let down = api::ShutdownRequest { id: "task".to_owned(), ..Default::default() };
    pod.connection.send("Shutdown", &down)?;
    pod.connection.wait_end(PATIENCE)?;
    // containerd hangs up when the shim has; who stayed connected would keep the wrapper for its time.
    let Pod { lab, connection, .. } = pod;
    drop(connection);
    run_dir_is_empty(&lab.run_dir())?;
    println!("{done} lives; {first:?}; before {before:?}, most {most}");
    Ok(())
}
