//! Shims that are neither containerd's own nor Kata's, behind the wrapper: the Rust runc shim and gVisor's (its systrap platform,
//! which needs no hardware). Each with the same programs without the wrapper and with it: what comes out, how it ends, and what
//! is left of it; and with a collector, what was written and what is shown of it.
//!
//! gVisor's containers are CRI's: without CRI's annotation its shim's Create waits for ever for the end of the sandbox that it has
//! just started, and the exit status of a sandbox that ends at once may be lost, with or without us.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::cgroup;
use shimtap_tests::oracle::cri_log;
use shimtap_tests::oracle::exposition::{Shown, family, of_container};
use shimtap_tests::rig::collector::Settings;
use shimtap_tests::rig::cri::{Remote, Wanted};
use shimtap_tests::rig::run::{Running, run};
use shimtap_tests::rig::{Foreign, Hook, Node, Setup, Shim, Version, eventually, tools};

/// A kernel in user space starts in seconds, on a machine that does much else in many.
const LIMIT: Duration = Duration::from_secs(120);
/// Where runtimes keep what they know of containers that are there.
const KEPT: [&str; 4] = ["/run/runc", "/run/containerd/runc", "/run/containerd/runsc", "/run/runsc"];

on_each_containerd!(
    another_shim_gvisor_says_what_it_says_without_us,
    another_shim_gvisor_is_collected_and_its_numbers_are_right_or_absent,
);

// Under containerd 1.6 this shim's containers have no output and no status, without us.
on_each_containerd!(
    @module only_pinned,
    Pinned,
    another_shim_runc_in_rust_says_what_it_says_without_us,
    another_shim_runc_in_rusts_numbers_are_the_kernels
);

fn rust_runc() -> Result<Foreign> {
    Ok(Foreign { name: "runc-rs.v1", program: tools::rust_runc_shim()?, beside: Vec::new() })
}

fn gvisor() -> Result<Foreign> {
    let [shim, runsc] = tools::runsc()?;
    Ok(Foreign { name: "runsc.v1", program: shim, beside: vec![runsc] })
}

/// The same scenario without the wrapper and with it has the same answer.
fn alike<T>(version: Version, shim: &Foreign, scenario: impl Fn(&Node) -> Result<T>) -> Result<T>
where
    T: PartialEq + std::fmt::Debug,
{
    let on = |with| Setup::new(version, with).foreign(shim).run(&scenario);
    let (plain, wrapped) = (on(Shim::Unwrapped)?, on(Shim::Wrapped(Hook::Name))?);
    ensure!(plain == wrapped, "without the wrapper: {plain:#?}\nwith it: {wrapped:#?}");
    Ok(wrapped)
}

/// With the wrapper and a collector that asks often.
fn collected(version: Version, shim: &Foreign) -> Setup {
    let settings = Settings::each_second();
    Setup::new(version, Shim::Wrapped(Hook::Name)).foreign(shim).telling(settings).with_collector()
}

// === what its containers say ===

/// How everything that can be done with a container went.
#[derive(Debug, PartialEq)]
struct Life {
    ran: i32,
    whole: i32,
    read: i32,
    exec: (i32, String),
    killed: String,
    left: Vec<PathBuf>,
}

fn life(node: &Node) -> Result<Life> {
    let id = |name: &str| format!("{name}-{}", node.mark());
    let command = ["sh", "-c", "echo out; echo err >&2; exit 7"];
    let ran = run(node.run_command(&id("says"), &["--rm"], &command), LIMIT)?;
    node.complete(&ran.stdout, b"out\n")?;
    // `ctr` says of itself that cgroup v1 is old.
    ensure!(!node.is_wrapped() || ran.stderr.contains("err\n"), "stderr: {}", ran.stderr);
    let command = ["speaker", "lines=20000", "width=90", "exit=3"];
    let whole = run(node.run_command(&id("whole"), &["--rm"], &command), LIMIT)?;
    node.complete(&whole.stdout, &tape(1, 20_000, 90))?;
    let mut reads =
        Running::start(node.run_command(&id("reads"), &["--rm"], &["sh", "-c", "wc -c; exit 2"]))?;
    reads.say(&vec![b'x'; 300_000])?;
    reads.close_stdin();
    let read = reads.finish(LIMIT)?;
    node.complete(&read.stdout, b"300000\n")?;

    let stays = id("stays");
    run(node.run_command(&stays, &["--detach", "--null-io"], &["sleep", "1000"]), LIMIT)?.ok()?;
    let sockets = sockets(node)?;
    let exec = run(node.exec_command(&stays, &[], &["sh", "-c", "echo inside; exit 4"]), LIMIT)?;
    node.kill(&stays, "SIGKILL")?.ok()?;
    node.await_status(&stays, "STOPPED")?;
    let killed = node.ctr(&["tasks", "delete", &stays])?.ok()?.stderr;
    let killed =
        killed.split("exit code").nth(1).unwrap_or_default().trim_matches(['"', ' ', '\n']).to_owned();
    node.ctr(&["containers", "delete", &stays])?.ok()?;
    let exec = (exec.code, exec.text());
    Ok(Life { ran: ran.code, whole: whole.code, read: read.code, exec, killed, left: left(node, &sockets)? })
}

