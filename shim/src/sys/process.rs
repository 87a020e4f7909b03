//! Making keepers and workers, and the process attributes both need.
//!
//! A worker is a plain fork of the single-threaded keeper: nothing to look up, nothing to load, descriptors keep
//! their numbers. A keeper is always an exec of our own image through /proc/self/exe, which also works when the
//! file on disk was replaced or removed.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

use super::{Errno, Kernel, fd};

/// The image that runs, whatever happened to its path.
const OWN_IMAGE: &CStr = c"/proc/self/exe";

/// fork(2) from a single-threaded process: `None` in the child.
pub fn fork_worker() -> Kernel<Option<Pid>> {
    // SAFETY: the keeper has one thread, so the child may go on with everything, allocation included.
    // JUSTIFICATION: a successor that needs neither a path nor an exec cannot fail for a missing binary.
    #[expect(unsafe_code, reason = "fork")]
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// fork(2) by the kernel alone, with `flags` for clone(2); `None` in the child. libc's fork waits until no other thread is inside its
/// allocator, where the one that speaks to the collector may stand still: this one waits for nobody.
///
/// # Safety
/// In a process with other threads the child may only do async-signal-safe calls, on memory that was prepared before.
/// `flags` must not share memory.
// JUSTIFICATION: no library offers a fork without libc's handlers, or with flags.
#[expect(unsafe_code, reason = "clone")]
pub(super) unsafe fn bare_fork(flags: i32) -> Kernel<Option<Pid>> {
    // SAFETY: without CLONE_VM and with no stack given this is fork(2); for what the child does the caller stands.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0usize, 0usize, 0usize, 0usize) };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid => i32::try_from(pid).map(|pid| Some(Pid::from_raw(pid))).map_err(|_| Errno::ESRCH),
    }
}

/// Runs `work` in a child that shares this process's table of descriptors and nothing else, and waits for its end: what
/// either opens, both have, and either's death leaves it with the other. `Some(exit status)`, or `None` where it was killed.
/// To be called with one thread.
pub fn with_shared_descriptors(work: impl FnOnce() -> i32) -> Kernel<Option<i32>> {
    // SAFETY: this process has one thread, so the child may go on with everything; it never returns from here.
    // JUSTIFICATION: shared descriptors alone outlive the death of either side.
    #[expect(unsafe_code, reason = "clone")]
    let child = unsafe { bare_fork(libc::CLONE_FILES | libc::CLONE_VFORK) }?;
    let Some(pid) = child else {
        let _ = nix::sys::prctl::set_name(c"tap-accept");
        let status = work();
        // SAFETY: ends this process at once; nothing of its parent's is flushed or run twice.
        // JUSTIFICATION: std's exit would run what belongs to the parent.
        #[expect(unsafe_code, reason = "_exit")]
        unsafe {
            libc::_exit(status)
        }
    };
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(Some(status)),
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return Ok(None),
        }
    }
}

