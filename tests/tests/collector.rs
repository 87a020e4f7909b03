//! Wrapper and collector together: what a container wrote is in containerd's log and in the file sink, or
//! is admitted to be missing; and whatever happens to the collector, the container does not notice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::{Judgement, Tape, Tapes, cri_log, one_tape, whole_but_for_ends_of_containerd};
use shimtap_tests::rig::busy::Busy;
use shimtap_tests::rig::cri::{ContainerState, Wanted};
use shimtap_tests::rig::process::signal;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};
use shimtap_tests::standin::procs;

const LIMIT: Duration = Duration::from_secs(60);
/// What a wrapper keeps of a stream until the collector has taken it.
const KEPT: usize = 1 << 20;

on_each_containerd!(
    every_byte_is_in_the_log_and_in_the_sink,
    a_hundred_containers_of_10_ms_are_whole_whatever_they_write,
    saturation_is_accounted_for,
    collector_comes_late,
    collector_is_killed_and_restarted,
    collector_is_stopped_in_its_tracks_under_load,
    collectors_unit_is_stopped_and_containerd_restarted,
    worker_dies_while_the_sink_is_fed,
    cpu_and_memory_are_served,
);

fn wrapped(version: Version) -> Setup {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector()
}

/// Waits until the sink has all of a stream, and judges it against what was written.
fn judged(node: &Node, container: &str, stream: &str, written: &[u8]) -> Result<Judgement> {
    let end = u64::try_from(written.len())?;
    let mut tapes = Tapes::default();
    let whole = eventually(LIMIT, &format!("all of {container}'s {stream} in the sink"), || {
        tapes = node.collector(|collector| collector.sink())?;
        Ok(one_tape(&tapes, container, stream)?.filter(|tape| tape.end() >= end).map(drop))
    });
    let came = one_tape(&tapes, container, stream)?.cloned().unwrap_or_default();
    whole.with_context(|| incomplete(node, &came, written))?;
    let judgement = came.judge(written)?;
    ensure!(judgement.accounted() == end, "{judgement:?} of {end} bytes");
    Ok(judgement)
}

/// For whoever has to find out why not all of it came: whether the end is missing, or something before it, from where on all
/// would be out of its place; and what those on the way say.
fn incomplete(node: &Node, came: &Tape, written: &[u8]) -> String {
    let mut text = format!("{} of {} bytes; of these: ", came.end(), written.len());
    text += &came.judge(written).map_or_else(|fault| format!("{fault:#}"), |judged| format!("{judged:?}"));
    let asked = node.collector(|collector| {
        let said = std::fs::read_to_string(collector.log())?;
        Ok(format!("\n{}\n{}\n{said}", collector.counted(), collector.ps_with(&["--json"])?))
    });
    text + &asked.unwrap_or_else(|fault| format!("\n{fault:#}"))
}

/// Demands that a stream is in the sink without a gap.
fn without_gap(node: &Node, container: &str, stream: &str, written: &[u8]) -> Result<()> {
    let judgement = judged(node, container, stream, written)?;
    ensure!(judgement.gaps.is_empty(), "{container}'s {stream} has gaps: {judgement:?}");
    Ok(())
}

fn every_byte_is_in_the_log_and_in_the_sink(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let mut ids = Vec::new();
        for (name, seed) in [("one", "seed=1"), ("two", "seed=2")] {
            let command = ["speaker", "lines=6000", "rate=3000", "to=both", "width=100", seed];
            ids.push(cri.run(&pod, &Wanted { name, command: &command, ..Wanted::default() })?);
        }
        for (id, (name, seed)) in ids.iter().zip([("one", 1), ("two", 2)]) {
            cri.await_exit(id)?;
            let written = tape(seed, 6000, 100);
            let log = cri_log(&cri.log_path(&pod, name))?;
            node.complete(&log.stdout, &written)?;
            node.complete(&log.stderr, &written)?;
            without_gap(node, id, "stdout", &written)?;
            without_gap(node, id, "stderr", &written)?;
        }
        cri.remove_pod(&pod)
    })
}

/// What one of a hundred writes: numbered lines, then CR LF, no UTF-8, an empty line, a NUL, a line that goes on for 1 MiB in
/// every tenth, and no newline at the end.
fn odd_bytes(number: u64) -> (String, Vec<u8>) {
    let long = if number.is_multiple_of(10) { 1 << 20 } else { 1_000 };
    let script = format!(
        r"speaker lines=300 batch=10 seed={number}; printf 'a\r\nb\377\376c\n\n\000\n'; \
        head -c {long} /dev/zero | tr '\0' 'x'; printf '\nend'; usleep 10000; exit {}",
        number % 7
    );
    let mut written = tape(number, 300, 64);
    written.extend_from_slice(b"a\r\nb\xff\xfec\n\n\0\n");
    written.extend(std::iter::repeat_n(b'x', long));
    written.extend_from_slice(b"\nend");
    (script, written)
}

