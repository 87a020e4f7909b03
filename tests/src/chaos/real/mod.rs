//! A piece on a private containerd with runc: pods over CRI and containers by `ctr`, while any wrapper of the node is struck.
//!
//! What containers write is known beforehand, or counted by themselves; it is compared with containerd's log (or what `ctr`
//! showed) at once, and with the collector's file at the end.

mod ctr;
mod pods;
mod strikes;
mod work;

use std::{fs, sync::atomic::Ordering, thread};

use anyhow::{Context, Result, anyhow, ensure};

pub use self::strikes::keepers;
use self::work::{LIMIT, Work};
use super::{
    Order,
    dice::Dice,
    judge::{self, Written},
    tally::Ledger,
};
use crate::{
    line::tape,
    oracle::cri_log,
    rig::{
        Hook, Node, Setup, Shim, Version,
        cri::{Cri, Pod, Wanted},
        eventually,
    },
};

/// Width of the lines of the container that is there all the time.
const WIDTH: usize = 90;
/// Its name.
const BUSY: &str = "busy";

/// The whole piece; the node must be as it was before.
///
/// # Errors
/// The first fault that was found.
pub fn run(order: &Order, version: Version, ledger: &Ledger) -> Result<()> {
    let toml = if order.threshold { "[start]\nready_ms = 20000\n" } else { crate::rig::node::PATIENT };
    let setup = Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().shim_toml(toml);
    setup.run(|node| on_node(order, node, ledger))
}

fn on_node(order: &Order, node: &Node, ledger: &Ledger) -> Result<()> {
    let cri = node.cri()?;
    let work = Work::new(node, cri, ledger);
    for kinds in [&ctr::KINDS[..], &pods::KINDS, &[pods::COME_AND_GO]] {
        ledger.expects(kinds);
    }
    let pod = cri.run_pod("all-the-time")?;
    let busy = start_busy(node, cri, &pod)?;
    under_fire(order, &work, &pod, &busy)?;
    node.collector(|collector| judge::observe(collector, ledger))?;
    end_busy(&work, &pod, &busy)?;
    let gone = || Ok(node.wrappers("tap-keeper")?.is_empty().then_some(()));
    eventually(LIMIT, "the wrappers to leave", gone)?;
    node.collector(|collector| judge::settle(collector, ledger))?;
    let written = work.written();
    judge::file_holds(node.take_collector()?, &written, true, ledger)?;
    no_cgroup_is_left(node)
}

/// Everybody works until there were enough deaths, or somebody has found a fault.
fn under_fire(order: &Order, work: &Work<'_>, pod: &Pod, busy: &str) -> Result<()> {
    let dice = |who: &str| Dice::new(order.seed, who);
    thread::scope(|scope| {
        let workers = [
            scope.spawn(|| work.ended_by("a pod", pods::beside(work, pod, busy, dice("a pod")))),
            scope.spawn(|| work.ended_by("pods", pods::come_and_go(work, dice("pods")))),
            scope.spawn(|| work.ended_by("ctr", ctr::run(work, dice("ctr")))),
        ];
        let strikers: Vec<_> = (0..order.lanes)
            .map(|lane| {
                let dice = dice(&format!("strikes {lane}"));
                scope.spawn(move || work.ended_by("strikes", strikes::strike(order, work, &pod.id, dice)))
            })
            .collect();
        let panicked = |_| anyhow!("a thread panicked");
        let struck: Vec<_> = strikers.into_iter().map(|striker| striker.join()).collect();
        work.over.store(true, Ordering::Relaxed);
        let worked: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        let all = struck.into_iter().chain(worked).map(|result| result.map_err(panicked)?);
        // The work knows more of a fault than the strikes that were ended by it.
        let faults: Vec<String> = all.filter_map(Result::err).map(|fault| format!("{fault:#}")).collect();
        ensure!(faults.is_empty(), "after {} deaths: {}", work.ledger.tally().died(), faults.join("; and "));
        Ok(())
    })
}

fn start_busy(node: &Node, cri: &Cri, pod: &Pod) -> Result<String> {
    let host = node.host_dir();
    let command = [
        "speaker",
        "lines=100000000",
        "rate=400",
        "batch=2",
        "to=both",
        "width=90",
        "count=/host/count",
        "until=/host/enough",
        "exit=3",
    ];
    cri.run(pod, &Wanted { name: BUSY, command: &command, host: Some(&host), ..Wanted::default() })
}

/// Lets the container that was there all the time end by itself, and compares both of its streams with its own count.
fn end_busy(work: &Work<'_>, pod: &Pod, busy: &str) -> Result<()> {
    fs::write(work.node.host_dir().join("enough"), "").context("tell the container to end")?;
    let status = work.cri.await_exit(busy)?;
    ensure!(status.exit_code == 3, "the container that was there all the time: {status:?}");
    let count = fs::read_to_string(work.node.host_dir().join("count")).context("read its count")?;
    let bytes = tape(1, count.trim().parse().context("its count")?, WIDTH);
    let log = cri_log(&work.cri.log_path(pod, BUSY))?;
    for (stream, have) in [("stdout", log.stdout), ("stderr", log.stderr)] {
        let kind = "the container that was there all the time";
        work.complete(&have, Written { container: busy.to_owned(), kind, stream, bytes: bytes.clone() })?;
    }
    work.remove_pod(pod)
}

/// Cgroups of this node's containers; the one that holds them all may stay.
fn no_cgroup_is_left(node: &Node) -> Result<()> {
    let left = crate::rig::leftovers::cgroups(node.mark());
    ensure!(left.is_empty(), "cgroups are left: {left:?}");
    Ok(())
}
