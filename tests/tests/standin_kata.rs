//! Kata's two shims, as far as a stand-in can be them: every number that is shown of a container is what its guest's kernel
//! counts, or is not there; which are not there, and why, is known; and the bytes that containerd gets are the shim's.
//!
//! All of it through the wrapper and the collector. What the stand-in sends is in `shimtap_tests::standin::kata`, each fault
//! with the place where it was read or seen. docs/kata.md names these tests behind its promises.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::{
    oracle::exposition::{family, of_label},
    rig::{
        collector::{Collector, Settings},
        eventually,
    },
    standin::{
        client::{
            PATIENCE,
            kata::wrapped_as_kata,
            lab::Lab,
            launch::{Flavour, Shim},
            pod::{self, Fifos, Pod},
            spooled::gone,
            wrapped::{STANDIN, binary, wrapped_as},
        },
        journal::Kind,
        kata::{
            Profile,
            guest::{Cgroup, Guest},
        },
        script::{Output, Script},
    },
};

const LIMIT: Duration = Duration::from_secs(60);

const RSS: &str = "container_memory_rss";
const CACHE: &str = "container_memory_cache";
const MAPPED: &str = "container_memory_mapped_file";
const SWAP: &str = "container_memory_swap";
const MAX: &str = "container_memory_max_usage_bytes";
const FAILCNT: &str = "container_memory_failcnt";
const WORKING_SET: &str = "container_memory_working_set_bytes";
const THROTTLED: &str = "container_cpu_cfs_throttled_seconds_total";
const USER: &str = "container_cpu_user_seconds_total";
const SYSTEM: &str = "container_cpu_system_seconds_total";
const FAULTS: &str = "container_memory_failures_total";
const DISKS: [&str; 5] = [
    "container_blkio_device_usage_total",
    "container_fs_reads_total",
    "container_fs_writes_total",
    "container_fs_reads_bytes_total",
    "container_fs_writes_bytes_total",
];

/// A shim, a guest, and what is absent of that.
struct Row {
    shim: Profile,
    guest: Guest,
    absent: Vec<&'static str>,
    faults: &'static [&'static str],
}