/// containerd's CRI log has no CR before a newline; the collector's file has.
fn as_logged(written: &[u8]) -> Vec<u8> {
    let next = written.iter().skip(1).map(Some).chain([None]);
    written.iter().zip(next).filter(|pair| *pair != (&b'\r', Some(&b'\n'))).map(|(byte, _)| *byte).collect()
}

/// Without the wrapper, containerd up to 1.6.21 loses the tail of many of these logs, so there is no truth to compare with
/// but what was written.
fn a_hundred_containers_of_10_ms_are_whole_whatever_they_write(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let one = |number: u64| -> Result<(String, Vec<u8>)> {
            let (script, written) = odd_bytes(number);
            let name = format!("c{number}");
            let wanted = Wanted { name: &name, command: &["sh", "-c", &script], ..Wanted::default() };
            let id = cri.run(&pod, &wanted)?;
            let code = cri.await_exit(&id)?.exit_code;
            ensure!(u64::try_from(code)? == number % 7, "{name} ended with {code}");
            let log = cri_log(&cri.log_path(&pod, &name))?.stdout;
            let wanted = as_logged(&written);
            ensure!(log == wanted, "{name}: {} bytes in its log, {} expected", log.len(), wanted.len());
            cri.remove(&id)?;
            Ok((id, written))
        };
        let all = std::thread::scope(|scope| {
            let lane = |lane: u64| scope.spawn(move || (0..25).map(|turn| one(lane * 25 + turn)).collect());
            let lanes: Vec<_> = (0..4).map(lane).collect();
            let done = lanes.into_iter().map(|lane| lane.join().expect("no lane panics"));
            done.collect::<Result<Vec<Vec<_>>>>()
        })?;
        // The file is read once for all of them.
        let all = all.concat();
        let end = |written: &[u8]| u64::try_from(written.len()).unwrap_or(u64::MAX);
        let tapes = eventually(LIMIT, "all of each in the sink", || {
            let tapes = node.collector(|collector| collector.sink())?;
            let whole = all.iter().map(|(id, written)| {
                Ok(one_tape(&tapes, id, "stdout")?.is_some_and(|tape| tape.end() >= end(written)))
            });
            Ok(whole.collect::<Result<Vec<bool>>>()?.into_iter().all(|whole| whole).then_some(tapes))
        })?;
        for (id, written) in &all {
            let tape = one_tape(&tapes, id, "stdout")?.with_context(|| format!("{id} is in the sink"))?;
            let judgement = tape.judge(written).with_context(|| id.clone())?;
            // More than the wrapper keeps, at once, on a busy machine: that may be admitted to be missing.
            let may_overflow =
                written.len() > KEPT && judgement.gaps.keys().all(|reason| reason == "overflow");
            ensure!(judgement.accounted() == end(written), "{id}: {judgement:?}");
            ensure!(judgement.gaps.is_empty() || may_overflow, "{id} has gaps: {judgement:?}");
        }
        cri.remove_pod(&pod)
    })
}

/// As fast as it goes: containerd gets everything, the sink what it can take, and the rest is counted.
fn saturation_is_accounted_for(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let said = node.run("fast", &["speaker", "lines=400000", "batch=50", "width=120"])?;
        let written = tape(1, 400_000, 120);
        node.complete(&said.stdout, &written)?;
        judged(node, "fast", "stdout", &written).map(drop)
    })
}

fn collector_comes_late(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).run(|node| {
        let client =
            node.run_beside("late", &["--rm"], &["speaker", "lines=9000", "rate=3000", "width=100"])?;
        let a_third = tape(1, 3000, 100).len();
        eventually(LIMIT, "a third of the lines", || {
            Ok((client.stdout_so_far().len() >= a_third).then_some(()))
        })?;
        node.start_collector()?;
        let said = client.finish(LIMIT)?;
        let written = tape(1, 9000, 100);
        node.complete(&said.stdout, &written)?;
        let judgement = judged(node, "late", "stdout", &written)?;
        // What had to be dropped before it came is admitted, and nothing else was dropped.
        ensure!(judgement.gaps.keys().all(|reason| reason == "overflow"), "{judgement:?}");
        ensure!(judgement.delivered > u64::try_from(written.len() / 2)?, "{judgement:?}");
        Ok(())
    })
}

fn collector_is_killed_and_restarted(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let command = ["speaker", "lines=4000", "rate=1000", "width=100"];
        let client = node.run_beside("k", &["--rm"], &command)?;
        for part in 1..=3 {
            let enough = part * 900 * 100;
            eventually(LIMIT, "more lines", || Ok((client.stdout_so_far().len() >= enough).then_some(())))?;
            node.collector(|collector| collector.end(Signal::SIGKILL))?;
            node.start_collector()?;
        }
        let said = client.finish(LIMIT)?;
        let written = tape(1, 4000, 100);
        node.complete(&said.stdout, &written)?;
        // 100 kB/s and a collector that is away for less than a second: the ring holds that.
        without_gap(node, "k", "stdout", &written)
    })
}

