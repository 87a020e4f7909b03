//! The tracer on a program that everybody knows: `cat` between two pipes.
//!
//! If a death placed before `write` let bytes through, or one placed after it held them back, every sweep over
//! the wrapper would be worth nothing.

use std::{
    fs,
    io::{Read, Write},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{libc, unistd::Pid};
use shimtap_tests::standin::{
    client::PATIENCE,
    procs::wait,
    tracer::{Edge, Outcome, arm, name},
};

/// Sends one line through a `cat` that dies at stop `at`; gives what came out and what the tracer saw.
fn line_through_cat(at: u32) -> Result<(String, Outcome)> {
    let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cat")?;
    let pid = Pid::from_raw(i32::try_from(cat.id())?);
    // While it starts, cat reads other things.
    let reading = format!("{} 0x0 ", libc::SYS_read);
    let waits =
        || fs::read_to_string(format!("/proc/{pid}/syscall")).ok().filter(|s| s.starts_with(&reading));
    wait(PATIENCE, || "cat reads stdin".to_owned(), waits)?;
    let armed = arm(pid, at)?;
    let mut stdin = cat.stdin.take().context("stdin")?;
    stdin.write_all(b"one line\n")?;
    armed.go()?;
    let mut stdout = cat.stdout.take().context("stdout")?;
    let mut first = [0; 9];
    // Ends with an error where cat died before it wrote.
    let read = stdout.read_exact(&mut first);
    let outcome = armed.finish()?;
    drop(stdin);
    let mut out = String::new();
    if read.is_ok() {
        out.push_str(std::str::from_utf8(&first)?);
    }
    stdout.read_to_string(&mut out)?;
    reap(&mut cat, outcome.killed)?;
    Ok((out, outcome))
}

/// The tracer has reaped a killed child already; one that lives ends with its stdin.
fn reap(cat: &mut Child, killed: bool) -> Result<()> {
    if !killed {
        assert!(cat.wait()?.success(), "cat goes on as if nothing had been");
    }
    Ok(())
}

#[test]
fn a_death_at_an_entry_undoes_the_call_and_one_at_the_exit_keeps_it() -> Result<()> {
    let mut at = 1;
    let mut deaths = 0;
    loop {
        let (out, outcome) = line_through_cat(at)?;
        let wrote = |edge| outcome.stops.iter().any(|s| name(s.call) == "write" && s.edge == edge);
        let expected = if wrote(Edge::Exit) { "one line\n" } else { "" };
        assert_eq!(out, expected, "{:?}", outcome.stops);
        if !outcome.killed {
            assert!(wrote(Edge::Exit));
            break;
        }
        assert_eq!(outcome.stops.len(), usize::try_from(at)?);
        deaths += 1;
        at += 1;
    }
    // read's exit, write's two edges, read's entry.
    assert_eq!(deaths, 4);
    Ok(())
}
