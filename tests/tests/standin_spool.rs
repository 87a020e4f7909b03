//! What no collector takes is in files, and in the sink when one comes: every byte once, or admitted to be missing; and
//! whoever dies meanwhile, nothing of that changes.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::sys::signal::Signal;
use shimtap_tests::oracle::{exposition::family, one_tape, sink};
use shimtap_tests::rig::{
    collector::{Collector, Settings},
    eventually,
};
use shimtap_tests::standin::{
    census,
    client::{
        PATIENCE,
        pod::{self, Pod},
        spooled::{
            LIMIT, cleared, comes_to, counted, endless, gone, has, judged, spool_files, spooled, spooler,
            steady, to_its_end, whole, whole_as_read,
        },
        upgrade::{NEXT, brought_to},
        wrapped::{wrapped, wrapped_in},
    },
    procs,
    script::{Output, Script},
};

#[test]
fn a_pod_that_ended_while_nobody_was_there() -> Result<()> {
    let script = Script {
        stdout: Output::lines(2000, 100),
        stderr: Output::lines(10, 80),
        exit_status: 7,
        ..Script::default()
    };
    let pod = wrapped(&script)?;
    to_its_end(&pod, &script)?;
    gone(&pod)?;
    let memory = pod.lab.spool_dir().join("memory");
    ensure!(spool_files(&pod).iter().all(|f| f.starts_with(&memory)), "no collector has allowed the disk");
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    cleared(&pod)?;
    comes_to(&collector, "shimtap_spool_files_total", 1)?;
    for kind in ["create", "start", "exit", "delete"] {
        comes_to(&collector, &format!("shimtap_events_total{{kind=\"{kind}\"}}"), 1)?;
    }
    collector.stop()
}

/// A shim that dies while no collector is there to look at it, and with it, or not, its wrapper's worker: what it took along is
/// known to the one that comes, once.
#[test]
fn a_shim_that_died_while_nobody_was_there() -> Result<()> {
    for worker_too in [false, true] {
        let pod = wrapped(&Script::stayer())?;
        let _fifos = pod.run()?;
        let worker = pod.worker()?;
        pod.lab.inner_pids()?.into_iter().try_for_each(procs::kill)?;
        if worker_too {
            procs::kill(worker.pid)?;
        }
        gone(&pod)?;
        let collector = pod.lab.collector()?;
        let exits = eventually(LIMIT, "a container that was lost", || {
            let text = collector.get("/metrics")?;
            let rows = family(&text, "shimtap_container_exits_total")?;
            let ended = rows.into_iter().filter(|(_, n)| *n > 0.0);
            let rows: Vec<(String, f64)> = ended.map(|(row, n)| (row.to_owned(), n)).collect();
            Ok(Some(rows).filter(|rows| !rows.is_empty()))
        })?;
        let lost = |labels: &str| labels.contains("class=\"shim_death\"");
        ensure!(matches!(exits.as_slice(), [(labels, n)] if lost(labels) && *n == 1.0), "{exits:?}");
        collector.stop()?;
    }
    Ok(())
}

#[test]
fn a_pod_that_says_three_times_what_its_memory_holds() -> Result<()> {
    let script = Script { until_killed: true, ..steady(30_000) };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    // It went by a file.
    counted(&collector, "spool_bytes")?;
    cleared(&pod)?;
    collector.stop()
}

/// A pod's streams share 64 pieces of memory, and each has one at least. Of what is over and written down nobody needs any.
#[test]
fn a_pod_that_has_more_short_containers_than_memory_for_them() -> Result<()> {
    let script = Script {
        stdout: Output::lines(10, 60),
        stderr: Output::lines(5, 60),
        until_killed: true,
        ..Script::default()
    };
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let names: Vec<String> = (0..90).map(|n| format!("brief-{n}")).collect();
    let live = |name: &String| -> Result<()> {
        let fifos = pod.run_beside(name, &script, &[])?;
        fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
        fifos.stderr.wait_len(script.stderr.bytes("stderr").len(), LIMIT)?;
        pod.end_beside(name)
    };
    // Half of the memory is taken: a writer is wanted, and goes on as long as there is something new.
    let (first, others) = names.split_at(20);
    first.iter().try_for_each(live)?;
    eventually(LIMIT, "a file", || Ok((!spool_files(&pod).is_empty()).then_some(())))?;
    others.iter().try_for_each(live)?;
    let collector = pod.lab.collector()?;
    names.iter().try_for_each(|name| whole(&collector, name, &script))?;
    pod.end()?;
    gone(&pod)?;
    cleared(&pod)?;
    collector.stop()
}

