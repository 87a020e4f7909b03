//! The kernel facts that exactness stands on (docs/adr/0002), asked of this kernel in a few dozen microseconds.
//!
//! `start` asks before it puts anything between containerd and a shim; where one does not hold, it does not. The long form,
//! with processes that die, is the integration test `kernel_facts`.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::{
    Kernel,
    fd::{self, Moved},
};

/// Does all of it hold here? An errno is a no with a reason.
pub fn hold() -> Kernel<bool> {
    Ok(peek_off_falls_by_what_is_consumed()? && tee_copies_and_does_not_consume()?)
}

fn stream_pair() -> Kernel<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
}

/// SO_PEEK_OFF, set to a count, falls by what splice(2) takes from the socket; what it took is in the pipe.
fn peek_off_falls_by_what_is_consumed() -> Kernel<bool> {
    let (ours, theirs) = stream_pair()?;
    let (pipe_out, pipe_in) = fd::pipe()?;
    nix::unistd::write(&theirs, b"0123456789")?;
    fd::set_peek_off(ours.as_fd(), 7)?;
    let moved = fd::splice(ours.as_fd(), pipe_in.as_fd(), 4)?;
    Ok(moved == Moved::Bytes(4) && fd::peek_off(ours.as_fd())? == 3 && fd::unread(pipe_out.as_fd())? == 4)
}

fn tee_copies_and_does_not_consume() -> Kernel<bool> {
    let (from_out, from_in) = fd::pipe()?;
    let (to_out, to_in) = fd::pipe()?;
    nix::unistd::write(&from_in, b"abcd")?;
    let copied = fd::tee(from_out.as_fd(), to_in.as_fd(), 3)?;
    let left = (fd::unread(from_out.as_fd())?, fd::unread(to_out.as_fd())?);
    Ok(copied == Moved::Bytes(3) && left == (4, 3))
}

#[cfg(test)]
mod tests {
    #[test]
    fn they_hold_on_this_kernel() {
        assert_eq!(super::hold(), Ok(true));
    }
}
