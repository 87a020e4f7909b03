//! What the kubelet does: beside a container that stays, and with pods that come and go.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::work::Work;
use crate::{
    chaos::{
        dice::{Deck, Dice},
        judge::Written,
    },
    line::tape,
    oracle::cri_log,
    rig::cri::{Pod, Remote, Wanted},
};

/// Kinds of what is done beside a container that stays.
pub const KINDS: [&str; 7] = [
    "second containers of a pod",
    "containers with a terminal",
    "CRI execs",
    "CRI execs with 8 KiB of arguments",
    "CRI execs with 128 KB of output",
    "CRI execs with a terminal",
    "attach with stdin",
];

/// A shell loop that answers each line, on both streams, until it is told to go.
const ECHO: &str = "while read line; do [ \"$line\" = bye ] && exit 7; \
                    echo \"out $line\"; echo \"err $line\" >&2; done";

/// One thing after the other in a pod where `busy` runs.
///
/// # Errors
/// One of them is not as it should be.
pub fn beside(work: &Work<'_>, pod: &Pod, busy: &str, mut dice: Dice) -> Result<()> {
    let mut deck = Deck::new(&KINDS);
    while work.goes_on() {
        let kind = deck.deal(&mut dice).context("a kind")?;
        let start = Instant::now();
        let done = match kind {
            "second containers of a pod" => container(work, pod, 200 + dice.roll(2000), kind),
            "containers with a terminal" => container(work, pod, 200 + dice.roll(300), kind),
            "CRI execs" => exec(work, busy, &["sh", "-c", "echo said; exit 7"], (b"said\n", 7)),
            "CRI execs with 8 KiB of arguments" => {
                let word = "x".repeat(8 << 10);
                exec(work, busy, &["echo", &word], (format!("{word}\n").as_bytes(), 0))
            }
            "CRI execs with 128 KB of output" => {
                exec(work, busy, &["speaker", "lines=2000", "batch=10"], (&tape(1, 2000, 64), 0))
            }
            "CRI execs with a terminal" => exec_with_a_terminal(work, busy),
            _ => attach(work, pod),
        };
        done.with_context(|| kind.to_owned())?;
        work.ledger.waited("a step over CRI", start.elapsed());
        work.ledger.did(kind);
    }
    Ok(())
}

/// What is done with pods.
pub const COME_AND_GO: &str = "pods that come and go";

/// Pods, each with one container that ends by itself.
///
/// # Errors
/// One of them is not as it should be.
pub fn come_and_go(work: &Work<'_>, mut dice: Dice) -> Result<()> {
    while work.goes_on() {
        let start = Instant::now();
        // Each attempt under a name of its own.
        let (pod, name) = work.patiently("RunPodSandbox", || {
            let name = work.name("pod");
            Ok((work.cri.run_pod(&name).with_context(|| format!("run {name}"))?, name))
        })?;
        container(work, &pod, 100 + dice.roll(1000), COME_AND_GO).with_context(|| format!("in {name}"))?;
        work.remove_pod(&pod).with_context(|| format!("remove {name}"))?;
        work.ledger.waited("a pod, from start to end", start.elapsed());
        work.ledger.did(COME_AND_GO);
    }
    Ok(())
}

/// A container of a pod that writes, ends with a status, and is removed.
fn container(work: &Work<'_>, pod: &Pod, lines: u64, kind: &'static str) -> Result<()> {
    let tty = kind.contains("terminal");
    let cri = work.cri;
    let lines = format!("lines={lines}");
    let to = if tty { "to=out" } else { "to=both" };
    let command = ["speaker", &lines, "batch=10", to, "exit=5"];
    let (id, name) = run(work, pod, &Wanted { command: &command, tty, ..Wanted::default() })?;
    let status = cri.await_exit(&id)?;
    ensure!(status.exit_code == 5, "{name}: {status:?}");
    let log = cri_log(&cri.log_path(pod, &name))?;
    let count = lines.trim_start_matches("lines=").parse()?;
    let bytes = tape(1, count, 64);
    let of_it = |stream, bytes| Written { container: id.clone(), kind, stream, bytes };
    if tty {
        // The terminal makes each end of line two bytes; containerd's log makes one of them again.
        work.node.complete(&log.stdout, &bytes)?;
        work.read(&log.stdout);
        let bytes = String::from_utf8(bytes)?.replace('\n', "\r\n").into_bytes();
        work.wrote(of_it("stdout", bytes));
    } else {
        work.complete(&log.stdout, of_it("stdout", bytes.clone()))?;
        work.complete(&log.stderr, of_it("stderr", bytes))?;
    }
    work.remove(&id)
}

