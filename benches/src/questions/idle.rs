//! What does a wrapper of a quiet pod do in a minute? Target: no wake-ups beyond the Stats that pass through it.
//!
//! Sleeps that ended (voluntary context switches) and CPU time of every thread, beside those of the runc shims that
//! they wrap and of those on an unwrapped node, over the same minute. containerd 2.3 asks every container for Stats
//! once a second where CRI runs: each such request wakes the real shim too.

use std::time::{Duration, Instant};

use anyhow::Result;
use shimtap_tests::rig::Node;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::patience::throughout;

use crate::bed::{Side, one_side};
use crate::options::Options;
use crate::report::Report;
use crate::spread::{float, float64};
use crate::usage::{Usage, threads};
use crate::witness::Witness;

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("idle", options)?;
    let pods = options.pick(2, 5);
    let plain = one_side(options.version, Side::Plain, "")?;
    let wrapped = one_side(options.version, Side::Wrapped, "")?;
    for node in [&plain, &wrapped] {
        quiet_pods(node, pods)?;
    }
    let window = Duration::from_secs(options.pick(10, 60));
    watch(&plain, &wrapped, pods, window, None, &mut report)?;
    let witness = Witness::start(&wrapped, true)?;
    witness.await_wrappers(pods)?;
    watch(&plain, &wrapped, pods, window, Some(&witness), &mut report)?;
    witness.stop()?;
    Ok(())
}

fn quiet_pods(node: &Node, pods: usize) -> Result<()> {
    let cri = node.cri()?;
    let host = node.host_dir();
    for number in 0..pods {
        let pod = cri.run_pod(&format!("quiet{number}"))?;
        let command = ["/host/pour", "lines=1", "linger=100000"];
        cri.run(&pod, &Wanted { name: "quiet", command: &command, host: Some(&host), ..Wanted::default() })?;
    }
    Ok(())
}

/// A group of threads whose use is summed.
type Group = (&'static str, Vec<i32>, Option<&'static str>);

fn watch(
    plain: &Node,
    wrapped: &Node,
    pods: usize,
    window: Duration,
    witness: Option<&Witness>,
    report: &mut Report,
) -> Result<()> {
    let keepers = pids(&wrapped.wrappers("tap-keeper")?);
    let workers = pids(&wrapped.wrappers("tap-worker")?);
    let groups: [Group; 5] = [
        ("runc shim, unwrapped", pids(&plain.inner_shims()?), None),
        ("runc shim, wrapped", pids(&wrapped.inner_shims()?), None),
        ("keeper", keepers, None),
        ("worker, relay thread", workers.clone(), Some("tap-worker")),
        ("worker, link thread", workers, Some("tap-link")),
    ];
    // What the start left to do is done first.
    throughout(Duration::from_secs(3), "a pause", || Ok(true))?;
    let before: Vec<Usage> = groups.iter().map(used).collect();
    let (start, asked) = (Instant::now(), stats_asked(witness)?);
    throughout(window, "a quiet minute", || Ok(true))?;
    let minutes = start.elapsed().as_secs_f64() / 60.0 * float(pods);
    let asked = stats_asked(witness)? - asked;
    let case = if witness.is_some() { "collector attached" } else { "no collector" };
    report.heading(&format!("{case}, per pod and minute"))?;
    if witness.is_some() {
        report.figure("Stats that passed through the wrapper", "", asked / minutes, "")?;
    }
    for (group, before) in groups.iter().zip(before) {
        let spent = used(group).since(before);
        let name = group.0;
        report.figure(&format!("{name}: wake-ups"), "", float64(spent.wakeups) / minutes, "")?;
        report.figure(&format!("{name}: CPU"), "ms", float64(spent.cpu_ns) / 1e6 / minutes, "")?;
    }
    Ok(())
}

/// Stats requests that the wrappers saw answered, as they report it every few seconds.
fn stats_asked(witness: Option<&Witness>) -> Result<f64> {
    let family = "shimtap_rpc_duration_seconds_count";
    witness.map_or(Ok(0.0), |witness| witness.sum(family, &["method=\"Stats\""]))
}

fn used((_, pids, thread): &Group) -> Usage {
    match thread {
        None => Usage::of(pids),
        Some(wanted) => {
            let all = pids.iter().flat_map(|pid| threads(*pid));
            all.filter(|(name, _)| name == wanted).map(|(_, usage)| usage).fold(Usage::default(), Usage::plus)
        }
    }
}

fn pids(processes: &[shimtap_tests::rig::process::Process]) -> Vec<i32> {
    processes.iter().map(|process| process.pid).collect()
}
