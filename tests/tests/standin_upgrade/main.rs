//! An upgrade in place, from one release to the next and back, and nobody notices.
//!
//! The next release is the same source built with another version and another layout of its block (tests/next). `collectors` has its
//! collector.

mod collectors;

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shimtap_proto::control::{Answer, Ask, Outcome, Step};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        pod::{self, Fifos, Pod},
        upgrade::{Control, NEXT, brought_to, hand_over, upgrade, upgrade_pod},
        wrapped::{WRAPPER, binary, block_of, faulty, five_faults, wrapped, wrapped_in},
    },
    procs,
    script::{Output, Script},
};

const NOW: &str = "0.1.0";
const THEN: &str = "0.2.0";

fn talker() -> Script {
    let stdout = Output { pause_us: 300, ..Output::lines(10_000_000, 80) };
    Script { stdout, until_killed: true, ..Script::default() }
}

/// Device and inode of the image that a process runs.
fn image_of(pid: Pid) -> Result<(u64, u64)> {
    let meta = fs::metadata(format!("/proc/{pid}/exe")).context("the image of a process")?;
    Ok((meta.dev(), meta.ino()))
}

/// Keeper and worker run this binary before long, and are all there is.
fn both_run(pod: &Pod, name: &str) -> Result<()> {
    let meta = fs::metadata(binary(name)?)?;
    let runs = |pid: Pid| image_of(pid).is_ok_and(|image| image == (meta.dev(), meta.ino()));
    let both = || {
        let keeper = pod.keeper().ok()?;
        let worker = procs::worker(keeper.pid).ok()?;
        (runs(keeper.pid) && runs(worker.pid)).then_some(())
    };
    procs::wait(PATIENCE, || format!("both of {name}: {:?}", procs::of(pod.lab.namespace())), both)?;
    let workers = procs::workers(pod.lab.namespace())?;
    ensure!(workers.len() == 1, "one worker: {workers:?}");
    Ok(())
}

/// The pod answers, its output goes on, an exec works, and a new connection is served.
fn is_well(pod: &Pod, fifos: &Fifos, exec_id: &str) -> Result<()> {
    pod.is_well(fifos)?;
    let state = pod.connection.call("State", &pod::state("task", ""))?.message::<api::StateResponse>()?;
    ensure!(Path::new(&state.stdout) == fifos.stdout.path(), "State names {}", state.stdout);
    pod.exec(exec_id)
}

/// The rest of its life: every line in its place.
fn ends_well(pod: &Pod, fifos: &Fifos) -> Result<()> {
    pod.end_whole(fifos, &talker().stdout)
}

#[test]
fn to_the_next_release_and_back() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let waiting = pod.connection.send("Wait", &pod::wait("task", ""))?;
    let before = (pod.keeper()?.pid, pod.worker()?.pid);
    for (turn, (from, to, name)) in
        [(NOW, THEN, NEXT), (THEN, NOW, WRAPPER), (NOW, THEN, NEXT)].into_iter().enumerate()
    {
        let told = brought_to(&pod, name)?;
        ensure!((told.from.as_deref(), told.to.as_deref()) == (Some(from), Some(to)), "{told:?}");
        ensure!(told.generation == Some(u64::try_from(turn)? + 2), "{told:?}");
        both_run(&pod, name)?;
        is_well(&pod, &fifos, &format!("exec-{turn}"))?;
    }
    ensure!((pod.keeper()?.pid, pod.worker()?.pid) == before, "the processes are the same");
    ends_well(&pod, &fifos)?;
    let exit = pod.connection.answer(waiting, PATIENCE)?.message::<api::WaitResponse>()?;
    ensure!(exit.exit_status == 137, "the Wait that was asked before all that: {}", exit.exit_status);
    exactly_once(&pod.lab, &[&pod.connection])
}

/// What the next layout has appended: how many workers of it there were.
fn appended(pod: &Pod) -> Result<u64> {
    let mut word = [0; 8];
    block_of(pod)?.read_exact_at(&mut word, 860_424)?;
    Ok(u64::from_ne_bytes(word))
}

fn layout(pod: &Pod) -> Result<u32> {
    let mut word = [0; 4];
    block_of(pod)?.read_exact_at(&mut word, 8)?;
    Ok(u32::from_ne_bytes(word))
}

fn kill_worker(pod: &Pod, signal: Signal) -> Result<()> {
    // Looked for before: while it runs another image in its place it has no command line by which to be found.
    let keeper = pod.keeper()?.pid;
    let worker = procs::next_worker(keeper, None, PATIENCE)?;
    kill(worker.pid, signal)?;
    procs::next_worker(keeper, Some(worker.pid), PATIENCE).map(drop)
}

