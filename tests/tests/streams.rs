//! What goes in and out of containers: exec, terminals, stdin, attach, pipes that outlive their process,
//! and readers that stall. The same with and without the wrapper, and complete.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::cri_log;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::patience::throughout;
use shimtap_tests::rig::run::Running;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, same_with_and_without};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    exec,
    exec_in_a_pod_with_long_arguments_and_much_output,
    terminal_in_a_pod,
    terminal,
    stdin_until_it_is_closed,
    attach,
    exit_with_a_grandchild_that_holds_stdout,
    removal_with_a_grandchild_that_holds_stdout,
    no_byte_is_lost_when_a_signal_meets_a_stalled_reader,
    both_streams_at_full_speed,
);

fn exec(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        node.run_detached("a", &["sleep", "1000"])?;
        let plain = node.exec("a", &["sh", "-c", "exit 7"])?;
        let long = "x".repeat(8 << 10);
        let length = node.exec("a", &["sh", "-c", "exit $((${#1} / 1024))", "sh", &long])?;
        let missing = node.exec("a", &["/no/such/program"])?;
        let refused = missing.stderr.contains("no such file");
        node.remove("a")?;
        Ok((plain.code, length.code, missing.code, refused))
    })?;
    assert_eq!((answer.0, answer.1, answer.3), (7, 8, true));
    Ok(())
}

fn exec_in_a_pod_with_long_arguments_and_much_output(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        for length in [8 << 10, 120 << 10] {
            let long = "x".repeat(length);
            let said = cri.exec(&id, &["printf", "%s", &long], 0)?;
            ensure!(
                said.stdout == long.as_bytes(),
                "an argument of {length} bytes came back as {}",
                said.stdout.len()
            );
        }
        let said = cri.exec(&id, &["speaker", "lines=20000", "batch=50", "exit=3"], 0)?;
        ensure!(said.exit_code == 3, "exit status {}", said.exit_code);
        ensure!(said.stdout == tape(1, 20_000, 64), "{} bytes of output", said.stdout.len());
        let said = cri.exec(&id, &["sh", "-c", "echo to stderr >&2"], 0)?;
        ensure!(said.stderr == b"to stderr\n" && said.stdout.is_empty(), "{said:?}");
        cri.remove_pod(&pod)
    })
}

fn terminal_in_a_pod(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let command = ["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo a terminal; echo error >&2"];
        let id = cri.run(&pod, &Wanted { name: "c", command: &command, tty: true, ..Wanted::default() })?;
        let status = cri.await_exit(&id)?;
        let log = cri_log(&cri.log_path(&pod, "c"))?;
        cri.remove_pod(&pod)?;
        Ok((status.exit_code, String::from_utf8_lossy(&log.stdout).into_owned(), log.stderr))
    })?;
    assert_eq!(answer, (0, "a terminal\nerror\n".to_owned(), Vec::new()));
    Ok(())
}

/// `ctr run --tty` wants a terminal of its own: `script` gives it one.
fn terminal(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        let command = ["sh", "-c", "test -t 1 && echo yes; exit 5"];
        let ctr = node.run_command("t", &["--rm", "--tty"], &command);
        let words = std::iter::once(ctr.get_program()).chain(ctr.get_args());
        let quoted = words.map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>().join(" ");
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &quoted, "/dev/null"]);
        let said = Running::start(script)?.finish(LIMIT)?;
        // ctr may warn of its host first.
        let text = said.text();
        Ok((said.code, text.lines().last().unwrap_or_default().trim_end().to_owned()))
    })?;
    assert_eq!(answer, (5, "yes".to_owned()));
    Ok(())
}

fn stdin_until_it_is_closed(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        let mut ctr = node.run_beside("in", &["--rm"], &["sh", "-c", "wc -c; exit 2"])?;
        ctr.say(&vec![b'x'; 300_000])?;
        ctr.close_stdin();
        let said = ctr.finish(LIMIT)?;
        node.complete(&said.stdout, b"300000\n")?;
        Ok(said.code)
    })?;
    assert_eq!(answer, 2);
    Ok(())
}

/// A client that comes later opens the FIFOs that State names: they must be containerd's own.
fn attach(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Path, |node| {
        let detached = node.run_command("a", &["--detach"], &["speaker", "lines=100000", "rate=200"]);
        Running::start(detached)?.finish(LIMIT)?.ok()?;
        let client = Running::start(node.ctr_command(&["tasks", "attach", "a"]))?;
        let enough = tape(1, 300, 64).len();
        eventually(LIMIT, "300 lines through the attached client", || {
            Ok((client.stdout_so_far().len() >= enough).then_some(()))
        })?;
        node.kill("a", "SIGKILL")?.ok()?;
        let said = client.finish(LIMIT)?;
        // The client that started it may have read the first lines.
        let whole = tape(1, 20_000, 64);
        let is_part = whole.windows(said.stdout.len()).any(|window| window == said.stdout);
        ensure!(is_part, "what attach showed is no part of what was written:\n{}", said.text());
        node.remove("a")?;
        Ok(said.code)
    })
    .map(drop)
}

/// How often a time is taken, of which the one in the middle counts.
const RUNS: usize = 5;

