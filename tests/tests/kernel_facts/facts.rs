//! One test per fact.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, Flock, FlockArg, OFlag, SpliceFFlags, fcntl, splice, tee},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg,
            sendmsg, socketpair,
        },
        stat::Mode,
        wait::WaitStatus,
    },
    unistd::{mkfifo, pipe2},
};

use super::{
    alone,
    sys::{Atomics, fionread, fork, peek_off, set_peek_off, shared_block},
};

/// Whatever there is, without waiting.
const ALL: usize = 1 << 20;

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).expect("pipe")
}

fn moved(from: &impl AsFd, to: &impl AsFd, most: usize) -> Result<usize, Errno> {
    splice(from, None, to, None, most, SpliceFFlags::SPLICE_F_NONBLOCK)
}

fn read_of(fd: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 16];
    let n = nix::unistd::read(fd, &mut bytes).expect("read");
    bytes.truncate(n);
    bytes
}

fn write_to(fd: &OwnedFd, bytes: &[u8]) {
    assert_eq!(nix::unistd::write(fd, bytes).expect("write"), bytes.len());
}

/// The events that are there now.
fn events(fd: &impl AsFd) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("poll");
    fds.first().and_then(PollFd::revents).expect("events")
}

/// A FIFO in a place of its own.
struct Fifo(PathBuf);

