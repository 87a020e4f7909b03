//! A shim that answers nobody any more, and who asks it in a loop.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    PATIENCE,
    pod::{self, Pod},
};

/// gRPC's DeadlineExceeded.
pub const DEADLINE_EXCEEDED: i32 = 4;
/// How long an answer for a mute shim is waited for until it is asked again: far more than any bound.
const TURN: Duration = Duration::from_secs(10);

/// A shim that stands still until this is dropped.
#[derive(Debug)]
pub struct Mute(Vec<Pid>);

impl Mute {
    /// The stand-in of this pod.
    ///
    /// # Errors
    /// There is none, or it may not be stopped.
    pub fn shim_of(pod: &Pod) -> Result<Self> {
        let shims = pod.lab.inner_pids()?;
        ensure!(!shims.is_empty(), "no shim");
        shims.iter().try_for_each(|pid| kill(*pid, Signal::SIGSTOP).context("stop the shim"))?;
        Ok(Self(shims))
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        for pid in &self.0 {
            // Where it is gone nobody is left to go on.
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

/// Asks for Stats of the task `task`, has the shim's answer, and asks again at once of a shim that has gone mute: until the wrapper
/// has answered for it, which tells how long that took. A machine without time may let so much of it pass between the two that they
/// are no loop.
///
/// # Errors
/// The wrapper answers for nobody.
pub fn asked_in_a_loop(pod: &Pod) -> Result<(Mute, Duration)> {
    let (c, began) = (&pod.connection, Instant::now());
    loop {
        let first = c.call("Stats", &pod::stats("task"))?.code();
        ensure!(first == 0, "the shim's own answer: {first}");
        let mute = Mute::shim_of(pod)?;
        let asked = Instant::now();
        let stream = c.send("Stats", &pod::stats("task"))?;
        match c.answer(stream, TURN) {
            // It was as quick as we were.
            Ok(answer) if answer.code() == 0 => {}
            Ok(answer) => {
                ensure!(answer.code() == DEADLINE_EXCEEDED, "the loop was answered with {}", answer.code());
                return Ok((mute, asked.elapsed()));
            }
            Err(_) => {
                drop(mute);
                c.answer(stream, PATIENCE)?;
            }
        }
        ensure!(began.elapsed() < PATIENCE, "nobody answers for a mute shim");
    }
}
