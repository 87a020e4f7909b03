//! Kills a process between two chosen syscalls, or does something else to it there, without its knowing anything of it.
//!
//! The tracer seizes one thread (of the wrapper's worker: the relay, whose tid is the pid), brings it to the
//! entry of the call in which it waits for work, and lets it go on syscall by syscall once the operation to be
//! disturbed has been sent. At the n-th stop the process gets SIGKILL: at an entry the call is not made any
//! more, at an exit it has been made and nothing of what follows. Sweeping n over all stops visits every place
//! where a death can leave the kernel and the process's own memory apart.
//!
//! Another [`Fault`] than SIGKILL takes hold when the thread comes back from that call, and is left to itself there.
//!
//! ptrace belongs to a thread: everything here runs on one of its own. The dead process is reaped by the tracer
//! at once, because its parent sees the death only then.

use std::{
    fmt, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::stall;
use crate::fault::Fault;

mod child;

pub use child::{Whose, arm_child};

/// Which side of a syscall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// Before the kernel has done anything.
    Entry,
    /// After the kernel is done, before the process knows.
    Exit,
}

/// One stop of the traced thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Number since the operation was let go, from 1.
    pub n: u32,
    /// Number of the system call on this architecture.
    pub call: i64,
    /// Before or after it.
    pub edge: Edge,
    /// What the call returned; meaningless at the entry.
    pub result: i64,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.edge {
            Edge::Entry => write!(f, "{}> {}", self.n, name(self.call)),
            Edge::Exit => write!(f, "{}< {} = {}", self.n, name(self.call), self.result),
        }
    }
}

/// What became of a traced operation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every stop, up to the death or to the end of the operation.
    pub stops: Vec<Stop>,
    /// Whether the process was killed (or what else was to befall it), at the last of them.
    pub killed: bool,
}

impl Outcome {
    /// Where it happened, without the number: `splice>` before that call, `splice<` after it.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        let last = self.stops.last().filter(|_| self.killed)?;
        let edge = if last.edge == Edge::Entry { '>' } else { '<' };
        Some(format!("{}{edge}", name(last.call)))
    }
}

/// A thread that stands before its waiting call and will be killed at a chosen stop.
#[derive(Debug)]
pub struct Armed {
    pid: Pid,
    go: Sender<()>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outcome>>,
}

/// Brings the main thread of `pid` to the entry of its waiting call; there it stays until [`Armed::go`].
/// It will be killed at stop number `at`.
///
/// # Errors
/// The process cannot be traced, or ended before it came to wait.
pub fn arm(pid: Pid, at: u32) -> Result<Armed> {
    arm_with(pid, at, Fault::Kill)
}

/// The same with anything that can befall a process.
///
/// # Errors
/// As [`arm`].
pub fn arm_with(pid: Pid, at: u32, fault: Fault) -> Result<Armed> {
    begin(pid, move |signs| trace(pid, (at, fault), signs))
}

/// What a tracing thread and the test say to each other.
struct Signs {
    ready: Sender<()>,
    go: Receiver<()>,
    over: Arc<AtomicBool>,
}

/// A thread that traces, and stands ready when this returns.
fn begin(pid: Pid, trace: impl FnOnce(&Signs) -> Result<Outcome> + Send + 'static) -> Result<Armed> {
    let (go, started) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let signs = Signs { ready, go: started, over: Arc::clone(&over) };
    let thread = thread::spawn(move || trace(&signs));
    if is_ready.recv().is_err() {
        let died = thread.join().map_err(|_| anyhow!("the tracer panicked"))?;
        return Err(died.err().unwrap_or_else(|| anyhow!("the tracer ended early")));
    }
    Ok(Armed { pid, go, over, thread })
}

impl Armed {
    /// Lets the thread run. To be called when the operation has been sent.
    ///
    /// # Errors
    /// The tracer is gone.
    pub fn go(&self) -> Result<()> {
        self.go.send(()).context("the tracer is gone")
    }

    /// Whether it has happened, or tracing has failed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the thread is killed, or waits for work with nothing left to do; then lets it go. To be
    /// called when the operation has been answered.
    ///
    /// # Errors
    /// Tracing failed, or the process ended otherwise.
    pub fn finish(self) -> Result<Outcome> {
        self.over.store(true, Ordering::SeqCst);
        // Wakes a thread that waits for nothing; ignored by default, and not delivered at all when traced.
        match kill(self.pid, Signal::SIGURG) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => return Err(e).context("waking the traced thread"),
        }
        self.thread.join().map_err(|_| anyhow!("the tracer panicked"))?
    }
}

