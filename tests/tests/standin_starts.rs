//! `start` and `delete` where many come at once, where the last wrapper is just leaving, and where the machine has nothing to
//! give: no descriptor, no process, a kernel that does not count what the relay moves. And what a shim has of whoever starts it.
//!
//! What the shim answers without us is the measure. Where it can start it starts behind us too, wrapped or, at the worst, as if
//! we were not there; nothing of ours stays that serves nobody, and nobody holds the pipe that containerd reads to its end.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use containerd_shim_protos::api;
use nix::{libc, unistd::Pid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use shimtap_tests::rig::program::{copy, script};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        barren::Barren,
        connection::Connection,
        fifo::FifoReader,
        lab::{Lab, files},
        launch::{Endpoint, Flavour, Ran, Shim},
        pod,
        wrapped::{STANDIN, WRAPPER, binary, wrapped, wrapping},
    },
    procs,
    script::Script,
};

/// Starts at once of one pod.
const CROWD: usize = 12;

/// Asks whoever answers at this address whether it is there.
fn is_served(endpoint: &Endpoint) -> Result<()> {
    let c = Connection::open(&endpoint.path()?, &endpoint.service())?;
    c.call("Connect", &pod::connect("any"))?.message::<api::ConnectResponse>().map(drop)
}

/// The same past us: is there a shim that lives?
fn shim_lives(lab: &Lab, endpoint: &Endpoint) -> bool {
    let lives = |socket: &PathBuf| {
        let c = Connection::open(socket, &endpoint.service())?;
        c.call("Connect", &pod::connect("any"))?.message::<api::ConnectResponse>()
    };
    lab.inner_sockets().iter().any(|socket| lives(socket).is_ok())
}

#[test]
fn starts_that_race_end_with_one_keeper_and_one_answer() -> Result<()> {
    for _ in 0..4 {
        let (lab, shim) = wrapping(Flavour::V2_3, "3", "protobuf")?;
        let bundles = (0..CROWD).map(|n| lab.bundle(&format!("c{n}"), Some("p"), &Script::default()));
        let bundles = bundles.collect::<Result<Vec<_>>>()?;
        // Which of several becomes the shim is the shim's own business: it is there already.
        let first = bundles.first().context("a bundle")?;
        let inner = Shim { binary: binary(STANDIN)?, ..shim.clone() }.start(&lab, "c0", first)?;
        ensure!(inner.status.success(), "{inner:?}");
        let ran = thread::scope(|scope| {
            let (lab, shim) = (&lab, &shim);
            let all: Vec<_> = bundles
                .iter()
                .enumerate()
                .map(|(n, bundle)| scope.spawn(move || shim.start(lab, &format!("c{n}"), bundle)))
                .collect();
            let joined = all.into_iter().map(|s| s.join().map_err(|_| anyhow!("a start panicked"))?);
            joined.collect::<Result<Vec<Ran>>>()
        })?;
        let answers: BTreeSet<_> = ran.iter().map(|ran| (ran.status.code(), ran.stdout.clone())).collect();
        ensure!(answers.len() == 1, "different answers: {answers:?}");
        let endpoint = shim.parse(&ran.first().context("a start")?.stdout)?;
        ensure!(endpoint.path()?.starts_with(lab.run_dir()), "wrapped: {endpoint:?}");
        let keepers = procs::keepers(lab.namespace())?;
        ensure!(keepers.len() == 1, "keepers: {keepers:?}");
        is_served(&endpoint)?;
    }
    Ok(())
}