/// More than the half and less than the whole of a pod's table, which is 128.
const SILENT: u32 = 80;

const EVICTED: &str = "shimtap_wrapper_counts_total{name=\"evicted_tasks\"}";

/// So many containers, one after the other, that say nothing, while no collector is there.
fn silent_ones(pod: &Pod, after: u32) -> Result<()> {
    let script = Script { exit_status: 3, ..Script::default() };
    for n in after..after + SILENT {
        let id = format!("silent-{n}");
        let _fifos = pod.run_beside(&id, &script, &[])?;
        let exit = pod.connection.call("Wait", &pod::wait(&id, ""))?.message::<api::WaitResponse>()?;
        ensure!(exit.exit_status == 3, "{exit:?}");
        pod.connection.call("Delete", &pod::delete(&id, ""))?.message::<api::DeleteResponse>()?;
    }
    Ok(())
}

/// No memory for output runs short; but whoever is deleted for longest makes room in the table.
#[test]
fn a_pod_that_has_more_silent_containers_than_its_table_holds() -> Result<()> {
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    silent_ones(&pod, 0)?;
    spooled(&pod)?;
    silent_ones(&pod, SILENT)?;
    let collector = pod.lab.collector()?;
    comes_to_exits(&collector, 2 * SILENT)?;
    let counted = collector.counted();
    ensure!(!counted.contains(EVICTED), "of all that made room a file has everything: {counted}");
    pod.end()?;
    gone(&pod)?;
    cleared(&pod)?;
    collector.stop()
}

/// The same where no file may be written: what nobody is told any more is counted.
#[test]
fn more_silent_containers_than_its_table_holds_and_no_file() -> Result<()> {
    let pod = wrapped_in(&Script::stayer(), |lab| lab.without_spool())?;
    let _fifos = pod.run()?;
    silent_ones(&pod, 0)?;
    silent_ones(&pod, SILENT)?;
    let collector = pod.lab.collector()?;
    // One place is the pod's own.
    comes_to_exits(&collector, 127)?;
    comes_to(&collector, EVICTED, u64::from(2 * SILENT - 127))?;
    pod.end()?;
    gone(&pod)?;
    collector.stop()
}

/// Waits until so many exits are counted, of whatever class.
fn comes_to_exits(collector: &Collector, count: u32) -> Result<()> {
    eventually(LIMIT, &format!("{count} exits"), || {
        let page = collector.get("/metrics")?;
        let sum: f64 = family(&page, "shimtap_container_exits_total")?.into_iter().map(|(_, n)| n).sum();
        Ok((sum >= f64::from(count)).then_some(()))
    })
    .with_context(|| collector.counted())
}

/// What waits in memory ends where the window does, just before, and just behind: the last of it needs an acknowledgement, and
/// nothing comes after it that would ask for one.
#[test]
fn a_window_that_is_full_at_the_very_end() -> Result<()> {
    let full = shimtap_proto::link::WINDOW / 100;
    for lines in [full - 1, full, full + 1, full + 33, full + 700] {
        let script = Script { until_killed: true, stdout: Output::lines(lines, 100), ..Script::default() };
        let pod = wrapped_in(&script, |lab| lab.without_spool())?;
        let fifos = pod.run()?;
        fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
        let collector = pod.lab.collector()?;
        whole(&collector, "task", &script).with_context(|| format!("{lines} lines"))?;
        collector.stop()?;
    }
    Ok(())
}

/// A collector that comes and goes: each time the file comes first, and what is live goes on behind it.
#[test]
fn a_collector_that_comes_and_goes() -> Result<()> {
    let script = endless();
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    for _ in 0..4 {
        let mut collector = pod.lab.collector()?;
        let before = fifos.stdout.len_so_far();
        has(&collector, "task", u64::try_from(before)? + 50_000)?;
        collector.end(Signal::SIGKILL)?;
        eventually(LIMIT, "a file on the disk, which the collector has allowed", || {
            let disk = pod.lab.spool_dir().join("disk");
            Ok(spool_files(&pod).iter().any(|f| f.starts_with(&disk)).then_some(()))
        })?;
    }
    pod.end_whole(&fifos, &script.stdout)?;
    gone(&pod)?;
    let collector = pod.lab.collector()?;
    whole_as_read(&collector, &pod, &fifos)?;
    cleared(&pod)?;
    collector.stop()
}