fn median(mut times: Vec<Duration>) -> Result<Duration> {
    times.sort_unstable();
    println!("{times:?}");
    times.get(RUNS / 2).copied().context("so many times were measured")
}

/// From start to containerd's "exited", of a container whose grandchild keeps stdout open for longer.
fn exit_with_grandchild(node: &Node) -> Result<Duration> {
    let cri = node.cri()?;
    let pod = cri.run_pod_with_shared_pids("p")?;
    let mut times = Vec::new();
    for turn in 0..RUNS {
        let name = format!("c{turn}");
        let command = ["speaker", "lines=10", "hold=4"];
        let id = cri.create(&pod, &Wanted { name: &name, command: &command, ..Wanted::default() })?;
        let start = Instant::now();
        cri.start(&id)?;
        cri.await_exit(&id)?;
        times.push(start.elapsed());
        let log = cri_log(&cri.log_path(&pod, &name))?;
        node.complete(&log.stdout, &tape(1, 10, 64))?;
    }
    cri.remove_pod(&pod)?;
    median(times)
}

fn exit_with_a_grandchild_that_holds_stdout(version: Version) -> Result<()> {
    let plain = Setup::new(version, Shim::Unwrapped).alone().run(exit_with_grandchild)?;
    let wrapped = Setup::new(version, Shim::Wrapped(Hook::Opt)).alone().run(exit_with_grandchild)?;
    ensure!(wrapped <= plain + Duration::from_millis(150), "exit after {wrapped:?}, unwrapped {plain:?}");
    Ok(())
}

/// From RemoveContainer to its answer, for a running container whose init was killed and whose grandchild
/// lives on in the pod.
fn removal_with_grandchild(node: &Node) -> Result<Duration> {
    let cri = node.cri()?;
    let pod = cri.run_pod_with_shared_pids("p")?;
    let mut times = Vec::new();
    for turn in 0..RUNS {
        let name = format!("c{turn}");
        let command = ["speaker", "lines=10", "hold=4", "sleep=100000"];
        let id = cri.run(&pod, &Wanted { name: &name, command: &command, ..Wanted::default() })?;
        let log = cri.log_path(&pod, &name);
        eventually(LIMIT, "its lines", || Ok((cri_log(&log)?.stdout == tape(1, 10, 64)).then_some(())))?;
        let start = Instant::now();
        cri.stop(&id, 0)?;
        cri.remove(&id)?;
        times.push(start.elapsed());
    }
    cri.remove_pod(&pod)?;
    median(times)
}

fn removal_with_a_grandchild_that_holds_stdout(version: Version) -> Result<()> {
    let plain = Setup::new(version, Shim::Unwrapped).alone().run(removal_with_grandchild)?;
    let wrapped = Setup::new(version, Shim::Wrapped(Hook::Opt)).alone().run(removal_with_grandchild)?;
    ensure!(wrapped <= plain + Duration::from_millis(150), "removed after {wrapped:?}, unwrapped {plain:?}");
    Ok(())
}

/// A signal other than SIGKILL says nothing about the end: a reader that takes nothing for longer than any
/// limit of ours still gets every byte.
fn no_byte_is_lost_when_a_signal_meets_a_stalled_reader(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Path, |node| {
        let script = "trap '' HUP; exec speaker lines=20000 batch=10 count=/host/count";
        let command = node.run_command("s", &["--rm"], &["sh", "-c", script]);
        let (mut client, mut unread) = Running::start_unread(command)?;
        let count = node.host_dir().join("count");
        let written = || std::fs::read_to_string(&count).unwrap_or_default();
        eventually(LIMIT, "its first lines", || Ok((!written().is_empty()).then_some(())))?;
        let mut last = (String::new(), Instant::now());
        eventually(LIMIT, "the pipes to fill up", || {
            let now = written();
            if now != last.0 {
                last = (now, Instant::now());
            }
            Ok((last.1.elapsed() > Duration::from_secs(2)).then_some(()))
        })?;
        node.kill("s", "SIGHUP")?.ok()?;
        let stalled = written();
        throughout(Duration::from_secs(4), "the stall", || Ok(written() == stalled && client.is_running()?))?;
        let mut bytes = Vec::new();
        unread.read_to_end(&mut bytes).context("read what was stalled")?;
        let said = client.finish(LIMIT)?;
        node.complete(&bytes, &tape(1, 20_000, 64))?;
        Ok(said.code)
    })
    .map(drop)
}

fn both_streams_at_full_speed(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let command = ["speaker", "lines=100000", "to=both", "batch=7", "width=120"];
        let id = cri.run(&pod, &Wanted { name: "c", command: &command, ..Wanted::default() })?;
        let status = cri.await_exit(&id)?;
        let log = cri_log(&cri.log_path(&pod, "c"))?;
        let expected = tape(1, 100_000, 120);
        node.complete(&log.stdout, &expected).context("stdout")?;
        node.complete(&log.stderr, &expected).context("stderr")?;
        cri.remove_pod(&pod)?;
        Ok(status.exit_code)
    })?;
    assert_eq!(answer, 0);
    Ok(())
}
