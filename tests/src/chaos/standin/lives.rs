//! Processes of every kind: execs beside a container that stays, and containers that come, speak and go in its pod.
//!
//! Each is asked for as containerd does it, and judged at once by what its FIFOs brought; what the collector holds of it is
//! judged when all is over.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::{sys::stat::Mode, unistd::mkfifo};

use super::lane::{Lane, PATIENCE};
use crate::{
    chaos::{
        dice::{Deck, Dice},
        judge::Written,
    },
    standin::{
        client::{
            connection::Connection,
            fifo::FifoReader,
            logged,
            pod::{self, Fifos},
        },
        script::{Output, Script},
    },
};

/// Kinds of execs.
pub const EXECS: [&str; 5] = [
    "execs",
    "execs with 8 KiB of arguments",
    "execs with 115 KB of output",
    "execs with a terminal",
    "execs with stdin and CloseIO",
];
/// Kinds of lives.
pub const LIVES: [&str; 6] = [
    "containers that live shortly",
    "containers of an id that was used before",
    "containers with a terminal",
    "containers with stdin and CloseIO",
    "containers whose reader goes and comes back",
    "containers with a logger",
];

/// One exec after the other, each with its own streams, on a connection of its own.
///
/// # Errors
/// One of them is not as it should be.
pub fn exec(lane: &Lane<'_>, mut dice: Dice) -> Result<Vec<Connection>> {
    let c = lane.pod.connect()?;
    let (mut n, mut deck) = (0, Deck::new(&EXECS));
    while lane.goes_on() {
        let kind = deck.deal(&mut dice).context("a kind")?;
        let exec_id = format!("exec-{n}");
        one_exec(lane, &c, kind, &exec_id, n % 200).with_context(|| format!("{exec_id}, of the {kind}"))?;
        lane.ledger.did(kind);
        n += 1;
    }
    Ok(vec![c])
}

fn one_exec(lane: &Lane<'_>, c: &Connection, kind: &str, exec_id: &str, status: u32) -> Result<()> {
    let id = &lane.pod.id;
    let stdout = if kind.contains("output") { Output::lines(1500, 77) } else { Output::lines(20, 77) };
    let script = Script { stdout, exit_status: status, ..Script::default() };
    let fifos = lane.pod.fifos(exec_id)?;
    let mut request = pod::exec_request(id, exec_id, &script, &fifos);
    if kind.contains("arguments") {
        request.spec.mut_or_insert_default().value.extend_from_slice(&[b' '; 8 << 10]);
    }
    request.terminal = kind.contains("terminal");
    if kind.contains("stdin") {
        request.stdin = stdin(lane, exec_id)?;
    }
    lane.call(c, "Exec", &request)?.message::<api::Empty>().context("Exec")?;
    let wait = c.send("Wait", &pod::wait(id, exec_id))?;
    lane.call(c, "Start", &pod::start(id, exec_id))?.message::<api::StartResponse>().context("Start")?;
    if kind.contains("stdin") {
        close_stdin(lane, c, id, exec_id)?;
    }
    let exit = lane.exit(c, wait)?.message::<api::WaitResponse>().context("Wait")?;
    ensure!(exit.exit_status == status, "exit status {}", exit.exit_status);
    complete(lane, &fifos, &script, request.terminal)?;
    lane.call(c, "Delete", &pod::delete(id, exec_id))?.message::<api::DeleteResponse>().context("Delete")?;
    Ok(())
}

/// One container after the other in the pod, each by a grouped `start` and on a connection of its own.
///
/// # Errors
/// One of them is not as it should be.
pub fn live(lane: &Lane<'_>, mut dice: Dice) -> Result<(Vec<Connection>, Vec<Written>)> {
    let (mut connections, mut all) = (Vec::new(), Vec::new());
    let (mut n, mut deck) = (0, Deck::new(&LIVES));
    while lane.goes_on() {
        let kind = deck.deal(&mut dice).context("a kind")?;
        let id = if kind.contains("before") {
            format!("{}-again", lane.pod.id)
        } else {
            format!("{}-{n}", lane.pod.id)
        };
        let lines = 100 + dice.roll(300);
        let (c, written) =
            one_life(lane, kind, &id, lines).with_context(|| format!("{id}, of the {kind}"))?;
        lane.ledger.did(kind);
        connections.push(c);
        all.extend(written);
        n += 1;
    }
    Ok((connections, all))
}

