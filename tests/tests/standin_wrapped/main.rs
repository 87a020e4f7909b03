//! The wrapper around the stand-in: what it must not change.
//!
//! Nothing dies here except where the shim does.

mod stdio;

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{
    api,
    protobuf::{Message, well_known_types::any::Any},
};
use shimtap_tests::rig::{
    collector::Settings,
    eventually,
    patience::{quickly, throughout},
};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        connection::Connection,
        fifo::FifoReader,
        lab::files,
        launch::{Flavour, Shim},
        mute::asked_in_a_loop,
        pod::{self, Fifos, Pod},
        spooled::{LIMIT, count},
        wrapped::{STANDIN, binary, unharmed, wrapped, wrapped_in, wrapping},
    },
    journal::hash,
    procs,
    script::{Output, Script},
    serve::STREAMING,
};

fn whole_life(flavour: Flavour, answer: &str, api: &str) -> Result<()> {
    let (lab, shim) = wrapping(flavour, api, answer)?;
    let pod = Pod::start(lab, shim, "life", &Script::talker())?;
    let worker = pod.worker()?;
    let fifos = pod.run()?;
    let state = pod.connection.call("State", &pod::state("life", ""))?.message::<api::StateResponse>()?;
    assert_eq!(state.stdout, fifos.stdout.path().display().to_string(), "containerd's own path comes back");
    assert_eq!(state.stderr, fifos.stderr.path().display().to_string());
    assert_eq!(pod.wait()?, 7);
    fifos.check(&Script::talker())?;
    assert!(worker.alive());
    pod.finish()?;
    pod.connection.wait_end(PATIENCE)?;
    exactly_once(&pod.lab, &[&pod.connection])?;
    let requests = pod.lab.requests()?;
    let create = requests.iter().find(|e| e.method == "Create").context("Create")?;
    assert_ne!(create.stdout, state.stdout, "the shim writes to a FIFO of the wrapper's");
    let verbs = pod.lab.verbs()?;
    let start = verbs.first().context("start")?;
    assert_eq!(start.stdin_hash, hash(&pod.shim.start_input(&pod.lab, "life")?));
    assert_eq!(start.argv.last().map(String::as_str), Some("start"));
    assert_eq!(start.cwd, pod.bundle.display().to_string());
    Ok(())
}

#[test]
fn a_whole_life_under_each_containerd_and_each_form_of_answer() -> Result<()> {
    whole_life(Flavour::V1_6, "plain", "2")?;
    whole_life(Flavour::V2_3, "protobuf", "3")?;
    whole_life(Flavour::V2_3, "json", "3")?;
    whole_life(Flavour::V2_3, "plain-newline", "2")
}

#[test]
fn answers_that_cannot_be_wrapped_are_handed_out_as_they_are() -> Result<()> {
    for form in ["garbage", "truncated", "empty", "grpc", "abstract", "fail"] {
        let run = |shim: fn(Shim) -> Result<PathBuf>| -> Result<(Option<i32>, String)> {
            let (lab, wrapper) = wrapping(Flavour::V2_3, "3", form)?;
            let bundle = lab.bundle("x", None, &Script::default())?;
            let ran = Shim { binary: shim(wrapper)?, flavour: Flavour::V2_3 }.start(&lab, "x", &bundle)?;
            assert!(procs::keepers(lab.namespace())?.is_empty(), "{form}: nothing of ours stays");
            // Each runs in a place of its own, and the socket's name depends on the namespace.
            let mut text = String::from_utf8_lossy(&ran.stdout).replace(&lab.dir().display().to_string(), "");
            for socket in files(&lab.inner_dir()).iter().filter_map(|p| p.file_name()?.to_str()) {
                text = text.replace(socket, "");
            }
            Ok((ran.status.code(), text))
        };
        assert_eq!(run(|wrapper| Ok(wrapper.binary))?, run(|_| binary(STANDIN))?, "{form}");
    }
    Ok(())
}

#[test]
fn grouping_follows_the_inner_shim() -> Result<()> {
    unharmed(&Script::stayer(), |pod| {
        let keeper = pod.keeper()?;
        let bundle = pod.lab.bundle("app", Some("task"), &Script::talker())?;
        let ran = pod.shim.start(&pod.lab, "app", &bundle)?;
        assert_eq!(pod.shim.parse(&ran.stdout)?, pod.endpoint);
        assert_eq!(pod.keeper()?.pid, keeper.pid);
        let address = fs::read_to_string(bundle.join("address"))?;
        assert_eq!(address.trim(), pod.endpoint.address, "containerd 1.x reloads from this file");
        let second = pod.connect()?;
        let fifos = pod.fifos("app")?;
        second
            .call("Create", &pod::create_request("app", &bundle, &fifos))?
            .message::<api::CreateTaskResponse>()?;
        second.call("Start", &pod::start("app", ""))?.message::<api::StartResponse>()?;
        second.call("Wait", &pod::wait("app", ""))?.message::<api::WaitResponse>()?;
        fifos.check(&Script::talker())?;
        second.call("Delete", &pod::delete("app", ""))?.message::<api::DeleteResponse>()?;
        quickly(Duration::from_secs(2), "delete", || {
            let ran = pod.shim.delete(&pod.lab, "app", &bundle)?;
            let said = api::DeleteResponse::parse_from_bytes(&ran.stdout)?;
            assert_eq!(said.exit_status, 137, "the inner's bytes");
            assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
            Ok(ran.took)
        })?;
        pod.answers()
    })
}

