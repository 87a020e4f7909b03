//! The child that writes spool files: made here, since only a keeper has one thread, and reaped here. It gets the block
//! and nothing else: a disk that hangs must not hold a descriptor of the pod's.

use std::os::fd::{AsFd, OwnedFd};

use nix::{
    sys::wait::{WaitPidFlag, waitpid},
    unistd::Pid,
};

use super::{FD_FLOOR, Keeper};
use crate::{
    spool,
    sys::{Errno, Kernel, fd, process},
};

/// The child at work, as far as this keeper made it: that of an earlier keeper holds its lock all the same.
pub(super) struct Spooler {
    pidfd: OwnedFd,
    pid: Pid,
}

impl Keeper {
    /// Makes one, unless there is one: EALREADY, whoever's child it is, and also where it is stuck in a disk for ever.
    pub(super) fn begin_spool(&mut self) -> Kernel<()> {
        if self.spooler.is_some() || spool::is_written(&self.block)? {
            return Err(Errno::EALREADY);
        }
        let Some(pid) = process::fork_worker()? else { self.become_spooler() };
        match process::pidfd(pid).and_then(|pidfd| fd::raise(pidfd, FD_FLOOR)) {
            Ok(pidfd) => {
                self.spooler = Some(Spooler { pidfd, pid });
                Ok(())
            }
            Err(errno) => {
                // Never one that cannot be reaped.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                let _ = waitpid(pid, None);
                Err(errno)
            }
        }
    }

    /// In the child: lets go of everything but the block, and goes on as the writer.
    fn become_spooler(&mut self) -> ! {
        self.slots.clear();
        self.spares.clear();
        drop((self.worker.take(), self.ready.take(), self.asked.take(), self.spooler.take()));
        std::process::exit(spool::main(self.block.memfd()))
    }

    /// It has ended.
    pub(super) fn reap_spooler(&mut self) {
        if let Some(spooler) = self.spooler.take() {
            let _ = waitpid(spooler.pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

impl Spooler {
    /// Readable when it has ended.
    pub(super) fn end(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
