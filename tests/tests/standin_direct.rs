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
        frame::{Frame, LARGEST, header, kind},
        lab::Lab,
        launch::{Endpoint, Flavour, Shim},
        pod::{self, Fifos, Pod},
    },
    journal::{Kind, hash},
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

fn talker() -> Script {
    Script {
        stdout: Output::lines(500, 80),
        stderr: Output { lines_per_write: 7, ..Output::lines(300, 33) },
        exit_status: 7,
        ..Script::default()
    }
}

fn whole_life(flavour: Flavour, answer: &str, api: &str) -> Result<()> {
    let pod = Pod::start(lab(answer, api)?, standin(flavour), "life", &talker())?;
    let fifos = pod.run()?;
    let state = pod.connection.call("State", &pod::state("life", ""))?.message::<api::StateResponse>()?;
    assert_eq!(state.stdout, fifos.stdout.path().display().to_string());
    assert_eq!(pod.wait()?, 7);
    fifos.check(&talker())?;
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
    let bundle = pod.lab.bundle("app", Some("sandbox"), &talker())?;
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
    fifos.check(&talker())?;
    let ran = pod.shim.delete(&pod.lab, "app", &bundle)?;
    assert_eq!(api::DeleteResponse::parse_from_bytes(&ran.stdout)?.exit_status, 137);
    Ok(())
}

#[test]
fn exec_has_its_own_streams_and_its_own_wait() -> Result<()> {
    let script = Script { until_killed: true, ..Script::default() };
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "host", &script)?;
    pod.run()?;
    let fifos = pod.fifos("run-1")?;
    let c = &pod.connection;
    c.call("Exec", &pod::exec_request("host", "run-1", &talker(), &fifos))?.message::<api::Empty>()?;
    let wait = c.send("Wait", &pod::wait("host", "run-1"))?;
    c.call("Start", &pod::start("host", "run-1"))?.message::<api::StartResponse>()?;
    assert_eq!(c.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?.exit_status, 7);
    fifos.check(&talker())?;
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
fn frames_of_all_sizes_arrive_whole_however_they_are_cut() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "sizes", &Script::default())?;
    let c = &pod.connection;
    let sizes: &[(usize, &[usize])] = &[
        (200, &[1]),
        (500, &[3, 7, 5000]),
        (4_097, &[4096]),
        (5_000, &[1]),
        (220_000, &[1 << 20]),
        (LARGEST - 100, &[1 << 20]),
    ];
    for (size, pieces) in sizes {
        let frame = Frame::request(c.next_stream(), "a.service", "Any", vec![7; *size])?;
        c.send_pieces(&frame.bytes(), pieces)?;
        assert_eq!(c.answer(frame.stream, PATIENCE)?.code(), 12, "{size}");
        let seen = pod.lab.requests()?;
        let entry =
            seen.iter().find(|e| e.stream == frame.stream && e.kind == Kind::Request).expect("in the books");
        assert_eq!(entry.hash, hash(&frame.body), "{size}");
    }
    // One byte too many: refused on its stream, and the connection lives.
    let stream = c.next_stream();
    let mut bytes = header(u32::try_from(LARGEST)? + 1, stream, kind::REQUEST, 0);
    bytes.resize(bytes.len() + LARGEST + 1, 0);
    c.send_bytes(&bytes)?;
    assert_eq!(c.answer(stream, PATIENCE)?.code(), 8);
    c.call("Connect", &api::ConnectRequest::default())?.message::<api::ConnectResponse>()?;
    Ok(())
}

#[test]
fn go_rules_hold_for_streams_and_unknown_services() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "rules", &Script::default())?;
    let v3 = Connection::open(&pod.endpoint.path()?, "containerd.task.v3.Task")?;
    assert_eq!(v3.call("Connect", &api::ConnectRequest::default())?.code(), 12);
    let c = &pod.connection;
    let frame = c.prepare("Connect", &api::ConnectRequest::default())?;
    c.send_bytes(&frame.bytes())?;
    c.answer(frame.stream, PATIENCE)?.message::<api::ConnectResponse>()?;
    c.send_bytes(&frame.bytes())?;
    let codes = |frames: &[Frame]| -> Option<Vec<i32>> {
        let of_it = frames.iter().filter(|f| f.stream == frame.stream);
        let codes: Vec<i32> = of_it.filter_map(|f| Some(f.answer().ok()?.code())).collect();
        (codes.len() == 2).then_some(codes)
    };
    assert_eq!(c.wait_for(PATIENCE, codes)?, [0, 3]);
    assert!(c.check_single_answers().is_err(), "a repeated request must show");
    // An unknown type is passed over; the next request is answered.
    c.send_bytes(&header(0, c.next_stream(), 9, 0))?;
    c.call("Connect", &api::ConnectRequest::default())?.message::<api::ConnectResponse>()?;
    Ok(())
}

#[test]
fn streams_echo_their_data_frames() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "stream", &Script::default())?;
    pod.connection.is_echoed(STREAMING, 50, 100)
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
    pod.connection.call("Connect", &api::ConnectRequest::default())?.message::<api::ConnectResponse>()?;
    pod.lab.end()?;
    pod.connection.wait_end(PATIENCE)?;
    let _: Endpoint = pod.endpoint.clone();
    Ok(())
}

#[test]
fn the_audit_finds_a_request_that_was_doubled_lost_or_changed() -> Result<()> {
    let pod = Pod::start(lab("plain", "2")?, standin(Flavour::V1_6), "audit", &Script::default())?;
    let id = "audit".to_owned();
    let request = api::ConnectRequest { id, ..Default::default() };
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