/// Runs it under a name that it gives; each attempt has one of its own.
fn run(work: &Work<'_>, pod: &Pod, wanted: &Wanted<'_>) -> Result<(String, String)> {
    work.patiently("a container in a pod", || {
        let name = work.name("c");
        Ok((work.cri.run(pod, &Wanted { name: &name, ..*wanted })?, name))
    })
}

fn exec(work: &Work<'_>, id: &str, command: &[&str], (bytes, status): (&[u8], i32)) -> Result<()> {
    let said = work.patiently("CRI exec", || work.cri.exec(id, command, 0))?;
    ensure!(said.exit_code == status, "{said:?}");
    work.node.complete(&said.stdout, bytes)?;
    work.read(&said.stdout);
    Ok(())
}

fn exec_with_a_terminal(work: &Work<'_>, id: &str) -> Result<()> {
    let command = ["sh", "-c", "stty -echo && echo ready; read x; echo got $x; exit 9"];
    let remote = work.patiently("CRI exec with a terminal", || {
        let mut remote = Remote::open(&work.cri.exec_url(id, &command, true)?)?;
        remote.hear_until("ready")?;
        remote.say(b"typed\n")?;
        remote.hear_out()?;
        Ok(remote)
    })?;
    ensure!(remote.text() == "ready\r\ngot typed\r\n", "{:?}", remote.text());
    ensure!(remote.verdict()?.1.as_deref() == Some("9"), "{:?}", remote.verdict()?);
    work.read(&remote.stdout);
    Ok(())
}

fn attach(work: &Work<'_>, pod: &Pod) -> Result<()> {
    let cri = work.cri;
    let command = ["sh", "-c", ECHO];
    let (id, name) = run(work, pod, &Wanted { command: &command, stdin: true, ..Wanted::default() })?;
    let echoed = |remote: &mut Remote, line: &str| -> Result<()> {
        remote.say(format!("{line}\n").as_bytes())?;
        for word in ["out", "err"] {
            let stands = || format!("{:?}, {:?}", cri.status(&id), cri_log(&cri.log_path(pod, &name)));
            remote.hear_until(&format!("{word} {line}\n")).with_context(stands)?;
        }
        Ok(())
    };
    // What containerd gives up it says only there, and has let nothing through by then: that a line came twice would show.
    let mut remote = work.patiently("attach", || {
        let mut remote = Remote::open(&cri.attach_url(&id, false)?)?;
        echoed(&mut remote, "one")?;
        Ok(remote)
    })?;
    for line in ["two", "three", "end"] {
        echoed(&mut remote, line)?;
    }
    remote.say(b"bye\n")?;
    remote.hear_out()?;
    let status = cri.await_exit(&id)?;
    ensure!(status.exit_code == 7, "{status:?}");
    let log = cri_log(&cri.log_path(pod, &name))?;
    let said = |word: &str| format!("{word} one\n{word} two\n{word} three\n{word} end\n").into_bytes();
    ensure!(remote.stdout == said("out") && remote.stderr == said("err"), "attached: {}", remote.text());
    let of_it = |stream, bytes| Written { container: id.clone(), kind: "attach with stdin", stream, bytes };
    work.complete(&log.stdout, of_it("stdout", said("out")))?;
    work.complete(&log.stderr, of_it("stderr", said("err")))?;
    work.remove(&id)
}
