//! Containers by `ctr`, one after the other.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::work::{LIMIT, Work};
use crate::{
    chaos::{dice::Dice, judge::Written},
    line::tape,
    rig::{eventually, run::Running},
};

/// Kinds of what is done.
const KINDS: [&str; 4] = [
    "ctr run",
    "ctr run of an id that was used before",
    "ctr run with stdin and CloseIO",
    "ctr run with an exec of 300 KiB of arguments",
];

/// One container after the other.
///
/// # Errors
/// One of them is not as it should be.
pub fn run(work: &Work<'_>, mut dice: Dice) -> Result<()> {
    while work.goes_on() {
        let kind = *dice.pick(&KINDS).context("a kind")?;
        let lines = 500 + dice.roll(3000);
        let start = Instant::now();
        let id = if kind.contains("before") { format!("again-{}", work.node.mark()) } else { work.name("c") };
        let done = if kind.contains("stdin") {
            with_stdin(work, &id, lines, kind)
        } else if kind.contains("exec") {
            with_exec(work, &id)
        } else {
            short(work, &id, lines, kind)
        };
        done.with_context(|| format!("{id}, {kind}"))?;
        work.ledger.waited("ctr, from start to end", start.elapsed());
        work.ledger.did(kind);
    }
    Ok(())
}

/// Writes and ends with a status.
fn short(work: &Work<'_>, id: &str, lines: u64, kind: &'static str) -> Result<()> {
    let said = work.node.run(id, &["speaker", &format!("lines={lines}"), "batch=10", "to=both", "exit=7"])?;
    ensure!(said.code == 7, "{} {}", said.code, said.stderr);
    let bytes = tape(1, lines, 64);
    let of_it = |stream, bytes| Written { container: id.to_owned(), kind, stream, bytes };
    work.complete(&said.stdout, of_it("stdout", bytes.clone()))?;
    // What ctr says of itself begins with the time, and none of it may be an error.
    let (own, written): (Vec<&str>, Vec<&str>) =
        said.stderr.split_inclusive('\n').partition(|line| line.starts_with("time="));
    ensure!(own.iter().all(|line| line.contains("level=warning")), "ctr says {own:?}");
    work.complete(written.concat().as_bytes(), of_it("stderr", bytes))
}

/// Gives back what it reads, until its stdin is closed.
fn with_stdin(work: &Work<'_>, id: &str, lines: u64, kind: &'static str) -> Result<()> {
    let mut client = Running::start(work.node.run_command(id, &["--rm"], &["cat"]))?;
    let bytes = tape(2, lines.min(600), 100);
    for piece in bytes.chunks(7_000) {
        client.say(piece)?;
    }
    // A ctr that comes to the end before its task is there never says so to the task, with and without us.
    eventually(LIMIT, "what it was given", || {
        Ok((client.stdout_so_far().len() == bytes.len()).then_some(()))
    })?;
    client.close_stdin();
    let said = client.finish(LIMIT)?;
    ensure!(said.code == 0, "{} {}", said.code, said.stderr);
    work.complete(&said.stdout, Written { container: id.to_owned(), kind, stream: "stdout", bytes })
}

/// Stays while another process is run in it, with more arguments than one frame's head can hold.
fn with_exec(work: &Work<'_>, id: &str) -> Result<()> {
    work.node.run_detached(id, &["sleep", "1000"])?;
    let words: Vec<String> = (0..6).map(|n| n.to_string().repeat(50 << 10)).collect();
    let mut command = vec!["sh", "-c", "echo $#; read _; exit 9", "sh"];
    command.extend(words.iter().map(String::as_str));
    let said = work.patiently("ctr tasks exec", || {
        let mut client = Running::start(work.node.exec_command(id, &[], &command))?;
        // It ends when its output has been read: a ctr up to 1.6.21 closes its readers at the exit, unread or not, with and
        // without us.
        eventually(LIMIT, "its output", || {
            let read = client.stdout_so_far() == b"6\n" || !client.is_running()?;
            Ok(read.then_some(()))
        })?;
        let _gone_where_it_was_refused = client.say(b"\n");
        let said = client.finish(LIMIT)?;
        ensure!(said.code == 9 && said.text() == "6\n", "{} {} {}", said.code, said.text(), said.stderr);
        Ok(said)
    })?;
    work.read(&said.stdout);
    work.node.remove(id)
}
