//! Ending by force an inner shim that does not answer, and what runs under it: its containers would run on with nobody to manage them.
//!
//! Never a process that is not certainly the shim's. The shim is stopped first, so that it makes and reaps none meanwhile; whoever is
//! its child then, and lives in another cgroup than the shim itself, is a container's. (A logger lives in the shim's own, and ends by
//! the end of its pipes.) Each is held by a pidfd from before it is looked at, so that its number cannot become another's.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::unistd::Pid;

use super::wrap::Description;
use crate::sys::{epoll, process};

/// How long a killed process may take to be gone.
const MOMENT_MS: u16 = 200;
/// Who loses its parent becomes the shim's, so one generation of a container without a pid namespace of its own goes after the other.
const GENERATIONS: usize = 8;

/// A process that cannot become another one while this is held.
struct Held {
    pid: Pid,
    pidfd: OwnedFd,
}

/// Ends the shim that serves that namespace and id with that binary, and its containers' processes.
pub fn end(description: &Description) {
    for shim in processes().filter_map(Held::of).filter(|shim| shim.is_inner(description)) {
        end_shim(&shim);
    }
}

fn end_shim(shim: &Held) {
    let _ = process::stop(shim.pidfd.as_fd());
    for _ in 0..GENERATIONS {
        let children = processes().filter_map(Held::of).filter(|p| p.is_container_of(shim));
        let children: Vec<Held> = children.collect();
        if children.is_empty() {
            break;
        }
        for child in &children {
            let _ = process::kill(child.pidfd.as_fd());
        }
        for child in &children {
            let _ = epoll::readable_within(child.pidfd.as_fd(), MOMENT_MS);
        }
    }
    let _ = process::kill(shim.pidfd.as_fd());
    let _ = epoll::readable_within(shim.pidfd.as_fd(), MOMENT_MS);
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

// === impl Held ===

impl Held {
    fn of(pid: Pid) -> Option<Self> {
        process::pidfd(pid).ok().map(|pidfd| Self { pid, pidfd })
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(Path::new("/proc").join(self.pid.to_string()).join(file)).unwrap_or_default()
    }

    /// The inner shim: that binary, that serves that namespace and id. Its own `start` and `delete` have the same arguments, and a
    /// verb behind them. What was read under its number was its own, since it is there afterwards.
    fn is_inner(&self, description: &Description) -> bool {
        let cmdline = self.read("cmdline");
        let words: Vec<&[u8]> = cmdline.split(|b| *b == 0).filter(|word| !word.is_empty()).collect();
        let has = |flag: &[u8], value: &str| words.windows(2).any(|w| w == [flag, value.as_bytes()]);
        let is_verb = words.last().is_some_and(|word| [&b"start"[..], b"delete"].contains(word));
        let same_binary = fs::read_link(format!("/proc/{}/exe", self.pid))
            .is_ok_and(|exe| exe.file_name() == description.inner_binary.file_name());
        let serves = has(b"-namespace", &description.namespace) && has(b"-id", &description.id);
        same_binary && serves && !is_verb && process::exists(self.pidfd.as_fd())
    }

    /// A child of the shim's, alive, in another cgroup; likewise.
    fn is_container_of(&self, shim: &Self) -> bool {
        let (own, shims) = (self.read("cgroup"), shim.read("cgroup"));
        let elsewhere = !own.is_empty() && own != shims;
        let there = |held: &Self| process::exists(held.pidfd.as_fd());
        elsewhere && self.is_living_child_of(shim.pid) && there(self) && there(shim)
    }

    fn is_living_child_of(&self, parent: Pid) -> bool {
        let stat = self.read("stat");
        let stat = String::from_utf8_lossy(&stat);
        // The name before it stands in parentheses and may contain any character.
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
        let lives = fields.next().is_some_and(|state| !matches!(state, "Z" | "X"));
        lives && fields.next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw) == Some(parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_child_is_one() {
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let held = Held::of(Pid::from_raw(i32::try_from(child.id()).unwrap())).unwrap();
        let ours = Held::of(Pid::this()).unwrap();
        assert!(held.is_living_child_of(Pid::this()));
        assert!(!held.is_living_child_of(Pid::parent()) && !ours.is_living_child_of(Pid::this()));
        assert!(!held.is_container_of(&ours), "it is in our own cgroup");
        child.kill().unwrap();
        assert_eq!(epoll::readable_within(held.pidfd.as_fd(), 10_000), Ok(true));
        assert!(!held.is_living_child_of(Pid::this()), "a zombie");
        child.wait().unwrap();
        assert!(!process::exists(held.pidfd.as_fd()));
    }

    #[test]
    fn a_verb_of_the_same_arguments_is_no_shim() {
        let named = |verb: &str| {
            let mut command = std::process::Command::new("/bin/sh");
            command.args(["-c", "echo; read end", "sh", "-namespace", "ns", "-id", "delete", verb]);
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            // It is that program from its first line on.
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
            let held = Held::of(Pid::from_raw(i32::try_from(child.id()).unwrap())).unwrap();
            (child, held)
        };
        let description = |id: &str| Description {
            version: 1,
            namespace: "ns".to_owned(),
            id: id.to_owned(),
            inner_socket: "/nowhere".into(),
            inner_binary: fs::canonicalize("/bin/sh").unwrap(),
            task_api: 2,
            keeper_pid: 0,
            starts_loggers: false,
            inner_build: String::new(),
        };
        for (verb, is) in [("delete", false), ("start", false), ("-address", true)] {
            let (mut child, held) = named(verb);
            assert_eq!(held.is_inner(&description("delete")), is, "{verb}");
            assert!(!held.is_inner(&description("other")), "another id");
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!held.is_inner(&description("delete")), "it is gone");
        }
    }
}
