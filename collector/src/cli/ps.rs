//! `shimtap ps`: what the collector knows of containers, as a table or as JSON; and of what was left behind, or endangers them.
//!
//! It only asks and shows; what the fields mean stands with `admin::Ps`.

mod open_ended;

use std::path::Path;

use super::{
    Exit,
    ask::Collector,
    cells::{age, columns, shim, size},
};
use crate::{
    admin::{Ps, PsContainer, PsDeath, PsSandbox, PsStream, PsUnwrapped, PsWrapper},
    time::now_ns,
};

/// What of it is shown as a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Containers, wrappers, pods without one, pods that are VMs.
    All,
    /// Streams whose end nobody told.
    OpenEnded,
    /// What Kata left behind, with proof.
    Orphans,
    /// What endangers pods.
    Warnings,
}

/// Prints to stdout.
pub(super) fn run(json: bool, part: Part, socket: Option<&Path>) -> Exit {
    match Collector::at(socket).get::<Ps>("/v1/ps") {
        Ok((body, ps)) => {
            let text = match part {
                _ if json => body + "\n",
                Part::All => table(&ps, now_ns()),
                Part::OpenEnded => open_ended::all(&ps, now_ns()),
                Part::Orphans => orphans(&ps),
                Part::Warnings => warnings(&ps),
            };
            super::say(&text);
            Exit::Done
        }
        Err(fault) => {
            eprintln!("shimtap ps: {fault}");
            Exit::Failed
        }
    }
}

const HEAD: [&str; 12] = [
    "NAMESPACE",
    "POD",
    "CONTAINER",
    "ID",
    "STATE",
    "AGE",
    "STDOUT",
    "STDERR",
    "GAPS",
    "CPU",
    "MEMORY",
    "SHIM",
];

const WRAPPER_HEAD: [&str; 10] = [
    "NAMESPACE",
    "WRAPPER OF",
    "SHIM",
    "SHIM PID",
    "VERSION",
    "KEEPER",
    "WORKER",
    "GENERATION",
    "MODE",
    "LAST DEATH",
];

const UNWRAPPED_HEAD: [&str; 4] = ["NAMESPACE", "UNWRAPPED", "SINCE", "WHY"];

fn table(ps: &Ps, now_ns: u64) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(ps.containers.iter().map(|container| row(container, now_ns)));
    let mut out = columns(&rows);
    out += &further(WRAPPER_HEAD, ps.wrappers.iter().map(|wrapper| wrapper_row(wrapper, now_ns)));
    out += &further(SANDBOX_HEAD, ps.sandboxes.iter().map(sandbox_row));
    out += &further(UNWRAPPED_HEAD, ps.unwrapped.iter().map(|pod| unwrapped_row(pod, now_ns)));
    out += &open_ended::hint(ps);
    out
}

const SANDBOX_HEAD: [&str; 10] = [
    "NAMESPACE",
    "SANDBOX",
    "SHIM",
    "VERSION",
    "HYPERVISOR",
    "VMM PID",
    "VIRTIOFSD PIDS",
    "KERNEL",
    "VCPUS",
    "MEMORY",
];

fn sandbox_row(sandbox: &PsSandbox) -> [String; SANDBOX_HEAD.len()] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        sandbox.namespace.clone(),
        sandbox.id.chars().take(13).collect(),
        sandbox.shim.clone(),
        or_dash(&sandbox.shim_version),
        or_dash(&sandbox.hypervisor),
        pids(&sandbox.hypervisor_pids),
        pids(&sandbox.virtiofsd_pids),
        or_dash(&sandbox.guest_kernel),
        or_dash(&sandbox.vcpus.map(|count| count.to_string())),
        or_dash(&sandbox.memory_bytes.map(size)),
    ]
}

fn pids(pids: &[u32]) -> String {
    let all: Vec<String> = pids.iter().map(u32::to_string).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

/// One paragraph each: proof is for reading.
fn orphans(ps: &Ps) -> String {
    let mut out = String::new();
    for orphan in &ps.orphans {
        let pid = orphan.pid.map_or_else(String::new, |pid| format!(", process {pid}"));
        out += &format!("{} {}{pid}, of sandbox {}\n", orphan.kind, orphan.name, orphan.sandbox);
        for proof in &orphan.proof {
            out += &format!("    {proof}\n");
        }
    }
    if out.is_empty() { "nothing was left behind\n".to_owned() } else { out }
}

fn warnings(ps: &Ps) -> String {
    let lines: String =
        ps.warnings.iter().map(|warning| format!("{}: {}\n", warning.kind, warning.text)).collect();
    if lines.is_empty() { "nothing to warn of\n".to_owned() } else { lines }
}

/// Another table below, where there is something in it.
fn further<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = [head.map(str::to_owned)].into_iter().chain(rows).collect();
    if rows.len() == 1 { String::new() } else { format!("\n{}", columns(&rows)) }
}

