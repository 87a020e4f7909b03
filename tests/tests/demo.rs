//! `./dev demo`: its program shows what it promises, in less than a minute, and leaves nothing behind, whether it ends by itself
//! or by Ctrl-C.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::rig::leftovers::{cgroups, mounts_below};
use shimtap_tests::rig::node::share_machine;
use shimtap_tests::rig::run::{Finished, Running};
use shimtap_tests::rig::{eventually, process};

/// What the README promises.
const LIMIT: Duration = Duration::from_secs(60);
const ALL: [&str; 3] = ["chatty", "short", "failing"];

/// The demonstration with these words, and where it works: its node says so in its first line.
fn demonstration(words: &[&str]) -> Result<Running> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(words);
    Running::start(command)
}

/// `containerd 2.3.4 in DIRECTORY, its runtime PATH`
fn place(said: &str) -> Result<PathBuf> {
    let first = said.lines().next().context("it says nothing")?;
    let dir = first.split_once(" in ").and_then(|(_, rest)| rest.split_once(", its runtime "));
    Ok(PathBuf::from(dir.with_context(|| format!("it begins with {first:?}"))?.0))
}

/// What it must have shown: a line of each container, `shimtap ps`, a row of metrics of each that could be sampled.
fn has_shown(said: &str) -> Result<()> {
    for (line, stream) in [
        ("line 1 of a chatty container", "stdout"),
        ("I live for 50 ms", "stdout"),
        ("something went wrong", "stderr"),
    ] {
        let shown = said.lines().any(|row| row.contains(stream) && row.ends_with(line));
        ensure!(shown, "no {line:?} on {stream}:\n{said}");
    }
    let record = said.lines().find(|row| row.starts_with('{')).context("no record of the file")?;
    let record: serde_json::Value = serde_json::from_str(record).context("a record is JSON")?;
    ensure!(record.get("message").is_some() && record.get("time_ns").is_some(), "{record}");
    let (_, table) = said.split_once("of /metrics/cadvisor:").context("no table of metrics")?;
    ensure!(table.lines().next() == Some(""), "a table under its title");
    let row = table.lines().find(|row| row.starts_with("chatty ")).context("no row of the one that runs")?;
    let numbers = row.split_whitespace().filter(|word| word.parse::<f64>().is_ok_and(|n| n > 0.0)).count();
    ensure!(numbers == 3, "CPU time, memory and threads of the one that runs: {row:?}");
    for name in ALL {
        let listed = said.lines().filter(|row| row.contains(name)).count();
        ensure!(listed >= 2, "{name} is in `shimtap ps` and among the lines:\n{said}");
    }
    Ok(())
}

/// No process, no mount, no cgroup, no folder of its own.
fn leaves_nothing(dir: &Path) -> Result<()> {
    let mark = dir.file_name().context("its folder has a name")?.to_string_lossy().into_owned();
    ensure!(!dir.exists(), "{} is still there", dir.display());
    let mounts = mounts_below(dir)?;
    ensure!(mounts.is_empty(), "mounts: {mounts:?}");
    let groups = cgroups(&mark);
    ensure!(groups.is_empty(), "cgroups: {groups:?}");
    let alive = process::marked(&mark, [dir, dir])?;
    ensure!(alive.is_empty(), "processes: {alive:?}");
    Ok(())
}

fn judge(ended: &Finished) -> Result<()> {
    let said = ended.text();
    ensure!(ended.code == 0, "it ended with {}: {}\n{said}", ended.code, ended.stderr);
    has_shown(&said)?;
    leaves_nothing(&place(&said)?)
}

#[test]
#[ignore = "needs root and a real containerd: `sudo ./dev test` runs it"]
fn once_it_ends_by_itself() -> Result<()> {
    let _shared = share_machine()?;
    let ended = demonstration(&["--once"])?.finish(LIMIT)?;
    judge(&ended)?;
    ensure!(!ended.text().contains("to scrape:"), "nobody can scrape what has ended");
    Ok(())
}

#[test]
#[ignore = "needs root and a real containerd: `sudo ./dev test` runs it"]
fn it_goes_on_until_it_is_interrupted() -> Result<()> {
    let _shared = share_machine()?;
    let demo = demonstration(&[])?;
    let so_far = || String::from_utf8_lossy(&demo.stdout_so_far()).into_owned();
    let at = eventually(LIMIT, "the invitation to scrape", || {
        let said = so_far();
        let row = said.lines().find(|row| row.starts_with("to scrape:") && said.contains("Ctrl-C\n"));
        Ok(row.map(str::to_owned))
    })
    .with_context(so_far)?;
    let address =
        at.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).context("an address")?.0;
    let page = shimtap_tests::rig::collector::get(address, "/metrics/cadvisor?scope=all")?;
    ensure!(page.contains("container_cpu_usage_seconds_total{"), "what it invites to scrape is there");
    let before = lines(&so_far()).len();
    eventually(LIMIT, "it to go on", || Ok((lines(&so_far()).len() > before + 3).then_some(())))?;
    process::signal(demo.pid(), Signal::SIGINT)?;
    judge(&demo.finish(LIMIT)?)
}

/// The chatty container's lines that were shown.
fn lines(said: &str) -> BTreeSet<&str> {
    said.lines().filter_map(|row| Some(row.split_once("line ")?.1)).collect()
}
