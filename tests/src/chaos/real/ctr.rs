//! Containers by `ctr`, one after the other.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::work::{LIMIT, Work};
use crate::{
    chaos::{
        dice::{Deck, Dice},
        judge::Written,
        tally::lines_in,
    },
    line::tape,
    rig::{
        eventually,
        logger::logger,
        pty::Terminal,
        run::{Finished, Running},
    },
};

/// Kinds of what is done.
pub const KINDS: [&str; 7] = [
    "ctr run",
    "ctr run of an id that was used before",
    "ctr run with stdin and CloseIO",
    "ctr run with an exec of 300 KiB of arguments",
    "ctr run with a terminal",
    "ctr run with a logger",
    "ctr run, paused and resumed",
];

/// A logger that writes down both streams and then that it has: being told to end does not keep it from that.
const KEEPS_ALL: &str = r#"
trap : TERM
cat <&3 >"$2/out" 3<&- 4<&- 5>&- &
out=$!
cat <&4 >"$2/err" 3<&- 4<&- 5>&- &
err=$!
exec 3<&- 4<&- 5>&-
while kill -0 $out 2>/dev/null || kill -0 $err 2>/dev/null; do wait; done
echo done >"$2/end"
"#;

/// One container after the other.
///
/// # Errors
/// One of them is not as it should be.
pub fn run(work: &Work<'_>, mut dice: Dice) -> Result<()> {
    let mut deck = Deck::new(&KINDS);
    while work.goes_on() {
        let kind = deck.deal(&mut dice).context("a kind")?;
        let lines = 500 + dice.roll(3000);
        let start = Instant::now();
        let id = if kind.contains("before") { format!("again-{}", work.node.mark()) } else { work.name("c") };
        let done = match kind {
            "ctr run with stdin and CloseIO" => with_stdin(work, &id, lines, kind),
            "ctr run with an exec of 300 KiB of arguments" => with_exec(work, &id),
            "ctr run with a terminal" => with_a_terminal(work, &id, lines, kind),
            "ctr run with a logger" => with_a_logger(work, &id, lines, kind),
            "ctr run, paused and resumed" => paused(work, &id, lines, kind),
            _ => short(work, &id, lines, kind),
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
    wrote_both(work, id, &said, tape(1, lines, 64), kind)
}

/// Ended with status 7, and `ctr` has shown the same bytes of both streams.
fn wrote_both(work: &Work<'_>, id: &str, said: &Finished, bytes: Vec<u8>, kind: &'static str) -> Result<()> {
    ensure!(said.code == 7, "{} {}", said.code, said.stderr);
    let of_it = |stream, bytes| Written { container: id.to_owned(), kind, stream, bytes };
    work.complete(&said.stdout, of_it("stdout", bytes.clone()))?;
    work.complete(without_ctrs_own(&said.stderr)?.as_bytes(), of_it("stderr", bytes))
}

/// What ctr says of itself begins with the time, on a terminal with a colour, and none of it may be an error.
fn without_ctrs_own(shown: &str) -> Result<String> {
    let is_own = |line: &&str| line.starts_with("time=") || line.starts_with('\u{1b}');
    let (own, written): (Vec<&str>, Vec<&str>) = shown.split_inclusive('\n').partition(is_own);
    let is_mild = |line: &&str| line.contains("level=warning") || line.contains("WARN");
    ensure!(own.iter().all(is_mild), "ctr says {own:?}");
    Ok(written.concat())
}

/// Stands still in the midst of its output, and goes on.
fn paused(work: &Work<'_>, id: &str, lines: u64, kind: &'static str) -> Result<()> {
    let until = format!("until=/host/{id}");
    let command = ["speaker", "lines=100000000", "rate=2000", "batch=10", "to=both", "exit=7", &until];
    let client = work.node.run_beside(id, &["--rm"], &command)?;
    let some = |more: usize| {
        let have = client.stdout_so_far().len();
        eventually(LIMIT, "its output", || Ok((client.stdout_so_far().len() > have + more).then_some(())))
    };
    some(0)?;
    work.node.ctr(&["tasks", "pause", id])?.ok().context("pause")?;
    work.node.await_status(id, "PAUSED")?;
    work.node.ctr(&["tasks", "resume", id])?.ok().context("resume")?;
    some(usize::try_from(lines)?)?;
    std::fs::write(work.node.host_dir().join(id), "").context("tell it to end")?;
    let said = client.finish(LIMIT)?;
    let count = lines_in(&said.stdout);
    wrote_both(work, id, &said, tape(1, count, 64), kind)
}

/// The container's terminal makes each end of line two bytes, and the one that it is shown at three.
fn with_a_terminal(work: &Work<'_>, id: &str, lines: u64, kind: &'static str) -> Result<()> {
    let command = ["speaker", &format!("lines={lines}"), "batch=10", "exit=5"];
    let mut client = Terminal::start(work.node.run_command(id, &["--rm", "--tty"], &command), 24, 80)?;
    let status = client.finish(LIMIT)?;
    let bytes = tape(1, lines, 64);
    let shown = || -> Result<String> {
        let shown = String::from_utf8_lossy(&client.bytes()).replace('\r', "");
        without_ctrs_own(&shown)
    };
    // What it has written is on its way to who reads the terminal.
    let _judged_below = eventually(LIMIT, "its output", || Ok((shown()?.len() >= bytes.len()).then_some(())));
    ensure!(status == 5, "status {status}: {:?}", client.screen());
    work.node.complete(shown()?.as_bytes(), &bytes)?;
    work.read(&bytes);
    let bytes = String::from_utf8(bytes)?.replace('\n', "\r\n").into_bytes();
    work.wrote(Written { container: id.to_owned(), kind, stream: "stdout", bytes });
    Ok(())
}

/// What it writes goes to a logger of its own, and nothing to `ctr`.
fn with_a_logger(work: &Work<'_>, id: &str, lines: u64, kind: &'static str) -> Result<()> {
    let (dir, uri) = logger(work.node, &format!("log-{id}"), KEEPS_ALL)?;
    let command = ["speaker", &format!("lines={lines}"), "batch=10", "to=both", "exit=7"];
    let said = Running::start(work.node.run_command(id, &["--rm", "--log-uri", &uri], &command))?;
    let said = said.finish(LIMIT)?;
    ensure!(said.code == 7, "{} {}", said.code, said.stderr);
    eventually(LIMIT, "the logger to have all", || Ok(dir.join("end").exists().then_some(())))?;
    for (stream, file) in [("stdout", "out"), ("stderr", "err")] {
        let have = std::fs::read(dir.join(file)).context("read what it wrote down")?;
        let bytes = tape(1, lines, 64);
        work.complete(&have, Written { container: id.to_owned(), kind, stream, bytes })?;
    }
    Ok(())
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