fn unwrapped_row(pod: &PsUnwrapped, now_ns: u64) -> [String; UNWRAPPED_HEAD.len()] {
    [
        pod.namespace.clone(),
        pod.pod.chars().take(13).collect(),
        age(now_ns.saturating_sub(pod.time_ns) / 1_000_000_000),
        if pod.why.is_empty() { "-".to_owned() } else { pod.why.clone() },
    ]
}

fn wrapper_row(wrapper: &PsWrapper, now_ns: u64) -> [String; WRAPPER_HEAD.len()] {
    let pid = |pid: u32| if pid == 0 { "-".to_owned() } else { pid.to_string() };
    [
        wrapper.namespace.clone(),
        wrapper.pod.chars().take(13).collect(),
        shim(&wrapper.inner),
        pid(wrapper.inner_pid),
        wrapper.version.clone(),
        pid(wrapper.keeper_pid),
        pid(wrapper.worker_pid),
        wrapper.generation.to_string(),
        if wrapper.safe_mode { "safe" } else { "normal" }.to_owned(),
        wrapper.deaths.first().map_or_else(|| "-".to_owned(), |last| death(last, now_ns)),
    ]
}

/// `worker crashed SIGSEGV, 7m ago`.
fn death(death: &PsDeath, now_ns: u64) -> String {
    let PsDeath { process, reason, signal, exit_status, .. } = death;
    // The reasons of a keeper's begin with whose they are.
    let reason = reason.strip_prefix("keeper_").unwrap_or(reason);
    let of = signal.clone().or_else(|| exit_status.map(|status| format!("status {status}")));
    let of = of.map_or_else(String::new, |of| format!(" {of}"));
    let since = age(now_ns.saturating_sub(death.time_ns) / 1_000_000_000);
    format!("{process} {reason}{of}, {since} ago")
}

fn row(container: &PsContainer, now_ns: u64) -> [String; HEAD.len()] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let state = match container.exit_status {
        Some(status) => format!("{}({status})", container.state),
        None => container.state.clone(),
    };
    let since = container.started_ns.unwrap_or(container.created_ns);
    let gaps = container.streams.iter().fold(0u64, |sum, stream| sum.saturating_add(stream.gap_bytes));
    let namespace = container.namespace.as_ref().unwrap_or(&container.containerd_namespace);
    [
        namespace.clone(),
        or_dash(&container.pod),
        or_dash(&container.container),
        container.id.chars().take(13).collect(),
        state,
        age(now_ns.saturating_sub(since) / 1_000_000_000),
        stream(container, "stdout"),
        stream(container, "stderr"),
        size(gaps),
        container.cpu_ns.map_or_else(
            || "-".to_owned(),
            |ns| format!("{}.{:02}s", ns / 1_000_000_000, ns / 10_000_000 % 100),
        ),
        container.working_set_bytes.map_or_else(|| "-".to_owned(), size),
        shim(&container.shim),
    ]
}

/// Bytes of a stream, or why there are none.
fn stream(container: &PsContainer, name: &str) -> String {
    let is_it = |stream: &&PsStream| stream.stream == name && stream.process.is_empty();
    match container.streams.iter().find(is_it) {
        None => "-".to_owned(),
        Some(stream) => match &stream.not_captured {
            Some(why) => why.clone(),
            None => size(stream.bytes),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_said_with_what_is_known_of_it() {
        let of = |process: &str, reason: &str, signal: Option<&str>, exit_status| PsDeath {
            time_ns: 1_000_000_000,
            process: process.to_owned(),
            reason: reason.to_owned(),
            pid: None,
            signal: signal.map(str::to_owned),
            exit_status,
            without_worker_ns: None,
        };
        let said = |one: PsDeath| death(&one, 43_000_000_000);
        assert_eq!(said(of("worker", "crashed", Some("SIGSEGV"), None)), "worker crashed SIGSEGV, 42s ago");
        assert_eq!(said(of("worker", "failed", None, Some(4))), "worker failed status 4, 42s ago");
        assert_eq!(said(of("keeper", "keeper_lost", None, None)), "keeper lost, 42s ago");
    }
}