/// Seizes the thread, brings it to the entry of its waiting call, and lets it go on from there once the operation was sent.
fn stand_ready(pid: Pid, options: Options, signs: &Signs) -> Result<()> {
    ptrace::seize(pid, options).with_context(|| format!("seizing {pid}"))?;
    ptrace::interrupt(pid).context("interrupting")?;
    loop {
        match next(pid)? {
            Event::Syscall(stop) if stop.edge == Edge::Entry && waits(stop.call) => break,
            _ => resume(pid)?,
        }
    }
    signs.ready.send(()).context("nobody waits for the tracer")?;
    if signs.go.recv().is_err() {
        ptrace::detach(pid, None).context("detaching")?;
        bail!("the operation was never sent");
    }
    resume(pid)
}

fn trace(pid: Pid, (at, fault): (u32, Fault), signs: &Signs) -> Result<Outcome> {
    stand_ready(pid, Options::PTRACE_O_TRACESYSGOOD, signs)?;
    let mut stops = Vec::new();
    loop {
        let Event::Syscall(mut stop) = next(pid)? else {
            resume(pid)?;
            continue;
        };
        let finishing = signs.over.load(Ordering::SeqCst);
        if finishing && stop.edge == Edge::Exit && waits(stop.call) && interrupted(stop.result) {
            ptrace::detach(pid, None).context("detaching")?;
            return Ok(Outcome { stops, killed: false });
        }
        stop.n = u32::try_from(stops.len())? + 1;
        stops.push(stop);
        if stop.n == at {
            befall(pid, fault)?;
            return Ok(Outcome { stops, killed: true });
        }
        if finishing && stop.edge == Edge::Entry && waits(stop.call) {
            // Comes back at once: with events if there are some, else interrupted.
            ptrace::interrupt(pid).context("interrupting")?;
        }
        resume(pid)?;
    }
}

/// Lets it happen to the thread that stands at a call, and lets go of what is left of it.
fn befall(pid: Pid, fault: Fault) -> Result<()> {
    let Some(signal) = fault.signal() else { return stall::into_loop(pid) };
    kill(pid, signal).with_context(|| fault.to_string())?;
    if fault == Fault::Kill {
        return reap(pid);
    }
    match ptrace::detach(pid, None) {
        // Somebody else has ended it meanwhile: a tracer makes it slow enough to be taken for hung.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e).context("detaching"),
    }
}

/// What a wait for the traced thread brought.
enum Event {
    Syscall(Stop),
    /// It has made a child that it waits for, which is traced as well.
    Child(Pid),
    /// A signal, or the interruption that we asked for.
    Other,
}

fn next(pid: Pid) -> Result<Event> {
    match waitpid(pid, Some(WaitPidFlag::__WALL)).context("waiting for the traced thread")? {
        WaitStatus::PtraceSyscall(_) => Ok(Event::Syscall(stop_of(pid)?)),
        WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_VFORK) => {
            let child = ptrace::getevent(pid).context("the child's number")?;
            Ok(Event::Child(Pid::from_raw(i32::try_from(child)?)))
        }
        WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => Ok(Event::Other),
        ended => bail!("the traced process ended: {ended:?}"),
    }
}

/// Where a thread stands, that is stopped at a system call; not yet counted.
fn stop_of(pid: Pid) -> Result<Stop> {
    let op = ptrace::syscall_info(pid).context("syscall info")?.op;
    let edge = if op == libc::PTRACE_SYSCALL_INFO_ENTRY { Edge::Entry } else { Edge::Exit };
    let (call, result) = registers(pid)?;
    Ok(Stop { n: 0, call, edge, result })
}

/// To the next entry or exit. Signals are not delivered: nobody but the tracer sends any here.
fn resume(pid: Pid) -> Result<()> {
    ptrace::syscall(pid, None).context("resuming")
}

fn reap(pid: Pid) -> Result<()> {
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).context("reaping")? {
            WaitStatus::Signaled(..) | WaitStatus::Exited(..) => return Ok(()),
            _ => {}
        }
    }
}

/// Number and result of the call that the thread is in.
#[cfg(target_arch = "x86_64")]
fn registers(pid: Pid) -> Result<(i64, i64)> {
    let regs = ptrace::getregs(pid).context("registers")?;
    Ok((regs.orig_rax.cast_signed(), regs.rax.cast_signed()))
}