/// Where its inner shims listen.
fn sockets(node: &Node) -> Result<BTreeSet<PathBuf>> {
    let unix = fs::read_to_string("/proc/net/unix").context("read the sockets")?;
    let mut found = BTreeSet::new();
    for shim in node.inner_shims()? {
        let open = fs::read_dir(format!("/proc/{}/fd", shim.pid)).context("list its descriptors")?;
        let inodes: BTreeSet<String> = open
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        // Num RefCount Protocol Flags Type St Inode Path; 00010000 of Flags listens.
        for row in unix.lines() {
            let words: Vec<&str> = row.split_whitespace().collect();
            if let [_, _, _, "00010000", _, _, inode, path] = words.as_slice()
                && inodes.contains(*inode)
            {
                found.insert(PathBuf::from(path));
            }
        }
    }
    ensure!(!found.is_empty(), "no inner shim listens: {:?}", node.processes()?);
    Ok(found)
}

/// Sockets that are still there, and what a runtime still knows of this node's containers. Processes and mounts are looked for at
/// the node's end.
fn left(node: &Node, sockets: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>> {
    let gone = eventually(LIMIT, "the shims to be gone", || Ok(node.inner_shims()?.is_empty().then_some(())));
    gone.with_context(|| format!("{:?}", node.inner_shims()))?;
    let mut left: Vec<PathBuf> = sockets.iter().filter(|socket| socket.exists()).cloned().collect();
    for kept in KEPT.map(|dir| Path::new(dir).join(node.namespace())) {
        let entries = fs::read_dir(kept).into_iter().flatten().flatten().map(|entry| entry.path());
        left.extend(entries.filter(|path| path.to_string_lossy().contains(node.mark())));
    }
    Ok(left)
}

fn another_shim_runc_in_rust_says_what_it_says_without_us(version: Version) -> Result<()> {
    let life = alike(version, &rust_runc()?, life)?;
    assert_eq!((life.ran, life.whole, life.read), (7, 3, 2));
    assert_eq!(life.exec, (4, "inside\n".to_owned()));
    assert_eq!(life.killed, "137");
    ensure!(life.left.is_empty(), "left: {:#?}", life.left);
    Ok(())
}

/// Answers each line, on both streams, until it is told to go.
const ANSWERS: &str = "while read x; do [ $x = bye ] && exit 7; echo out $x; echo err $x >&2; done";

/// A sandbox and containers in it, one shim for all, as the kubelet makes them.
fn another_shim_gvisor_says_what_it_says_without_us(version: Version) -> Result<()> {
    let answer = alike(version, &gvisor()?, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let sockets = sockets(node)?;
        let run = |name, command: &[&str], stdin| {
            cri.run(&pod, &Wanted { name, command, stdin, ..Wanted::default() })
        };
        let speaks = run("speaks", &["speaker", "lines=20000", "width=90", "exit=3"], false)?;
        let answers = run("answers", &["sh", "-c", ANSWERS], true)?;
        let stays = run("stays", &["sleep", "1000"], false)?;
        let spoken = cri.await_exit(&speaks)?.exit_code;
        let log = cri_log(&cri.log_path(&pod, "speaks"))?;
        ensure!(log.stdout == tape(1, 20_000, 90), "{} bytes in the log", log.stdout.len());

        let mut remote = Remote::open(&cri.attach_url(&answers, false)?)?;
        remote.say(b"one\ntwo\n")?;
        remote.hear_until("out two\n")?;
        remote.hear_until("err two\n")?;
        remote.say(b"bye\n")?;
        let answered = cri.await_exit(&answers)?.exit_code;
        let log = cri_log(&cri.log_path(&pod, "answers"))?;
        ensure!(log.stdout == b"out one\nout two\n" && log.stderr == b"err one\nerr two\n", "{log:?}");

        // Its kernel says who it is.
        let inside = ["sh", "-c", "dmesg | head -n 1 | cut -d ] -f 2; echo err >&2; exit 4"];
        let exec = cri.exec(&stays, &inside, 0)?;
        let words = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let exec = (exec.exit_code, words(exec.stdout), words(exec.stderr));
        cri.stop(&stays, 0)?;
        let stopped = cri.status(&stays)?.exit_code;
        cri.remove_pod(&pod)?;
        // Under containerd 1.6 it leaves a file or socket of its own without us.
        let left = left(node, &sockets)?;
        ensure!(left.is_empty() || !node.is_wrapped(), "left: {left:#?}");
        Ok(([spoken, answered, stopped], exec))
    })?;
    let exec = (4, " Starting gVisor...\n".to_owned(), "err\n".to_owned());
    assert_eq!(answer, ([3, 7, 137], exec));
    Ok(())
}

// === what is shown of them ===

