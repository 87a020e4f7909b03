//! The SOCK_SEQPACKET pair between keeper and worker: one message, at most [`FDS_MAX`] descriptors with it.
//!
//! Nothing here blocks: a full queue is EAGAIN, an empty one is `None`.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

use super::{Errno, Kernel, atomic::step, fd::adopt};

/// Most descriptors in one message.
pub const FDS_MAX: usize = 4;
/// Largest message in bytes.
pub const MESSAGE_MAX: usize = 1024;

/// A received message.
#[derive(Debug)]
pub enum Received {
    /// Bytes and the descriptors that came with them.
    Message(Vec<u8>, Vec<OwnedFd>),
    /// Nothing waits.
    Nothing,
    /// The other end is gone and nothing more will come.
    Closed,
}

/// socketpair(2), both ends non-blocking and close-on-exec.
pub fn pair() -> Kernel<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )
}

/// sendmsg(2), all or nothing.
pub fn send(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Kernel<()> {
    step();
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None).map(drop)
}

/// recvmsg(2) of one message of the pair; descriptors arrive close-on-exec.
pub fn receive(from: BorrowedFd<'_>) -> Kernel<Received> {
    receive_up_to(from, MESSAGE_MAX)
}

/// The same of at most `len` bytes, also from a stream socket.
pub fn receive_up_to(from: BorrowedFd<'_>, len: usize) -> Kernel<Received> {
    let mut bytes = vec![0u8; len];
    let mut control = nix::cmsg_space!([i32; FDS_MAX]);
    let mut fds = Vec::new();
    let n = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let got = match recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(got) => got,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
            // Said once, before what still waits here: the other end went without having read all of ours.
            Err(Errno::ECONNRESET) => return receive_up_to(from, len),
            Err(e) => return Err(e),
        };
        // Truncated control data (descriptors are short) leaves the message without them; the reader asks again.
        for message in got.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(raw) = message {
                fds.extend(raw.into_iter().map(adopt));
            }
        }
        got.bytes
    };
    // Every message of ours has at least its operation word, so an empty one is the end.
    if n == 0 {
        return Ok(Received::Closed);
    }
    bytes.truncate(n);
    Ok(Received::Message(bytes, fds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// The kernel reports the reset first, and the queue behind it would be lost with it.
    #[test]
    fn what_was_sent_before_an_end_arrives_although_the_end_came_with_unread_messages() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"unread", &[]).unwrap();
        send(theirs.as_fd(), b"a connection", &[ours.as_fd()]).unwrap();
        drop(theirs);
        let first = receive(ours.as_fd()).unwrap();
        assert!(
            matches!(&first, Received::Message(b, fds) if b == b"a connection" && fds.len() == 1),
            "{first:?}"
        );
        assert!(matches!(receive(ours.as_fd()), Ok(Received::Closed)));
    }
}