#[test]
fn a_create_in_any_number_of_pieces_is_rewritten() -> Result<()> {
    for (extra, pieces) in [
        (0, &[1][..]),
        (0, &[3, 7, 20]),
        (4_097, &[4096]),
        (5_000, &[1]),
        (220_000, &[50_000]),
        (4_000_000, &[1 << 20]),
    ] {
        unharmed(&Script::talker(), |pod| {
            let fifos = pod.fifos("task")?;
            let mut create = pod.create_request(&fifos);
            create.options = Some(Any { value: vec![9; extra], ..Default::default() }).into();
            let frame = pod.connection.prepare("Create", &create)?;
            pod.connection.send_pieces(&frame.bytes(), pieces)?;
            pod.connection.answer(frame.stream, PATIENCE)?.message::<api::CreateTaskResponse>()?;
            let requests = pod.lab.requests()?;
            let arrived = requests.iter().find(|e| e.method == "Create").context("Create arrived")?;
            ensure!(arrived.stdout != create.stdout, "{extra}: our own FIFO");
            pod.connection.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
            ensure!(pod.wait()? == 7, "exit status");
            fifos.check(&Script::talker())?;
            pod.connection.call("Delete", &pod::delete("task", ""))?.message::<api::DeleteResponse>()?;
            exactly_once(&pod.lab, &[&pod.connection])
        })?;
    }
    Ok(())
}

#[test]
fn streams_pass_unseen() -> Result<()> {
    unharmed(&Script::stayer(), |pod| {
        pod.connect()?.is_echoed(STREAMING, 60, 1_000, PATIENCE)?;
        pod.answers()
    })
}

/// Longer than a loop is kept waiting: whoever asks while another one waits is no loop.
#[test]
fn stats_of_a_slow_shim_that_coincide_are_all_answered() -> Result<()> {
    let script = Script { stats_delay_ms: 3_000, ..Script::stayer() };
    unharmed(&script, |pod| {
        pod.run()?;
        let other = pod.connect()?;
        let ask = |c: &Connection| c.send("Stats", &pod::stats("task"));
        let c = &pod.connection;
        let streams = [(c, ask(c)?), (c, ask(c)?), (&other, ask(&other)?)];
        for (c, stream) in streams {
            let stats = c.answer(stream, PATIENCE)?.message::<api::StatsResponse>()?.stats;
            assert_eq!(stats.type_url, "io.containerd.cgroups.v1.Metrics");
        }
        Ok(())
    })
}

#[test]
fn a_downgrade_finds_the_fifos_as_they_were() -> Result<()> {
    unharmed(&Script::talker(), |pod| {
        let fifos = pod.fifos("task")?;
        let v3 = Connection::open(&pod.endpoint.path()?, "containerd.task.v3.Task")?;
        assert_eq!(v3.call("Create", &pod.create_request(&fifos))?.code(), 12);
        pod.connection.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
        pod.connection.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
        assert_eq!(pod.wait()?, 7);
        fifos.check(&Script::talker())?;
        pod.connection.call("Delete", &pod::delete("task", ""))?.message::<api::DeleteResponse>()?;
        exactly_once(&pod.lab, &[&pod.connection, &v3])
    })
}

#[test]
fn a_refused_create_ends_the_fifos_and_can_be_repeated() -> Result<()> {
    let script = Script { create_refused: 5, ..Script::default() };
    unharmed(&script, |pod| {
        for _ in 0..3 {
            let fifos = Fifos::create(&pod.lab.fifo_dir(), &format!("try-{}", pod.lab.requests()?.len()))?;
            assert_eq!(pod.connection.call("Create", &pod.create_request(&fifos))?.code(), 5);
            assert!(fifos.stdout.to_end(PATIENCE)?.is_empty());
            assert!(fifos.stderr.to_end(PATIENCE)?.is_empty());
        }
        let left = files(&pod.lab.run_dir().join("c"));
        let fifo = |p: &&PathBuf| fs::symlink_metadata(p).is_ok_and(|m| m.file_type().is_fifo());
        assert_eq!(left.iter().find(fifo), None, "our FIFOs are gone too");
        Ok(())
    })
}

