//! `shimtap top` at a terminal, as a person uses it, on real containers: figures, a filter, the output of one of them, a narrow
//! terminal, a collector that goes away, and a terminal that is as it was afterwards, whatever ended it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::collector::Settings;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::process::signal;
use shimtap_tests::rig::pty::Terminal;
use shimtap_tests::rig::run::run;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, tools};

const LIMIT: Duration = Duration::from_secs(60);
/// Lines on both outputs, some of them in colour, and some CPU time for each.
const BUSY: &str = r"i=0; while true; do i=$((i+1)); printf 'line %s of busy\n' $i; [ $((i % 40)) = 0 ] && printf '\033[31mred\033[0m %s\n' $i >&2; usleep 2000; done";

on_each_containerd!(a_person_sees_what_containers_use_and_write,);

fn a_person_sees_what_containers_use_and_write(version: Version) -> Result<()> {
    let told = Settings::each_second();
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().telling(told).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("shop")?;
        cri.run(&pod, &Wanted { name: "busy", command: &["sh", "-c", BUSY], ..Wanted::default() })?;
        cri.run(&pod, &Wanted { name: "idle", command: &["sleep", "1000"], ..Wanted::default() })?;
        one_look_without_a_terminal(node)?;
        a_life_at_a_terminal(node)?;
        a_narrow_terminal_without_colour(node)?;
        a_signal_gives_the_terminal_back(node)?;
        cri.remove_pod(&pod)?;
        a_collector_goes_away(node)
    })
}

fn top(node: &Node, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(tools::collector()?);
    let socket = node.collector(|collector| Ok(collector.control()))?;
    command.args(["top", "--interval", "1", "--socket"]).arg(socket).args(words).env_remove("NO_COLOR");
    Ok(command)
}

/// The words of the line of a container, where it is shown.
fn row<'a>(lines: &'a [String], name: &str) -> Option<Vec<&'a str>> {
    let words = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.into_iter().find(|words| words.get(2) == Some(&name))
}

/// The figure below a heading.
fn figure(lines: &[String], name: &str, heading: &str) -> Option<f64> {
    let head = lines.iter().find(|line| line.contains("CPU%") && line.contains("CONTAINER"))?;
    let at = head.split_whitespace().position(|word| word == heading)?;
    row(lines, name)?.get(at)?.trim_end_matches(['K', 'M', 'G']).parse().ok()
}

fn one_look_without_a_terminal(node: &Node) -> Result<()> {
    let lines = eventually(LIMIT, "figures of a busy container", || {
        let said = run(top(node, &["--filter", "BUSY"])?, LIMIT)?.ok()?;
        ensure!(said.stderr.contains("there is no terminal"), "it said {:?}", said.stderr);
        let lines: Vec<String> = said.text().lines().map(str::to_owned).collect();
        let known = |heading| figure(&lines, "busy", heading).is_some_and(|figure| figure > 0.0);
        Ok((known("CPU%") && known("MEMORY") && known("LOG/S") && known("LINES/S")).then_some(lines))
    })?;
    ensure!(figure(&lines, "busy", "GAPS") == Some(0.0), "{lines:#?}");
    ensure!(figure(&lines, "busy", "LIMIT%").is_none(), "it has no limit: {lines:#?}");
    ensure!(row(&lines, "idle").is_none(), "it is filtered out: {lines:#?}");
    let mut last = String::new();
    // The collector hears of the second container after containerd's client does.
    let both = eventually(LIMIT, "two containers that run", || {
        let pods = run(top(node, &["--batch", "--pods"])?, LIMIT)?.ok()?;
        ensure!(pods.stderr.is_empty(), "it said {:?}", pods.stderr);
        last = pods.text();
        Ok(last.lines().any(|line| line.contains("shop") && line.contains("2/2")).then_some(()))
    });
    both.with_context(|| last)
}

