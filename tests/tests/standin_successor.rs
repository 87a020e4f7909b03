//! The successor can always start: without the binary, without a process to be had, without a descriptor to be had; and
//! where workers die one after the other, in safe mode.
//!
//! Processes are refused by a pids cgroup of the test's own, or to another user than root by prlimit(2) from outside, as descriptors.

use std::{
    cell::Cell,
    fs,
    os::unix::{
        fs::chown,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use containerd_shim_protos::api;
use nix::{
    libc,
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, geteuid},
};
use shimtap_tests::rig::{patience::throughout, program::script};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        barren::Barren,
        launch::{Flavour, Shim},
        pod::{self, Fifos, Pod},
        wrapped::{STANDIN, WRAPPER, binary, faulty, five_faults, wrapped, wrapping},
    },
    procs::{self, Process},
    script::{Output, Script},
};

fn talker() -> Script {
    let stdout = Output { pause_us: 500, ..Output::lines(10_000_000, 80) };
    Script { stdout, until_killed: true, ..Script::default() }
}

/// The rest of its life: all lines whole, every request once.
fn ends_well(pod: &Pod, fifos: &Fifos) -> Result<()> {
    pod.end_whole(fifos, &talker().stdout)
}

fn both_die_in_turn(pod: &Pod, fifos: &Fifos) -> Result<()> {
    for _ in 0..3 {
        let keeper = pod.keeper()?;
        let worker = pod.worker()?;
        procs::kill(worker.pid)?;
        procs::next_worker(keeper.pid, Some(worker.pid), PATIENCE)?;
        pod.is_well(fifos)?;
        procs::kill(keeper.pid)?;
        pod.next_keeper(keeper.pid)?;
        pod.is_well(fifos)?;
    }
    Ok(())
}

/// A wrapper that runs from a file of its own, and that file.
fn from_own_file() -> Result<(Pod, PathBuf)> {
    let (lab, mut shim) = wrapping(Flavour::V1_6, "2", "plain")?;
    let copy = lab.dir().join(WRAPPER);
    fs::copy(binary(WRAPPER)?, &copy).context("copying the wrapper")?;
    shim.binary.clone_from(&copy);
    let pod = Pod::start(lab, shim, "task", &talker())?;
    pod.keeper()?;
    Ok((pod, copy))
}

#[test]
fn the_binary_was_removed() -> Result<()> {
    let (pod, file) = from_own_file()?;
    let fifos = pod.run()?;
    fs::remove_file(file)?;
    both_die_in_turn(&pod, &fifos)?;
    ends_well(&pod, &fifos)
}

/// As a package does it: a new file under the old name. What runs on is the old one.
#[test]
fn the_binary_was_replaced() -> Result<()> {
    let (pod, file) = from_own_file()?;
    let fifos = pod.run()?;
    let next = file.with_extension("new");
    fs::write(&next, "#!/bin/false\n")?;
    fs::rename(&next, &file)?;
    both_die_in_turn(&pod, &fifos)?;
    let image = fs::read_link(format!("/proc/{}/exe", pod.keeper()?.pid))?;
    ensure!(image.display().to_string().ends_with("(deleted)"), "a keeper of the old image: {image:?}");
    ends_well(&pod, &fifos)
}

/// What a node's shutdown sends to everybody, and a terminal, ends neither: they end with their pod. Nor does either hold a folder
/// of containerd's, belong to its session, or have its limit of descriptors.
#[test]
fn what_a_nodes_shutdown_sends_ends_neither() -> Result<()> {
    let (lab, shim) = wrapping(Flavour::V1_6, "2", "plain")?;
    let begun_low = lab.dir().join("low");
    let line = format!("#!/bin/sh\nulimit -S -n 256 && exec {} \"$@\"\n", shim.binary.display());
    script(&begun_low, &line)?;
    let pod = Pod::start(lab, Shim { binary: begun_low, ..shim }, "task", &talker())?;
    let fifos = pod.run()?;
    let (keeper, worker) = (pod.keeper()?, pod.worker()?);
    for process in [&keeper, &worker] {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
            kill(process.pid, signal).with_context(|| format!("{signal} to {process:?}"))?;
        }
        let dir = Path::new("/proc").join(process.pid.to_string());
        let works_in = fs::read_link(dir.join("cwd")).with_context(|| format!("{process:?} is gone"))?;
        ensure!(works_in == Path::new("/"), "{process:?} works in {works_in:?}");
        ensure!(process.session == keeper.pid, "its session is the keeper's: {process:?}");
        let limits = fs::read_to_string(dir.join("limits"))?;
        let open =
            limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("its limits")?;
        let open: Vec<_> = open.split_whitespace().take(2).collect();
        ensure!(open.first() == open.last(), "descriptors of {process:?}, soft and hard: {open:?}");
    }
    throughout(Duration::from_millis(200), "their lives", || Ok(keeper.alive() && worker.alive()))?;
    pod.is_well(&fifos)?;
    ensure!(
        (pod.keeper()?.pid, pod.worker()?.pid) == (keeper.pid, worker.pid),
        "others came in their places"
    );
    ends_well(&pod, &fifos)
}