/// The pod's last container goes while its next one comes. Whether the shim that is asked still lives afterwards is the shim's
/// own business; where it does, it is reached through what was handed out.
#[test]
fn a_start_that_meets_a_leaving_keeper() -> Result<()> {
    let (mut served, mut ended) = (0, 0);
    for turn in 0..24 {
        let pod = wrapped(&Script::stayer())?;
        let _fifos = pod.run()?;
        pod.connection.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
        pod.wait()?;
        let bundle = pod.lab.bundle("next", Some("task"), &Script::default())?;
        // From both at once to the start some milliseconds later.
        let pause = Duration::from_micros(turn % 12 * 700);
        let ran = thread::scope(|scope| {
            let leaving = scope.spawn(|| pod.finish());
            let until = Instant::now() + pause;
            while Instant::now() < until {
                thread::yield_now();
            }
            let ran = pod.shim.start(&pod.lab, "next", &bundle);
            leaving.join().map_err(|_| anyhow!("the end panicked"))??;
            ran
        })?;
        ensure!(ran.status.success(), "turn {turn}: {}", String::from_utf8_lossy(&ran.stdout));
        let endpoint = pod.shim.parse(&ran.stdout)?;
        let reached = is_served(&endpoint);
        if shim_lives(&pod.lab, &endpoint) {
            reached.with_context(|| format!("turn {turn}: a living shim is not reached at {endpoint:?}"))?;
            served += 1;
        } else {
            ended += 1;
        }
        let keepers = procs::keepers(pod.lab.namespace())?;
        ensure!(keepers.len() <= 2, "turn {turn}: {keepers:?}");
    }
    println!("{served} met a shim that lived on or a new one, {ended} one that was leaving");
    ensure!(served > 0, "the start always came too early");
    Ok(())
}

/// What a start or delete came to.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// The shim cannot start either.
    Refused,
    /// As if we were not there.
    Unwrapped,
    /// Behind us.
    Wrapped,
}

/// A binary that prepares its process by a line of shell and becomes `program`.
fn after(lab: &Lab, line: &str, program: &Path) -> Result<PathBuf> {
    let path = lab.dir().join("prepared");
    let text = format!("#!/bin/sh\n{line} || exit 99\nexec {} \"$@\"\n", program.display());
    script(&path, &text)?;
    Ok(path)
}

/// The stand-in alone, prepared by the first line, and behind us, by the second; both start and delete.
fn with_and_without(alone: &str, behind: &str) -> Result<Came> {
    let place = || -> Result<(Lab, Shim)> {
        let (lab, shim) = wrapping(Flavour::V1_6, "2", "plain")?;
        // As by default: who waits for a worker that cannot come must not wait for ever.
        lab.reconfigure("ready_ms = 20000", "ready_ms = 300")?;
        Ok((lab, shim))
    };
    let verbs = |lab: &Lab, shim: &Shim, line: &str, program: &Path| -> Result<(Ran, Ran)> {
        let bundle = lab.bundle("task", Some("task"), &Script::default())?;
        let shim = Shim { binary: after(lab, line, program)?, ..shim.clone() };
        Ok((shim.start(lab, "task", &bundle)?, shim.delete(lab, "task", &bundle)?))
    };
    let (lab, shim) = place()?;
    let (started, deleted) = verbs(&lab, &shim, alone, &binary(STANDIN)?)?;
    drop(lab);
    let (lab, shim) = place()?;
    let (ours, theirs) = verbs(&lab, &shim, behind, &binary(WRAPPER)?)?;
    let said = || format!("{}: {}", ours.status, String::from_utf8_lossy(&ours.stdout));
    ensure!(ours.took < Duration::from_secs(5), "start took {:?}", ours.took);
    if deleted.status.success() {
        let told = (theirs.status.code(), String::from_utf8_lossy(&theirs.stderr).into_owned());
        ensure!(
            theirs.status.success() && !theirs.stdout.is_empty(),
            "delete, which works without us: {told:?}"
        );
    }
    if !started.status.success() {
        return Ok(Came::Refused);
    }
    ensure!(ours.status.success(), "start, which works without us: {}", said());
    let endpoint = shim.parse(&ours.stdout).with_context(said)?;
    if endpoint.path()?.starts_with(lab.run_dir()) {
        let reached = is_served(&endpoint);
        if shim_lives(&lab, &endpoint) {
            reached.context("a living shim is not reached")?;
        }
        return Ok(Came::Wrapped);
    }
    ensure!(endpoint.path()?.starts_with(lab.inner_dir()), "an address of nobody: {endpoint:?}");
    let alone = || procs::wrappers(lab.namespace()).is_ok_and(|left| left.is_empty()).then_some(());
    procs::wait(PATIENCE, || "nothing of ours".to_owned(), alone)?;
    let mut left = files(&lab.run_dir());
    left.retain(|path| path.extension().is_some_and(|e| e == "sock"));
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(Came::Unwrapped)
}

