//! The few calls that nix does not have or cannot make safe: two socket options, FIONREAD, fork, shared memory.
//!
//! A forked child here may only make system calls and touch what was mapped before: the test process has other
//! threads, whose locks (the allocator's among them) may be held for ever in the child.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    libc,
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many bytes can be read: of a pipe, all that it holds.
#[expect(unsafe_code, reason = "nix has the ioctl only as a macro that makes an unsafe function")]
pub fn fionread(fd: &impl AsFd) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call, and FIONREAD stores one int where `n` is.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut n) };
    checked(result).expect("FIONREAD of a pipe or socket");
    usize::try_from(n).expect("a count is not negative")
}

/// Sets SO_PEEK_OFF: where the next peek begins.
#[expect(unsafe_code, reason = "nix does not know the option")]
pub fn set_peek_off(fd: &impl AsFd, offset: usize) {
    let value = libc::c_int::try_from(offset).expect("offsets here are small");
    let size = libc::socklen_t::try_from(size_of_val(&value)).expect("size of an int");
    let at = (&raw const value).cast();
    // SAFETY: `at` points to an int that lives until the call returns, and `size` is its size.
    let result =
        unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, at, size) };
    checked(result).expect("setting SO_PEEK_OFF");
}

/// Gets SO_PEEK_OFF; -1 is off.
#[expect(unsafe_code, reason = "nix does not know the option")]
pub fn peek_off(fd: &impl AsFd) -> i32 {
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&value)).expect("size of an int");
    let at = (&raw mut value).cast();
    // SAFETY: `at` points to an int and `size` says so; both live until the call returns.
    let result = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, at, &raw mut size)
    };
    checked(result).expect("getting SO_PEEK_OFF");
    value
}

/// Zeroed memory that stays the same memory in forked children. Given back at the end of the process.
#[expect(unsafe_code, reason = "shared memory")]
pub fn shared(bytes: usize) -> &'static mut [u8] {
    let length = NonZeroUsize::new(bytes).expect("some memory");
    let (prot, flags) =
        (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE);
    // SAFETY: no address is asked for, so nothing that exists is replaced.
    let at = unsafe { mmap_anonymous(None, length, prot, flags) }.expect("mapping shared memory");
    // SAFETY: the mapping is readable, writable, zeroed, `bytes` long and never undone; nobody else has its address.
    unsafe { std::slice::from_raw_parts_mut(at.cast().as_ptr(), bytes) }
}

/// A value made of atomics in shared memory, all bits zero.
#[expect(unsafe_code, reason = "shared memory")]
pub fn shared_block<T: Atomics>() -> &'static T {
    let at: *mut T = shared(size_of::<T>().max(4096)).as_mut_ptr().cast();
    // SAFETY: the memory is large enough, aligned to a page, zeroed (a valid value by the contract of Atomics)
    // and never undone; all access is atomic.
    unsafe { &*at }
}

/// # Safety
/// Every field is an atomic integer or bool, so that zeroes are a value and sharing between processes is sound.
#[expect(unsafe_code, reason = "a promise about all fields")]
pub unsafe trait Atomics {}

/// A forked child; killed and reaped when dropped.
pub struct Child(Option<Pid>);

/// Runs `body` in a child of its own, which ends with the status that it returns.
#[expect(unsafe_code, reason = "fork")]
pub fn fork(body: impl FnOnce() -> i32) -> Child {
    // SAFETY: see the module: bodies only make system calls and use memory mapped beforehand.
    match unsafe { libc::fork() } {
        0 => {
            let status = body();
            // SAFETY: ends this process at once; no destructor of the test process's state runs in the child.
            unsafe { libc::_exit(status) }
        }
        pid if pid > 0 => Child(Some(Pid::from_raw(pid))),
        _ => panic!("fork: {}", io::Error::last_os_error()),
    }
}

impl Child {
    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) -> WaitStatus {
        let pid = self.0.take().expect("a child is reaped once");
        kill(pid, Signal::SIGKILL).expect("our own child");
        waitpid(pid, None).expect("our own child")
    }

    /// Waits for the end.
    pub fn reap(mut self) -> WaitStatus {
        let pid = self.0.take().expect("a child is reaped once");
        waitpid(pid, None).expect("our own child")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            // A test that failed meanwhile leaves nothing behind; a second failure here would hide the first.
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}