/// Fork is refused when the worker dies: the keeper does its work, and makes a keeper when it may.
#[test]
fn no_process_is_to_be_had() -> Result<()> {
    let pod = wrapped(&talker())?;
    let Some(barren) = Barren::make(pod.lab.namespace()) else {
        println!(
            "skipped: no pids cgroup can be made here (runs as root on v1, and on v2 where the root hands `pids` on)"
        );
        return Ok(());
    };
    let refuse = |both: [Pid; 2]| {
        barren.allow("1")?;
        both.into_iter().try_for_each(|pid| barren.take_in(pid))
    };
    goes_on_without_processes(&pod, refuse, |_| barren.allow("max"))
}

/// The worker dies while processes are refused to both; `allow` is told who stands in.
fn goes_on_without_processes(
    pod: &Pod,
    refuse: impl FnOnce([Pid; 2]) -> Result<()>,
    allow: impl FnOnce(Pid) -> Result<()>,
) -> Result<()> {
    let fifos = pod.run()?;
    let (keeper, worker) = (pod.keeper()?, pod.worker()?);
    refuse([keeper.pid, worker.pid])?;
    procs::kill(worker.pid)?;
    let stands_in = || Process::read(keeper.pid).filter(|p| p.name == "tap-worker");
    procs::wait(PATIENCE, || "the keeper to stand in".to_owned(), stands_in)?;
    // No new connection: nobody is there to accept it. All that is open goes on.
    let state = pod.connection.call("State", &pod::state("task", ""))?;
    state.message::<api::StateResponse>().context("State")?;
    let before = fifos.stdout.len_so_far();
    fifos.stdout.wait_len(before + 4000, PATIENCE).context("output goes on")?;
    does_not_spin(keeper.pid, 60, || throughout(Duration::from_secs(1), "a second", || Ok(true)))?;
    allow(keeper.pid)?;
    pod.next_keeper(keeper.pid).context("a keeper, once it is allowed")?;
    let relieved = || (!keeper.alive()).then_some(());
    procs::wait(PATIENCE, || "the stand-in to be relieved".to_owned(), relieved)?;
    pod.is_well(&fifos)?;
    both_die_in_turn(pod, &fifos)?;
    ends_well(pod, &fifos)
}

/// Whose processes are counted: nobody's of a machine.
const ANOTHER_USER: u32 = 64_977;

/// Fork is refused by the limit of a user. The kernel spares root that limit, so this program runs itself again as somebody else, and
/// with it wrapper and shim, as they run under a containerd without root.
#[test]
fn no_process_is_to_be_had_by_a_user() -> Result<()> {
    if geteuid().is_root() {
        return as_another_user("no_process_is_to_be_had_by_a_user");
    }
    let pod = wrapped(&talker())?;
    let allowed = Cell::new(0);
    let refuse = |both: [Pid; 2]| {
        for pid in both {
            allowed.set(set_limit(pid, libc::RLIMIT_NPROC, 1)?);
        }
        Ok(())
    };
    goes_on_without_processes(&pod, refuse, |stand_in| {
        set_limit(stand_in, libc::RLIMIT_NPROC, allowed.get()).map(drop)
    })
}