/// Runs our own image detached: own session, stdio on /dev/null, `inherit` kept under their own numbers, every
/// other descriptor closed. Returns the child's pid; the child is not waited for.
pub fn spawn_self(argv: &[String], env: &[(String, String)], inherit: &[BorrowedFd<'_>]) -> Kernel<Pid> {
    let text = |s: &str| CString::new(s.as_bytes()).map_err(|_| Errno::EINVAL);
    let argv: Vec<CString> = argv.iter().map(|a| text(a)).collect::<Kernel<_>>()?;
    let env: Vec<CString> = env.iter().map(|(k, v)| text(&format!("{k}={v}"))).collect::<Kernel<_>>()?;
    let argv: Vec<&CStr> = argv.iter().map(CString::as_c_str).collect();
    let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();
    let argv_raw = pointers(&argv);
    let env_raw = pointers(&env);
    let inherit: Vec<i32> = inherit.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: the child does only async-signal-safe calls on memory prepared above (see `become_image`) and never returns.
    // JUSTIFICATION: std's Command cannot keep a set of descriptors under their numbers.
    #[expect(unsafe_code, reason = "clone")]
    match unsafe { bare_fork(0) }? {
        Some(child) => Ok(child),
        None => become_image(&argv_raw, &env_raw, &inherit),
    }
}

fn pointers(strings: &[&CStr]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The child's side of `spawn_self`: only async-signal-safe calls, no allocation.
fn become_image(argv: &[*const libc::c_char], env: &[*const libc::c_char], inherit: &[i32]) -> ! {
    // SAFETY: every call is async-signal-safe; argv and env are null-terminated arrays of C strings that live in the
    // parent's copied memory; failures of the set-up calls leave less comfort, not undefined behaviour.
    // JUSTIFICATION: this is the exec of a keeper.
    #[expect(unsafe_code, reason = "between fork and exec")]
    unsafe {
        libc::setsid();
        // In the place of one that goes: at the limit of descriptors there is no other. Who cannot let go of the pipe that
        // containerd reads to its end must not live on.
        libc::close(0);
        if libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) != 0
            || libc::dup2(0, 1) != 1
            || libc::dup2(0, 2) != 2
        {
            libc::_exit(127);
        }
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for fd in inherit {
            libc::fcntl(*fd, libc::F_SETFD, 0);
        }
        libc::execve(OWN_IMAGE.as_ptr(), argv.as_ptr(), env.as_ptr());
        libc::_exit(127)
    }
}

/// Ignores what must not end a keeper or worker before its pod. A fault ends it at once, and as the signal that it is:
/// Rust's runtime would take the first SIGSEGV or SIGBUS for a stack overflow's.
pub fn ignore_signals() {
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        dispose(signal, SigHandler::SigDfl, SaFlags::empty());
    }
    let ignored = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        // A limit on the size of files is an errno to the spool.
        Signal::SIGXFSZ,
    ];
    for signal in ignored {
        dispose(signal, SigHandler::SigIgn, SaFlags::empty());
    }
}

/// The kernel reaps our children; nobody here asks how they ended.
pub fn let_children_go() {
    dispose(Signal::SIGCHLD, SigHandler::SigIgn, SaFlags::SA_NOCLDWAIT);
}

/// Our children wait to be asked how they ended.
pub fn reap_children_ourselves() {
    dispose(Signal::SIGCHLD, SigHandler::SigDfl, SaFlags::empty());
}

fn dispose(signal: Signal, handler: SigHandler, flags: SaFlags) {
    let action = SigAction::new(handler, flags, SigSet::empty());
    // SAFETY: neither SIG_IGN nor SIG_DFL is a handler of ours, so nothing of ours runs in signal context.
    // JUSTIFICATION: sigaction is unsafe for the sake of handlers.
    #[expect(unsafe_code, reason = "sigaction")]
    let _ = unsafe { sigaction(signal, &action) };
}

/// A descriptor on which this signal arrives instead of interrupting anything. To be called with one thread.
pub fn take_by_descriptor(signal: Signal) -> Kernel<SignalFd> {
    let mut set = SigSet::empty();
    set.add(signal);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The state letter of a process in stat(5): `S` for one that waits for work. `None` where it is gone or cannot be seen.
/// Asking does not wake it.
pub fn state_of(pid: Pid) -> Option<char> {
    state_in(&format!("/proc/{pid}/stat"))
}

/// Is the process of that number there? One that has ended and was not waited for is not; 0 is nobody's.
pub fn lives(pid: u32) -> bool {
    let state = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(|pid| state_of(Pid::from_raw(pid)));
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The same of one of our own threads.
pub fn state_of_thread(tid: i32) -> Option<char> {
    state_in(&format!("/proc/self/task/{tid}/stat"))
}

fn state_in(path: &str) -> Option<char> {
    // The name before it stands in parentheses and may contain any character.
    std::fs::read_to_string(path).ok()?.rsplit_once(") ")?.1.chars().next()
}

/// Names the calling thread (`ps -o comm`), forbids core dumps of this process.
pub fn set_name_and_undumpable(name: &CStr) {
    let _ = nix::sys::prctl::set_name(name);
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Lets the kernel serve timers of this thread, and of those that it starts, up to 2 ms late, together with others that
/// fall due then: a node runs hundreds of wrappers.
pub fn set_lenient_timers() {
    let _ = nix::sys::prctl::set_timerslack(2_000_000);
}

/// pidfd_open(2): readable when the process has ended.
pub fn pidfd(pid: Pid) -> Kernel<OwnedFd> {
    // SAFETY: pidfd_open takes plain numbers and returns a new descriptor (close-on-exec by definition) or -1.
    // JUSTIFICATION: neither std nor nix opens pidfds.
    #[expect(unsafe_code, reason = "pidfd_open")]
    unsafe {
        let raw = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0u32);
        let raw = Errno::result(raw)?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(raw).map_err(|_| Errno::EBADF)?))
    }
}

