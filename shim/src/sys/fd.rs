//! Moving bytes between descriptors without touching them, and asking the kernel how many there are.
//!
//! These are the calls that docs/adr/0002 builds exactness on: a move is one syscall, so a SIGKILL either
//! comes before or after it, and FIONREAD and SO_PEEK_OFF tell the successor which.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags};

use super::{Errno, Kernel, atomic::step};

/// What a non-blocking move came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes went over; never 0.
    Bytes(usize),
    /// Either end is not ready. The kernel does not say which: ask [`unread`].
    Blocked,
    /// The source has ended (or, for a FIFO that never had a writer, has not begun).
    End,
}

fn moved(result: Kernel<usize>) -> Kernel<Moved> {
    match result {
        Ok(0) => Ok(Moved::End),
        Ok(n) => Ok(Moved::Bytes(n)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Moved::Blocked),
        Err(e) => Err(e),
    }
}

/// splice(2) of at most `len` bytes, non-blocking.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Kernel<Moved> {
    step();
    moved(nix::fcntl::splice(from, None, to, None, len, SpliceFFlags::SPLICE_F_NONBLOCK))
}

/// tee(2) of at most `len` bytes from one pipe to another, non-blocking; consumes nothing.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Kernel<Moved> {
    step();
    moved(nix::fcntl::tee(from, to, len, SpliceFFlags::SPLICE_F_NONBLOCK))
}

nix::ioctl_read_bad!(
    /// FIONREAD: bytes that wait in a pipe or socket.
    fionread, libc::FIONREAD, libc::c_int
);

/// Bytes that wait unread in a pipe or socket (FIONREAD).
pub fn unread(fd: BorrowedFd<'_>) -> Kernel<usize> {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int through the pointer, which points to a live int.
    // JUSTIFICATION: nix has no safe form of FIONREAD.
    #[expect(unsafe_code, reason = "ioctl")]
    unsafe { fionread(fd.as_raw_fd(), &raw mut n) }?;
    Ok(usize::try_from(n).unwrap_or(0))
}

/// Sets SO_PEEK_OFF of a unix socket: the count that falls by exactly what is consumed, whoever consumes it.
pub fn set_peek_off(fd: BorrowedFd<'_>, value: i32) -> Kernel<()> {
    step();
    // SAFETY: the option value is an int of the size given; the kernel only reads it.
    // JUSTIFICATION: nix does not know SO_PEEK_OFF.
    #[expect(unsafe_code, reason = "setsockopt")]
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const value).cast(),
            INT_LEN,
        )
    };
    Errno::result(rc).map(drop)
}

/// Reads SO_PEEK_OFF of a unix socket; -1 where it was never set.
pub fn peek_off(fd: BorrowedFd<'_>) -> Kernel<i32> {
    let mut value: libc::c_int = 0;
    let mut len = INT_LEN;
    // SAFETY: value and len are live and of the sizes the kernel is told.
    // JUSTIFICATION: nix does not know SO_PEEK_OFF.
    #[expect(unsafe_code, reason = "getsockopt")]
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    Errno::result(rc).map(|_| value)
}

#[expect(clippy::cast_possible_truncation, reason = "the size of an int is 4")]
const INT_LEN: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