fn row(shim: Profile, guest: Guest, absent: &[&'static str], faults: &'static [&'static str]) -> Row {
    Row { shim, guest, absent: absent.to_vec(), faults }
}

/// Names of a fault.
const REPAIRED: &str = "inactive_file_repaired";
const COUNTS: &str = "block_counts_repaired";
const NO_SET: &str = "working_set_missing";
const NO_ROWS: &str = "memory_rows_missing";
const NO_SWAP: &str = "swap_unclear";
const NO_THROTTLED: &str = "throttled_time_missing";
const SWAPPED: &str = "user_system_doubted";
const MERGED: &str = "devices_doubted";

/// A collector that has the wrappers ask once a second.
fn collector(lab: &Lab) -> Result<Collector> {
    lab.collector_told(&Settings::each_second())
}

/// The faults that `/metrics` names of one container of a kind of shim. The one before it is counted beside it until its end has
/// been told: of two there is none.
fn faults(collector: &Collector, shim: &str) -> Result<BTreeSet<String>> {
    let text = collector.get("/metrics")?;
    let rows = family(&text, "shimtap_stats_quality")?;
    let of_one = rows
        .iter()
        .filter(|(labels, value)| labels.contains(&format!("shim=\"{shim}\"")) && (value - 1.0).abs() < 1e-9);
    let reason = |(labels, _): &(&str, f64)| {
        let reason = labels.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next());
        reason.map(ToOwned::to_owned).context("a reason")
    };
    of_one.map(reason).collect()
}

fn judge(row: &Row, id: &str, collector: &Collector) -> Result<()> {
    let script = Script { guest: Some(row.guest.clone()), ..Script::stayer() };
    let pod = wrapped_as_kata(id, row.shim, &script, &collector.socket())?;
    let _fifos = pod.run()?;
    let shown = eventually(LIMIT, "numbers of it", || {
        let shown = of_label(&collector.get("/metrics/cadvisor?scope=vm")?, "name", id)?;
        Ok(shown.values.contains_key("container_cpu_usage_seconds_total").then_some(shown))
    })?;
    let truth = row.guest.truth();
    for (name, value) in &shown.values {
        if ["container_start_time_seconds", "container_last_seen"].contains(&name.as_str()) {
            continue;
        }
        let right =
            truth.get(name.as_str()).with_context(|| format!("{name} is shown, and nobody counts it"))?;
        ensure!((value - right).abs() < 1e-6, "{name} is {value}, and the guest says {right}");
    }
    let absent: BTreeSet<&str> =
        truth.keys().copied().filter(|name| !shown.values.contains_key(*name)).collect();
    ensure!(absent == row.absent.iter().copied().collect(), "absent are {absent:?}, not {:?}", row.absent);
    let kind = if row.shim == Profile::Rust { "kata_rust" } else { "kata" };
    let known: BTreeSet<String> = row.faults.iter().map(|fault| (*fault).to_owned()).collect();
    // `/metrics` is made once a second at most: it may be older than the page above.
    let mut found = BTreeSet::new();
    eventually(LIMIT, "its faults", || {
        found = faults(collector, kind)?;
        Ok((found == known).then_some(()))
    })
    .with_context(|| format!("faults are {found:?}, not {known:?}"))?;
    relayed_as_it_is(row, &pod)?;
    pod.end()?;
    // Its lab ends a wrapper that is still there, and then nobody would have told the collector of its end.
    gone(&pod)
}

/// What containerd gets is what the shim sent.
fn relayed_as_it_is(row: &Row, pod: &Pod) -> Result<()> {
    let answer = pod.connection.call("Stats", &pod::stats(&pod.id))?.message::<api::StatsResponse>()?;
    let sent = row.shim.stats(&row.guest)?.context("it has a guest")?;
    ensure!(answer.stats.type_url == sent.type_url && answer.stats.value == sent.value, "Stats was changed");
    Ok(())
}

fn judge_all(rows: &[Row]) -> Result<()> {
    let lab = Lab::new()?;
    let collector = collector(&lab)?;
    for (n, row) in rows.iter().enumerate() {
        let what = || format!("{} with a guest of {:?}", row.shim.word(), row.guest.cgroup);
        judge(row, &format!("kata{n}"), &collector).with_context(what)?;
    }
    collector.stop()
}

#[test]
fn the_rust_shim_with_a_v2_guest() -> Result<()> {
    let worked = Guest::worked(Cgroup::V2);
    let rows = [
        row(
            Profile::Rust,
            worked,
            &[RSS, CACHE, MAPPED, SWAP, THROTTLED, FAULTS],
            &[REPAIRED, COUNTS, NO_ROWS, NO_SWAP, NO_THROTTLED],
        ),
        row(Profile::Rust, Guest::idle(Cgroup::V2), &[RSS, CACHE, MAPPED, FAULTS], &[NO_ROWS]),
        row(Profile::Rust, Guest::captured(), &[RSS, CACHE, MAPPED], &[REPAIRED, NO_ROWS]),
    ];
    judge_all(&rows)
}

#[test]
fn the_rust_shim_with_a_v1_guest() -> Result<()> {
    let rows = [
        row(Profile::Rust, Guest::worked(Cgroup::V1), &[FAULTS], &[]),
        row(Profile::Rust, Guest::idle(Cgroup::V1), &[CACHE, MAPPED, FAULTS], &[NO_ROWS]),
    ];
    judge_all(&rows)
}

#[test]
fn the_go_shim_on_a_v1_host() -> Result<()> {
    let go = Profile::Go(Cgroup::V1);
    let rows = [
        row(
            go,
            Guest::worked(Cgroup::V2),
            &[WORKING_SET, RSS, CACHE, MAPPED, SWAP, THROTTLED, FAULTS],
            &[COUNTS, NO_SET, NO_ROWS, NO_SWAP, NO_THROTTLED],
        ),
        row(go, Guest::idle(Cgroup::V2), &[WORKING_SET, RSS, CACHE, MAPPED, FAULTS], &[NO_SET, NO_ROWS]),
        row(go, Guest::worked(Cgroup::V1), &[FAULTS], &[]),
        row(go, Guest::idle(Cgroup::V1), &[WORKING_SET, CACHE, MAPPED, FAULTS], &[NO_SET, NO_ROWS]),
    ];
    judge_all(&rows)
}

#[test]
fn the_go_shim_on_a_v2_host() -> Result<()> {
    let go = Profile::Go(Cgroup::V2);
    let worked: Vec<_> = [USER, SYSTEM, MAX, THROTTLED].into_iter().chain(DISKS).collect();
    let of_v1: Vec<_> = [USER, SYSTEM, MAX, WORKING_SET, RSS, CACHE, MAPPED, SWAP, FAILCNT, FAULTS]
        .into_iter()
        .chain(DISKS)
        .collect();
    let rows = [
        row(go, Guest::worked(Cgroup::V2), &worked, &[NO_THROTTLED, SWAPPED, MERGED]),
        row(go, Guest::idle(Cgroup::V2), &[USER, SYSTEM, MAX], &[SWAPPED, MERGED]),
        row(go, Guest::worked(Cgroup::V1), &of_v1, &[NO_SET, NO_ROWS, NO_SWAP, SWAPPED, MERGED]),
        row(
            go,
            Guest::idle(Cgroup::V1),
            &[USER, SYSTEM, MAX, WORKING_SET, RSS, CACHE, MAPPED, FAILCNT, FAULTS],
            &[NO_SET, NO_ROWS, SWAPPED, MERGED],
        ),
    ];
    judge_all(&rows)
}

/// Emulated guests have taken 30 to 50 ms; this one takes as long as a busy one might.
#[test]
fn a_slow_guest_is_shown() -> Result<()> {
    let lab = Lab::new()?;
    let collector = collector(&lab)?;
    let guest = Guest::worked(Cgroup::V2);
    let script = Script { stats_delay_ms: 1_500, guest: Some(guest), ..Script::stayer() };
    let pod = wrapped_as_kata("slow", Profile::Rust, &script, &collector.socket())?;
    let _fifos = pod.run()?;
    eventually(LIMIT, "numbers of it", || {
        let shown = of_label(&collector.get("/metrics/cadvisor")?, "name", "slow")?;
        Ok(shown.values.contains_key(WORKING_SET).then_some(()))
    })?;
    pod.end()
}

/// The Go shim does one call at a time, so that a Stats of ours to a mute guest keeps the others waiting. It must not do so
/// for longer than it may wait itself, and nothing is shown of what nobody has answered.
#[test]
fn a_mute_guest_delays_other_calls_by_no_more_than_our_own_deadline() -> Result<()> {
    let lab = Lab::new()?;
    let collector = collector(&lab)?;
    let script =
        Script { stats_delay_ms: 3_600_000, guest: Some(Guest::idle(Cgroup::V2)), ..Script::stayer() };
    let pod = wrapped_as_kata("mute", Profile::Go(Cgroup::V2), &script, &collector.socket())?;
    let _fifos = pod.run()?;
    eventually(LIMIT, "a Stats of ours", || Ok((pod.lab.count("Stats", "mute", "")? > 0).then_some(())))?;
    // After our deadline of two seconds; without one it would be an hour.
    pod.connection.call("Kill", &pod::kill("mute", "", 9))?.message::<api::Empty>()?;
    let shown = of_label(&collector.get("/metrics/cadvisor")?, "name", "mute")?;
    let others: Vec<_> = shown.values.keys().filter(|name| *name != "container_start_time_seconds").collect();
    ensure!(others.is_empty(), "{others:?} are shown");
    pod.wait()?;
    pod.finish()
}

/// The Go shim does one call at a time: a Stats of ours beside one that takes long would wait behind it, and hold up what
/// comes after. The page's interval is longer than a call may take unnoticed, so that the first round already finds it.
#[test]
fn nothing_is_asked_beside_a_call_that_takes_long() -> Result<()> {
    const INTERVAL: Duration = Duration::from_secs(3);
    let lab = Lab::new()?;
    let sections = format!("[stats]\ninterval_secs = {}\n", INTERVAL.as_secs());
    let collector = lab.collector_told(&Settings { sections, ..Settings::default() })?;
    let script = Script { guest: Some(Guest::idle(Cgroup::V2)), ..Script::stayer() };
    // Under a name of its own: as Kata's of an unknown release it would be asked twice a minute at most.
    let pod = wrapped_as("busy", &script, |lab| {
        lab.env.push((Profile::KEY.to_owned(), Profile::Go(Cgroup::V2).word().to_owned()));
        lab.env.push(("SHIMTAP_COLLECTOR".to_owned(), collector.socket().display().to_string()));
        Ok(())
    })?;
    let _fifos = pod.run()?;
    // Two rounds long, and half a second.
    let long = INTERVAL * 2 + Duration::from_millis(500);
    let slow = Script { kill_delay_ms: u64::try_from(long.as_millis())?, ..Script::stayer() };
    let exec = pod::exec_request("busy", "probe", &slow, &pod.fifos("probe")?);
    pod.connection.call("Exec", &exec)?.message::<api::Empty>()?;
    let asked = || pod.lab.count("Stats", "busy", "");
    let next = |what: &str| {
        let before = asked()?;
        eventually(LIMIT, what, || Ok((asked()? > before).then_some(())))
    };
    next("a Stats of ours")?;
    // Now none is on its way, nor will one be for an interval.
    next("another one")?;
    pod.connection.call("Kill", &pod::kill("busy", "probe", 1))?.message::<api::Empty>()?;
    next("a Stats of ours afterwards")?;
    // By the clock of the shim, which was at it for so long at least.
    let all = pod.lab.requests()?;
    let of = |method: &str| -> Vec<Duration> {
        let its = all.iter().filter(|entry| entry.kind == Kind::Request && entry.method == method);
        its.map(|entry| Duration::from_nanos(entry.at_ns)).collect()
    };
    let began = *of("Kill").first().context("Kill")?;
    let beside: Vec<_> = of("Stats").into_iter().filter(|at| (began..began + long).contains(at)).collect();
    ensure!(beside.is_empty(), "Kill came at {began:?}, Stats of ours at {beside:?}");
    pod.end()
}

/// Writes more than all FIFOs on the way hold, to a reader that has stopped; and is killed.
fn killed_at_a_stalled_reader(pod: &Pod) -> Result<(Fifos, u32)> {
    let fifos = Fifos::create_stalled(&pod.lab.fifo_dir(), &pod.id)?;
    let c = &pod.connection;
    c.call("Create", &pod.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
    c.call("Start", &pod::start(&pod.id, ""))?.message::<api::StartResponse>()?;
    let wait = c.send("Wait", &pod::wait(&pod.id, ""))?;
    c.call("Kill", &pod::kill(&pod.id, "", 9))?.message::<api::Empty>()?;
    Ok((fifos, wait))
}

/// kata-containers issue 13676, seen on a real pod: the shim reports no exit before its copy is out, and nobody reads that.
#[test]
fn a_killed_container_whose_reader_has_stopped_hangs_without_the_wrapper_and_not_with_it() -> Result<()> {
    let stdout = Output::lines(10_000, 100);
    let script = Script { stdout, written_first: true, ..Script::stayer() };
    let bare = Shim { binary: binary(STANDIN)?, flavour: Flavour::V1_6 };
    let bare = Pod::start(Lab::new()?, bare, "bare", &script)?;
    let (fifos, wait) = killed_at_a_stalled_reader(&bare)?;
    // Longer than it takes with the wrapper.
    ensure!(bare.connection.answer(wait, Duration::from_secs(7)).is_err(), "without the wrapper it ended");
    fifos.stdout.resume();
    fifos.stderr.resume();
    bare.connection.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;

    let wrapped = wrapped_as("task", &script, |_| Ok(()))?;
    let (_fifos, wait) = killed_at_a_stalled_reader(&wrapped)?;
    let answer = wrapped.connection.answer(wait, PATIENCE)?.message::<api::WaitResponse>()?;
    ensure!(answer.exit_status == 137, "exit status {}", answer.exit_status);
    wrapped.finish()
}