/// SIGKILL through a pidfd: never hits a process that took over the number.
pub fn kill(pidfd: BorrowedFd<'_>) -> Kernel<()> {
    send(pidfd, libc::SIGKILL)
}

/// SIGSTOP, likewise.
pub fn stop(pidfd: BorrowedFd<'_>) -> Kernel<()> {
    send(pidfd, libc::SIGSTOP)
}

/// Is there still a process, if only a zombie? Then its number was its own until now.
pub fn exists(pidfd: BorrowedFd<'_>) -> bool {
    send(pidfd, 0).is_ok()
}

/// pidfd_send_signal(2).
fn send(pidfd: BorrowedFd<'_>, signal: i32) -> Kernel<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: plain numbers and a null siginfo, as the call allows.
    // JUSTIFICATION: neither std nor nix sends through pidfds.
    #[expect(unsafe_code, reason = "pidfd_send_signal")]
    let rc = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0u32) };
    Errno::result(rc).map(drop)
}

/// Raises the soft descriptor limit to the hard one: containerd 2.x units leave it at 1024.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The command is killed when we are: a SIGKILL of ours must hit what we stand in for. What it forks is not.
pub fn die_with_us(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let set = || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one prctl call, which is async-signal-safe.
    // JUSTIFICATION: pre_exec is unsafe for what a closure might do.
    #[expect(unsafe_code, reason = "pre_exec")]
    unsafe {
        command.pre_exec(set);
    }
}

/// How many descriptors a process of ours may have at most: what [`raise_descriptor_limit`] raises it to. `None`: nobody says.
pub fn most_descriptors() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard)
}

/// Raises our oom_score_adj by one, as Go shims do relative to containerd: raising needs no right, and where it is
/// refused all the same we live on with containerd's own.
pub fn be_easier_to_spare() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(now) = now.filter(|now| *now < 1000) {
        let _ = std::fs::write(FILE, now.saturating_add(1).to_string());
    }
}

/// Lets everybody else have the processor before the calling thread (nice +10).
pub fn yield_to_others() {
    // SAFETY: plain numbers; `who` 0 is the calling thread on Linux.
    // JUSTIFICATION: neither std nor nix sets priorities.
    #[expect(unsafe_code, reason = "setpriority")]
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Becomes another program, with the environment, descriptors and signal mask that this process was given, as if it had
/// never run (std's exec would unblock what was blocked). Returns only why not.
pub fn become_program(program: &std::path::Path, arguments: &[String]) -> Errno {
    use std::os::unix::ffi::OsStrExt;
    let words = std::iter::once(program.as_os_str().as_bytes()).chain(arguments.iter().map(String::as_bytes));
    let words: Result<Vec<CString>, _> = words.map(CString::new).collect();
    let Ok(words) = words else { return Errno::EINVAL };
    // Rust's runtime ignores it.
    dispose(Signal::SIGPIPE, SigHandler::SigDfl, SaFlags::empty());
    let Some(program) = words.first() else { return Errno::EINVAL };
    nix::unistd::execv(program, &words).map_or_else(|errno| errno, |never| match never {})
}

/// A duplicate of a descriptor, close-on-exec.
pub fn duplicate(of: BorrowedFd<'_>) -> Kernel<OwnedFd> {
    nix::fcntl::fcntl(of, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3)).map(fd::adopt)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static WAITS: Cell<u32> = const { Cell::new(0) };
    }

    extern "C" fn wait_for_all() {
        WAITS.set(WAITS.get() + 1);
    }

    /// libc's fork waits for its allocator's locks where it runs what was registered to come before a fork: as long as a thread
    /// stands still with one of them.
    #[test]
    fn a_keeper_is_made_wherever_another_thread_stands() {
        // SAFETY: the handler touches nothing but a number of its own thread.
        // JUSTIFICATION: nothing else shows whether a fork waits.
        #[expect(unsafe_code, reason = "pthread_atfork")]
        let registered = unsafe { libc::pthread_atfork(Some(wait_for_all), None, None) };
        assert_eq!(registered, 0);
        let argv = ["keeper", "--list", "none of that name"].map(str::to_owned);
        let child = spawn_self(&argv, &[], &[]).unwrap();
        assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))), "its image runs");
        assert_eq!(WAITS.get(), 0);
    }
}