fn a_life_at_a_terminal(node: &Node) -> Result<()> {
    let mut terminal = Terminal::start(top(node, &[])?, 30, 140)?;
    let both =
        |lines: &[String]| (row(lines, "busy").is_some() && row(lines, "idle").is_some()).then_some(());
    terminal.await_screen(LIMIT, "both containers", both)?;
    let busy_first = |lines: &[String]| {
        let cpu = figure(lines, "busy", "CPU%")?;
        let place = |name| lines.iter().position(|line| line.contains(name));
        (cpu > 0.0 && place("busy") < place("idle") && figure(lines, "busy", "LINES/S")? > 1.0).then_some(())
    };
    terminal.await_screen(LIMIT, "figures, the busiest first", busy_first)?;
    ensure!(terminal.is_taken() && !terminal.is_a_shell_s()?, "the terminal is not taken");
    terminal.press("/idl\r")?;
    let filtered =
        |lines: &[String]| (row(lines, "busy").is_none() && row(lines, "idle").is_some()).then_some(());
    terminal.await_screen(LIMIT, "the filter", filtered)?;
    terminal.press("\x1b")?;
    terminal.await_screen(LIMIT, "no filter", both)?;
    // By name, since nobody knows which of two was the busier at the moment of a key; the second row and back, then its lines.
    terminal.press("Sjk\r")?;
    terminal.await_screen(LIMIT, "lines of the busy container", |lines| {
        let pane = lines.iter().position(|line| line.contains("logs of") && line.ends_with("shop/busy"))?;
        let below = lines.get(pane..)?;
        let has = |text: &str| below.iter().any(|line| line.contains(text));
        (has(" of busy") && has("red ")).then_some(())
    })?;
    let bytes = String::from_utf8_lossy(&terminal.bytes()).into_owned();
    ensure!(!bytes.contains("\x1b[31mred"), "what a container writes reached the terminal as a command");
    ensure!(bytes.contains("\x1b[38;5;3m"), "lines of stderr have no colour");
    // What docs/top.md shows: SHIMTAP_TOP_SCREEN=FILE keeps it.
    if let Some(file) = std::env::var_os("SHIMTAP_TOP_SCREEN") {
        std::fs::write(&file, terminal.screen().join("\n")).with_context(|| format!("write {file:?}"))?;
    }
    terminal.press("p")?;
    terminal
        .await_screen(LIMIT, "pods", |lines| lines.iter().any(|line| line.contains("RX/S")).then_some(()))?;
    terminal.press("q")?;
    let code = terminal.finish(LIMIT)?;
    ensure!(
        code == 0 && !terminal.is_taken() && terminal.is_a_shell_s()?,
        "{code}, the terminal is not given back"
    );
    Ok(())
}

fn a_narrow_terminal_without_colour(node: &Node) -> Result<()> {
    let mut command = top(node, &["--filter", "busy"])?;
    command.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(command, 12, 36)?;
    terminal.await_screen(LIMIT, "a narrow table", |lines| {
        let head = lines.iter().find(|line| line.contains("CPU%"))?;
        (head.contains("CONTAINER") && !head.contains("NAMESPACE")).then_some(())
    })?;
    terminal.press("\r")?;
    terminal
        .await_screen(LIMIT, "lines", |lines| lines.iter().any(|line| line.contains("red ")).then_some(()))?;
    terminal.press("\x03")?;
    ensure!(terminal.finish(LIMIT)? == 0, "Ctrl-C did not end it well");
    let bytes = String::from_utf8_lossy(&terminal.bytes()).into_owned();
    ensure!(!bytes.contains("\x1b[38;5;"), "it is in colour: {bytes:?}");
    Ok(())
}

fn a_signal_gives_the_terminal_back(node: &Node) -> Result<()> {
    let mut terminal = Terminal::start(top(node, &[])?, 24, 100)?;
    terminal.await_screen(LIMIT, "the busy container", |lines| row(lines, "busy").map(drop))?;
    signal(terminal.pid(), Signal::SIGTERM)?;
    let code = terminal.finish(LIMIT)?;
    ensure!(
        code == 0 && !terminal.is_taken() && terminal.is_a_shell_s()?,
        "{code}, the terminal is not given back"
    );
    Ok(())
}

fn a_collector_goes_away(node: &Node) -> Result<()> {
    let mut terminal = Terminal::start(top(node, &[])?, 24, 100)?;
    terminal.await_screen(LIMIT, "a look", |lines| {
        lines.iter().any(|line| line.contains("CPU%")).then_some(())
    })?;
    let gone = top(node, &["--batch"])?;
    node.take_collector()?.stop()?;
    terminal.await_screen(LIMIT, "that it is away", |lines| {
        lines.get(1).filter(|line| line.contains("old: asking the collector")).map(drop)
    })?;
    let said = run(gone, LIMIT)?;
    ensure!(said.code == 1 && said.stderr.contains("is it running"), "{}: {}", said.code, said.stderr);
    terminal.press("q")?;
    ensure!(terminal.finish(LIMIT)? == 0, "q did not end it");
    Ok(())
}