/// A grandchild keeps stdout open after the exit, for longer than anybody waits: nobody may wait for it. The wrapper says whether it
/// was the limit of a hold that let an answer go: on a machine without time that may befall one or the other, but not each.
#[test]
fn an_exit_is_not_held_by_a_grandchild() -> Result<()> {
    const EXITS: u64 = 5;
    let script = Script { stdout: Output::lines(10, 60), hold_open_ms: 600_000, ..Script::default() };
    let mut collector = None;
    let pod = wrapped_in(&Script::stayer(), |lab| {
        collector = Some(lab.collector_told(&Settings::each_second())?);
        Ok(())
    })?;
    let collector = collector.context("it was started")?;
    let _fifos = pod.run()?;
    let mut short = 0;
    for n in 0..EXITS {
        let id = format!("task-{n}");
        let fifos = pod.run_beside(&id, &script, &[])?;
        pod.connection.call("Wait", &pod::wait(&id, ""))?.message::<api::WaitResponse>()?;
        short += u64::from(fifos.stdout.so_far() != script.stdout.bytes("stdout"));
        assert!(!fifos.stdout.at_end(), "the grandchild has it");
    }
    let told = |name: &str| count(&collector, name).unwrap_or_default();
    let mut expired = 0;
    eventually(LIMIT, "each to be held for its last lines", || {
        expired = told("wait_hold_expired");
        Ok((told("wait_held") == EXITS && short <= expired).then_some(()))
    })
    .with_context(|| format!("without their lines came {short} exits, by the limit {expired}"))?;
    ensure!(expired < EXITS, "each of {EXITS} exits was held for as long as any may be");
    collector.stop()
}

#[test]
fn a_hang_up_signal_with_a_stalled_reader_loses_nothing() -> Result<()> {
    let script = Script { stdout: Output::lines(6_000, 100), exit_status: 4, ..Script::default() };
    unharmed(&script, |pod| {
        let fifos = Fifos::create_stalled(&pod.lab.fifo_dir(), "task")?;
        let c = &pod.connection;
        c.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
        c.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
        c.call("Kill", &pod::kill("task", "", 1))?.message::<api::Empty>()?;
        let wait = c.send("Wait", &pod::wait("task", ""))?;
        assert!(c.answer(wait, Duration::from_millis(1_500)).is_err(), "600 KB do not fit the pipes");
        fifos.stdout.resume();
        fifos.stderr.resume();
        let exit = c.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
        assert_eq!(exit.exit_status, 4);
        fifos.check(&script)
    })
}

/// containerd's CRI kills a container's processes once more when it has heard of the exit, before it reads to the end; on a
/// busy node, or one whose log disk hangs, that takes it seconds.
#[test]
fn a_kill_after_the_exit_loses_nothing() -> Result<()> {
    // More than containerd's FIFO holds, in whole pages: with pieces of pages all pipes would be full before.
    let stdout = Output { lines_per_write: 1_000, ..Output::lines(1_000, 100) };
    let script = Script { stdout, exit_status: 4, ..Script::default() };
    unharmed(&script, |pod| {
        let fifos = Fifos::create_stalled(&pod.lab.fifo_dir(), "task")?;
        let c = &pod.connection;
        c.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
        c.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
        let asked = Instant::now();
        let exit = c.call("Wait", &pod::wait("task", ""))?.message::<api::WaitResponse>()?;
        assert_eq!(exit.exit_status, 4);
        // Who closes its readers when it hears of that had its time to read.
        assert!(asked.elapsed() >= Duration::from_secs(2), "told after {:?}", asked.elapsed());
        let refused = c.call("Kill", &pod::kill("task", "", 9))?;
        assert!(refused.message::<api::Empty>().is_err(), "it has ended");
        // Longer than it would take to give up a task that is deleted.
        throughout(Duration::from_millis(1_500), "absence", || Ok(fifos.stdout.so_far().is_empty()))?;
        fifos.stdout.resume();
        fifos.stderr.resume();
        fifos.check(&script)
    })
}

/// Without the wrapper such a shim never tells of the exit, and nobody can remove the pod.
#[test]
fn a_killed_shim_that_waits_for_a_reader_gets_one() -> Result<()> {
    let script = Script { stdout: Output::lines(6_000, 100), written_first: true, ..Script::stayer() };
    let pod = wrapped(&script)?;
    let fifos = Fifos::create_stalled(&pod.lab.fifo_dir(), "task")?;
    let c = &pod.connection;
    c.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
    c.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
    let wait = c.send("Wait", &pod::wait("task", ""))?;
    assert!(c.answer(wait, Duration::from_millis(500)).is_err(), "it lives");
    let killed = Instant::now();
    c.call("Kill", &pod::kill("task", "", 9))?.message::<api::Empty>()?;
    let exit = c.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
    assert_eq!(exit.exit_status, 137);
    // Who comes back in that time misses nothing.
    assert!(killed.elapsed() >= Duration::from_secs(5), "after {:?}", killed.elapsed());
    pod.finish()
}