fn one_life(lane: &Lane<'_>, kind: &'static str, id: &str, lines: u64) -> Result<(Connection, Vec<Written>)> {
    // A FIFO whose reader comes back only when its writer is gone has nothing for it, with and without us: it must stay.
    let stays = kind.contains("reader");
    let stdout = Output { pause_us: if stays { 500 } else { 0 }, ..Output::lines(lines, 90) };
    let stderr = Output::lines(lines / 3, 50);
    let script = Script { stdout, stderr, exit_status: 7, until_killed: stays, ..Script::default() };
    let terminal = kind.contains("terminal");
    let lab = &lane.pod.lab;
    let bundle = lab.bundle(id, Some(&lane.pod.id), &script)?;
    let ran = lane.pod.shim.start(lab, id, &bundle).context("a grouped start")?;
    let endpoint = lane.pod.shim.parse(&ran.stdout)?;
    ensure!(
        endpoint == lane.pod.endpoint,
        "the pod is at {:?}, its next container at {endpoint:?}",
        lane.pod.endpoint
    );
    let c = lane.pod.connect()?;
    let name = format!("{id}-{}", lane.fresh());
    let fifos = lane.pod.fifos(&name)?;
    let mut request = pod::create_request(id, &bundle, &fifos);
    request.terminal = terminal;
    if kind.contains("logger") {
        logged::name_one(lab, &name, &mut request)?;
    }
    if kind.contains("stdin") {
        request.stdin = stdin(lane, id)?;
    }
    lane.call(&c, "Create", &request)?.message::<api::CreateTaskResponse>().context("Create")?;
    let wait = c.send("Wait", &pod::wait(id, ""))?;
    lane.call(&c, "Start", &pod::start(id, ""))?.message::<api::StartResponse>().context("Start")?;
    if kind.contains("stdin") {
        close_stdin(lane, &c, id, "")?;
    }
    if stays {
        come_back(lane, &c, id, &fifos, &script)?;
    }
    let exit = lane.exit(&c, wait)?.message::<api::WaitResponse>().context("Wait")?;
    ensure!(exit.exit_status == if stays { 137 } else { 7 }, "exit status {}", exit.exit_status);
    if !stays {
        complete(lane, &fifos, &script, terminal)?;
    }
    lane.call(&c, "Delete", &pod::delete(id, ""))?.message::<api::DeleteResponse>().context("Delete")?;
    c.shutdown_write()?;
    let stream = |stream, output: &Output| Written {
        container: id.to_owned(),
        kind,
        stream,
        bytes: output.bytes(stream),
    };
    let mut written = vec![stream("stdout", &script.stdout)];
    if !terminal {
        written.push(stream("stderr", &script.stderr));
    }
    Ok((c, written))
}

/// Demands that both FIFOs brought what was written, and ended; with a terminal there is only one.
fn complete(lane: &Lane<'_>, fifos: &Fifos, script: &Script, terminal: bool) -> Result<()> {
    for (name, reader, output) in
        [("stdout", &fifos.stdout, &script.stdout), ("stderr", &fifos.stderr, &script.stderr)]
    {
        if terminal && name == "stderr" {
            continue;
        }
        let (have, want) = (reader.to_end(PATIENCE)?, output.bytes(name));
        let same = have.iter().zip(&want).take_while(|(a, b)| a == b).count();
        ensure!(have == want, "{name}: {} bytes of {}, {same} of them right", have.len(), want.len());
        lane.ledger.read_outside(&have);
    }
    Ok(())
}

/// containerd's reader ends in the midst of the output, another one begins, and has the rest when the container is killed.
fn come_back(lane: &Lane<'_>, c: &Connection, id: &str, fifos: &Fifos, script: &Script) -> Result<()> {
    let wanted = script.stdout.bytes("stdout");
    fifos.stdout.wait_len(wanted.len() / 4, PATIENCE)?;
    let mut have = fifos.stdout.stop(PATIENCE)?;
    let next = FifoReader::attach(fifos.stdout.path(), None)?;
    next.wait_len(wanted.len() - have.len(), PATIENCE)?;
    fifos.stderr.wait_len(script.stderr.bytes("stderr").len(), PATIENCE)?;
    lane.call(c, "Kill", &pod::kill(id, "", 9))?.message::<api::Empty>().context("Kill")?;
    have.extend(next.to_end(PATIENCE)?);
    ensure!(have == wanted, "two readers had {} bytes of {}", have.len(), wanted.len());
    let errors = fifos.stderr.to_end(PATIENCE)?;
    ensure!(errors == script.stderr.bytes("stderr"), "stderr: {} bytes", errors.len());
    lane.ledger.read_outside(&have);
    lane.ledger.read_outside(&errors);
    Ok(())
}

/// A FIFO that nobody but the shim has to do with.
fn stdin(lane: &Lane<'_>, name: &str) -> Result<String> {
    let path = lane.pod.lab.fifo_dir().join(format!("{name}-{}-stdin", lane.fresh()));
    mkfifo(&path, Mode::S_IRWXU).with_context(|| format!("making FIFO {}", path.display()))?;
    Ok(path.display().to_string())
}

fn close_stdin(lane: &Lane<'_>, c: &Connection, id: &str, exec_id: &str) -> Result<()> {
    let request = api::CloseIORequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        stdin: true,
        ..Default::default()
    };
    // It may have ended by then, as a real one may.
    let answer = lane.call(c, "CloseIO", &request)?;
    ensure!(matches!(answer.code(), 0 | 5), "CloseIO: {answer:?}");
    Ok(())
}
