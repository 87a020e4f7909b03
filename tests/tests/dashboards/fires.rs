//! The alerts that a stopped, killed or loaded runc pod cannot cause (`panels` has those), fired by Prometheus itself from the rules
//! that are shipped.
//!
//! The faults: a VM that costs more than its RuntimeClass says, one whose shim dies and leaves it behind, a shim that does not answer
//! Kill, a shim.toml that is none, a spool file that is none, an endpoint that dawdles, and a disk that is full under the
//! journal. Nothing waits here for what a rule waits for: `for` is left out, and two thresholds of minutes are seconds.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use shimtap_tests::{
    judge::{Disks, Site},
    oracle::{
        cgroup,
        yaml::{self, ALERTS},
    },
    rig::{
        Hook, Node, Setup, Shim, Version,
        collector::Settings,
        endpoint::{Endpoint, Mood},
        eventually,
        prometheus::Prometheus,
        run::run,
    },
    standin::{
        client::{
            lab::Lab,
            launch::{self, Flavour},
            pod::{self, Pod},
            sandbox,
            wrapped::{STANDIN, WRAPPER, binary, wrapped_in},
        },
        kata::guest::{Cgroup, Guest},
        script::{Output, Script},
    },
};

use super::{
    panels, pods,
    scrape::{self, Scope},
};

const LIMIT: Duration = Duration::from_secs(60);
/// What a full disk and a late endpoint may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// What fires of the pods alone.
const OF_PODS: [&str; 2] = ["ShimtapKataMetricsUnsafe", "ShimtapKataOverheadAboveBudget"];
/// What fires of deaths, files and an endpoint.
const OF_FAULTS: [&str; 6] = [
    "ShimtapKataOrphans",
    "ShimtapSandboxDied",
    "ShimtapShimHangs",
    "ShimtapSinkBehind",
    "ShimtapSpoolFileSetAside",
    "ShimtapWrapperConfigFault",
];
/// What fires of a disk.
const OF_A_DISK: [&str; 1] = ["ShimtapJournalStalled"];

/// What a rule says, and what it says here.
const SHORTENED: [(&str, &str); 3] = [
    // This collector is younger than those that two rules leave out.
    ("process_start_time_seconds < 1200", "process_start_time_seconds < 0"),
    ("> 60\n", "> 1\n"),
    ("> 300 unless", "> 3 unless"),
];

/// Every alert that is shipped is caused here or in `panels`.
pub fn no_alert_is_left_out() -> Result<()> {
    let caused = [&OF_PODS[..], &OF_FAULTS, &OF_A_DISK, &panels::FIRES].concat();
    let all = yaml::alerts()?;
    let shipped = all.iter().map(|rule| yaml::text(rule, "alert"));
    let shipped: BTreeSet<&str> = shipped.collect::<Result<_>>()?;
    let by_name: BTreeSet<&str> = caused.iter().copied().collect();
    ensure!(shipped == by_name, "{shipped:?} are shipped, {by_name:?} are caused");
    ensure!(by_name.len() == caused.len(), "one is caused in both places: {caused:?}");
    Ok(())
}

/// The whole of it on one containerd.
pub fn what_vms_disks_and_mute_shims_cause(version: Version) -> Result<()> {
    let endpoint = Endpoint::start()?;
    let told = Settings {
        ingest: "orphan_secs = 2\n".to_owned(),
        journal: "max_bytes = 5242880\n".to_owned(),
        sinks: Some(endpoint.section("batch_wait_ms = 10\ntimeout_secs = 60\n")),
        ..Settings::each_second()
    };
    Setup::new(version, Shim::Wrapped(Hook::Opt)).telling(told).run(|node| {
        let disks = Disks { journal_bytes: 6 << 20, ..Disks::default() };
        let site = Site::start(node, &endpoint, disks)?;
        let fired = observed(&site);
        site.calm();
        fired?;
        node.take_collector()?.stop()?;
        site.close();
        Ok(())
    })
}