/// A layout's own words begin at zero after every other layout, and are its own while it lasts.
#[test]
fn what_a_layout_appends_begins_at_zero() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    ensure!((layout(&pod)?, appended(&pod)?) == (2, 0), "an old block");
    for _ in 0..2 {
        brought_to(&pod, NEXT)?;
        ensure!((layout(&pod)?, appended(&pod)?) == (3, 1), "a new worker began");
        kill_worker(&pod, Signal::SIGKILL)?;
        pod.answers()?;
        ensure!((layout(&pod)?, appended(&pod)?) == (3, 2), "and another");
        brought_to(&pod, WRAPPER)?;
        ensure!((layout(&pod)?, appended(&pod)?) == (2, 2), "the old layout leaves it alone");
    }
    ends_well(&pod, &fifos)
}

/// What runs is the descriptor that was handed over, for all successors.
#[test]
fn the_new_binary_may_go_once_it_runs() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let copy = pod.lab.dir().join("new");
    fs::copy(binary(NEXT)?, &copy)?;
    let told = upgrade_pod(&pod, &copy, &[])?;
    ensure!(told.outcome == Outcome::Upgraded, "{told:?}");
    let image = image_of(pod.keeper()?.pid)?;
    fs::remove_file(&copy)?;
    for turn in 0..2 {
        kill_worker(&pod, Signal::SIGKILL)?;
        is_well(&pod, &fifos, &format!("worker-{turn}"))?;
        let keeper = pod.keeper()?.pid;
        procs::kill(keeper)?;
        let next = pod.next_keeper(keeper)?;
        is_well(&pod, &fifos, &format!("keeper-{turn}"))?;
        ensure!(image_of(next.pid)? == image && image_of(pod.worker()?.pid)? == image, "another image");
    }
    ends_well(&pod, &fifos)
}

#[test]
fn safe_mode_is_left() -> Result<()> {
    let pod = faulty(&talker())?;
    let fifos = pod.run()?;
    five_faults(&pod)?;
    let mut control = Control::open(&pod)?;
    ensure!(control.ask(Ask::Who, None)?.safe_mode, "five faults mean safe mode");
    brought_to(&pod, NEXT)?;
    let answer = control.ask(Ask::Who, None)?;
    ensure!(!answer.safe_mode && answer.version == THEN, "{answer:?}");
    is_well(&pod, &fifos, "after")?;
    ends_well(&pod, &fifos)?;
    exactly_once(&pod.lab, &[&pod.connection])
}

/// A release whose workers die by their own fault is given up for the old one, not for safe mode.
#[test]
fn three_faults_of_the_new_release_bring_the_old_one_back() -> Result<()> {
    let pod = wrapped_in(&talker(), |lab| lab.reconfigure("deaths = 0", "deaths = 3"))?;
    let fifos = pod.run()?;
    brought_to(&pod, NEXT)?;
    kill_worker(&pod, Signal::SIGKILL)?;
    for _ in 0..3 {
        both_run(&pod, NEXT)?;
        kill_worker(&pod, Signal::SIGSEGV)?;
    }
    let mut control = Control::open(&pod)?;
    let answer = control.await_step(|a| a.upgrade == Step::FellBack)?;
    ensure!(answer.version == NOW && !answer.safe_mode, "{answer:?}");
    both_run(&pod, WRAPPER)?;
    is_well(&pod, &fifos, "after")?;
    let told = brought_to(&pod, NEXT)?;
    ensure!(told.from.as_deref() == Some(NOW), "it may be tried again: {told:?}");
    is_well(&pod, &fifos, "again")?;
    ends_well(&pod, &fifos)
}

#[test]
fn a_dry_run_the_same_release_and_force() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let (now, next) = (binary(WRAPPER)?, binary(NEXT)?);
    let dry = upgrade_pod(&pod, &next, &["--dry-run"])?;
    ensure!(dry.outcome == Outcome::Possible && dry.to.as_deref() == Some(THEN), "{dry:?}");
    let same = upgrade_pod(&pod, &now, &[])?;
    ensure!(same.outcome == Outcome::Same && same.generation == Some(1), "{same:?}");
    let copy = pod.lab.dir().join("same");
    fs::copy(&now, &copy)?;
    let same = upgrade_pod(&pod, &copy, &[])?;
    ensure!(same.outcome == Outcome::Same && same.why.contains("--force"), "{same:?}");
    both_run(&pod, WRAPPER)?;
    let forced = upgrade_pod(&pod, &now, &["--force"])?;
    ensure!(forced.outcome == Outcome::Upgraded && forced.generation == Some(2), "{forced:?}");
    both_run(&pod, WRAPPER)?;
    ends_well(&pod, &fifos)
}