/// 10 MB/s for 8 s, twenty times what wrapper, socket and collector can hold.
const LOAD: [&str; 5] = ["speaker", "lines=80000", "rate=10000", "batch=20", "width=1000"];
/// How long it takes at that pace, from its first megabyte on.
const PACE: Duration = Duration::from_millis(7_900);

/// Lets the load run to its end and does something when its first megabyte is there: what it took from then on.
fn paced(node: &Node, then: impl FnOnce() -> Result<()>) -> Result<(Duration, Vec<u8>)> {
    let client = node.run_beside("load", &["--rm"], &LOAD)?;
    eventually(LIMIT, "the first lines", || Ok((client.stdout_so_far().len() > 1_000_000).then_some(())))?;
    let began = Instant::now();
    then()?;
    let said = client.finish(LIMIT)?;
    Ok((began.elapsed(), said.stdout))
}

fn collector_is_stopped_in_its_tracks_under_load(version: Version) -> Result<()> {
    let unwrapped = Setup::new(version, Shim::Unwrapped).alone().run(|node| Ok(paced(node, || Ok(()))?.0))?;
    wrapped(version).alone().run(|node| {
        let collector = node.collector(|collector| Ok(collector.pid()))?;
        let (took, stdout) = paced(node, || signal(collector, Signal::SIGSTOP))?;
        signal(collector, Signal::SIGCONT)?;
        let slower = took.as_secs_f64() / unwrapped.as_secs_f64();
        println!("{took:?}, unwrapped {unwrapped:?}: {slower:.3}");
        // It keeps its pace; on a machine that cannot keep it without us either, more or less that one.
        let most = if unwrapped < PACE.mul_f64(1.03) { 1.05 } else { 1.25 };
        ensure!(slower <= most, "it took {took:?}, unwrapped {unwrapped:?}: {slower:.3}");
        let written = tape(1, 80_000, 1000);
        node.complete(&stdout, &written)?;
        judged(node, "load", "stdout", &written).map(drop)
    })
}

fn collectors_unit_is_stopped_and_containerd_restarted(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let busy = Busy::start(node, cri, &pod)?;
        busy.await_lines(500)?;
        // What systemd does to a unit with a runtime directory: it ends, and the directory goes.
        node.collector(|collector| collector.end(Signal::SIGTERM))?;
        std::fs::remove_dir_all(node.dir().join("col")).context("remove its runtime directory")?;
        node.restart()?;
        cri.await_ready()?;
        ensure!(cri.is_ready(&pod)?, "the pod is lost");
        ensure!(cri.status(&busy.id)?.state == ContainerState::Running, "the container is lost");
        node.start_collector()?;
        busy.await_lines(2000)?;
        let (_, written) = busy.finish(cri)?;
        let log = cri_log(&cri.log_path(&pod, Busy::NAME))?;
        whole_but_for_ends_of_containerd(&log.stdout, &written, Busy::WIDTH, 1)?;
        judged(node, &busy.id, "stdout", &written)?;
        cri.remove_pod(&pod)
    })
}

fn worker_dies_while_the_sink_is_fed(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let client = node.run_beside("w", &["--rm"], &["speaker", "lines=6000", "rate=3000", "width=100"])?;
        for part in 1..=5 {
            let enough = part * 1000 * 100;
            eventually(LIMIT, "more lines", || Ok((client.stdout_so_far().len() >= enough).then_some(())))?;
            for worker in node.wrappers("tap-worker")? {
                procs::kill(Pid::from_raw(worker.pid))?;
            }
        }
        let said = client.finish(LIMIT)?;
        let written = tape(1, 6000, 100);
        node.complete(&said.stdout, &written)?;
        without_gap(node, "w", "stdout", &written)
    })
}

fn cpu_and_memory_are_served(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let burn = ["sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 1000"];
        let id = cri.run(&pod, &Wanted { name: "burns", command: &burn, ..Wanted::default() })?;
        let value = |name: &str| -> Result<Option<f64>> {
            let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
            let mut rows =
                text.lines().filter(|row| row.starts_with(&format!("{name}{{")) && row.contains(&id));
            let row = rows.next().map(str::to_owned);
            let value = row.as_deref().and_then(|row| row.rsplit_once('}')).map(|(_, rest)| rest.trim());
            Ok(value.and_then(|rest| rest.split(' ').next()).and_then(|value| value.parse().ok()))
        };
        let cpu = eventually(LIMIT, "its CPU time", || {
            Ok(value("container_cpu_usage_seconds_total")?.filter(|seconds| *seconds > 0.05))
        })?;
        // containerd's own number is read later, so it is the larger one.
        let truth = cri.cpu_usage_ns(&id)?.context("containerd knows no CPU time")?;
        let truth = Duration::from_nanos(truth).as_secs_f64();
        ensure!(cpu <= truth, "{cpu} s, containerd says {truth} s");
        let memory = value("container_memory_working_set_bytes")?.context("its memory is not served")?;
        ensure!(memory > 4096.0, "a working set of {memory} bytes");
        cri.remove_pod(&pod)
    })
}