#[test]
fn the_writer_holds_the_block_and_its_file_and_nothing_else() -> Result<()> {
    let script = Script { until_killed: true, ..steady(30_000) };
    let pod = wrapped(&script)?;
    let _fifos = pod.run()?;
    let writer = spooler(&pod)?;
    let settled = || {
        let open = census::open(writer.pid).ok()?;
        let file = |o: &census::Open| o.target.ends_with(".spool");
        open.iter().any(file).then_some(open)
    };
    let open = procs::wait(PATIENCE, || "its file to be open".to_owned(), settled)?;
    let dir = pod.lab.spool_dir().display().to_string();
    let others: Vec<_> = open
        .iter()
        .filter(|o| !o.target.starts_with("/memfd:shimtap-block") && o.target != "/dev/null")
        .filter(|o| !o.target.starts_with(&dir))
        .collect();
    ensure!(others.is_empty(), "the disk would hold {others:?}");
    Ok(())
}

/// Writers, workers and keepers die at any moment; each is replaced, and no byte is lost or doubled.
fn killed(
    kill: impl Fn(u32) -> Result<()>,
    pod: &shimtap_tests::standin::client::pod::Pod,
    script: &Script,
) -> Result<()> {
    let fifos = pod.run()?;
    let mut n = 0;
    while !fifos.stdout.at_end() {
        kill(n)?;
        n += 1;
        // Not waiting for anything: the moment of death is what varies here.
        thread::sleep(Duration::from_millis(u64::from(40 + n * 37 % 300)));
    }
    pod.wait()?;
    fifos.check(script)?;
    pod.finish()?;
    gone(pod)?;
    spooled(pod)?;
    let collector = pod.lab.collector()?;
    let judgement = judged(&collector, "task", "stdout", &script.stdout.bytes("stdout"))?;
    println!("{n} rounds of deaths, {judgement:?}");
    ensure!(judgement.gaps.is_empty(), "{judgement:?}");
    collector.stop()
}

#[test]
fn a_writer_that_is_killed_at_any_moment() -> Result<()> {
    let script = steady(30_000);
    let pod = wrapped(&script)?;
    let namespace = pod.lab.namespace();
    killed(|_| procs::spoolers(namespace)?.iter().try_for_each(|p| procs::kill(p.pid)), &pod, &script)
}

#[test]
fn workers_and_keepers_that_are_killed_while_it_writes() -> Result<()> {
    let script = steady(30_000);
    let pod = wrapped(&script)?;
    let kill = |n: u32| {
        // Never both: that is the end of the pod.
        let keepers = procs::keepers(pod.lab.namespace())?;
        let Some(keeper) = keepers.first().filter(|_| keepers.len() == 1) else { return Ok(()) };
        let Ok(worker) = procs::worker(keeper.pid) else { return Ok(()) };
        procs::kill(if n % 3 == 2 { keeper.pid } else { worker.pid })?;
        let whole =
            || procs::keepers(pod.lab.namespace()).ok()?.pop().and_then(|k| procs::worker(k.pid).ok());
        procs::wait(PATIENCE, || "both again".to_owned(), whole)?;
        // A keeper that has just begun is nobody's yet: once it has accepted, all is with it.
        let fresh = pod.connect()?.call("Connect", &pod::connect("task"))?;
        fresh.message::<api::ConnectResponse>().context("a new connection").map(drop)
    };
    killed(kill, &pod, &script)
}

/// A collector that dies while it takes files begins again; record ids tell what came twice.
#[test]
fn a_collector_that_is_killed_while_it_takes_files() -> Result<()> {
    let script = Script { stderr: Output::lines(100, 100), ..steady(30_000) };
    let pod = wrapped(&script)?;
    to_its_end(&pod, &script)?;
    gone(&pod)?;
    for n in 0..8 {
        let mut collector = pod.lab.collector()?;
        thread::sleep(Duration::from_millis(n * 7));
        collector.end(Signal::SIGKILL)?;
    }
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    cleared(&pod)?;
    collector.stop()
}