#[test]
fn wrappers_are_named_by_the_beginnings_of_ids() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let next = binary(NEXT)?.display().to_string();
    let said = upgrade(&pod.lab, &["tas", "--dry-run", "--binary", &next])?.ok()?;
    ensure!(said.text().contains("possible"), "{}", said.text());
    let said = upgrade(&pod.lab, &["nobody", "--binary", &next])?;
    ensure!(said.code == 1 && said.text().contains("no wrapper is of that id"), "{said:?}");
    let said = upgrade(&pod.lab, &["--binary", &next])?;
    ensure!(said.code == 64 && said.stderr.contains("--all"), "{said:?}");
    both_run(&pod, WRAPPER)?;
    ends_well(&pod, &fifos)
}

#[test]
fn two_upgrades_at_once() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    for to in [NEXT, WRAPPER, NEXT, WRAPPER] {
        let path = binary(to)?;
        let told = thread::scope(|scope| {
            let both = [0, 1].map(|_| scope.spawn(|| upgrade_pod(&pod, &path, &[])));
            both.map(|one| one.join().expect("a thread panicked"))
        });
        let [one, other] = told;
        let (one, other) = (one?.outcome, other?.outcome);
        ensure!([one, other].contains(&Outcome::Upgraded), "{one:?} {other:?}");
        both_run(&pod, to)?;
    }
    is_well(&pod, &fifos, "after")?;
    ends_well(&pod, &fifos)
}

/// A file of the lab with this content and mode.
fn file(pod: &Pod, name: &str, content: &[u8], mode: u32) -> Result<PathBuf> {
    let path = pod.lab.dir().join(name);
    fs::write(&path, content)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(path)
}

/// The next release for another machine: only its header says so.
fn foreign(pod: &Pod) -> Result<PathBuf> {
    let mut bytes = fs::read(binary(NEXT)?)?;
    // e_machine: SPARC.
    bytes.get_mut(18..20).context("an ELF header")?.copy_from_slice(&[2, 0]);
    file(pod, "foreign", &bytes, 0o755)
}

/// What is no wrapper's binary is found out before any wrapper is asked.
#[test]
fn what_is_no_wrapper_touches_none() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let part = fs::read(binary(NEXT)?)?;
    let part = part.get(..1 << 20).context("a part of it")?;
    let bad = [
        (PathBuf::from("/bin/true"), "does not say which release"),
        (PathBuf::from("/bin/false"), "does not say which release"),
        (PathBuf::from("/bin/echo"), "does not say which release"),
        (binary("shimtap")?, "does not say which release"),
        (file(&pod, "text", b"no program", 0o644)?, "running"),
        (file(&pod, "part", part, 0o755)?, ""),
        (foreign(&pod)?, "running"),
        (file(&pod, "mute", b"#!/bin/sh\nexec sleep 1000\n", 0o755)?, "said nothing"),
        (pod.lab.dir().to_owned(), "running"),
        (PathBuf::from("/nowhere"), "running"),
    ];
    for (path, why) in bad {
        let said = upgrade(&pod.lab, &["--all", "--binary", &path.display().to_string()])?;
        ensure!(said.code == 1 && said.stderr.contains(why), "{}: {said:?}", path.display());
        let answer = Control::open(&pod)?.ask(Ask::Who, None)?;
        ensure!((answer.generation, answer.upgrade) == (1, Step::None), "{}: {answer:?}", path.display());
    }
    both_run(&pod, WRAPPER)?;
    ends_well(&pod, &fifos)
}

/// How an upgrade must end.
type Ended<'a> = &'a dyn Fn(&Answer) -> bool;

