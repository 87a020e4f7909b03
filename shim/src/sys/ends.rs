//! How a process ended that is not our child: asked of its pidfd, which was opened while it lived.
//!
//! The kernel keeps that in two places, one after the other. While nobody has reaped it, /proc shows the wait status of the
//! zombie, on every kernel, to its own user. From Linux 6.15 on the pidfd itself tells what was reaped (PIDFD_GET_INFO).
//! Nothing here waits: what neither says now is not known, and never guessed.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::unistd::Pid;

use super::{Errno, Kernel, process};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By this signal.
    Signal(i32),
    /// By itself, with this status, which is not 0.
    Exit(i32),
}

/// What is known of the end of the process `pid`, whose pidfd this is. `None` where the kernel does not tell, and also for an
/// exit status of 0: that is what /proc shows those who may not know.
pub fn of(pidfd: BorrowedFd<'_>, pid: Pid) -> Option<End> {
    let zombie = zombie_status(pid);
    // Looked at afterwards: a process that is not reaped now was not when its number was looked up, so the number was its own.
    let status = zombie.filter(|_| process::exists(pidfd)).or_else(|| reaped_status(pidfd).ok().flatten());
    status.and_then(End::of_wait_status)
}

/// The wait status that /proc/PID/stat ends with, of a zombie.
fn zombie_status(pid: Pid) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it stands in parentheses and may contain any character.
    let mut fields = stat.rsplit_once(") ")?.1.split_whitespace();
    let is_zombie = fields.next() == Some("Z");
    fields.next_back().filter(|_| is_zombie)?.parse().ok()
}

/// ioctl(PIDFD_GET_INFO): the wait status of a process that was reaped. ENOTTY before Linux 6.13, nothing before 6.15.
fn reaped_status(pidfd: BorrowedFd<'_>) -> Kernel<Option<i32>> {
    let wanted = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: all of its members are plain numbers, for which zero is a value; the kernel reads and writes at most as many bytes as
    // the request's number says, which is the size of this type.
    // JUSTIFICATION: no safe library knows this request yet, and libc makes its type only by zeroes.
    #[expect(unsafe_code, reason = "ioctl")]
    let (rc, info) = unsafe {
        let mut info: libc::pidfd_info = std::mem::zeroed();
        info.mask = wanted;
        (libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info), info)
    };
    Errno::result(rc)?;
    Ok((info.mask & wanted != 0).then_some(info.exit_code))
}

// === impl End ===

impl End {
    fn of_wait_status(status: i32) -> Option<Self> {
        match (status & 0x7f, (status >> 8) & 0xff) {
            (0, 0) => None,
            (0, exit) => Some(Self::Exit(exit)),
            (signal, _) => Some(Self::Signal(signal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::{AsFd, OwnedFd},
        process::{Child, Command},
    };

    use super::*;
    use crate::sys::epoll;

    /// A process that has ended so, not reaped yet.
    fn ended(how: &str) -> (Child, Pid, OwnedFd) {
        let child = Command::new("/bin/sh").args(["-c", how]).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let pidfd = process::pidfd(pid).unwrap();
        assert_eq!(epoll::readable_within(pidfd.as_fd(), 10_000), Ok(true));
        (child, pid, pidfd)
    }

    fn tells_of_the_reaped() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15)
    }

    #[test]
    fn an_end_is_known_from_the_zombie_and_on_new_kernels_after_it() {
        for (how, end) in
            [("kill -SEGV $$", End::Signal(11)), ("kill -9 $$", End::Signal(9)), ("exit 4", End::Exit(4))]
        {
            let (mut child, pid, pidfd) = ended(how);
            assert_eq!(of(pidfd.as_fd(), pid), Some(end), "{how}, a zombie");
            child.wait().unwrap();
            assert_eq!(of(pidfd.as_fd(), pid), tells_of_the_reaped().then_some(end), "{how}, reaped");
        }
    }

    #[test]
    fn who_lives_and_who_ended_well_have_no_end() {
        let ours = process::pidfd(Pid::this()).unwrap();
        assert_eq!(of(ours.as_fd(), Pid::this()), None);
        let (mut child, pid, pidfd) = ended("exit 0");
        assert_eq!(of(pidfd.as_fd(), pid), None);
        child.wait().unwrap();
        assert_eq!(of(pidfd.as_fd(), pid), None);
    }

    /// The number of a process that was reaped may be another one's.
    #[test]
    fn another_zombie_of_that_number_says_nothing() {
        let (mut reaped, _, pidfd) = ended("exit 4");
        reaped.wait().unwrap();
        let (mut other, number, _) = ended("kill -9 $$");
        assert_ne!(of(pidfd.as_fd(), number), Some(End::Signal(9)));
        other.wait().unwrap();
    }

    #[test]
    fn wait_statuses() {
        assert_eq!(End::of_wait_status(0), None);
        assert_eq!(End::of_wait_status(0x80 | 6), Some(End::Signal(6)), "with a core");
        assert_eq!(End::of_wait_status(4 << 8), Some(End::Exit(4)));
    }
}
