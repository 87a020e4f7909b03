//! The stand-in shim and the scripted client against each other, nothing in between.
//!
//! What is found here is a fault of the two instruments. Only what holds here may be asked of a wrapper.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use containerd_shim_protos::{api, cgroups::metrics::Metrics, protobuf::Message};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        connection::Connection,
        lab::Lab,
        launch::{Endpoint, Flavour, Shim},
        pod::{self, Fifos, Pod},
        rules,
    },
    journal::hash,
    script::{Output, Script},
    serve::STREAMING,
};

fn standin(flavour: Flavour) -> Shim {
    Shim { binary: PathBuf::from(env!("CARGO_BIN_EXE_containerd-shim-standin-v2")), flavour }
}

fn lab(answer: &str, api: &str) -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.env.push(("STANDIN_ANSWER".to_owned(), answer.to_owned()));
    lab.env.push(("STANDIN_API".to_owned(), api.to_owned()));
    Ok(lab)
}

fn whole_life(flavour: Flavour, answer: &str, api: &str) -> Result<()> {
    let pod = Pod::start(lab(answer, api)?, standin(flavour), "life", &Script::talker())?;
    let fifos = pod.run()?;
    let state = pod.connection.call("State", &pod::state("life", ""))?.message::<api::StateResponse>()?;
    assert_eq!(state.stdout, fifos.stdout.path().display().to_string());
    assert_eq!(pod.wait()?, 7);
    fifos.check(&Script::talker())?;
    pod.finish()?;
    pod.connection.wait_end(PATIENCE)?;
    pod.connection.check_single_answers()?;
    for method in ["Create", "Start", "State", "Wait", "Delete", "Shutdown"] {
        assert_eq!(pod.lab.count(method, "life", "")?, 1, "{method}");
    }
    let verbs = pod.lab.verbs()?;
    assert_eq!(verbs.len(), 1);
    let start = verbs.first().context("one verb")?;
    assert_eq!(start.stdin_hash, hash(&pod.shim.start_input(&pod.lab, "life")?));
    assert_eq!(start.cwd, pod.bundle.display().to_string());
    Ok(())
}

#[test]
fn a_whole_life_under_1_6() -> Result<()> {
    whole_life(Flavour::V1_6, "plain", "2")
}

#[test]
fn a_whole_life_under_2_3() -> Result<()> {
    whole_life(Flavour::V2_3, "protobuf", "3")?;
    whole_life(Flavour::V2_3, "json", "3")?;
    whole_life(Flavour::V2_3, "plain", "2")
}

#[test]
fn answers_are_read_as_containerd_reads_them() -> Result<()> {
    for (form, want) in [
        ("garbage", None),
        ("truncated", None),
        ("empty", None),
        ("grpc", Some("grpc")),
        ("abstract", Some("ttrpc")),
        ("plain-newline", Some("ttrpc")),
    ] {
        let lab = lab(form, "3")?;
        let shim = standin(Flavour::V2_3);
        let bundle = lab.bundle("x", None, &Script::default())?;
        let ran = shim.start(&lab, "x", &bundle)?;
        assert!(ran.status.success(), "{form}");
        let read = shim.parse(&ran.stdout).ok().filter(|e| e.address.starts_with('/') || e.path().is_ok());
        assert_eq!(read.map(|e| e.protocol).as_deref(), want, "{form}: {:?}", ran.stdout);
    }
    let lab = lab("fail", "3")?;
    let bundle = lab.bundle("x", None, &Script::default())?;
    assert!(!standin(Flavour::V2_3).start(&lab, "x", &bundle)?.status.success());
    Ok(())
}

#[test]
fn a_second_start_of_the_pod_finds_the_first() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "sandbox", &Script::default())?;
    let bundle = pod.lab.bundle("app", Some("sandbox"), &Script::talker())?;
    let ran = pod.shim.start(&pod.lab, "app", &bundle)?;
    assert_eq!(pod.shim.parse(&ran.stdout)?, pod.endpoint);
    assert_eq!(pod.lab.inner_pids()?.len(), 1);
    let second = pod.connect()?;
    let fifos = pod.fifos("app")?;
    second
        .call("Create", &pod::create_request("app", &bundle, &fifos))?
        .message::<api::CreateTaskResponse>()?;
    second.call("Start", &pod::start("app", ""))?.message::<api::StartResponse>()?;
    let exit = second.call("Wait", &pod::wait("app", ""))?.message::<api::WaitResponse>()?;
    assert_eq!(exit.exit_status, 7);
    fifos.check(&Script::talker())?;
    let ran = pod.shim.delete(&pod.lab, "app", &bundle)?;
    assert_eq!(api::DeleteResponse::parse_from_bytes(&ran.stdout)?.exit_status, 137);
    Ok(())
}

#[test]
fn exec_has_its_own_streams_and_its_own_wait() -> Result<()> {
    let script = Script::stayer();
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "host", &script)?;
    pod.run()?;
    let fifos = pod.fifos("run-1")?;
    let c = &pod.connection;
    c.call("Exec", &pod::exec_request("host", "run-1", &Script::talker(), &fifos))?
        .message::<api::Empty>()?;
    let wait = c.send("Wait", &pod::wait("host", "run-1"))?;
    c.call("Start", &pod::start("host", "run-1"))?.message::<api::StartResponse>()?;
    assert_eq!(c.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?.exit_status, 7);
    fifos.check(&Script::talker())?;
    c.call("Delete", &pod::delete("host", "run-1"))?.message::<api::DeleteResponse>()?;
    // The refusals of the runc shim.
    assert_eq!(c.call("Kill", &pod::kill("host", "run-1", 9))?.code(), 5);
    assert_eq!(c.call("Delete", &pod::delete("host", ""))?.code(), 9);
    c.call("Kill", &pod::kill("host", "", 9))?.message::<api::Empty>()?;
    assert_eq!(pod.wait()?, 137);
    assert_eq!(pod.lab.count("Exec", "host", "run-1")?, 1);
    pod.finish()
}