/// recv(2) with MSG_PEEK, non-blocking: how many bytes of `into` were filled. `None` where nothing waits.
pub fn peek(fd: BorrowedFd<'_>, into: &mut [u8]) -> Kernel<Option<usize>> {
    use nix::sys::socket::{MsgFlags, recv};
    match recv(fd.as_raw_fd(), into, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(n) => Ok(Some(n)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A non-blocking, close-on-exec pipe of default size: (read end, write end).
pub fn pipe() -> Kernel<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
}

/// Moves a descriptor to a number at or above `floor`, close-on-exec, so that low numbers stay free for hand-over. Where
/// no such number is left it stays where it is, unless that is stdio's.
pub fn raise(fd: OwnedFd, floor: i32) -> Kernel<OwnedFd> {
    if fd.as_raw_fd() >= floor {
        return Ok(fd);
    }
    match nix::fcntl::fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(floor)) {
        Ok(raised) => Ok(adopt(raised)),
        Err(_) if fd.as_raw_fd() > 2 => Ok(fd),
        Err(e) => Err(e),
    }
}

/// Takes ownership of a descriptor number that this process holds and nobody else owns: one that was inherited
/// by number over fork or exec, or just made by fcntl.
pub fn adopt(raw: i32) -> OwnedFd {
    // SAFETY: callers pass a number that is open in this process and owned by no other OwnedFd: numbers from the
    // slot table right after fork/exec (the table names each once), or a fresh F_DUPFD.
    // JUSTIFICATION: descriptors inherited by number have no safe constructor.
    #[expect(unsafe_code, reason = "inherited descriptors")]
    unsafe {
        OwnedFd::from_raw_fd(raw)
    }
}

/// The same file behind a description of its own: its locks are its own too.
pub fn reopen(fd: BorrowedFd<'_>) -> Kernel<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    nix::fcntl::open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

/// Is this number open in this process?
pub fn is_open(raw: i32) -> bool {
    if raw < 0 {
        return false;
    }
    // SAFETY: not -1, and the borrow lasts for one fcntl(F_GETFD), which is defined on any number.
    // JUSTIFICATION: asking about a number that may be closed has no safe form.
    #[expect(unsafe_code, reason = "probing a number")]
    let fd = unsafe { BorrowedFd::borrow_raw(raw) };
    nix::fcntl::fcntl(fd, FcntlArg::F_GETFD).is_ok()
}

/// Sets or clears close-on-exec.
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> Kernel<()> {
    let flag = if on { nix::fcntl::FdFlag::FD_CLOEXEC } else { nix::fcntl::FdFlag::empty() };
    nix::fcntl::fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop)
}

/// Marks every descriptor but stdio's to be closed by an exec: what is to go along is unmarked one by one.
pub fn close_all_on_exec() -> Kernel<()> {
    // SAFETY: close_range takes plain numbers; with CLOEXEC it closes nothing, it sets a flag.
    // JUSTIFICATION: nix has no close_range.
    #[expect(unsafe_code, reason = "close_range")]
    let rc = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(rc).map(drop)
}

/// Reads and forgets what waits in a pipe.
pub fn forget(fd: BorrowedFd<'_>) {
    step();
    let mut nowhere = [0u8; 4096];
    while matches!(nix::unistd::read(fd, &mut nowhere), Ok(1..)) {}
}

/// shutdown(2): acts at once on the connection, whatever duplicates of the descriptor exist.
pub fn shutdown(fd: BorrowedFd<'_>, how: nix::sys::socket::Shutdown) -> Kernel<()> {
    step();
    nix::sys::socket::shutdown(fd.as_raw_fd(), how)
}

/// flock(2), exclusive, non-blocking: false where another description holds it. The lock lives as long as any duplicate
/// of the description; it is never released explicitly, which would take it from the duplicates too.
pub fn try_lock(fd: BorrowedFd<'_>) -> Kernel<bool> {
    flock(fd, libc::LOCK_EX)
}

/// The same for one lock among several of its kind, as who only asks takes it.
pub fn try_lock_shared(fd: BorrowedFd<'_>) -> Kernel<bool> {
    flock(fd, libc::LOCK_SH)
}

fn flock(fd: BorrowedFd<'_>, kind: libc::c_int) -> Kernel<bool> {
    // SAFETY: flock takes plain numbers; the descriptor is live for the call.
    // JUSTIFICATION: nix's Flock unlocks in Drop, std's lock likewise belongs to a File that unlocks.
    #[expect(unsafe_code, reason = "flock")]
    let rc = unsafe { libc::flock(fd.as_raw_fd(), kind | libc::LOCK_NB) };
    match Errno::result(rc) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}
