//! Becoming another image in place: one execve(2), so that a death comes either before it or after it.
//!
//! The process stays what it is (its number, its parent, its children, its cgroup); the descriptors that are named go
//! along under their numbers, every other one is closed. An image is an open descriptor, never a path.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::fcntl::{AtFlags, OFlag};

use super::{Errno, Kernel, fd};

/// The image that runs here, whatever happened to its path.
pub fn own() -> Kernel<OwnedFd> {
    nix::fcntl::open("/proc/self/exe", OFlag::O_RDONLY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

/// Runs `image` in this process. Comes back only where the kernel refuses, with everything as it was.
pub fn become_it(
    image: BorrowedFd<'_>,
    argv: &[String],
    env: &[(String, String)],
    keep: &[BorrowedFd<'_>],
) -> Errno {
    let text = |s: String| CString::new(s).map_err(|_| Errno::EINVAL);
    let argv: Kernel<Vec<CString>> = argv.iter().map(|a| text(a.clone())).collect();
    let env: Kernel<Vec<CString>> = env.iter().map(|(name, value)| text(format!("{name}={value}"))).collect();
    let (Ok(argv), Ok(env)) = (argv, env) else { return Errno::EINVAL };
    if let Err(errno) = fd::close_all_on_exec() {
        return errno;
    }
    for kept in keep {
        let _ = fd::set_cloexec(kept.as_fd(), false);
    }
    let refused = nix::unistd::execveat(image, c"", &argv, &env, AtFlags::AT_EMPTY_PATH);
    for kept in keep {
        let _ = fd::set_cloexec(kept.as_fd(), true);
    }
    match refused {
        Err(errno) => errno,
        Ok(never) => match never {},
    }
}
