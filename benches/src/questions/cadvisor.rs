//! What does a node pay for its containers' metrics where cAdvisor collects them, and with us? Real CRI pods of one sleeping
//! container each, behind wrappers on one node. cAdvisor and our collector look at them in turns, each scraped every 15 s; then both
//! at once, to say in which families and in which values they differ.
//!
//! No target. cAdvisor runs with `--housekeeping_interval=10s` and else as it is. What both find in place is containerd, which asks
//! for statistics itself, every second, and the wrappers; what those use more with us counts as ours. Where cAdvisor is not there
//! (`./dev peers`) it has no rows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::oracle::exposition::of_label;
use shimtap_tests::rig::collector::{free_address, get};
use shimtap_tests::rig::cri::{Pod, Wanted};
use shimtap_tests::rig::patience::throughout;
use shimtap_tests::rig::{Node, eventually, process, tools};

use crate::bed::{Side, one_side};
use crate::fleet::{Fleet, PARTS, Parts};
use crate::options::Options;
use crate::questions::exposition::anonymous;
use crate::report::Report;
use crate::spread::{float, float64};
use crate::usage::Usage;
use crate::witness::{Sink, Told, Witness};

/// A machine that is busy with many pods takes its time to start one more, which must not run unwrapped for that.
const SHIM: &str = "[start]\nready_ms = 20000\n";
const SCRAPE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(120);
const OURS: &str = "/metrics/cadvisor?scope=all";
/// A value that nobody changes may be read by two in two ways of rounding.
const ALIKE: f64 = 0.01;
/// Those that whoever is looked at by name has.
const CPU: &str = "container_cpu_usage_seconds_total";

/// One that runs.
struct Cadvisor {
    child: Child,
    address: String,
}

/// What one window gave.
#[derive(Default)]
struct Window {
    /// Of each of [`PARTS`], in cores; who collects is the last.
    cores: [f64; 4],
    /// Per scrape, in ms.
    scrapes: Vec<f64>,
    /// The last page.
    page: String,
}

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("cadvisor", options)?;
    let mut fleet = Fleet::on(one_side(options.version, Side::Wrapped, SHIM)?)?;
    let mut pods = Vec::new();
    let asked = options.only.as_deref().map(str::parse).transpose().context("--only names how many pods")?;
    for many in asked.map_or_else(|| options.pick(vec![5], vec![50, 250]), |many| vec![many]) {
        while pods.len() < many {
            pods.push(pod(fleet.node(), pods.len())?);
        }
        report.heading(&format!("{many} pods of one sleeping container"))?;
        compare(&mut fleet, &pods, options, &mut report)?;
    }
    for (pod, _) in &pods {
        fleet.node().cri()?.remove_pod(pod)?;
    }
    fleet.clear("")
}

/// A pod, and its container's id.
fn pod(node: &Node, number: usize) -> Result<(Pod, String)> {
    let cri = node.cri()?;
    let pod = cri.run_pod(&format!("sleeps{number}"))?;
    let wanted = Wanted {
        name: "c",
        command: &["sleep", "100000"],
        memory_limit_bytes: 256 << 20,
        cpu_quota_us: 50_000,
        ..Wanted::default()
    };
    let id = cri.run(&pod, &wanted)?;
    Ok((pod, id))
}

fn compare(fleet: &mut Fleet, pods: &[(Pod, String)], options: &Options, report: &mut Report) -> Result<()> {
    let ids: Vec<&str> = pods.iter().map(|(_, id)| id.as_str()).collect();
    let turns = options.pick(1, 4);
    let told = Told::of(Sink::None)?;
    let witness = Witness::start_at(fleet.node().dir(), &fleet.node().collector_socket(), &told)?;
    witness.await_wrappers(ids.len())?;
    let ours = |page: &str| get(witness.address(), page);
    shown(&ids, "us", || ours(OURS))?;
    let parts = fleet.parts(&[witness.pid()])?;
    let window = windowed(&parts, turns, || ours(OURS))?;
    show("shimtap", &window, witness.pid(), ids.len(), report)?;
    let Some(cadvisor) = Cadvisor::start(fleet.node())? else {
        report.note("cAdvisor is not there: `sudo ./dev peers` builds it")?;
        return witness.stop();
    };
    let theirs = || get(&cadvisor.address, "/metrics");
    shown(&ids, "cAdvisor", theirs)?;
    // Both look; what each says of the same containers at the same time.
    let (mine, other) = (ours(OURS)?, theirs()?);
    witness.stop()?;
    differ(&ids, &mine, &other, report)?;
    let parts = fleet.parts(&[cadvisor.pid()])?;
    let window = windowed(&parts, turns, theirs)?;
    show("cAdvisor", &window, cadvisor.pid(), ids.len(), report)?;
    cadvisor.stop()
}