/// Keeper and worker become another image beside a writer of the old one, and it is reaped by what its keeper has become.
#[test]
fn an_upgrade_while_it_writes() -> Result<()> {
    let script = Script { until_killed: true, ..steady(30_000) };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    let writer = spooler(&pod)?;
    brought_to(&pod, NEXT)?;
    fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
    spooled(&pod)?;
    let entry = PathBuf::from(format!("/proc/{}", writer.pid));
    procs::wait(PATIENCE, || format!("{entry:?} to be reaped"), || (!entry.exists()).then_some(()))?;
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    // It went by a file.
    counted(&collector, "spool_bytes")?;
    cleared(&pod)?;
    collector.stop()
}

/// With the journal: more than the ring holds, of a pod that is gone by then, is in it once and without a hole.
#[test]
fn the_journal_has_all_of_a_pod_that_ended_while_nobody_was_there_once() -> Result<()> {
    let script = Script { stderr: Output::lines(100, 100), ..steady(30_000) };
    let pod = wrapped(&script)?;
    to_its_end(&pod, &script)?;
    gone(&pod)?;
    ensure!(spooled(&pod)?.len() == 1, "one file has it");
    let collector = pod.lab.collector()?;
    cleared(&pod)?;
    // What is removed is in the journal, whatever becomes of sinks.
    let shown = pod.lab.dir().join("shown.jsonl");
    fs::write(&shown, collector.shimtap(&["logs", "--container", "task", "--output", "json"])?)?;
    let tapes = sink(&shown)?;
    for (name, output) in [("stdout", &script.stdout), ("stderr", &script.stderr)] {
        let written = output.bytes(name);
        let judgement = one_tape(&tapes, "task", name)?.context("its tape")?.judge(&written)?;
        ensure!(judgement.delivered == u64::try_from(written.len())?, "{name}: {judgement:?}");
    }
    let records = fs::read(&shown)?.iter().filter(|byte| **byte == b'\n').count();
    ensure!(u64::try_from(records)? == script.stdout.lines + script.stderr.lines, "{records} records");
    collector.stop()
}

/// A collector whose journal somebody took away: what an earlier one had acknowledged is not called dropped.
#[test]
fn a_collector_without_its_journal() -> Result<()> {
    let script = Script { until_killed: true, ..steady(15_000) };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    let mut collector = pod.lab.collector()?;
    has(&collector, "task", 300_000)?;
    collector.end(Signal::SIGTERM)?;
    fs::remove_dir_all(pod.lab.dir().join("kept"))?;
    fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
    let collector = pod.lab.collector()?;
    let judgement = judged(&collector, "task", "stdout", &script.stdout.bytes("stdout"))?;
    ensure!(judgement.gaps.keys().eq(["journal_lost"]), "{judgement:?}");
    collector.stop()
}

/// What a rule takes something out of never reaches the disk, from the moment that the rule is there.
#[test]
fn what_is_redacted_stays_in_memory() -> Result<()> {
    let script = Script { until_killed: true, ..steady(30_000) };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    let mut collector = pod.lab.collector()?;
    has(&collector, "task", 50_000)?;
    collector.configure("[[rule]]\nredact = ['never there: \\d+']\n")?;
    collector.shimtap(&["reload"])?;
    // What comes later was said by a wrapper that has heard of it.
    let heard = u64::try_from(fifos.stdout.len_so_far())?;
    has(&collector, "task", heard + 100_000)?;
    collector.end(Signal::SIGKILL)?;
    fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
    let memory = pod.lab.spool_dir().join("memory");
    let files = spooled(&pod)?;
    ensure!(files.iter().all(|file| file.starts_with(&memory)), "{files:?}");
    let collector = pod.lab.collector()?;
    whole(&collector, "task", &script)?;
    cleared(&pod)?;
    collector.stop()
}

