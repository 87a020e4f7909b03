//! A countdown that several processes share: whoever holds a duplicate may set it, and all see it run out.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::{Errno, Kernel};

/// timerfd_create(2), CLOCK_MONOTONIC, non-blocking, close-on-exec, not running.
pub fn countdown() -> Kernel<OwnedFd> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map(OwnedFd::from)
}

/// timerfd_settime(2): runs out once, in `ns`; 0 stops it. An earlier running out is forgotten.
pub fn set(timer: BorrowedFd<'_>, ns: u64) -> Kernel<()> {
    let mut value = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec { tv_sec: 0, tv_nsec: 0 },
    };
    value.it_value.tv_sec = (ns / 1_000_000_000).try_into().map_err(|_| Errno::EINVAL)?;
    value.it_value.tv_nsec = (ns % 1_000_000_000).try_into().map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads one itimerspec through the pointer, which points to a live one; no old value is asked for.
    // JUSTIFICATION: nix sets timers only through a type that owns the descriptor, and this one is shared by slot.
    #[expect(unsafe_code, reason = "timerfd_settime")]
    let rc = unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const value, std::ptr::null_mut()) };
    Errno::result(rc).map(drop)
}

/// The same, but never later than it would run out already; one that has run out stays so.
pub fn set_sooner(timer: BorrowedFd<'_>, ns: u64) -> Kernel<()> {
    if left_ns(timer)? <= ns { Ok(()) } else { set(timer, ns) }
}

/// Until it runs out; 0 where it has, or does not run.
fn left_ns(timer: BorrowedFd<'_>) -> Kernel<u64> {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut value = libc::itimerspec { it_interval: zero, it_value: zero };
    // SAFETY: the kernel writes one itimerspec through the pointer, which points to a live one.
    // JUSTIFICATION: as for setting it.
    #[expect(unsafe_code, reason = "timerfd_gettime")]
    let rc = unsafe { libc::timerfd_gettime(timer.as_raw_fd(), &raw mut value) };
    Errno::result(rc)?;
    let seconds = u64::try_from(value.it_value.tv_sec).unwrap_or(0);
    Ok(seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(value.it_value.tv_nsec).unwrap_or(0)))
}

/// Has it run out since it was last set or asked?
pub fn has_run_out(timer: BorrowedFd<'_>) -> bool {
    nix::unistd::read(timer, &mut [0u8; 8]).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::epoll::readable_within;

    #[test]
    fn a_countdown_runs_out_once_unless_it_is_set_again() {
        let timer = countdown().unwrap();
        let timer = timer.as_fd();
        assert_eq!(readable_within(timer, 0), Ok(false), "not running");
        set(timer, 1_000_000).unwrap();
        assert_eq!(readable_within(timer, 10_000), Ok(true));
        set(timer, 3_600_000_000_000).unwrap();
        assert!(!has_run_out(timer), "set again, the earlier end is forgotten");
        set(timer, 1_000_000).unwrap();
        assert_eq!(readable_within(timer, 10_000), Ok(true));
        assert!(has_run_out(timer) && !has_run_out(timer));
    }

    #[test]
    fn a_countdown_that_is_set_sooner_never_runs_out_later() {
        let timer = countdown().unwrap();
        let timer = timer.as_fd();
        let hour = 3_600_000_000_000;
        set(timer, hour).unwrap();
        set_sooner(timer, 2 * hour).unwrap();
        assert!(left_ns(timer).unwrap() <= hour, "not later");
        set_sooner(timer, 1_000_000).unwrap();
        assert_eq!(readable_within(timer, 10_000), Ok(true), "sooner");
        set_sooner(timer, hour).unwrap();
        assert!(has_run_out(timer), "what has run out is not forgotten");
    }
}
