//! Processes of a rig: how they are found and ended, by pid and never by name alone.
//!
//! Everything that a private containerd starts inherits its environment, so a mark in the environment
//! finds daemon, shims and wrappers; containers do not inherit it and are found by their cgroup.

use std::fs;
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
    /// Its arguments, the program first.
    pub argv: Vec<String>,
}

impl Process {
    /// Whether its first argument after the program is `word`, as it is for keeper and worker.
    pub fn is_role(&self, word: &str) -> bool {
        self.argv.get(1).is_some_and(|argument| argument == word)
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
/// of a cgroup.
pub fn marked(mark: &str) -> Result<Vec<Process>> {
    let wanted = format!("{MARK}={mark}");
    let in_cgroup = format!("/{mark}");
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let entry = entry.context("list /proc")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else { continue };
        if name == own {
            continue;
        }
        // A process may end between two reads: what cannot be read any more is not there.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let by_environment = environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes());
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if !by_environment && !cgroups.contains(&in_cgroup) {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.is_empty() {
            continue;
        }
        let argv = command
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        found.push(Process { pid, argv });
    }
    Ok(found)
}

/// Sends `signal` to `pid`.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {pid}"))
}

/// Sends SIGKILL to `pid` and waits until it is gone.
pub fn end(pid: i32) -> Result<()> {
    signal(pid, Signal::SIGKILL)?;
    wait_gone(pid, Duration::from_secs(10))
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
        let argv = ["x/containerd-shim-tap-v2", "tap-keeper", "-namespace", "n", "-id", "c"];
        let process = Process { pid: 1, argv: argv.map(str::to_owned).to_vec() };
        assert_eq!(process.flag("-id"), Some("c"));
        assert_eq!(process.flag("-bundle"), None);
        assert!(process.is_role("tap-keeper"));
        assert_eq!(process.program(), "containerd-shim-tap-v2");
    }

    #[test]
    fn we_are_alive_and_pid_0_is_not() {
        assert!(is_alive(i32::try_from(std::process::id()).expect("small")));
        assert!(!is_alive(0));
    }
}
