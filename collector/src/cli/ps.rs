//! `shimtap ps`: what the collector knows of containers, as a table or as JSON.
//!
//! It only asks and shows; what the fields mean stands with `admin::Ps`.

use std::path::Path;

use super::{Exit, ask::Collector, columns};
use crate::{
    admin::{Ps, PsContainer, PsStream, PsUnwrapped, PsWrapper},
    enrich::short_shim,
    time::now_ns,
};

/// Prints to stdout.
pub(super) fn run(json: bool, socket: Option<&Path>) -> Exit {
    match Collector::at(socket).get::<Ps>("/v1/ps") {
        Ok((body, ps)) => {
            let text = if json { body + "\n" } else { table(&ps, now_ns()) };
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

const WRAPPER_HEAD: [&str; 9] =
    ["NAMESPACE", "WRAPPER OF", "SHIM", "SHIM PID", "VERSION", "KEEPER", "WORKER", "GENERATION", "MODE"];

const UNWRAPPED_HEAD: [&str; 4] = ["NAMESPACE", "UNWRAPPED", "SINCE", "WHY"];

fn table(ps: &Ps, now_ns: u64) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(ps.containers.iter().map(|container| row(container, now_ns)));
    let mut out = columns(&rows);
    out += &further(WRAPPER_HEAD, ps.wrappers.iter().map(wrapper_row));
    out += &further(UNWRAPPED_HEAD, ps.unwrapped.iter().map(|pod| unwrapped_row(pod, now_ns)));
    out
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

fn wrapper_row(wrapper: &PsWrapper) -> [String; WRAPPER_HEAD.len()] {
    let pid = |pid: u32| if pid == 0 { "-".to_owned() } else { pid.to_string() };
    [
        wrapper.namespace.clone(),
        wrapper.pod.chars().take(13).collect(),
        shim(&wrapper.inner).to_owned(),
        pid(wrapper.inner_pid),
        wrapper.version.clone(),
        pid(wrapper.keeper_pid),
        pid(wrapper.worker_pid),
        wrapper.generation.to_string(),
        if wrapper.safe_mode { "safe" } else { "normal" }.to_owned(),
    ]
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
        shim(&container.shim).to_owned(),
    ]
}

fn shim(name: &str) -> &str {
    match short_shim(name) {
        "" => "-",
        short => short,
    }
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

/// `17`, `4.2K`, `1.0G`.
fn size(bytes: u64) -> String {
    let mut unit = 1u64;
    let mut name = "";
    for next in ["K", "M", "G", "T", "P"] {
        if bytes < unit.saturating_mul(1024) {
            break;
        }
        unit = unit.saturating_mul(1024);
        name = next;
    }
    if name.is_empty() {
        return bytes.to_string();
    }
    format!("{}.{}{name}", bytes / unit, bytes % unit * 10 / unit)
}

/// `42s`, `7m`, `3h`, `9d`.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::{age, shim, size};

    #[test]
    fn cells_are_short_and_true() {
        let sizes = [0, 1_023, 1_024, 1_535, 1_048_575, 1 << 20, u64::MAX].map(size);
        assert_eq!(sizes, ["0", "1023", "1.0K", "1.4K", "1023.9K", "1.0M", "16383.9P"]);
        let ages = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        assert_eq!(["containerd-shim-runc-v2", "other", ""].map(shim), ["runc-v2", "other", "-"]);
    }
}