/// Each limit, and what it came to.
fn told(all: &[(u32, Came)]) -> Result<()> {
    println!("{all:?}");
    let some = |came: Came| all.iter().any(|(_, other)| *other == came);
    ensure!(some(Came::Unwrapped), "no limit leaves room for the shim and none for us: {all:?}");
    ensure!(some(Came::Wrapped), "no limit leaves room for both: {all:?}");
    Ok(())
}

/// A keeper raises the soft limit; `start` itself has to do with it.
#[test]
fn without_descriptors_to_start_with_the_pod_is_unwrapped() -> Result<()> {
    let one = |most: u32| -> Result<(u32, Came)> {
        let came = with_and_without(&format!("ulimit -S -n {most}"), &format!("ulimit -S -n {most}"));
        Ok((most, came.with_context(|| format!("with {most} descriptors"))?))
    };
    told(&(4..=20).map(one).collect::<Result<Vec<_>>>()?)
}

/// Whoever may never have enough of them would leave connections waiting that the shim would have served.
#[test]
fn without_descriptors_for_a_keeper_the_pod_is_unwrapped() -> Result<()> {
    let one = |most: u32| -> Result<(u32, Came)> {
        let came = with_and_without(&format!("ulimit -n {most}"), &format!("ulimit -n {most}"));
        Ok((most, came.with_context(|| format!("with {most} descriptors"))?))
    };
    told(&[12, 16, 24, 48, 128, 255, 256, 1024].into_iter().map(one).collect::<Result<Vec<_>>>()?)
}

/// We are one process beside the shim's own: with one more than it needs by itself it starts behind us.
#[test]
fn processes_at_the_limit_leave_the_pod_unwrapped() -> Result<()> {
    if Barren::make(&format!("probe-{}", std::process::id())).is_none() {
        println!("skipped: no pids cgroup can be made here (runs on cgroup v1 hosts as root)");
        return Ok(());
    }
    let one = |most: u32| -> Result<(u32, Came)> {
        let group = |name: &str, most: u32| -> Result<(Barren, String)> {
            let barren =
                Barren::make(&format!("{name}-{}-{most}", std::process::id())).context("a pids cgroup")?;
            barren.allow(&most.to_string())?;
            let line = format!("echo $$ >{}", barren.members().display());
            Ok((barren, line))
        };
        let (_alone, plain) = group("plain", most)?;
        let (_behind, wrapped) = group("wrapped", most + 1)?;
        let came = with_and_without(&plain, &wrapped);
        Ok((most, came.with_context(|| format!("with {most} tasks"))?))
    };
    told(&(1..=10).chain([16, 64]).map(one).collect::<Result<Vec<_>>>()?)
}

/// Answers every call of this kind with `errno` from here on, for the calling thread and whom it starts.
fn without(call: i64, conditions: Vec<SeccompCondition>, errno: i32) -> Result<()> {
    let rules = if conditions.is_empty() { Vec::new() } else { vec![SeccompRule::new(conditions)?] };
    let filter = SeccompFilter::new(
        [(call, rules)].into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(u32::try_from(errno)?),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program).context("a filter of system calls")
}

