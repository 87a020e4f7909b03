//! How much memory does a wrapper hold, and where? Target: at most 0.75 MiB at rest; at most 2 MiB plus rings with ten
//! busy containers in the pod.
//!
//! Private pages of keeper and worker, blocks of their memfd, bytes in their pipes. There is no unwrapped side: what
//! an unwrapped pod holds of it is nothing.

use std::time::{Duration, Instant};

use crate::bed::{Side, one_side, report_path};
use crate::footprint::Footprint;
use crate::options::Options;
use crate::pour::Poured;
use crate::report::Report;
use crate::spread::float64;
use crate::usage::Usage;
use crate::witness::Witness;
use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::cri::{Pod, Wanted};
use shimtap_tests::rig::{Node, eventually};

const KIB: f64 = 1024.0;
const BUSY: usize = 10;
/// Lines per second of a busy container, of 216 bytes.
const RATE: &str = "rate=500";

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("memory", options)?;
    let node = one_side(options.version, Side::Wrapped, "")?;
    let pods = options.turns(3, 6);
    at_rest(&node, pods, "at rest, no collector", &mut report)?;
    busy(&node, options, "ten busy containers, no collector", &mut report)?;
    let witness = Witness::start(&node, true)?;
    at_rest(&node, pods, "at rest, collector attached", &mut report)?;
    busy(&node, options, "ten busy containers, collector attached", &mut report)?;
    witness.stop()?;
    node.finish()
}

/// Pods with one container that has said a line and is quiet.
fn at_rest(node: &Node, pods: usize, case: &str, report: &mut Report) -> Result<()> {
    let cri = node.cri()?;
    let mut running = Vec::new();
    for number in 0..pods {
        let pod = cri.run_pod(&format!("rest{number}"))?;
        let command = ["/host/pour", "lines=1", "linger=100000"];
        let host = node.host_dir();
        cri.run(&pod, &Wanted { name: "quiet", command: &command, host: Some(&host), ..Wanted::default() })?;
        let log = cri.log_path(&pod, "quiet");
        eventually(Duration::from_secs(20), "its line", || {
            Ok(std::fs::metadata(&log).ok().filter(|log| log.len() > 0).map(drop))
        })?;
        running.push(pod);
    }
    // All of them live while each is measured: what pods share of the binary is no pod's own.
    let mut prints = Vec::new();
    for pod in &running {
        settle(node, pod, Duration::from_secs(6))?;
        prints.push(of_pod(node, pod)?);
    }
    for pod in &running {
        cri.remove_pod(pod)?;
    }
    show(&prints, case, "<= 768", report)
}

/// One pod with ten containers that all write.
fn busy(node: &Node, options: &Options, case: &str, report: &mut Report) -> Result<()> {
    let cri = node.cri()?;
    // A second pod beside it, for the same reason as above.
    let beside = cri.run_pod("beside")?;
    let pod = cri.run_pod("busy")?;
    let host = node.host_dir();
    for number in 0..BUSY {
        let (name, report) = (format!("b{number}"), format!("report=/host/b{number}"));
        let command = ["/host/pour", RATE, &report];
        cri.run(&pod, &Wanted { name: &name, command: &command, host: Some(&host), ..Wanted::default() })?;
    }
    let mut prints = Vec::new();
    for round in 1..=options.turns(2, 6) {
        let path = report_path(node, "b9");
        let lines = u64::try_from(round).unwrap_or(0) * options.pick(500, 2000);
        eventually(Duration::from_secs(60), "the last container's lines", || {
            Ok(Poured::read(&path).filter(|poured| poured.lines >= lines))
        })?;
        prints.push(of_pod(node, &pod)?);
    }
    cri.remove_pod(&pod)?;
    cri.remove_pod(&beside)?;
    show(&prints, case, "<= 2048 plus rings", report)
}

/// Waits until the wrapper's processes have been quiet for a while: a page that is given back late shall count.
fn settle(node: &Node, pod: &Pod, limit: Duration) -> Result<()> {
    let pids: Vec<i32> = roles(node, pod)?.into_iter().map(|(_, pid)| pid).collect();
    let (mut before, mut since) = (u64::MAX, Instant::now());
    // containerd 2.3 asks for Stats once a second: that may go on, so a limit that is reached is no fault.
    let _asked = eventually(limit, "the wrapper to be quiet", || {
        let now = Usage::of(&pids).wakeups;
        if now != before {
            (before, since) = (now, Instant::now());
        }
        Ok((since.elapsed() > Duration::from_secs(2)).then_some(()))
    });
    Ok(())
}

fn roles(node: &Node, pod: &Pod) -> Result<Vec<(&'static str, i32)>> {
    let mut found = Vec::new();
    for role in ["tap-keeper", "tap-worker"] {
        let mut all = node.wrappers(role)?;
        all.retain(|process| process.flag("-id") == Some(&pod.id));
        ensure!(all.len() == 1, "{} processes call themselves {role}", all.len());
        found.push((role, all.pop().context("one")?.pid));
    }
    Ok(found)
}

fn of_pod(node: &Node, pod: &Pod) -> Result<Footprint> {
    Footprint::of(&roles(node, pod)?)
}

fn show(prints: &[Footprint], case: &str, target: &str, report: &mut Report) -> Result<()> {
    let column = |of: &dyn Fn(&Footprint) -> u64| -> Vec<f64> {
        prints.iter().map(|print| float64(of(print)) / KIB).collect()
    };
    report.heading(case)?;
    report.row("private pages, memfd, bytes in pipes", "KiB", &column(&Footprint::total), target)?;
    report.row("  private, keeper", "KiB", &column(&|p| p.private_of("tap-keeper")), "")?;
    report.row("  private, worker", "KiB", &column(&|p| p.private_of("tap-worker")), "")?;
    report.row("  memfd blocks", "KiB", &column(&|p| p.memfd), "")?;
    report.row("  bytes in pipes", "KiB", &column(&|p| p.in_pipes), "")?;
    let pipes: Vec<f64> = prints.iter().map(|print| float64(print.pipes)).collect();
    report.row("  pipes and FIFOs held", "", &pipes, "")?;
    report.row("  page tables (in no target)", "KiB", &column(&|p| p.page_tables), "")?;
    let Some(last) = prints.last() else { return Ok(()) };
    report.note("private pages of the last one by mapping, KiB:")?;
    let mut mappings: Vec<_> = last.private.iter().collect();
    mappings.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    for ((process, mapping), bytes) in mappings {
        report.note(&format!("{:>6}  {process:<10}  {mapping}", bytes / 1024))?;
    }
    Ok(())
}