fn observed(site: &Site<'_>) -> Result<()> {
    let prometheus = watching(site.node)?;
    // What it may cost is containerd's word on one pod, what it costs a stand-in's of that name.
    let promised = site.cri.run_pod_with_overhead("costly", 1 << 20)?;
    let costly = pods::with_its_household(site.node, "costly", &Guest::idle(Cgroup::V2))?;
    charge(site.node, &costly)?;
    let mut doomed = sandbox::Wanted { name: "doomed", ..sandbox::Wanted::default() }
        .run(&site.node.collector_socket())?;
    let talker = Output { pause_us: 20_000, ..Output::lines(1_000_000, 200) };
    let talker = attached(site.node, &Script { stdout: talker, until_killed: true, ..Script::default() })?;
    let _talks = talker.run()?;
    // An increase is one of something that was there.
    for counter in [
        "shimtap_sandbox_deaths_total",
        "shimtap_spool_set_aside_total",
        "shimtap_wrapper_counts_total{name=\"config_faults\"}",
    ] {
        eventually(LIMIT, &format!("{counter} to be told as 0"), || {
            Ok((!prometheus.ask(&format!("{counter} == 0"))?.is_empty()).then_some(()))
        })?;
    }
    fires(&prometheus, &OF_PODS)?;
    is_in_top(site.node, "costly")?;

    let mute = attached(site.node, &Script { kill_delay_ms: 600_000, ..Script::stayer() })?;
    let _mute = mute.run()?;
    mute.connection.send("Kill", &pod::kill("task", "", 9))?;
    for pid in doomed.pod.lab.inner_pids()? {
        kill(pid, Signal::SIGKILL).context("the shim's death")?;
    }
    no_spool_file(site.node)?;
    let _misled = misled(site.node)?;
    site.endpoint.be(Mood::Dawdle(Duration::from_secs(8)));
    fires(&prometheus, &OF_FAULTS)?;

    let ballast = site.fill(&site.journal_dir())?;
    eventually(LONG, "the journal to be stalled", || {
        ballast.grow()?;
        Ok((site.metric("shimtap_journal_stalled", "")? > 0).then_some(()))
    })?;
    fires(&prometheus, &OF_A_DISK)?;
    drop(ballast);
    site.until_none("shimtap_journal_stalled", "")?;
    doomed.clear();
    talker.end()?;
    costly.end()?;
    site.cri.remove_pod(&promised)
}

/// The host is charged with 32 MiB more for this sandbox.
fn charge(node: &Node, sandbox: &sandbox::Sandbox) -> Result<()> {
    let below = if cgroup::is_v2() { "" } else { "memory/" };
    let group = format!("/sys/fs/cgroup/{below}shimtap/{}/cgroup.procs", sandbox.id());
    // In memory, and gone with the node.
    fs::create_dir_all(node.spool_dir()).context("a folder in memory")?;
    let file = node.spool_dir().join("charged").display().to_string();
    let mut command = Command::new("sh");
    command.args(["-ec", "echo $$ >\"$0\"; dd if=/dev/zero of=\"$1\" bs=1M count=32", &group, &file]);
    run(command, LIMIT)?.ok().context("write a file as one of its processes").map(drop)
}

/// A Prometheus that reads the collector and judges by the rules every second.
fn watching(node: &Node) -> Result<Prometheus> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(ALERTS);
    let mut rules = fs::read_to_string(shipped).context("read the rules")?;
    for (said, here) in SHORTENED {
        ensure!(rules.contains(said), "no rule says {said:?}");
        rules = rules.replace(said, here);
    }
    let is_waiting = |line: &&str| line.trim_start().starts_with("for: ");
    ensure!(rules.lines().any(|line| is_waiting(&line)), "no rule waits");
    let rules: Vec<&str> = rules.lines().filter(|line| !is_waiting(line)).collect();
    let file = node.dir().join("alerts.yml");
    fs::write(&file, rules.join("\n")).context("write the rules")?;
    let address = node.collector(|collector| Ok(collector.address().to_owned()))?;
    let scraped =
        scrape::configuration("prometheus.yml", Scope::All, [None, Some(address.as_str()), Some(&address)])?;
    let judged = format!("global:\n  evaluation_interval: 1s\nrule_files:\n  - {}\n", file.display());
    Prometheus::start(node.dir(), "prometheus", &format!("{scraped}\n{judged}"))
}

