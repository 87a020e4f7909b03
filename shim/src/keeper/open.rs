//! Opening FIFOs and sockets: never a blocking open, never a path that is not what it should be.

use std::{
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    fcntl::{OFlag, open},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
        stat::{Mode, SFlag, fstat},
    },
    unistd::mkfifo,
};

use crate::{
    block::Identity,
    run_dir::RunDir,
    sys::{Errno, Kernel},
};

const OPEN: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_CLOEXEC).union(OFlag::O_NOCTTY);

/// Makes our FIFO where it is missing and opens its reader. The description is the flag for "a writer was here", so
/// it is never opened by path a second time (reference: epoll reports EPOLLHUP per open file description).
pub fn inner_fifo(path: &str) -> Kernel<OwnedFd> {
    match mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(e),
    }
    let reader = open(path, OPEN | OFlag::O_RDONLY | OFlag::O_NOFOLLOW, Mode::empty())?;
    fifo(reader)
}

/// Opens containerd's FIFO for reading, which never blocks: it keeps what is in it while containerd restarts, and lets
/// the writer be opened whoever reads.
pub fn outer_reader(path: &str) -> Kernel<OwnedFd> {
    fifo(open(path, OPEN | OFlag::O_RDONLY, Mode::empty())?)
}

/// Opens the same FIFO for writing: by its reader, so that it is the same whatever its path names by now. Never blocks,
/// since there is a reader.
pub fn outer_writer(reader: BorrowedFd<'_>) -> Kernel<OwnedFd> {
    let same = format!("/proc/self/fd/{}", reader.as_raw_fd());
    open(same.as_str(), OPEN | OFlag::O_WRONLY, Mode::empty())
}

/// Connects to the inner shim. A full backlog is EAGAIN, nobody there ECONNREFUSED or ENOENT; the latter also where the
/// path has become the socket of a later shim.
pub fn inner_socket(who: &Identity) -> Kernel<OwnedFd> {
    let path = who.inner_path.get();
    if !RunDir::is_still(Path::new(&path), &who.key.get()) {
        return Err(Errno::ENOENT);
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path.as_bytes())?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn fifo(fd: OwnedFd) -> Kernel<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFIFO { Ok(fd) } else { Err(Errno::ESPIPE) }
}