/// Number and result of the call that the thread is in.
#[cfg(target_arch = "aarch64")]
fn registers(pid: Pid) -> Result<(i64, i64)> {
    let [result, .., call, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        ptrace::getregs(pid).context("registers")?.regs;
    Ok((call.cast_signed(), result.cast_signed()))
}

/// Whether a process waits for work at the moment, whoever asks.
#[must_use]
pub fn is_waiting(pid: Pid) -> bool {
    // Of one that runs, or would if it had a processor, no call is shown.
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split(' ').next().and_then(|number| number.parse().ok()).is_some_and(waits)
}

/// The calls in which a single-threaded loop waits for work.
fn waits(call: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if call == libc::SYS_epoll_wait || call == libc::SYS_poll {
        return true;
    }
    // read: for the plain programs on which the tracer itself is tested; restart_syscall: a poll that was interrupted, taken up again.
    call == libc::SYS_restart_syscall
        || call == libc::SYS_epoll_pwait
        || call == libc::SYS_epoll_pwait2
        || call == libc::SYS_ppoll
        || call == libc::SYS_read
}

/// EINTR, or one of the kernel's own codes for a call that will be restarted.
fn interrupted(result: i64) -> bool {
    result == -i64::from(libc::EINTR) || (-516..=-512).contains(&result)
}

/// The name of a system call; its number where it is none that a wrapper makes.
#[must_use]
pub fn name(call: i64) -> String {
    #[cfg(target_arch = "x86_64")]
    match call {
        libc::SYS_epoll_wait => return "epoll_wait".to_owned(),
        libc::SYS_poll => return "poll".to_owned(),
        libc::SYS_open => return "open".to_owned(),
        libc::SYS_unlink => return "unlink".to_owned(),
        libc::SYS_mkdir => return "mkdir".to_owned(),
        libc::SYS_rmdir => return "rmdir".to_owned(),
        libc::SYS_stat => return "stat".to_owned(),
        libc::SYS_lstat => return "lstat".to_owned(),
        libc::SYS_symlink => return "symlink".to_owned(),
        libc::SYS_readlink => return "readlink".to_owned(),
        _ => {}
    }
    let name = match call {
        libc::SYS_read => "read",
        libc::SYS_write => "write",
        libc::SYS_writev => "writev",
        libc::SYS_close => "close",
        libc::SYS_openat => "openat",
        libc::SYS_mknodat => "mknodat",
        libc::SYS_unlinkat => "unlinkat",
        libc::SYS_mkdirat => "mkdirat",
        libc::SYS_newfstatat => "newfstatat",
        libc::SYS_statx => "statx",
        libc::SYS_fstat => "fstat",
        libc::SYS_ioctl => "ioctl",
        libc::SYS_fcntl => "fcntl",
        libc::SYS_splice => "splice",
        libc::SYS_tee => "tee",
        libc::SYS_sendto => "sendto",
        libc::SYS_recvfrom => "recvfrom",
        libc::SYS_sendmsg => "sendmsg",
        libc::SYS_recvmsg => "recvmsg",
        libc::SYS_setsockopt => "setsockopt",
        libc::SYS_getsockopt => "getsockopt",
        libc::SYS_shutdown => "shutdown",
        libc::SYS_socket => "socket",
        libc::SYS_connect => "connect",
        libc::SYS_accept4 => "accept4",
        libc::SYS_pipe2 => "pipe2",
        libc::SYS_epoll_ctl => "epoll_ctl",
        libc::SYS_epoll_pwait => "epoll_pwait",
        libc::SYS_epoll_pwait2 => "epoll_pwait2",
        libc::SYS_ppoll => "ppoll",
        libc::SYS_eventfd2 => "eventfd2",
        libc::SYS_timerfd_settime => "timerfd_settime",
        libc::SYS_timerfd_gettime => "timerfd_gettime",
        libc::SYS_fallocate => "fallocate",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_mmap => "mmap",
        libc::SYS_munmap => "munmap",
        libc::SYS_mremap => "mremap",
        libc::SYS_madvise => "madvise",
        libc::SYS_mprotect => "mprotect",
        libc::SYS_brk => "brk",
        libc::SYS_futex => "futex",
        libc::SYS_clock_gettime => "clock_gettime",
        libc::SYS_getpid => "getpid",
        libc::SYS_getrandom => "getrandom",
        libc::SYS_geteuid => "geteuid",
        libc::SYS_getegid => "getegid",
        libc::SYS_clone => "clone",
        libc::SYS_clone3 => "clone3",
        libc::SYS_wait4 => "wait4",
        libc::SYS_restart_syscall => "restart_syscall",
        libc::SYS_rt_sigaction => "rt_sigaction",
        libc::SYS_rt_sigprocmask => "rt_sigprocmask",
        libc::SYS_sigaltstack => "sigaltstack",
        libc::SYS_set_robust_list => "set_robust_list",
        libc::SYS_sched_getaffinity => "sched_getaffinity",
        libc::SYS_getdents64 => "getdents64",
        libc::SYS_prctl => "prctl",
        libc::SYS_exit_group => "exit_group",
        libc::SYS_pidfd_open => "pidfd_open",
        libc::SYS_pidfd_send_signal => "pidfd_send_signal",
        other => return format!("syscall {other}"),
    };
    name.to_owned()
}