/// Waits until each of these has fired.
fn fires(prometheus: &Prometheus, wanted: &[&str]) -> Result<()> {
    let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
    let mut missing = wanted.clone();
    let all = eventually(LONG, "alerts to fire", || {
        for (labels, _) in prometheus.ask("ALERTS{alertstate=\"firing\"}")? {
            missing.remove(labels.get("alertname").context("an alert without a name")?.as_str());
        }
        Ok(missing.is_empty().then_some(()))
    });
    all.with_context(|| format!("{missing:?} of {wanted:?} did not fire\n{}", prometheus.said()))
}

/// `shimtap top` shows what this pod costs beside its containers, as figures.
fn is_in_top(node: &Node, pod: &str) -> Result<()> {
    let mut last = String::new();
    let shown = eventually(LIMIT, &format!("what {pod} costs, in top"), || {
        last = node.collector(|collector| collector.shimtap(&["top", "--batch", "--pods"]))?;
        let mut rows = last.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let head = rows.next().unwrap_or_default();
        let is_figure = |row: &[&str], name: &str| {
            let at = head.iter().position(|column| *column == name);
            at.and_then(|at| row.get(at)).is_some_and(|cell| *cell != "-")
        };
        let has_both = |row: &[&str]| ["OVH-CPU%", "OVH-MEM"].iter().all(|name| is_figure(row, name));
        Ok(rows.any(|row| row.contains(&pod) && has_both(&row)).then_some(()))
    });
    shown.with_context(|| last)
}

/// A pod of a stand-in whose wrapper tells this node's collector.
fn attached(node: &Node, script: &Script) -> Result<Pod> {
    wrapped_in(script, |lab| {
        lab.env.push(("SHIMTAP_COLLECTOR".to_owned(), node.collector_socket().display().to_string()));
        Ok(())
    })
}

/// A file where wrappers spool, of the name that a wrapper would give it, which none has written.
fn no_spool_file(node: &Node) -> Result<()> {
    let dir = node.spool_dir().join("disk");
    fs::create_dir_all(&dir).context("a folder for spool files")?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).context("root's own")?;
    let made = dir.join("made");
    let mut options = fs::File::options();
    options.create_new(true).write(true).mode(0o600).open(&made).context("make a file")?;
    fs::write(&made, [0; 4096]).context("write it")?;
    fs::rename(&made, dir.join("0000000000000abc-00000001.spool")).context("put it there")
}

/// A pod whose shim.toml is none. By its defaults a start waits for its worker for less than a busy machine may take, and then there is
/// no wrapper, so there may have to be several of them.
fn misled(node: &Node) -> Result<Vec<Pod>> {
    let mut all = Vec::new();
    eventually(LIMIT, "a wrapper without a configuration", || {
        let mut lab = Lab::new()?;
        fs::write(lab.dir().join("shim.toml"), "[start\n").context("spoil shim.toml")?;
        // Which shim is inside is told by its name alone.
        let link = lab.dir().join("containerd-shim-tap-standin-v2");
        symlink(binary(WRAPPER)?, &link).context("the wrapper by another name")?;
        symlink(binary(STANDIN)?, lab.dir().join(STANDIN)).context("the stand-in beside it")?;
        let collector = node.collector_socket().display().to_string();
        for (key, value) in
            [("STANDIN_API", "2"), ("STANDIN_ANSWER", "plain"), ("SHIMTAP_COLLECTOR", collector.as_str())]
        {
            lab.env.push((key.to_owned(), value.to_owned()));
        }
        let shim = launch::Shim { binary: link, flavour: Flavour::V1_6 };
        let pod = Pod::start(lab, shim, "task", &Script::stayer())?;
        let is_wrapped = pod.keeper().is_ok();
        all.push(pod);
        Ok(is_wrapped.then_some(()))
    })?;
    Ok(all)
}