/// Runs one test of this program as [`ANOTHER_USER`], from a folder of that user's that has all that it needs.
fn as_another_user(test: &str) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("tap-user-{}", std::process::id()));
    let ran = (|| {
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        chown(&dir, Some(ANOTHER_USER), Some(ANOTHER_USER))?;
        let program = dir.join("test");
        fs::copy(std::env::current_exe()?, &program)?;
        for name in [WRAPPER, STANDIN] {
            fs::copy(binary(name)?, dir.join(name)).with_context(|| format!("copying {name}"))?;
        }
        let mut command = Command::new(&program);
        command
            .args(["--exact", "--include-ignored", "--nocapture", test])
            .uid(ANOTHER_USER)
            .gid(ANOTHER_USER);
        command.env("TMPDIR", &dir).env("SHIMTAP_BIN_DIR", &dir).current_dir(&dir);
        command.output().with_context(|| format!("running {} as user {ANOTHER_USER}", program.display()))
    })();
    let _left = fs::remove_dir_all(&dir);
    let ran = ran?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(ran.status.success(), "{}{}", said(&ran.stdout), said(&ran.stderr));
    ensure!(said(&ran.stdout).contains("1 passed"), "it did not run: {}", said(&ran.stdout));
    Ok(())
}

/// CPU time of a process in ticks of 10 ms.
fn ticks(pid: Pid) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |n: usize| -> Result<u64> { Ok(fields.get(n).context("stat")?.parse()?) };
    Ok(field(11)? + field(12)?)
}

/// A process uses less than `percent` of a processor while `body` lasts, however long that is on a busy machine.
fn does_not_spin(pid: Pid, percent: u64, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let (before, began) = (ticks(pid)?, Instant::now());
    body()?;
    let (spent, span) = (ticks(pid)? - before, began.elapsed());
    let most = percent * u64::try_from(span.as_millis())? / 1_000;
    ensure!(spent < most, "it spins: {spent} ticks in {span:?}");
    Ok(())
}

/// The soft limit of a process's descriptors.
fn limit_descriptors(pid: Pid, soft: u64) -> Result<u64> {
    set_limit(pid, libc::RLIMIT_NOFILE, soft)
}

/// A soft limit of a process, at most its hard one; gives what it was.
fn set_limit(pid: Pid, what: libc::__rlimit_resource_t, soft: u64) -> Result<u64> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain numbers and a pointer to a live rlimit.
    #[expect(unsafe_code, reason = "prlimit of another process")]
    let rc = unsafe { libc::prlimit(pid.as_raw(), what, std::ptr::null(), &raw mut old) };
    ensure!(rc == 0, "reading the limit");
    let new = libc::rlimit { rlim_cur: soft.min(old.rlim_max), rlim_max: old.rlim_max };
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "prlimit of another process")]
    let rc = unsafe { libc::prlimit(pid.as_raw(), what, &raw const new, std::ptr::null_mut()) };
    ensure!(rc == 0, "setting the limit");
    Ok(old.rlim_cur)
}

/// No descriptor is left: who connects waits in the queue, nobody spins, a worker's death is survived all the same.
#[test]
fn no_descriptor_is_to_be_had() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let keeper = pod.keeper()?;
    let open = fs::read_dir(format!("/proc/{}/fd", keeper.pid))?
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .collect::<Vec<_>>();
    // The first free number is beyond the limit.
    let first_free = (0..).find(|n| !open.contains(n)).context("a free number")?;
    let before = limit_descriptors(keeper.pid, first_free)?;
    let waiting = pod.connect()?;
    let stream = waiting.send("Connect", &pod::connect("task"))?;
    does_not_spin(keeper.pid, 20, || {
        throughout(Duration::from_secs(1), "nobody to be accepted", || {
            Ok(waiting.frames().is_empty() && waiting.ended().is_none())
        })
    })?;
    pod.answers().context("the old connection")?;
    let worker = pod.worker()?;
    procs::kill(worker.pid)?;
    procs::next_worker(keeper.pid, Some(worker.pid), PATIENCE).context("a worker without descriptors")?;
    pod.answers().context("the old connection, by the next worker")?;
    // The worker was forked under the limit.
    limit_descriptors(pod.worker()?.pid, before)?;
    limit_descriptors(keeper.pid, before)?;
    waiting.answer(stream, PATIENCE).context("who had to wait")?.message::<api::ConnectResponse>()?;
    pod.is_well(&fifos)?;
    ends_well(&pod, &fifos)
}

/// Where State's answer says that the task writes to.
fn stdout_of(pod: &Pod) -> Result<PathBuf> {
    let state = pod.connection.call("State", &pod::state("task", ""))?;
    Ok(PathBuf::from(state.message::<api::StateResponse>()?.stdout))
}

