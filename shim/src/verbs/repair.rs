//! After a death of keeper and worker together: containerd has written off every task of that shim (all its
//! connections went through us), so nothing of them may run on unmanaged.
//!
//! Kill, Delete and Shutdown over a connection of our own; an inner shim that does not answer is ended itself.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use shimtap_proto::ttrpc::{
    HEADER_LEN, Header, Kind, TaskApi, request_frame,
    task::{Kill, TaskRef},
};

use super::wrap::Description;
use crate::{
    args::Arguments,
    keeper::{belongs_to, remove_files, remove_tasks},
    run_dir::RunDir,
};

/// containerd gives the whole `delete`, the inner shim's part included, five seconds.
const PATIENCE: Duration = Duration::from_millis(3000);

struct Inner {
    stream: UnixStream,
    until: Instant,
    service: &'static str,
    next_stream: u32,
}

/// Ends what is left of the wrapper `key`: its tasks, its inner shim, its files.
pub fn repair(run_dir: &RunDir, key: &str, namespace: &str) {
    if let Some(description) = &describe(run_dir, key) {
        let ids = tasks_of(run_dir, key, namespace);
        if end_tasks(description, &ids).is_err() {
            kill_inner(description);
        }
        // Only the socket that this wrapper was made for: a later shim's on the same path has another key.
        if RunDir::is_still(&description.inner_socket, key) {
            let _ = fs::remove_file(&description.inner_socket);
        }
    }
    remove_tasks(run_dir, namespace, key);
    remove_files(run_dir, key);
}

/// The wrapper that a `start` for this id made, where no Create ever named it (a sandbox of the Sandbox service).
pub fn key_of_start(run_dir: &RunDir, arguments: &Arguments) -> Option<String> {
    let entries = fs::read_dir(run_dir.path().join("s")).ok()?.flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()?.strip_suffix(".json").map(str::to_owned)).find(
        |key| {
            describe(run_dir, key).is_some_and(|d| d.namespace == arguments.namespace && d.id == arguments.id)
        },
    )
}

/// What `start` wrote down of a wrapper.
fn describe(run_dir: &RunDir, key: &str) -> Option<Description> {
    serde_json::from_slice(&fs::read(run_dir.description(key)).ok()?).ok()
}

fn tasks_of(run_dir: &RunDir, key: &str, namespace: &str) -> Vec<String> {
    let entries = run_dir.tasks(namespace).ok().and_then(|dir| fs::read_dir(dir).ok());
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| belongs_to(&e.path(), key))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

fn end_tasks(description: &Description, ids: &[String]) -> io::Result<()> {
    let mut inner = match Inner::connect(description) {
        Ok(inner) => inner,
        // It has ended by itself, as a shim whose last container is gone does.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    for id in ids {
        inner.call("Kill", &Kill { id, exec_id: "", signal: 9, all: true }.encode())?;
    }
    for id in ids {
        let whose = TaskRef { id, exec_id: "" }.encode();
        // Delete is refused as long as the exit is not known to the shim.
        inner.call("Wait", &whose)?;
        inner.call("Delete", &whose)?;
    }
    inner.call("Shutdown", &TaskRef { id: &description.id, exec_id: "" }.encode()).or_else(gone)?;
    inner.await_end()
}

/// A shim that closes the connection has ended, which is what is wanted.
fn gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}

// === impl Inner ===

impl Inner {
    fn connect(description: &Description) -> io::Result<Self> {
        let stream = UnixStream::connect(&description.inner_socket)?;
        let api = if description.task_api == 3 { TaskApi::V3 } else { TaskApi::V2 };
        Ok(Self { stream, until: Instant::now() + PATIENCE, service: api.service(), next_stream: 1 })
    }

    /// One call; what the shim says (NotFound is fine) does not matter, only that it answers.
    fn call(&mut self, method: &str, payload: &[u8]) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))?;
        let stream_id = self.next_stream;
        self.next_stream = self.next_stream.wrapping_add(2);
        self.stream.write_all(&request_frame(stream_id, self.service, method, payload, 0))?;
        loop {
            let mut header = [0u8; HEADER_LEN];
            self.stream.read_exact(&mut header)?;
            let header = Header::decode(&header).map_err(io::Error::other)?;
            io::copy(&mut (&self.stream).take(u64::from(header.length)), &mut io::sink())?;
            if header.kind == Kind::Response && header.stream_id == stream_id {
                return Ok(());
            }
        }
    }
}

impl Inner {
    /// Until the shim closes the connection, or the time is over.
    fn await_end(&mut self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left.min(Duration::from_secs(1))))?;
        io::copy(&mut self.stream, &mut io::sink()).map(drop).or_else(gone)
    }
}

/// A shim that does not answer is ended by its pid: the process of that binary that serves that namespace and id.
fn kill_inner(description: &Description) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok());
        if let Some(pid) = pid.filter(|_| is_inner(&entry.path(), description)) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn is_inner(proc_dir: &Path, description: &Description) -> bool {
    let cmdline = fs::read(proc_dir.join("cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = cmdline.split(|b| *b == 0).collect();
    let has = |flag: &[u8], value: &str| words.windows(2).any(|w| w == [flag, value.as_bytes()]);
    let same_binary = fs::read_link(proc_dir.join("exe"))
        .is_ok_and(|exe| exe.file_name() == description.inner_binary.file_name());
    same_binary && has(b"-namespace", &description.namespace) && has(b"-id", &description.id)
}