/// The same images, handed over all the same: the kernel refuses them, or what they make of the keeper is replaced.
#[test]
fn what_is_no_wrapper_does_not_stay_in_its_place() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let cut = fs::read(binary(NEXT)?)?;
    let is_refused = |answer: &Answer| answer.upgrade == Step::Refused && answer.errno != 0;
    let is_replaced = |answer: &Answer| answer.upgrade == Step::KeeperLost;
    let bad: [(PathBuf, Ended<'_>); 7] = [
        (file(&pod, "text", b"no program", 0o644)?, &is_refused),
        (file(&pod, "word", b"no program", 0o755)?, &is_refused),
        (foreign(&pod)?, &is_refused),
        (PathBuf::from("/bin/false"), &is_replaced),
        (PathBuf::from("/usr/bin/yes"), &is_replaced),
        (file(&pod, "mute", b"#!/bin/sh\nexec sleep 1000\n", 0o755)?, &is_replaced),
        (file(&pod, "cut", cut.get(..1 << 20).context("a part of it")?, 0o755)?, &|a| {
            is_refused(a) || is_replaced(a)
        }),
    ];
    for (n, (path, is_so)) in bad.into_iter().enumerate() {
        let (mut control, _) = hand_over(&pod, &path)?;
        control.await_step(is_so).with_context(|| path.display().to_string())?;
        both_run(&pod, WRAPPER).with_context(|| path.display().to_string())?;
        is_well(&pod, &fifos, &format!("exec-{n}")).with_context(|| path.display().to_string())?;
    }
    brought_to(&pod, NEXT)?;
    is_well(&pod, &fifos, "after")?;
    ends_well(&pod, &fifos)?;
    Ok(())
}

/// A block of a layout that is too far away is left alone.
#[test]
fn a_foreign_layout_is_refused() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    block_of(&pod)?.write_all_at(&9u32.to_ne_bytes(), 8)?;
    let told = upgrade_pod(&pod, &binary(NEXT)?, &[])?;
    ensure!(told.outcome == Outcome::Refused && told.why.contains("layout 9"), "{told:?}");
    block_of(&pod)?.write_all_at(&2u32.to_ne_bytes(), 8)?;
    both_run(&pod, WRAPPER)?;
    is_well(&pod, &fifos, "after")?;
    ends_well(&pod, &fifos)
}

/// A stopped process is replaced, and what is left does what was asked.
#[test]
fn a_hung_process_does_not_hinder_it() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    kill(pod.worker()?.pid, Signal::SIGSTOP)?;
    brought_to(&pod, NEXT)?;
    both_run(&pod, NEXT)?;
    is_well(&pod, &fifos, "after-a-worker")?;
    kill(pod.keeper()?.pid, Signal::SIGSTOP)?;
    brought_to(&pod, WRAPPER)?;
    both_run(&pod, WRAPPER)?;
    is_well(&pod, &fifos, "after-a-keeper")?;
    ends_well(&pod, &fifos)
}

/// Nobody answers: that is said, and what was asked for is not done later behind the asker's back.
#[test]
fn a_stopped_wrapper_is_mute_and_stays_as_it_was() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let (keeper, worker) = (pod.keeper()?.pid, pod.worker()?.pid);
    for pid in [keeper, worker] {
        kill(pid, Signal::SIGSTOP)?;
    }
    let (late, image) = (Control::open(&pod)?, File::open(binary(NEXT)?)?);
    late.send(Ask::Become, Some(&image))?;
    drop(late);
    let told = upgrade_pod(&pod, &binary(NEXT)?, &[])?;
    ensure!(told.outcome == Outcome::Mute && told.why.contains("did not answer"), "{told:?}");
    for pid in [worker, keeper] {
        kill(pid, Signal::SIGCONT)?;
    }
    is_well(&pod, &fifos, "after")?;
    both_run(&pod, WRAPPER)?;
    ends_well(&pod, &fifos)
}

/// Bytes that begin like a request and are none reach nobody.
#[test]
fn nonsense_on_the_socket_is_hung_up_on() -> Result<()> {
    use std::{io::Read, os::unix::net::UnixStream};
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let before = pod.worker()?.pid;
    let later = [&b"shimtap?"[..], &7u32.to_le_bytes(), &1u32.to_le_bytes()].concat();
    let unknown = [&b"shimtap?"[..], &1u32.to_le_bytes(), &9u32.to_le_bytes()].concat();
    for bytes in [&b"s"[..], b"shimtap?", &later, &unknown, &[b's'; 4096]] {
        let mut stream = UnixStream::connect(pod.endpoint.path()?)?;
        std::io::Write::write_all(&mut stream, bytes)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        if bytes.len() >= 16 {
            ensure!(matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)), "an answer to {bytes:?}");
        }
    }
    is_well(&pod, &fifos, "after")?;
    ensure!(pod.worker()?.pid == before, "the worker died of it");
    ends_well(&pod, &fifos)?;
    ensure!(!pod.lab.requests()?.iter().any(|e| format!("{:?}", e.kind) == "Odd"), "the shim was sent some");
    Ok(())
}
