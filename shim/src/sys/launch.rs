//! Running the real shim's own verb, as a child that dies with us.
//!
//! std's Command would fork for the one call that it does not know (PR_SET_PDEATHSIG), which copies this process's memory to throw the
//! copy away at once. This child borrows it for the few calls up to its exec, as that of posix_spawn(3) does.

use std::{
    collections::BTreeMap,
    env,
    ffi::{CStr, CString, OsStr, OsString},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    process::{Command, ExitStatus},
    sync::atomic::{AtomicI32, Ordering},
};

use nix::{
    sched::{CloneFlags, clone},
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};

use super::{Errno, Kernel};

/// The child's, for half a dozen system calls. Each page of it is made for this.
const STACK: usize = 16 << 10;

/// What the child is to become.
struct Program {
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

/// Starts the command with our stdin and working directory; its stdout and stderr are `output`, or else ours. It is killed when we
/// are: a SIGKILL of ours must hit what we stand in for. What it forks is not. Of the command its program (a path), arguments
/// and additions to the environment count.
pub fn with_us(command: &Command, output: Option<BorrowedFd<'_>>) -> Kernel<Pid> {
    let program = Program::of(command)?;
    let (argv, env) = (pointers(&program.argv), pointers(&program.env));
    let output = output.map(|fd| fd.as_raw_fd());
    let refused = AtomicI32::new(0);
    let child = || {
        refused.store(become_it(&program.path, &argv, &env, output) as i32, Ordering::Relaxed);
        isize::from(u8::MAX)
    };
    let mut stack = vec![0u8; STACK];
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the child runs on a stack of its own, which it does not come near to fill, while this thread waits for its exec or end; on
    // memory that was prepared before it does async-signal-safe calls and one store of an atomic, and never unwinds.
    // JUSTIFICATION: nothing safe runs a program with PR_SET_PDEATHSIG and without a copy of this process.
    #[expect(unsafe_code, reason = "clone")]
    let pid = unsafe { clone(Box::new(child), &mut stack, flags, Some(libc::SIGCHLD)) }?;
    match refused.load(Ordering::Relaxed) {
        0 => Ok(pid),
        errno => {
            let _ = wait(pid);
            Err(Errno::from_raw(errno))
        }
    }
}

/// Waits for its end.
pub fn wait(child: Pid) -> Kernel<ExitStatus> {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(ExitStatus::from_raw(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The child's side. Returns only why not.
fn become_it(
    path: &CStr,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
    output: Option<i32>,
) -> Errno {
    // SAFETY: every call is async-signal-safe; path, argv and env are C strings and null-terminated arrays of such, which live in the
    // waiting parent; the signal set is initialised by the call before its use. Dispositions and mask are this child's own.
    // JUSTIFICATION: this is the exec of a child that shares our memory.
    #[expect(unsafe_code, reason = "between clone and exec")]
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for stdio in [1, 2] {
            if output.is_some_and(|output| libc::dup2(output, stdio) < 0) {
                return Errno::last();
            }
        }
        // Rust's runtime ignores it, and that would go along.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr());
    }
    Errno::last()
}

// === impl Program ===

impl Program {
    fn of(command: &Command) -> Kernel<Self> {
        let text = |s: &OsStr| CString::new(s.as_bytes()).map_err(|_| Errno::EINVAL);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let mut all: BTreeMap<OsString, OsString> = env::vars_os().collect();
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => all.insert(name.to_owned(), value.to_owned()),
                None => all.remove(name),
            };
        }
        let pair = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            text(&name)
        };
        Ok(Self {
            path: text(command.get_program())?,
            argv: words.map(text).collect::<Kernel<_>>()?,
            env: all.into_iter().map(pair).collect::<Kernel<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read},
        os::fd::AsFd,
    };

    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).env("SHIMTAP_LAUNCHED", "so");
        command
    }

    #[test]
    fn both_outputs_are_one_pipe_and_the_environment_goes_along() {
        let (mut reader, writer) = io::pipe().unwrap();
        let line = "echo $SHIMTAP_LAUNCHED; echo ${PATH:+has} >&2; exit 3";
        let child = with_us(&shell(line), Some(writer.as_fd())).unwrap();
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "so\nhas\n");
        assert_eq!(wait(child).unwrap().code(), Some(3));
    }

    /// Nothing blocked, and ignored only what whoever started us has: not the SIGPIPE that Rust's runtime ignores.
    #[test]
    fn it_begins_with_the_signals_that_we_began_with() {
        let ignored_in = |status: &str| -> u64 {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
            u64::from_str_radix(mask.trim(), 16).expect("hexadecimal")
        };
        let sigpipe = 1 << (libc::SIGPIPE - 1);
        let ours = ignored_in(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
        assert_ne!(ours & sigpipe, 0, "there is nothing to give back");
        let (mut reader, writer) = io::pipe().unwrap();
        let child =
            with_us(&shell("grep -E 'Sig(Blk|Ign)' /proc/self/status"), Some(writer.as_fd())).unwrap();
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert!(said.contains("SigBlk:\t0000000000000000\n"), "{said}");
        assert_eq!(ignored_in(&said), ours & !sigpipe, "{said}");
        assert!(wait(child).unwrap().success());
    }

    #[test]
    fn a_signal_and_a_refusal_are_told() {
        let child = with_us(&shell("kill -TERM $$"), None).unwrap();
        assert_eq!(wait(child).unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(with_us(&Command::new("/no/such/shim"), None), Err(Errno::ENOENT));
    }
}
