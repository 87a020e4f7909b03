//! Kills a child that a process makes and waits for, between two of its system calls, or the process itself while the child
//! stands there.
//!
//! The kernel hands a tracer each child that is made with `CLONE_VFORK` before the child's first instruction. The process itself is
//! let go then: it waits in its clone until the child has ended, or has been killed.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{Armed, Edge, Event, Outcome, Signs, begin, next, reap, resume, stand_ready, stop_of, waits};

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The child.
    Child,
    /// Who has made it, while the child stands at a call; it goes on then.
    Parent,
}

/// Brings `pid` to the entry of its waiting call, as [`super::arm`]. Of the first child that it makes then, the stop number
/// `at` is the one at which one of the two is killed. Each time that `pid` comes back from waiting it stands until `others_rest`
/// has returned: what it hears is all that there is to hear.
///
/// # Errors
/// As [`super::arm`].
pub fn arm_child(
    pid: Pid,
    at: u32,
    whose: Whose,
    others_rest: impl Fn() -> Result<()> + Send + 'static,
) -> Result<Armed> {
    begin(pid, move |signs| {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEVFORK;
        stand_ready(pid, options, signs)?;
        match first_child(pid, signs, others_rest)? {
            Some(child) => trace(pid, child, at, whose),
            None => Ok(Outcome { stops: Vec::new(), killed: false }),
        }
    })
}

/// The first child of `pid`, which is let go; none where the operation is over without one.
fn first_child(pid: Pid, signs: &Signs, others_rest: impl Fn() -> Result<()>) -> Result<Option<Pid>> {
    loop {
        let event = next(pid)?;
        let child = if let Event::Child(child) = event { Some(child) } else { None };
        if child.is_some() || signs.over.load(Ordering::SeqCst) {
            ptrace::detach(pid, None).context("detaching")?;
            return Ok(child);
        }
        if matches!(event, Event::Syscall(stop) if stop.edge == Edge::Exit && waits(stop.call)) {
            others_rest()?;
        }
        resume(pid)?;
    }
}

fn trace(parent: Pid, child: Pid, at: u32, whose: Whose) -> Result<Outcome> {
    let mut stops = Vec::new();
    loop {
        match waitpid(child, Some(WaitPidFlag::__WALL)).context("waiting for the child")? {
            WaitStatus::PtraceSyscall(_) => {
                let mut stop = stop_of(child)?;
                stop.n = u32::try_from(stops.len())? + 1;
                stops.push(stop);
                if stop.n == at {
                    end(parent, child, whose)?;
                    return Ok(Outcome { stops, killed: true });
                }
            }
            WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => {}
            WaitStatus::Exited(..) => return Ok(Outcome { stops, killed: false }),
            ended => bail!("the child ended otherwise: {ended:?}"),
        }
        resume(child)?;
    }
}

fn end(parent: Pid, child: Pid, whose: Whose) -> Result<()> {
    let victim = if whose == Whose::Child { child } else { parent };
    kill(victim, Signal::SIGKILL).with_context(|| format!("killing {victim}"))?;
    match whose {
        Whose::Child => reap(child),
        Whose::Parent => ptrace::detach(child, None).context("detaching"),
    }
}