/// What no file has room for is not passed over in silence: the pod says how much that is before it leaves; and nothing
/// twice of a container of which the file says all.
#[test]
fn a_pod_that_ends_with_its_files_full_says_what_is_missing() -> Result<()> {
    let (brief, flood) = (Script::talker(), steady(30_000));
    let pod = wrapped_in(&brief, |lab| {
        lab.reconfigure("deaths = 0\n", "deaths = 0\n[spool]\nlimit_bytes = 2400000\n")
    })?;
    let c = &pod.connection;
    let fifos = pod.run()?;
    pod.wait()?;
    fifos.check(&brief)?;
    c.call("Delete", &pod::delete("task", ""))?.message::<api::DeleteResponse>()?;
    let bundle = pod.lab.bundle("flood", Some("task"), &flood)?;
    let fifos = pod.fifos("flood")?;
    let create = pod::create_request("flood", &bundle, &fifos);
    c.call("Create", &create)?.message::<api::CreateTaskResponse>()?;
    c.call("Start", &pod::start("flood", ""))?.message::<api::StartResponse>()?;
    c.call("Wait", &pod::wait("flood", ""))?.message::<api::WaitResponse>()?;
    fifos.check(&flood)?;
    c.call("Delete", &pod::delete("flood", ""))?.message::<api::DeleteResponse>()?;
    let down = c.send("Shutdown", &api::ShutdownRequest { id: "task".to_owned(), ..Default::default() })?;
    let _answered_or_closed = c.answer(down, PATIENCE);
    gone(&pod)?;

    let collector = pod.lab.collector()?;
    whole(&collector, "task", &brief)?;
    // All of it is accounted for, to the last byte.
    let judgement = judged(&collector, "flood", "stdout", &flood.stdout.bytes("stdout"))?;
    ensure!(judgement.gaps.keys().eq(["overflow"]), "{judgement:?}");
    cleared(&pod)?;
    for kind in ["create", "start", "exit", "delete"] {
        comes_to(&collector, &format!("shimtap_events_total{{kind=\"{kind}\"}}"), 2)?;
    }
    collector.stop()
}

/// The oldest bytes in memory go when the files may hold no more; what is missing is said.
#[test]
fn a_bound_that_is_reached() -> Result<()> {
    let script = Script { until_killed: true, ..steady(30_000) };
    let pod = wrapped_in(&script, |lab| {
        lab.reconfigure("deaths = 0\n", "deaths = 0\n[spool]\nlimit_bytes = 2400000\n")
    })?;
    let fifos = pod.run()?;
    fifos.stdout.wait_len(script.stdout.bytes("stdout").len(), LIMIT)?;
    let files = spooled(&pod)?;
    let sizes: u64 = files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    // A quarter of it, in memory.
    ensure!(sizes <= 600_000, "{sizes} bytes in {files:?}");
    let collector = pod.lab.collector()?;
    let judgement = judged(&collector, "task", "stdout", &script.stdout.bytes("stdout"))?;
    ensure!(judgement.gaps.keys().all(|reason| reason == "overflow"), "{judgement:?}");
    ensure!(judgement.delivered > 1_500_000, "files and ring together: {judgement:?}");
    counted(&collector, "spool_full")?;
    cleared(&pod)?;
    collector.stop()
}

/// The same of the part that a collector tells: it holds when that one is gone, and for a worker that never saw it.
#[test]
fn a_bound_that_a_collector_told_outlives_it() -> Result<()> {
    const BUDGET: u64 = 1 << 20;
    let script = Script { until_killed: true, ..steady(10_000_000) };
    let pod = wrapped(&script)?;
    let fifos = pod.run()?;
    let settings = Settings { spool: format!("budget_bytes = {BUDGET}\n"), ..Settings::default() };
    let mut collector = pod.lab.collector_told(&settings)?;
    has(&collector, "task", 50_000)?;
    collector.end(Signal::SIGTERM)?;
    procs::kill(pod.worker()?.pid)?;
    // More than file and ring hold; a wrapper that has forgotten would have room for all of it.
    fifos.stdout.wait_len(fifos.stdout.len_so_far() + 4_000_000, LIMIT)?;
    pod.end_whole(&fifos, &script.stdout)?;
    gone(&pod)?;
    let files = spooled(&pod)?;
    let sizes: u64 = files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    ensure!((BUDGET / 2..=BUDGET).contains(&sizes), "{sizes} bytes in {files:?}");
    let collector = pod.lab.collector()?;
    let judgement = judged(&collector, "task", "stdout", &fifos.stdout.so_far())?;
    ensure!(judgement.gaps.keys().eq(["overflow"]), "{judgement:?}");
    cleared(&pod)?;
    collector.stop()
}
