//! Everything that talks to the kernel below the safe libraries: the only unsafe code of the wrapper.
//!
//! Each function here is one syscall (or a fixed few), says which, and returns the kernel's answer unchanged.
//! No policy lives here: who may wait, what is retried and what is given up is decided by the callers.

pub mod atomic;
pub mod ends;
pub mod epoll;
pub mod facts;
pub mod fd;
pub mod image;
pub mod launch;
pub mod look;
pub mod pair;
pub mod process;
pub mod shared;
pub mod timer;

pub use nix::errno::Errno;

/// A kernel answer: the value, or errno.
pub type Kernel<T> = Result<T, Errno>;

/// Nanoseconds of CLOCK_MONOTONIC; comparable between keeper and worker, and over their deaths.
pub fn monotonic_ns() -> u64 {
    clock_ns(nix::time::ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since the Unix epoch.
pub fn unix_ns() -> u64 {
    clock_ns(nix::time::ClockId::CLOCK_REALTIME)
}

fn clock_ns(clock: nix::time::ClockId) -> u64 {
    // The two clocks exist on every kernel; a failure would mean a seccomp filter, and then 0 ("unknown") is right.
    nix::time::clock_gettime(clock)
        .ok()
        .and_then(|t| {
            let secs = u64::try_from(t.tv_sec()).ok()?;
            secs.checked_mul(1_000_000_000)?.checked_add(u64::try_from(t.tv_nsec()).ok()?)
        })
        .unwrap_or(0)
}
