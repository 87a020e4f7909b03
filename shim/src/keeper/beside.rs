//! What must not be lost with its doer: descriptors whose making is noticed by somebody else.
//!
//! accept(2) takes a connection out of the queue, and the first writer of a FIFO lets its reader in: a keeper that is killed
//! before it has handed such a descriptor on would take it along, and the other side would see an end (docs/adr/0008).
//! So a child makes it and hands it on, that shares the keeper's table of descriptors while it lives: for either to be killed
//! leaves it with the other.

use std::{
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use crate::sys::{Errno, Kernel, fd, process};

/// Exit status of a child that has made it and could not tell the worker; no errno has this number.
const UNTOLD: i32 = 255;

/// Makes a descriptor and tells of it; whether that was told. EINTR: the child was killed before it had made it.
pub(super) fn make(
    template: &OwnedFd,
    make: impl Fn() -> Kernel<OwnedFd>,
    tell: impl Fn(&OwnedFd) -> bool,
) -> Kernel<(OwnedFd, bool)> {
    // The lowest free number: whatever the child comes to, what it made is there or nowhere.
    let number = process::duplicate(template.as_fd())?.as_raw_fd();
    let work = || match make() {
        // Not closed by the child: the table is the keeper's as well.
        Ok(made) => {
            let made = ManuallyDrop::new(made);
            if tell(&made) { 0 } else { UNTOLD }
        }
        Err(errno) => errno as i32,
    };
    // A keeper in a test's process is one thread of many, which must not go on alone in a child.
    let in_threads = cfg!(any(test, fuzzing));
    let ended = if in_threads { Err(Errno::EAGAIN) } else { process::with_shared_descriptors(work) };
    match ended {
        Ok(status) if fd::is_open(number) => Ok((fd::adopt(number), status == Some(0))),
        Ok(None | Some(0 | UNTOLD)) => Err(Errno::EINTR),
        Ok(Some(errno)) => Err(Errno::from_raw(errno)),
        // Processes are refused: then alone.
        Err(_) => Ok((make()?, false)),
    }
}
