//! What a container's stdout and stderr may be: which of it is ours, and what of it the collector has.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        pod::{self, Pod},
        spooled::judged,
        wrapped::{unharmed, wrapped_in},
    },
    journal::Entry,
    script::{Output, Script},
};

/// What the shim was asked to make.
fn arrived(pod: &Pod, id: &str) -> Result<Entry> {
    let is_it = |entry: &Entry| entry.method == "Create" && entry.id == id;
    pod.lab.requests()?.into_iter().find(is_it).with_context(|| format!("Create of {id}"))
}

#[test]
fn stdio_that_is_no_fifo_is_left_alone() -> Result<()> {
    unharmed(&Script::stayer(), |pod| {
        let fifos = pod.fifos("unused")?;
        let c = &pod.connection;
        for (n, path) in [
            "",
            "file:///dev/null",
            "binary:///bin/true?x=y",
            "ttrpc+unix:///x?streaming_id=1",
            "streaming+ttrpc:///x?id=1",
        ]
        .into_iter()
        .enumerate()
        {
            let mut create = pod.create_request(&fifos);
            create.id = format!("plain-{n}");
            (create.stdout, create.stderr) = (path.to_owned(), path.to_owned());
            c.call("Create", &create)?.message::<api::CreateTaskResponse>()?;
            let arrived = arrived(pod, &create.id)?;
            assert_eq!((arrived.stdout.as_str(), arrived.stderr.as_str()), (path, path));
        }
        Ok(())
    })
}

/// One FIFO for both is one stream: the shim gets one FIFO of ours for both, and the collector has each byte once.
#[test]
fn one_fifo_for_both_is_one_stream() -> Result<()> {
    let script = Script {
        stdout: Output::lines(2_000, 80),
        stderr: Output::lines(900, 33),
        exit_status: 7,
        ..Script::default()
    };
    let mut collector = None;
    let pod = wrapped_in(&script, |lab| {
        collector = Some(lab.collector()?);
        Ok(())
    })?;
    let collector = collector.context("it was started")?;
    let (c, fifos) = (&pod.connection, pod.fifos("task")?);
    let mut create = pod.create_request(&fifos);
    create.stderr.clone_from(&create.stdout);
    c.call("Create", &create)?.message::<api::CreateTaskResponse>()?;
    let arrived = arrived(&pod, "task")?;
    ensure!(arrived.stdout != create.stdout, "our own FIFO");
    ensure!(arrived.stderr == arrived.stdout, "{} is not {}", arrived.stderr, arrived.stdout);
    let state = c.call("State", &pod::state("task", ""))?.message::<api::StateResponse>()?;
    ensure!([&state.stdout, &state.stderr] == [&create.stdout; 2], "containerd's own come back: {state}");
    c.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
    ensure!(pod.wait()? == 7, "exit status");
    let read = fifos.stdout.to_end(PATIENCE)?;
    let sorted = |bytes: &[u8]| {
        let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort_unstable();
        lines
    };
    let written = [script.stdout.bytes("stdout"), script.stderr.bytes("stderr")].concat();
    ensure!(sorted(&read) == sorted(&written), "containerd has {} bytes of {}", read.len(), written.len());
    let judgement = judged(&collector, "task", "stdout", &read)?;
    ensure!(judgement.gaps.is_empty(), "{judgement:?}");
    let streams = collector.sink()?.into_keys().map(|key| key.stream).collect::<Vec<_>>();
    ensure!(streams == ["stdout"], "{streams:?}");
    pod.finish()?;
    collector.stop()
}

/// With a terminal there is one stream, whatever is said of stderr: a FIFO there is not touched, and one that is not there is not made.
#[test]
fn with_a_terminal_stderr_is_left_alone() -> Result<()> {
    let script = Script { stdout: Output::lines(200, 80), exit_status: 7, ..Script::default() };
    unharmed(&script, |pod| {
        let (c, fifos) = (&pod.connection, pod.fifos("task")?);
        let nowhere = pod.lab.fifo_dir().join("nobody-made-it");
        for (id, stderr) in [("unmade", nowhere.as_path()), ("task", fifos.stderr.path())] {
            let own = if id == "task" { None } else { Some(pod.fifos(id)?) };
            let mut create = pod.create_request(own.as_ref().unwrap_or(&fifos));
            create.id = id.to_owned();
            (create.terminal, create.stderr) = (true, stderr.display().to_string());
            c.call("Create", &create)?.message::<api::CreateTaskResponse>()?;
            let arrived = arrived(pod, id)?;
            ensure!(arrived.stdout != create.stdout, "our own FIFO");
            ensure!(arrived.stderr == create.stderr, "stderr became {}", arrived.stderr);
            if id == "unmade" {
                c.call("Delete", &pod::delete(id, ""))?.message::<api::DeleteResponse>()?;
            }
        }
        ensure!(!nowhere.exists(), "it was made");
        c.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
        ensure!(pod.wait()? == 7, "exit status");
        ensure!(fifos.stdout.to_end(PATIENCE)? == script.stdout.bytes("stdout"), "stdout");
        pod.finish()
    })
}
