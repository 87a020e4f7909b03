//! After a death of keeper and worker together: containerd has written off every task of that shim (all its
//! connections went through us), so nothing of them may run on unmanaged.
//!
//! Kill, Delete and Shutdown over a connection of our own; an inner shim that does not answer is ended itself.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use shimtap_proto::ttrpc::{
    HEADER_LEN, Header, Kind, TaskApi, request_frame,
    task::{Kill, TaskRef},
};

use super::wrap::Description;
use crate::{
    keeper::{belongs_to, remove_files, remove_tasks},
    run_dir::RunDir,
};

/// containerd gives the whole `delete` five seconds.
const ANSWER: Duration = Duration::from_millis(1500);

struct Inner {
    stream: UnixStream,
    service: &'static str,
    next_stream: u32,
}

/// Ends what is left of the wrapper `key`: its tasks, its inner shim, its files.
pub fn repair(run_dir: &RunDir, key: &str, namespace: &str) {
    let description = fs::read(run_dir.description(key)).ok();
    let description: Option<Description> = description.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(description) = &description {
        let ids = tasks_of(run_dir, key, namespace);
        if end_tasks(description, &ids).is_err() {
            kill_inner(description);
        }
        // Whoever still listens there is not the shim of this key: its socket had another inode.
        if RunDir::key_of(&description.inner_socket).is_ok_and(|(now, _)| now == key) {
            let _ = fs::remove_file(&description.inner_socket);
        }
    }
    remove_tasks(run_dir, namespace, key);
    remove_files(run_dir, key);
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
        inner.call("Delete", &TaskRef { id, exec_id: "" }.encode())?;
    }
    // The shim of a pod ends at the last of these; it may close before it answers.
    let _ = inner.call("Shutdown", &TaskRef { id: &description.id, exec_id: "" }.encode());
    Ok(())
}

// === impl Inner ===

impl Inner {
    fn connect(description: &Description) -> io::Result<Self> {
        let stream = UnixStream::connect(&description.inner_socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let api = if description.task_api == 3 { TaskApi::V3 } else { TaskApi::V2 };
        Ok(Self { stream, service: api.service(), next_stream: 1 })
    }

    /// One call; what the shim says (NotFound is fine) does not matter, only that it answers.
    fn call(&mut self, method: &str, payload: &[u8]) -> io::Result<()> {
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