#[test]
fn five_faults_mean_safe_mode_and_a_signal_ends_it() -> Result<()> {
    let pod = faulty(&talker())?;
    let fifos = pod.run()?;
    let outer = fifos.stdout.path().to_owned();
    ensure!(stdout_of(&pod)? == outer, "normally State names containerd's FIFO");
    five_faults(&pod)?;
    // Nothing is looked into: State says what the shim says. Whoever opens that comes to containerd's FIFO.
    let inner = stdout_of(&pod)?;
    ensure!(inner != outer, "in safe mode State passes as it is");
    ensure!(fs::canonicalize(&inner)? == fs::canonicalize(&outer)?, "{inner:?} leads to {outer:?}");
    pod.is_well(&fifos)?;
    pod.exec("in-safe-mode")?;
    // A second task comes and goes; we stay out of it.
    kill(pod.keeper()?.pid, Signal::SIGUSR2)?;
    let is_left = || (stdout_of(&pod).ok()? == outer).then_some(());
    procs::wait(PATIENCE, || "State to be rewritten again".to_owned(), is_left)?;
    pod.exec("after-safe-mode")?;
    pod.is_well(&fifos)?;
    ends_well(&pod, &fifos)?;
    exactly_once(&pod.lab, &[&pod.connection])
}

/// A task that begins and ends in safe mode is none of ours: its FIFOs are the shim's own business.
#[test]
fn a_task_that_begins_in_safe_mode() -> Result<()> {
    let script = Script { stdout: Output::lines(500, 80), exit_status: 3, ..Script::default() };
    let pod = faulty(&script)?;
    pod.answers().ok();
    five_faults(&pod)?;
    let fifos = pod.run()?;
    ensure!(stdout_of(&pod)? == fifos.stdout.path(), "Create passed as it was");
    ensure!(pod.wait()? == 3, "exit status");
    fifos.check(&script)?;
    pod.finish()
}

/// Requests in flight when safe mode begins are answered once and rightly, also those whose answer was held.
#[test]
fn requests_in_flight_survive_the_change() -> Result<()> {
    let script = Script { hold_open_ms: 3000, exit_delay_ms: 1500, exit_status: 3, ..Script::default() };
    let pod = faulty(&script)?;
    let _fifos = pod.run()?;
    let wait = pod.connection.send("Wait", &pod::wait("task", ""))?;
    five_faults(&pod)?;
    let exit = pod.connection.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
    ensure!(exit.exit_status == 3, "exit status {}", exit.exit_status);
    pod.finish()?;
    exactly_once(&pod.lab, &[&pod.connection])
}

/// A core dump would hold every descriptor until it is written, by a pipe handler for as long as that takes.
#[test]
fn a_fault_dumps_no_core() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let core = |pid: Pid| set_limit(pid, libc::RLIMIT_CORE, u64::MAX);
    // The same death of a program that may be dumped: where that leaves no core either, nothing is to be seen here.
    let mut plain = Command::new("/bin/sleep").arg("1000").current_dir(pod.lab.dir()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(plain.id())?);
    core(pid)?;
    kill(pid, Signal::SIGSEGV)?;
    if !plain.wait()?.core_dumped() {
        println!("skipped: this machine dumps no cores (runs where RLIMIT_CORE may be raised)");
        return Ok(());
    }
    let (keeper, worker) = (pod.keeper()?.pid, pod.worker()?.pid);
    core(worker)?;
    let dumped = thread::spawn(move || -> Result<bool> {
        // The parent reads the status first unless the reader traces.
        ptrace::seize(worker, ptrace::Options::empty())?;
        kill(worker, Signal::SIGSEGV)?;
        loop {
            match waitpid(worker, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Signaled(_, Signal::SIGSEGV, dumped) => return Ok(dumped),
                WaitStatus::Stopped(_, signal) => ptrace::cont(worker, signal)?,
                other => ensure!(other == WaitStatus::StillAlive, "{other:?}"),
            }
        }
    });
    let dumped = dumped.join().map_err(|_| anyhow!("the tracer panicked"))??;
    ensure!(!dumped, "the worker's core was dumped");
    procs::next_worker(keeper, Some(worker), PATIENCE)?;
    pod.is_well(&fifos)?;
    ends_well(&pod, &fifos)
}
