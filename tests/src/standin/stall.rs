//! Makes a single thread of a process hang, without its having a hook for it: stopped by a tracer, or sent into an endless
//! loop at its program's entry, which nobody executes a second time.
//!
//! ptrace belongs to a thread: a stopped victim is held by a thread of its own here, which also reaps what becomes of
//! it, because the victim's parent sees the death only then.

use std::{
    fs,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    libc::AT_ENTRY,
    sys::{
        ptrace::{self, Options},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// The instruction that jumps to itself.
#[cfg(target_arch = "x86_64")]
const LOOP: (i64, i64) = (0xfeeb, 0xffff);
/// The instruction that jumps to itself.
#[cfg(target_arch = "aarch64")]
const LOOP: (i64, i64) = (0x1400_0000, 0xffff_ffff);

/// How often it is looked whether a held thread has died.
const LOOK: Duration = Duration::from_millis(10);

/// A thread that is held until this is dropped or it dies.
#[derive(Debug)]
pub struct Held {
    /// Dropped to let go.
    hold: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// The threads of a process that call themselves `name`.
///
/// # Errors
/// The process is gone.
pub fn threads(pid: Pid, name: &str) -> Result<Vec<Pid>> {
    let dir = Path::new("/proc").join(pid.to_string()).join("task");
    let entries = fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))?;
    let tids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    let is_it = |tid: &i32| {
        fs::read_to_string(dir.join(tid.to_string()).join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    Ok(tids.filter(is_it).map(Pid::from_raw).collect())
}

/// Sends a thread into an endless loop and leaves it alone.
///
/// # Errors
/// It cannot be traced.
pub fn spin(tid: Pid) -> Result<()> {
    let spun = thread::spawn(move || -> Result<()> {
        seize(tid)?;
        into_loop(tid)
    });
    spun.join().map_err(|_| anyhow!("the tracer panicked"))?
}

/// The same to a thread that the caller traces and that is stopped; it is let go.
///
/// # Errors
/// It is not traced by this thread, or not stopped.
pub(super) fn into_loop(tid: Pid) -> Result<()> {
    let entry = entry_of(tid)?;
    let there = ptrace::read(tid, entry as ptrace::AddressType).context("reading the entry")?;
    let word = (there & !LOOP.1) | LOOP.0;
    ptrace::write(tid, entry as ptrace::AddressType, word).context("writing the entry")?;
    go_to(tid, entry)?;
    ptrace::detach(tid, None).context("detaching")
}

/// Stops one thread; the others of its process go on.
///
/// # Errors
/// It cannot be traced.
pub fn hold(tid: Pid) -> Result<Held> {
    let (hold, is_held) = mpsc::channel::<()>();
    let (stopped, is_stopped) = mpsc::channel();
    let thread = thread::spawn(move || {
        // Nobody waits any more: the test is over.
        let _told = stopped.send(seize(tid));
        let gone = |status: &WaitStatus| matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        loop {
            match waitpid(tid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(status) if !gone(&status) => {}
                _ => return,
            }
            if is_held.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected) {
                let _let_go = ptrace::detach(tid, None);
                return;
            }
        }
    });
    is_stopped.recv().context("the tracer is gone")??;
    Ok(Held { hold: Some(hold), thread: Some(thread) })
}

fn seize(tid: Pid) -> Result<()> {
    ptrace::seize(tid, Options::empty()).with_context(|| format!("seizing {tid}"))?;
    ptrace::interrupt(tid).context("interrupting")?;
    let status = waitpid(tid, Some(WaitPidFlag::__WALL)).context("waiting for the stop")?;
    ensure!(matches!(status, WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)), "{status:?}");
    Ok(())
}

/// Where the program of a process was entered.
fn entry_of(tid: Pid) -> Result<usize> {
    let auxv = fs::read(format!("/proc/{tid}/auxv")).context("auxv")?;
    let words: Vec<u64> = auxv
        .chunks_exact(8)
        .map(|w| w.try_into().map(u64::from_ne_bytes))
        .collect::<Result<_, _>>()
        .context("auxv")?;
    let entry = words.chunks_exact(2).find(|pair| pair.first() == Some(&AT_ENTRY)).and_then(|p| p.get(1));
    Ok(usize::try_from(*entry.context("no entry in auxv")?)?)
}

#[cfg(target_arch = "x86_64")]
fn go_to(tid: Pid, entry: usize) -> Result<()> {
    let mut regs = ptrace::getregs(tid).context("registers")?;
    regs.rip = u64::try_from(entry)?;
    // No system call is to be taken up again.
    regs.orig_rax = u64::MAX;
    ptrace::setregs(tid, regs).context("registers")
}

#[cfg(target_arch = "aarch64")]
fn go_to(tid: Pid, entry: usize) -> Result<()> {
    let mut regs = ptrace::getregs(tid).context("registers")?;
    regs.pc = u64::try_from(entry)?;
    ptrace::setregs(tid, regs).context("registers")
}