/// The facts of ADR 0002 do not hold: nothing is put before the shim, and `start` says why.
#[test]
fn a_kernel_that_does_not_count_is_left_alone() -> Result<()> {
    let peek_off = || -> Result<()> {
        let of = |arg, value| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
        let (level, option) = (u64::try_from(libc::SOL_SOCKET)?, u64::try_from(libc::SO_PEEK_OFF)?);
        without(libc::SYS_setsockopt, vec![of(1, level)?, of(2, option)?], libc::ENOPROTOOPT)
    };
    let tee = || without(libc::SYS_tee, Vec::new(), libc::ENOSYS);
    let (lab, shim) = wrapping(Flavour::V2_3, "3", "protobuf")?;
    for (n, forbid) in [&peek_off as &(dyn Fn() -> Result<()> + Sync), &tee].into_iter().enumerate() {
        let id = format!("task{n}");
        let bundle = lab.bundle(&id, Some(&id), &Script::default())?;
        let log = FifoReader::create(&bundle.join("log"))?;
        let ran = thread::scope(|scope| {
            let start = || -> Result<Ran> {
                forbid()?;
                shim.start(&lab, &id, &bundle)
            };
            scope.spawn(start).join().map_err(|_| anyhow!("the start panicked"))?
        })?;
        ensure!(ran.status.success(), "{ran:?}");
        let endpoint = shim.parse(&ran.stdout)?;
        ensure!(endpoint.path()?.starts_with(lab.inner_dir()), "the shim's own address: {endpoint:?}");
        is_served(&endpoint)?;
        let keepers = procs::keepers(lab.namespace())?;
        ensure!(keepers.is_empty(), "{keepers:?}");
        let said = String::from_utf8(log.to_end(PATIENCE)?)?;
        ensure!(said.contains("this kernel does not count"), "containerd's log says {said:?}");
    }
    // The same place, without a filter: it was that and nothing else.
    let bundle = lab.bundle("last", Some("last"), &Script::default())?;
    let endpoint = shim.parse(&shim.start(&lab, "last", &bundle)?.stdout)?;
    ensure!(endpoint.path()?.starts_with(lab.run_dir()), "wrapped: {endpoint:?}");
    is_served(&endpoint)
}

/// A shim sets its `oom_score_adj` by that of whoever runs its `start`, and a container has its shim's.
#[test]
fn a_shim_is_as_easy_to_spare_as_without_us_and_its_keeper_easier() -> Result<()> {
    let (lab, shim) = wrapping(Flavour::V2_3, "3", "protobuf")?;
    let seen = lab.dir().join("seen");
    // Whoever has nothing to do any more but to wait for the answer sleeps.
    let line = format!(
        "until grep -q '^State:.S' /proc/$PPID/status; do :; done; cat /proc/$PPID/oom_score_adj >{}",
        seen.display()
    );
    lab.wrap(WRAPPER, &after(&lab, &line, &binary(STANDIN)?)?)?;
    let bundle = lab.bundle("task", Some("task"), &Script::default())?;
    let endpoint = shim.parse(&shim.start(&lab, "task", &bundle)?.stdout)?;
    ensure!(endpoint.path()?.starts_with(lab.run_dir()), "wrapped: {endpoint:?}");
    let of = |file: &Path| -> Result<i32> { Ok(fs::read_to_string(file)?.trim().parse()?) };
    let ours = of(Path::new("/proc/self/oom_score_adj"))?;
    ensure!(of(&seen)? == ours, "the shim saw {}, and {ours} without us", of(&seen)?);
    let keeper = procs::keepers(lab.namespace())?.into_iter().next().context("a keeper")?;
    let keepers = of(&PathBuf::from(format!("/proc/{}/oom_score_adj", keeper.pid)))?;
    ensure!(keepers == (ours + 1).min(1000), "the keeper has {keepers}, this test {ours}");
    Ok(())
}

