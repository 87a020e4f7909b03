//! The child that test-reads a wrapper's block, and waiting for its verdict.
//!
//! It is of the image that is to take over and has nothing of the wrapper but the block, as its stdin: should it crash
//! or hang, nobody but it is concerned.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    process::{Command, ExitCode, Stdio},
};

use nix::unistd::Pid;
use thiserror::Error;

use crate::{
    block::trial::test_read,
    config::in_full,
    sys::{Errno, epoll, process},
};

/// What `ps` shows of it.
pub const VERB: &str = "tap-check";
/// It reads a megabyte; on a machine without a free cycle that may take a while.
const PATIENCE_MS: u16 = 5_000;

/// Why the block is not gone on with.
#[derive(Debug, Error)]
pub enum Verdict {
    #[error("{0}")]
    Refused(String),
    #[error("the test-reading child gave no verdict within {} s", PATIENCE_MS / 1000)]
    Mute,
    #[error("the test-reading child crashed ({0})")]
    Crashed(std::process::ExitStatus),
    #[error("running the test-reading child")]
    Spawn(#[source] io::Error),
    #[error("waiting for the test-reading child")]
    Wait(#[source] Errno),
}

/// Has a child of this image read the block.
pub fn check(block: OwnedFd) -> Result<(), Verdict> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(VERB).stdin(block).stdout(Stdio::null()).stderr(Stdio::piped());
    process::die_with_us(&mut command);
    let mut child = command.spawn().map_err(Verdict::Spawn)?;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    let ended = process::pidfd(pid).and_then(|pidfd| epoll::readable_within(pidfd.as_fd(), PATIENCE_MS));
    if ended != Ok(true) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(ended.err().map_or(Verdict::Mute, Verdict::Wait));
    }
    let status = child.wait().map_err(Verdict::Spawn)?;
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut said);
    }
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(Verdict::Refused(said.trim().to_owned())),
        _ => Err(Verdict::Crashed(status)),
    }
}

/// That child.
pub fn main() -> ExitCode {
    process::set_name_and_undumpable(c"tap-check");
    let verdict = File::open("/proc/self/fd/0")
        .map_err(|e| e.to_string())
        .and_then(|block| test_read(block.as_fd()).map_err(|refusal| in_full(&refusal)));
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
