//! `shimtap ps`: what the collector knows of containers, as a table or as JSON.
//!
//! It only asks and shows; what the fields mean stands with `admin::Ps`.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Exit, columns};
use crate::{
    admin::{Ps, PsContainer, PsStream, PsWrapper},
    config::DEFAULT_CONTROL_SOCKET,
    time::now_ns,
};

/// The collector answers from memory; longer means that it does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Far more than a node's containers need.
const ANSWER_MAX: u64 = 64 << 20;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum PsFault {
    #[error("asking the collector at {path}: {source}; is it running, and are you root?")]
    Ask { path: PathBuf, source: io::Error },
    #[error("reading the collector's answer at {path}: it said {said}")]
    Refused { path: PathBuf, said: String },
    #[error("reading the collector's answer at {path}: {source}; are both of one release?")]
    Decode { path: PathBuf, source: serde_json::Error },
}

/// Prints to stdout.
pub(super) fn run(json: bool, socket: Option<&Path>) -> Exit {
    let socket = socket.unwrap_or_else(|| Path::new(DEFAULT_CONTROL_SOCKET));
    match ask(socket) {
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

fn ask(path: &Path) -> Result<(String, Ps), PsFault> {
    let answer = exchange(path).map_err(|source| PsFault::Ask { path: path.to_owned(), source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200") && !head.starts_with("HTTP/1.0 200") {
        let said = head.lines().next().unwrap_or_default().to_owned();
        return Err(PsFault::Refused { path: path.to_owned(), said });
    }
    let ps =
        serde_json::from_str(body).map_err(|source| PsFault::Decode { path: path.to_owned(), source })?;
    Ok((body.to_owned(), ps))
}

/// One request whose answer ends with the connection (HTTP/1.0, so that it is not sent in chunks).
fn exchange(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /v1/ps HTTP/1.0\r\nHost: shimtap\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
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

const WRAPPER_HEAD: [&str; 8] =
    ["NAMESPACE", "WRAPPER OF", "SHIM", "VERSION", "KEEPER", "WORKER", "GENERATION", "MODE"];

fn table(ps: &Ps, now_ns: u64) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(ps.containers.iter().map(|container| row(container, now_ns)));
    let mut out = columns(&rows);
    if !ps.wrappers.is_empty() {
        let mut rows = vec![WRAPPER_HEAD.map(str::to_owned)];
        rows.extend(ps.wrappers.iter().map(wrapper_row));
        out.push('\n');
        out.push_str(&columns(&rows));
    }
    out
}

fn wrapper_row(wrapper: &PsWrapper) -> [String; WRAPPER_HEAD.len()] {
    let pid = |pid: u32| if pid == 0 { "-".to_owned() } else { pid.to_string() };
    [
        wrapper.namespace.clone(),
        wrapper.pod.chars().take(13).collect(),
        shim(&wrapper.inner).to_owned(),
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

/// The part of a shim's name that tells it from others: `runc-v2` of `containerd-shim-runc-v2`.
fn shim(name: &str) -> &str {
    match name.strip_prefix("containerd-shim-").unwrap_or(name) {
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