#[test]
fn a_refused_create_closes_what_it_opened() -> Result<()> {
    let script = Script { create_refused: 12, ..Script::default() };
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "no", &script)?;
    let fifos = pod.fifos("no")?;
    assert_eq!(pod.connection.call("Create", &pod.create_request(&fifos))?.code(), 12);
    assert!(fifos.stdout.to_end(PATIENCE)?.is_empty());
    Ok(())
}

#[test]
fn the_rules_of_ttrpc_hold() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "rules", &Script::default())?;
    rules::frames_of_all_sizes_arrive_whole(&pod, &["a.service"])?;
    rules::one_byte_too_many_is_refused(&pod)?;
    rules::unknown_types_and_reused_ids(&pod)?;
    let v3 = Connection::open(&pod.endpoint.path()?, "containerd.task.v3.Task")?;
    assert_eq!(v3.call("Connect", &pod::connect("rules"))?.code(), 12, "an unknown service");
    Ok(())
}

#[test]
fn streams_echo_their_data_frames() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "stream", &Script::default())?;
    pod.connection.is_echoed(STREAMING, 50, 100, PATIENCE)
}

#[test]
fn stats_take_their_time_and_do_not_wait_for_each_other() -> Result<()> {
    let script = Script { stats_delay_ms: 100, until_killed: true, ..Script::default() };
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "slow", &script)?;
    pod.run()?;
    let first = pod.connection.send("Stats", &pod::stats("slow"))?;
    let second = pod.connection.send("Stats", &pod::stats("slow"))?;
    for stream in [first, second] {
        let any = pod.connection.answer(stream, PATIENCE)?.message::<api::StatsResponse>()?.stats;
        let metrics = Metrics::parse_from_bytes(&any.value)?;
        assert!(metrics.cpu.usage.total > 0);
    }
    Ok(())
}

#[test]
fn output_may_end_after_the_exit_and_fifos_later_still() -> Result<()> {
    let stdout = Output { lines_after_exit: 100, pause_us: 100, ..Output::lines(200, 64) };
    let script = Script { stdout, hold_open_ms: 300, ..Script::default() };
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "late", &script)?;
    let fifos = pod.run()?;
    assert_eq!(pod.wait()?, 0);
    assert!(!fifos.stdout.at_end(), "a grandchild holds the FIFO");
    fifos.check(&script)?;
    pod.finish()
}

#[test]
fn a_stalled_reader_stops_the_writer_and_loses_nothing() -> Result<()> {
    let script = Script { stdout: Output::lines(5_000, 100), ..Script::default() };
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "stall", &script)?;
    let fifos = Fifos::create_stalled(&pod.lab.fifo_dir(), "stall")?;
    let c = &pod.connection;
    c.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
    c.call("Start", &pod::start("stall", ""))?.message::<api::StartResponse>()?;
    let wait = c.send("Wait", &pod::wait("stall", ""))?;
    assert!(c.answer(wait, Duration::from_millis(200)).is_err(), "500 KB do not fit a FIFO");
    fifos.stdout.resume();
    fifos.stderr.resume();
    c.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
    fifos.check(&script)
}

#[test]
fn a_dead_shim_is_seen_as_the_end_of_the_connection() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "dead", &Script::default())?;
    pod.connection.call("Connect", &pod::connect("dead"))?.message::<api::ConnectResponse>()?;
    pod.lab.end()?;
    pod.connection.wait_end(PATIENCE)?;
    let _: Endpoint = pod.endpoint.clone();
    Ok(())
}

#[test]
fn the_audit_finds_a_request_that_was_doubled_lost_or_changed() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "audit", &Script::default())?;
    let request = pod::connect("audit");
    pod.connection.call("Connect", &request)?;
    exactly_once(&pod.lab, &[&pod.connection])?;
    // Doubled: the second arrives under a stream id that is used up.
    let doubled = pod.connect()?;
    let frame = doubled.prepare("Pids", &request)?;
    doubled.send_bytes(&frame.bytes())?;
    doubled.send_bytes(&frame.bytes())?;
    doubled.wait_for(PATIENCE, |f| (f.len() == 2).then_some(()))?;
    assert!(exactly_once(&pod.lab, &[&pod.connection, &doubled]).is_err(), "doubled");
    // Lost: prepared, and it never arrives.
    let lost = pod.connect()?;
    lost.call("Connect", &request)?;
    lost.prepare("Kill", &request)?;
    assert!(exactly_once(&pod.lab, &[&lost]).is_err(), "lost");
    // Changed: one byte of the body.
    let changed = pod.connect()?;
    let mut frame = changed.prepare("Connect", &request)?;
    *frame.body.last_mut().context("a body")? ^= 1;
    changed.send_bytes(&frame.bytes())?;
    changed.answer(frame.stream, PATIENCE)?;
    assert!(exactly_once(&pod.lab, &[&changed]).is_err(), "changed");
    // Made up: nobody sent what came over `doubled`.
    assert!(exactly_once(&pod.lab, &[&pod.connection]).is_err(), "made up");
    Ok(())
}
