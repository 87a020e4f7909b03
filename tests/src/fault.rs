//! What can befall a process, from outside and without its help: killed, crashed, stopped, sent into an endless loop.
//!
//! Only ever done to a process whose id the caller has found itself; nothing here looks for one.

use std::fmt;

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::standin::stall;

/// One thing that befalls a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSEGV, as by a fault of its own.
    Crash,
    /// SIGSTOP: it stands still and looks alive.
    Stop,
    /// Its main thread runs in a circle.
    Spin,
}

impl Fault {
    /// All, in the order of their names' columns in a report.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Crash, Self::Stop, Self::Spin];

    /// Whether the process goes on existing and must be found out.
    #[must_use]
    pub fn hangs(self) -> bool {
        matches!(self, Self::Stop | Self::Spin)
    }

    /// The signal that carries it; none where it takes a tracer.
    #[must_use]
    pub fn signal(self) -> Option<Signal> {
        match self {
            Self::Kill => Some(Signal::SIGKILL),
            Self::Crash => Some(Signal::SIGSEGV),
            Self::Stop => Some(Signal::SIGSTOP),
            Self::Spin => None,
        }
    }

    /// Lets it befall `pid`; false where that process was gone already.
    ///
    /// # Errors
    /// It may not be done, or the process cannot be traced though it is there.
    pub fn befall(self, pid: Pid) -> Result<bool> {
        let done = match self.signal() {
            Some(signal) => kill(pid, signal).map_err(anyhow::Error::from),
            None => stall::spin(pid),
        };
        match done {
            Ok(()) => Ok(true),
            Err(e) if e.chain().any(|c| c.downcast_ref() == Some(&Errno::ESRCH)) => Ok(false),
            Err(e) => Err(e).with_context(|| format!("{self} of process {pid}")),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "SIGKILL",
            Self::Crash => "SIGSEGV",
            Self::Stop => "SIGSTOP",
            Self::Spin => "busy loop",
        })
    }
}