/// Burns CPU time within a quota, holds memory, says so, and rests.
const WORKS: &str = "x=$(head -c 4000000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; \
    echo rests; sleep 1000; echo $x";

/// A reading of a container that is younger than now.
fn shown(node: &Node, container: &str) -> Result<Shown> {
    let since = cgroup::now_ms()?;
    eventually(LIMIT, "a later reading", || {
        let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
        let shown = of_container(&text, container)?;
        Ok(cgroup::is_sampled_after(&shown, since).then_some(shown))
    })
}

/// Waits until the collector's sink has exactly this of a container's stdout.
fn written(node: &Node, container: &str, expected: &[u8]) -> Result<()> {
    eventually(LIMIT, "what it wrote in the sink", || {
        let tapes = node.collector(|collector| collector.sink())?;
        let mut whole = false;
        for (_, tape) in tapes.iter().filter(|(key, _)| key.container == container && key.stream == "stdout")
        {
            whole |= tape.judge(expected)?.delivered == u64::try_from(expected.len())?;
        }
        Ok(whole.then_some(()))
    })
}

fn another_shim_runc_in_rusts_numbers_are_the_kernels(version: Version) -> Result<()> {
    collected(version, &rust_runc()?).run(|node| {
        let id = format!("works-{}", node.mark());
        let ctr = Running::start(node.run_command(&id, &["--cpus", "0.2"], &["sh", "-c", WORKS]))?;
        written(node, &id, b"rests\n")?;
        let group = format!("{}/{id}", node.mark());
        let mut before = cgroup::at_rest(&group, LIMIT)?;
        let shown = shown(node, &id)?;
        // On cgroup v1 it gives neither CPU time nor a working set: what it gives is the kernel's, and all else is absent.
        before.retain(|name, _| shown.values.contains_key(*name));
        let after = cgroup::figures(&group)?;
        is_known(node, &id, "runc_rust")?;
        node.kill(&id, "SIGKILL")?.ok()?;
        let ended = ctr.finish(LIMIT)?;
        ensure!(ended.code == 137, "it ended with {}", ended.code);
        node.remove(&id)?;
        for name in ["container_memory_usage_bytes", "container_threads", "container_processes"] {
            figure(&shown, name)?;
        }
        cgroup::agree(&before, &shown, &after)
    })
}

/// CPU time is the sandbox's cgroup's, which gVisor divides among its containers by what each has used. Of memory each is said to
/// have an equal part, which is nobody's.
fn another_shim_gvisor_is_collected_and_its_numbers_are_right_or_absent(version: Version) -> Result<()> {
    collected(version, &gvisor()?).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id =
            cri.run(&pod, &Wanted { name: "works", command: &["sh", "-c", WORKS], ..Wanted::default() })?;
        written(node, &id, b"rests\n")?;
        let sandbox = node.processes()?.into_iter().find(|process| process.program() == "runsc-sandbox");
        let group = cgroup::of_process(sandbox.context("no sandbox runs")?.pid)?;
        let before = cpu_seconds(&cgroup::figures(&group)?)?;
        let alone = shown(node, "works")?;
        let after = cpu_seconds(&cgroup::figures(&group)?)?;
        // The sandbox's own process does nothing but sleep.
        let cpu = figure(&alone, "container_cpu_usage_seconds_total")?;
        ensure!((before / 2.0..=after).contains(&cpu), "{cpu} s of {before} to {after} s");
        only(&alone, &["cpu_usage_seconds_total"])?;
        is_known(node, &pod.id, "gvisor")?;
        cri.remove_pod(&pod)
    })
}

fn figure(shown: &Shown, name: &str) -> Result<f64> {
    shown.values.get(name).copied().with_context(|| format!("{name} is not there: {shown:?}"))
}

fn cpu_seconds(figures: &cgroup::Figures) -> Result<f64> {
    figures.get("container_cpu_usage_seconds_total").copied().context("its cgroup has no CPU time")
}

/// Demands that nothing else is said of CPU, memory and devices.
fn only(shown: &Shown, expected: &[&str]) -> Result<()> {
    let counted = ["container_cpu_", "container_memory_", "container_fs_", "container_blkio_"];
    let found = shown.values.keys().filter(|name| counted.iter().any(|start| name.starts_with(start)));
    let found: Vec<&str> = found.filter_map(|name| name.strip_prefix("container_")).collect();
    ensure!(found == expected, "shown are {found:?}");
    Ok(())
}

/// Demands that a sandbox is known to have this shim.
fn is_known(node: &Node, sandbox: &str, shim: &str) -> Result<()> {
    let wanted = [format!("sandbox=\"{sandbox}\""), format!("shim=\"{shim}\"")];
    eventually(LIMIT, &format!("{wanted:?}"), || {
        let text = node.collector(|collector| collector.get("/metrics"))?;
        let rows = family(&text, "shimtap_sandbox_info")?;
        let known = rows.iter().any(|(row, _)| wanted.iter().all(|label| row.contains(label)));
        Ok(known.then_some(()))
    })
}