impl Fifo {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("shimtap-fact-{}-{name}", std::process::id()));
        mkfifo(&path, Mode::S_IRWXU).expect("mkfifo");
        Self(path)
    }

    fn open(&self, read: bool) -> OwnedFd {
        let mut options = OpenOptions::new();
        options.read(read).write(!read).custom_flags(libc::O_NONBLOCK);
        options.open(&self.0).expect("FIFO").into()
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn peek_off_falls_by_what_recv_takes() {
    let _alone = alone();
    let (mut from, to) = UnixStream::pair().expect("pair");
    from.write_all(&[7; 100]).expect("write");
    set_peek_off(&to, 90);
    let mut buffer = [0; 30];
    assert_eq!(recv(to.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT), Ok(30));
    assert_eq!(peek_off(&to), 60);
}

#[test]
fn peek_off_falls_by_what_splice_takes_over_several_buffers() {
    let _alone = alone();
    let (mut from, to) = UnixStream::pair().expect("pair");
    let (out, inn) = pipe();
    for piece in [10, 1, 500, 3_000] {
        from.write_all(&vec![1; piece]).expect("write");
    }
    set_peek_off(&to, 2_011);
    let mut left = 2_011;
    while left > 0 {
        let k = moved(&to, &inn, left).expect("splice");
        left -= k;
        assert_eq!(peek_off(&to), i32::try_from(left).expect("small"));
    }
    assert_eq!(fionread(&out), 2_011);
    assert_eq!(fionread(&to), 1_500);
}

#[test]
fn peek_off_moves_with_each_peek() {
    let _alone = alone();
    let (mut from, to) = UnixStream::pair().expect("pair");
    from.write_all(b"0123456789abcdef").expect("write");
    set_peek_off(&to, 0);
    let mut header = [0; 10];
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    assert_eq!(recv(to.as_raw_fd(), &mut header, peek), Ok(10));
    assert_eq!(&header, b"0123456789");
    assert_eq!(peek_off(&to), 10);
    assert_eq!(recv(to.as_raw_fd(), &mut header, peek), Ok(6));
    assert_eq!(header.get(..6), Some(&b"abcdef"[..]));
}

#[test]
fn peek_off_outlives_the_process_that_set_it() {
    let _alone = alone();
    let (mut from, to) = UnixStream::pair().expect("pair");
    let (out, inn) = pipe();
    from.write_all(&[3; 1_000]).expect("write");
    let child = fork(|| {
        set_peek_off(&to, 700);
        i32::from(moved(&to, &inn, 400) != Ok(400))
    });
    assert!(matches!(child.reap(), WaitStatus::Exited(_, 0)));
    assert_eq!(peek_off(&to), 300, "what is left is told by the kernel");
    assert_eq!(fionread(&out), 400, "and so is what was taken");
}

#[test]
fn fionread_of_pipes_is_exact_and_tee_takes_nothing() {
    let _alone = alone();
    let (private, to_private) = pipe();
    let (tap, to_tap) = pipe();
    let (outer, to_outer) = pipe();
    for n in 1..=8 {
        write_to(&to_private, &vec![n; usize::from(n) * 100]);
    }
    assert_eq!(fionread(&private), 3_600);
    assert_eq!(tee(&private, &to_tap, 1_234, SpliceFFlags::SPLICE_F_NONBLOCK), Ok(1_234));
    assert_eq!((fionread(&private), fionread(&tap)), (3_600, 1_234));
    assert_eq!(moved(&private, &to_outer, 1_234), Ok(1_234));
    assert_eq!((fionread(&private), fionread(&outer)), (2_366, 1_234));
    assert_eq!(read_of(&tap), read_of(&outer));
    assert_eq!((fionread(&tap), fionread(&outer)), (0, 0));
}

#[test]
fn splice_moves_out_of_a_fifo_and_says_what_is_missing() {
    let _alone = alone();
    let fifo = Fifo::new("splice");
    let reader = fifo.open(true);
    let (private, to_private) = pipe();
    assert_eq!(moved(&reader, &to_private, ALL), Ok(0), "no writer yet is no error, and is not end of file");
    assert_eq!(events(&reader), PollFlags::empty());
    let writer = fifo.open(false);
    assert_eq!(moved(&reader, &to_private, ALL), Err(Errno::EAGAIN));
    write_to(&writer, b"a line\n");
    assert_eq!(moved(&reader, &to_private, ALL), Ok(7));
    assert_eq!(read_of(&private), b"a line\n");
    drop(writer);
    assert_eq!(moved(&reader, &to_private, ALL), Ok(0));
    assert_eq!(events(&reader), PollFlags::POLLHUP);
}

#[test]
fn hang_up_belongs_to_the_description_and_not_to_the_path() {
    let _alone = alone();
    let fifo = Fifo::new("hup");
    let reader = fifo.open(true);
    assert_eq!(events(&reader), PollFlags::empty(), "before the first writer");
    drop(fifo.open(false));
    let duplicate = reader.try_clone().expect("dup");
    assert_eq!(events(&reader), PollFlags::POLLHUP);
    assert_eq!(events(&duplicate), PollFlags::POLLHUP, "a duplicate knows that a writer came and went");
    assert_eq!(events(&fifo.open(true)), PollFlags::empty(), "a reader that opens afterwards does not");
    let child = fork(|| i32::from(events(&duplicate) != PollFlags::POLLHUP));
    assert!(matches!(child.reap(), WaitStatus::Exited(_, 0)), "nor does it matter in which process");
}

#[test]
fn shutdown_acts_at_once_whatever_duplicates_there_are() {
    let _alone = alone();
    let (ours, mut peer) = UnixStream::pair().expect("pair");
    let duplicate = ours.try_clone().expect("dup");
    let child = fork(|| {
        nix::unistd::pause();
        0
    });
    ours.shutdown(Shutdown::Write).expect("shutdown");
    let mut buffer = [0; 1];
    assert_eq!(peer.read(&mut buffer).expect("end of file"), 0);
    ours.shutdown(Shutdown::Both).expect("shutdown");
    assert_eq!(peer.write(b"x").expect_err("nobody can read it").kind(), io::ErrorKind::BrokenPipe);
    assert!(events(&duplicate).contains(PollFlags::POLLHUP));
    child.kill();
}

#[test]
fn a_fifo_ends_when_the_last_writer_has_closed() {
    let _alone = alone();
    let fifo = Fifo::new("eof");
    let reader = fifo.open(true);
    let writer = fifo.open(false);
    write_to(&writer, b"x");
    let child = fork(|| {
        nix::unistd::pause();
        0
    });
    drop(writer);
    assert_eq!(read_of(&reader), b"x");
    assert_eq!(events(&reader), PollFlags::empty(), "the child's duplicate keeps it open");
    child.kill();
    assert_eq!(events(&reader), PollFlags::POLLHUP);
    assert!(read_of(&reader).is_empty());
}

/// Sends a descriptor. It allocates: in a forked child that rests on glibc, which makes its allocator usable there.
fn send_fd(over: RawFd, fd: RawFd) -> nix::Result<usize> {
    let fds = [fd];
    sendmsg::<()>(over, &[IoSlice::new(b"fd")], &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None)
}

#[expect(unsafe_code, reason = "a received descriptor is a bare number")]
fn receive_fd(over: RawFd) -> OwnedFd {
    let mut bytes = [0; 8];
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message =
        recvmsg::<()>(over, &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).expect("message");
    let control = message.cmsgs().expect("control messages").next();
    let Some(ControlMessageOwned::ScmRights(fds)) = control else {
        panic!("no descriptor came: {control:?}")
    };
    let fd = *fds.first().expect("one descriptor");
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[test]
fn a_queued_descriptor_survives_its_sender() {
    let _alone = alone();
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("pair");
    let (out, inn) = pipe();
    let child = fork(|| i32::from(send_fd(theirs.as_raw_fd(), inn.as_raw_fd()).is_err()));
    assert!(matches!(child.reap(), WaitStatus::Exited(_, 0)));
    drop((theirs, inn));
    assert_eq!(events(&out), PollFlags::empty(), "the message in the queue holds the pipe open");
    let received = receive_fd(ours.as_raw_fd());
    write_to(&received, b"still here");
    assert_eq!(read_of(&out), b"still here");
}

#[test]
fn a_pipe_holds_slots_and_not_bytes() {
    let _alone = alone();
    let (source, to_source) = pipe();
    let (full, to_full) = pipe();
    let (copy, to_copy) = pipe();
    let capacity = fcntl(&full, FcntlArg::F_GETPIPE_SZ).expect("size");
    let slots = usize::try_from(capacity).expect("size") / 4096;
    println!("{slots} slots");
    for _ in 0..slots {
        write_to(&to_source, b"a short line of twenty\n");
        assert_eq!(moved(&source, &to_full, ALL), Ok(23));
    }
    write_to(&to_source, b"one more\n");
    assert_eq!(moved(&source, &to_full, ALL), Err(Errno::EAGAIN), "{} bytes fill it", fionread(&full));
    assert_eq!(fionread(&full), slots * 23);
    assert_eq!(tee(&full, &to_copy, ALL, SpliceFFlags::SPLICE_F_NONBLOCK), Ok(slots * 23));
    assert_eq!(
        tee(&source, &to_copy, ALL, SpliceFFlags::SPLICE_F_NONBLOCK),
        Err(Errno::EAGAIN),
        "teed buffers take slots too"
    );
    assert_eq!(fionread(&copy), slots * 23);
}

#[derive(Default)]
struct Shared {
    step: AtomicU32,
}

// SAFETY: the one field is atomic.
#[expect(unsafe_code, reason = "a promise about all fields")]
unsafe impl Atomics for Shared {}

#[test]
fn a_lock_belongs_to_the_description_and_stays_with_a_forked_child() {
    let _alone = alone();
    let path = std::env::temp_dir().join(format!("shimtap-fact-{}-lock", std::process::id()));
    let open = || OpenOptions::new().create(true).append(true).open(&path).expect("lock file");
    let try_lock = || Flock::lock(open(), FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e);
    let block = shared_block::<Shared>();
    let (ended, end) = pipe();
    let mut file = Some(open());
    let parent = fork(|| {
        let Ok(lock) = Flock::lock(file.take().expect("just opened"), FlockArg::LockExclusiveNonblock) else {
            return 1;
        };
        // The grandchild holds the same description; it ends when the pipe does.
        let grandchild = fork(|| {
            block.step.store(1, Ordering::SeqCst);
            while block.step.load(Ordering::SeqCst) == 1 {
                std::hint::spin_loop();
            }
            0
        });
        std::mem::forget((grandchild, lock));
        0
    });
    assert!(matches!(parent.reap(), WaitStatus::Exited(_, 0)));
    drop((file, end));
    while block.step.load(Ordering::SeqCst) == 0 {
        std::hint::spin_loop();
    }
    assert_eq!(try_lock().err(), Some(Errno::EWOULDBLOCK), "held by the grandchild");
    block.step.store(2, Ordering::SeqCst);
    // The grandchild held the pipe's other end too: its end is the end of the grandchild.
    let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(5_000u16)).expect("poll"), 1, "the grandchild ends");
    drop(Flock::lock(open(), FlockArg::LockExclusive).expect("free now"));
    std::fs::remove_file(&path).expect("lock file");
}

#[test]
fn a_memfd_keeps_its_content_when_its_writer_dies() {
    let _alone = alone();
    let (ours, theirs) = UnixStream::pair().expect("pair");
    let memory = memfd_create(c"block", MFdFlags::MFD_CLOEXEC).expect("memfd");
    let mut file = File::from(memory);
    file.set_len(8_192).expect("size");
    let child = fork(|| {
        let Ok(k) = nix::sys::uio::pwrite(&file, b"state", 4_096) else { return 1 };
        if send_fd(theirs.as_raw_fd(), file.as_raw_fd()).is_err() {
            return 2;
        }
        nix::unistd::pause();
        i32::from(k != 5)
    });
    let mut received = File::from(receive_fd(ours.as_raw_fd()));
    child.kill();
    file.write_all(b"x").expect("the first descriptor is the same memory");
    drop(file);
    let mut content = Vec::new();
    io::Seek::rewind(&mut received).expect("seek");
    received.read_to_end(&mut content).expect("read");
    assert_eq!(content.len(), 8_192);
    assert_eq!(content.get(..1), Some(&b"x"[..]));
    assert_eq!(content.get(4_096..4_101), Some(&b"state"[..]));
}