/// Waits until all containers are shown.
fn shown(ids: &[&str], by: &str, page: impl Fn() -> Result<String>) -> Result<()> {
    eventually(LIMIT, &format!("all containers with {by}"), || {
        let page = page()?;
        let rows: Vec<&str> = page.lines().filter(|row| row.starts_with(CPU)).collect();
        Ok(ids.iter().all(|id| rows.iter().any(|row| row.contains(*id))).then_some(()))
    })
}

fn windowed(parts: &Parts, turns: usize, page: impl Fn() -> Result<String>) -> Result<Window> {
    let mut window = Window::default();
    let (begun, before) = (Instant::now(), parts.each_ref().map(|pids| Usage::of(pids)));
    for _ in 0..turns {
        throughout(SCRAPE, "the time between two scrapes", || Ok(true))?;
        let asked = Instant::now();
        window.page = page()?;
        window.scrapes.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    let after = parts.each_ref().map(|pids| Usage::of(pids));
    let took = begun.elapsed().as_secs_f64();
    for ((cores, before), after) in window.cores.iter_mut().zip(before).zip(after) {
        *cores = float64(after.since(before).cpu_ns) / 1e9 / took;
    }
    Ok(window)
}

fn show(who: &str, window: &Window, pid: i32, containers: usize, report: &mut Report) -> Result<()> {
    for (part, cores) in PARTS.iter().zip(window.cores) {
        let part = if *part == "collector" { who } else { part };
        report.figure(&format!("{who} collects: {part}"), "% of a core", cores * 100.0, "")?;
    }
    let rows = window.page.lines().filter(|row| !row.is_empty() && !row.starts_with('#')).count();
    report.figure(&format!("{who}: series"), "", float(rows), "")?;
    report.figure(&format!("{who}: text"), "MB", float(window.page.len()) / 1e6, "")?;
    report.row(&format!("{who}: a scrape, plain text"), "ms", &window.scrapes, "")?;
    let held = float64(anonymous(pid)?);
    report.figure(&format!("{who}: anonymous memory"), "MB", held / 1e6, "")?;
    report.figure(&format!("{who}: of it per container"), "KiB", held / 1024.0 / float(containers), "")
}

/// How often a family's value was the same from both, how often not, and the first of those: ours and theirs.
type Pairs = (usize, usize, Option<(f64, f64)>);

/// Families that one of them has of these containers, and values that are not the same.
fn differ(ids: &[&str], ours: &str, theirs: &str, report: &mut Report) -> Result<()> {
    let mut pairs: BTreeMap<String, Pairs> = BTreeMap::new();
    let (mut all_ours, mut all_theirs) = (BTreeSet::new(), BTreeSet::new());
    for id in ids {
        // The label that both give a container's id.
        let (mine, other) = (of_label(ours, "name", id)?, of_label(theirs, "name", id)?);
        all_ours.extend(mine.values.keys().cloned());
        all_theirs.extend(other.values.keys().cloned());
        for (family, mine) in &mine.values {
            let Some(other) = other.values.get(family) else { continue };
            let (alike, unlike, example) = pairs.entry(family.clone()).or_default();
            if (mine - other).abs() <= ALIKE * mine.abs().max(other.abs()) {
                *alike += 1;
            } else {
                *unlike += 1;
                example.get_or_insert((*mine, *other));
            }
        }
    }
    ensure!(!pairs.is_empty(), "they have no family of the same container");
    let named = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    report.note(&format!("only with us: {}", named(all_ours.difference(&all_theirs).collect())))?;
    report.note(&format!("only with cAdvisor: {}", named(all_theirs.difference(&all_ours).collect())))?;
    for (family, (alike, unlike, example)) in &pairs {
        let example = example.map_or(String::new(), |(ours, theirs)| format!(", e.g. {ours} and {theirs}"));
        report.note(&format!("{family}: {alike} alike, {unlike} not{example}"))?;
    }
    Ok(())
}

// === impl Cadvisor ===

impl Cadvisor {
    /// Starts it on this node's containerd; none where it is not installed.
    fn start(node: &Node) -> Result<Option<Cadvisor>> {
        let Some(program) = tools::cadvisor() else { return Ok(None) };
        let address = free_address()?;
        let log = std::fs::File::create(node.dir().join("cadvisor.log")).context("open its log")?;
        let mut command = Command::new(program);
        command.args(["--housekeeping_interval=10s", "--containerd-namespace=k8s.io"]);
        command.arg(format!("--containerd={}", node.socket().display()));
        command.arg(format!("--listen={address}"));
        command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicate the log")?).stderr(log);
        let child = command.spawn().context("start cAdvisor")?;
        let cadvisor = Cadvisor { child, address };
        eventually(LIMIT, "cAdvisor to listen", || {
            Ok(TcpStream::connect(&cadvisor.address).is_ok().then_some(()))
        })?;
        Ok(Some(cadvisor))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    fn stop(mut self) -> Result<()> {
        process::signal(self.pid(), Signal::SIGTERM)?;
        let child = &mut self.child;
        eventually(LIMIT, "cAdvisor to end", || child.try_wait().context("ask for its exit")).map(drop)
    }
}

impl Drop for Cadvisor {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
