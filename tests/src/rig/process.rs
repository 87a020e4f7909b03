//! Processes of a rig: how they are found and ended, by pid and never by name alone.
//!
//! Everything that a private containerd starts inherits its environment, so a mark in the environment
//! finds daemon and shims. Containers do not inherit it and are found by their cgroup; keeper and worker clear
//! theirs and are found by what they have open in the rig's folder.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::rig::eventually;

/// The environment variable whose value marks a rig's processes.
pub const MARK: &str = "SHIMTAP_RIG";

/// A process that belongs to a rig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid at the time it was found.
    pub pid: i32,
    /// The name it gave itself (`/proc/<pid>/comm`): `tap-keeper`, `tap-worker`.
    pub name: String,
    /// Its arguments, the program first.
    pub argv: Vec<String>,
}

impl Process {
    /// Whether it calls itself `name`.
    pub fn is_role(&self, name: &str) -> bool {
        self.name == name
    }

    /// File name of its program.
    pub fn program(&self) -> &str {
        self.argv.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path))
    }

    /// The value that follows `flag` in its arguments.
    pub fn flag(&self, flag: &str) -> Option<&str> {
        let mut words = self.argv.iter().skip_while(|word| *word != flag);
        words.nth(1).map(String::as_str)
    }
}

/// All living processes (zombies left out) that carry the rig's `mark` in their environment or in the path
/// of a cgroup, or have something open in one of its folders `dirs`.
pub fn marked(mark: &str, dirs: [&Path; 2]) -> Result<Vec<Process>> {
    let mark = Mark { environment: format!("{MARK}={mark}"), cgroup: format!("/{mark}"), dirs };
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let entry = entry.context("list /proc")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else { continue };
        if name == own || !mark.is_on(&entry.path()) {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.is_empty() {
            continue;
        }
        let words = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let argv = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim_end().to_owned();
        found.push(Process { pid, name, argv });
    }
    Ok(found)
}

/// How a rig's processes are known.
struct Mark<'a> {
    environment: String,
    cgroup: String,
    dirs: [&'a Path; 2],
}

impl Mark<'_> {
    /// Whether the process at `proc` (`/proc/<pid>`) is marked. A process may end between two reads: what
    /// cannot be read any more is not there.
    fn is_on(&self, proc: &Path) -> bool {
        let environment = fs::read(proc.join("environ")).unwrap_or_default();
        let mut entries = environment.split(|byte| *byte == 0);
        if entries.any(|entry| entry == self.environment.as_bytes()) {
            return true;
        }
        let cgroups = fs::read_to_string(proc.join("cgroup")).unwrap_or_default();
        if cgroups.contains(&self.cgroup) {
            return true;
        }
        holds_open(proc, &self.dirs)
    }
}

/// Whether the process at `proc` (`/proc/<pid>`) has something open below one of these folders.
pub fn holds_open(proc: &Path, dirs: &[&Path]) -> bool {
    let open = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
    let mut open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    open.any(|target| dirs.iter().any(|dir| target.starts_with(dir)))
}

/// Sends `signal` to `pid`.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {pid}"))
}

/// Sends SIGKILL to `pid` and waits until it is gone.
pub fn end(pid: i32) -> Result<()> {
    signal(pid, Signal::SIGKILL)?;
    wait_gone(pid, Duration::from_secs(60))
}

/// Waits until `pid` is no living process.
pub fn wait_gone(pid: i32, limit: Duration) -> Result<()> {
    eventually(limit, &format!("the end of process {pid}"), || Ok((!is_alive(pid)).then_some(())))
}

/// Whether `pid` is a living process; a zombie is none.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
    state.is_some_and(|state| state != "Z" && state != "X")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_the_word_after_it() {
        let argv = ["x/containerd-shim-runc-v2", "-namespace", "n", "-id", "c"];
        let name = "containerd-shim".to_owned();
        let process = Process { pid: 1, name, argv: argv.map(str::to_owned).to_vec() };
        assert_eq!(process.flag("-id"), Some("c"));
        assert_eq!(process.flag("-bundle"), None);
        assert_eq!(process.program(), "containerd-shim-runc-v2");
    }

    #[test]
    fn we_are_alive_and_pid_0_is_not() {
        assert!(is_alive(i32::try_from(std::process::id()).expect("small")));
        assert!(!is_alive(0));
    }
}
