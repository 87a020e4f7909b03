//! The child that writes spool files: made here, since only a keeper has one thread, and reaped here. It gets the block
//! and nothing else: a disk that hangs must not hold a descriptor of the pod's.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};

use super::{FD_FLOOR, Keeper};
use crate::{
    block::Block,
    spool,
    sys::{Errno, Kernel, fd, process},
};

/// The child at work, as far as this process made it: that of another keeper holds its lock all the same.
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
        // A keeper in a test's process is one thread of many, which must not go on alone in a child.
        if cfg!(any(test, fuzzing)) {
            return Err(Errno::EAGAIN);
        }
        let Some(pid) = process::fork_worker()? else { self.become_spooler() };
        match Spooler::of(pid) {
            Ok(spooler) => {
                self.note_spooler(pid.as_raw());
                self.spooler = Some(spooler);
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
            self.note_spooler(0);
        }
    }

    fn note_spooler(&self, pid: i32) {
        self.block.tables().spool.writer_pid.store(u32::try_from(pid).unwrap_or(0), Ordering::Release);
    }
}

impl Spooler {
    fn of(pid: Pid) -> Kernel<Self> {
        Ok(Self { pidfd: process::pidfd(pid).and_then(|pidfd| fd::raise(pidfd, FD_FLOOR))?, pid })
    }

    /// The one that this process made before it became the image that it is. Another process's child is not ours to watch,
    /// and what was ended meanwhile is reaped here.
    pub(super) fn adopt(block: &Block) -> Option<Self> {
        let tables = block.tables();
        let pid = tables.spool.writer_pid.load(Ordering::Acquire);
        if pid == 0 || pid == tables.worker_pid.load(Ordering::Acquire) {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(pid).ok()?);
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => Self::of(pid).ok(),
            _ => None,
        }
    }

    /// Readable when it has ended.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