/// containerd restarts: its readers vanish, and open again the paths that State names.
#[test]
fn a_reader_that_comes_back_misses_nothing() -> Result<()> {
    let script = Script {
        stdout: Output { pause_us: 200, lines_per_write: 10, ..Output::lines(3_000, 100) },
        ..Script::default()
    };
    unharmed(&script, |pod| {
        let fifos = Fifos::create(&pod.lab.fifo_dir(), "task")?;
        let path = fifos.stdout.path().to_owned();
        let c = pod.connect()?;
        c.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
        c.call("Start", &pod::start("task", ""))?.message::<api::StartResponse>()?;
        fifos.stdout.wait_len(50_000, PATIENCE)?;
        let mut all = fifos.stdout.stop(PATIENCE)?;
        drop(c);
        let c = pod.connect()?;
        let state = c.call("State", &pod::state("task", ""))?.message::<api::StateResponse>()?;
        assert_eq!(Path::new(&state.stdout), path);
        let again = FifoReader::attach(Path::new(&state.stdout), None)?;
        c.call("Wait", &pod::wait("task", ""))?.message::<api::WaitResponse>()?;
        all.extend(again.to_end(PATIENCE)?);
        let want = script.stdout.bytes("stdout");
        assert!(all == want, "{} bytes of {}", all.len(), want.len());
        Ok(())
    })
}

/// What a shim is and how its task stands, only the shim can say. It is asked for longer than we bound Stats.
#[test]
fn nobody_answers_state_and_connect_in_a_mute_shims_place() -> Result<()> {
    const SILENCE: Duration = Duration::from_secs(4);
    unharmed(&Script::stayer(), |pod| {
        let _fifos = pod.run()?;
        let shims = pod.lab.inner_pids()?;
        ensure!(shims.len() == 1, "one shim expected: {shims:?}");
        let c = &pod.connection;
        // Asked in a loop, as containerd 2.3 does: that one is ours to bound.
        let (mute, _) = asked_in_a_loop(pod)?;
        let (state, connect) =
            (c.send("State", &pod::state("task", ""))?, c.send("Connect", &pod::connect("task"))?);
        let stats = c.send("Stats", &pod::stats("task"))?;
        let answered = |stream: u32| c.frames().iter().any(|frame| frame.stream == stream);
        throughout(SILENCE, "silence", || Ok(!answered(state) && !answered(connect)))?;
        ensure!(c.answer(stats, PATIENCE)?.code() == 4, "Stats was bounded");
        drop(mute);
        c.answer(state, PATIENCE)?.message::<api::StateResponse>()?;
        let said = c.answer(connect, PATIENCE)?.message::<api::ConnectResponse>()?;
        ensure!(shims.iter().any(|pid| said.shim_pid.try_into() == Ok(pid.as_raw())), "{said}");
        c.check_single_answers()
    })
}

/// As if there were no wrapper: at once.
#[test]
fn the_death_of_the_shim_is_seen_as_without_us() -> Result<()> {
    quickly(Duration::from_secs(1), "the end of the connection", || {
        let pod = wrapped(&Script::stayer())?;
        let fifos = pod.run()?;
        let wait = pod.connection.send("Wait", &pod::wait("task", ""))?;
        let keeper = pod.keeper()?;
        for pid in pod.lab.inner_pids()? {
            procs::kill(pid)?;
        }
        let began = Instant::now();
        pod.connection.wait_end(PATIENCE)?;
        let took = began.elapsed();
        assert!(pod.connection.answer(wait, PATIENCE).is_err(), "nobody makes up an answer");
        fifos.stdout.to_end(PATIENCE)?;
        fifos.stderr.to_end(PATIENCE)?;
        let gone = || (!keeper.alive()).then_some(());
        procs::wait(PATIENCE, || "the keeper leaves".to_owned(), gone)?;
        assert!(!pod.endpoint.path()?.exists(), "our socket is gone");
        Ok(took)
    })
}

#[test]
fn other_verbs_are_the_inner_shims() -> Result<()> {
    let (lab, shim) = wrapping(Flavour::V2_3, "3", "protobuf")?;
    for args in [&["-info"][..], &["-v"], &["--unknown-flag", "nonsense"]] {
        let ours = shim.plain(&lab, args)?;
        let direct = Shim { binary: binary(STANDIN)?, ..shim.clone() }.plain(&lab, args)?;
        assert_eq!(ours.status.code(), direct.status.code(), "{args:?}");
        assert_eq!(ours.stdout, direct.stdout, "{args:?}");
        assert_eq!(ours.stderr, direct.stderr, "{args:?}");
    }
    Ok(())
}