/// What containerd lets slip into `start` the shim has, as without us, and nobody of ours.
#[test]
fn nobody_of_ours_keeps_what_leaks_from_containerd() -> Result<()> {
    let (lab, shim) = wrapping(Flavour::V2_3, "3", "protobuf")?;
    let leak = lab.dir().join("leak");
    let _reader = FifoReader::create(&leak)?;
    let line = format!("exec 9>{}", leak.display());
    let shim = Shim { binary: after(&lab, &line, &binary(WRAPPER)?)?, ..shim };
    let bundle = lab.bundle("task", Some("task"), &Script::default())?;
    let endpoint = shim.parse(&shim.start(&lab, "task", &bundle)?.stdout)?;
    ensure!(endpoint.path()?.starts_with(lab.run_dir()), "wrapped: {endpoint:?}");
    is_served(&endpoint)?;
    let has_it = |pid: Pid| -> Result<bool> {
        let open =
            fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("descriptors of {pid}"))?;
        Ok(open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).any(|file| file == leak))
    };
    let shims = lab.inner_pids()?;
    ensure!(has_it(*shims.first().context("a shim")?)?, "nothing leaked");
    let ours = procs::wrappers(lab.namespace())?;
    ensure!(ours.len() >= 2, "a keeper and a worker: {ours:?}");
    for process in ours {
        ensure!(!has_it(process.pid)?, "{process:?} has it");
    }
    Ok(())
}

/// A wrapper that a wrapper has started becomes its own shim: one shim, one wrapper, each verb once.
#[test]
fn a_wrapper_behind_a_wrapper_stands_aside() -> Result<()> {
    let (lab, shim) = wrapping(Flavour::V2_3, "3", "protobuf")?;
    // Another file, so that it is not known by its inode; its name leads it to the stand-in beside it.
    let second = lab.dir().join("containerd-shim-tap-standin-v2");
    copy(&binary(WRAPPER)?, &second)?;
    std::os::unix::fs::symlink(binary(STANDIN)?, lab.dir().join(STANDIN))
        .context("the stand-in beside it")?;
    lab.wrap(WRAPPER, &second)?;
    let bundle = lab.bundle("task", Some("task"), &Script::default())?;
    let ran = shim.start(&lab, "task", &bundle)?;
    ensure!(ran.status.success(), "start: {}", String::from_utf8_lossy(&ran.stdout));
    let endpoint = shim.parse(&ran.stdout)?;
    ensure!(endpoint.path()?.starts_with(lab.run_dir()), "wrapped: {endpoint:?}");
    is_served(&endpoint)?;
    let keepers = procs::keepers(lab.namespace())?;
    ensure!(keepers.len() == 1, "keepers: {keepers:?}");
    for ran in [shim.plain(&lab, &["-info"])?, shim.delete(&lab, "task", &bundle)?] {
        ensure!(ran.status.success() && !ran.stdout.is_empty(), "{ran:?}");
    }
    let verbs: Vec<_> = lab.verbs()?.into_iter().filter_map(|verb| verb.argv.last().cloned()).collect();
    ensure!(verbs == ["start", "-info", "delete"], "{verbs:?}");
    Ok(())
}

/// A keeper that is needed is made, whatever has become of this machine's files: nothing of them but the wrapper's own image.
#[test]
#[ignore = "needs root: `sudo ./dev test` runs it"]
fn the_wrapper_begins_where_there_is_no_other_file() -> Result<()> {
    let nowhere = std::env::temp_dir().join(format!("shimtap-nowhere-{}", std::process::id()));
    fs::create_dir_all(&nowhere).context("a folder")?;
    fs::copy(binary(WRAPPER)?, nowhere.join(WRAPPER)).context("copy the wrapper")?;
    let mut command = Command::new("chroot");
    command.arg(&nowhere).args([&format!("/{WRAPPER}"), "-v"]);
    let ran = command.output().context("chroot");
    fs::remove_dir_all(&nowhere).context("remove the folder")?;
    let ran = ran?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(said.starts_with("shimtap: cannot look at our own binary"), "it said {said:?}");
    Ok(())
}
