//! What all who work on a node share: where it is counted, when it is enough, and which refusals are containerd's own.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    chaos::{hangs::Hangs, judge::Written, tally::Ledger},
    rig::{
        Node,
        cri::{Cri, Pod},
    },
};

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// What containerd, its shim and runc may take for one call by themselves, on such a machine.
const OWN: Duration = Duration::from_secs(10);

/// What those who work share.
#[derive(Debug)]
pub struct Work<'a> {
    /// The node under fire.
    pub node: &'a Node,
    /// Its CRI.
    pub cri: &'a Cri,
    /// Where it is counted.
    pub ledger: &'a Ledger,
    /// Set when it is enough, or when somebody has found a fault.
    pub over: AtomicBool,
    written: Mutex<Vec<Written>>,
    names: AtomicU32,
    /// When a process of a wrapper hung.
    pub hangs: Hangs,
}

impl<'a> Work<'a> {
    /// Nobody works yet.
    #[must_use]
    pub fn new(node: &'a Node, cri: &'a Cri, ledger: &'a Ledger) -> Self {
        Self {
            node,
            cri,
            ledger,
            over: AtomicBool::new(false),
            written: Mutex::default(),
            names: AtomicU32::new(0),
            hangs: Hangs::default(),
        }
    }

    /// Whether work goes on.
    pub fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Ends the work of all; gives what it was given, under the name of who ends it.
    pub fn ended_by<T>(&self, who: &str, result: Result<T>) -> Result<T> {
        result.inspect_err(|_| self.over.store(true, Ordering::Relaxed)).with_context(|| who.to_owned())
    }

    /// A name that no other container of this piece has.
    pub fn name(&self, kind: &str) -> String {
        // runc keeps what a failed run left for the whole machine, and the next run must not meet it.
        format!("{kind}{}-{}", self.names.fetch_add(1, Ordering::Relaxed), self.node.mark())
    }

    /// Notes a stream that is captured.
    pub fn wrote(&self, written: Written) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(written);
    }

    /// All that was noted.
    pub fn written(&self) -> Vec<Written> {
        std::mem::take(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What containerd's side has read of a stream, right to its last byte.
    pub fn read(&self, bytes: &[u8]) {
        self.ledger.read_outside(bytes);
    }

    /// Demands that containerd's side has read what was written, and notes the stream as captured.
    pub fn complete(&self, have: &[u8], written: Written) -> Result<()> {
        let Written { container, stream, bytes, .. } = &written;
        self.node.complete(have, bytes).with_context(|| format!("{stream} of {container}"))?;
        self.read(have);
        self.wrote(written);
        Ok(())
    }

    /// Asks, and demands an answer in time; and asks again where containerd itself gave up a State after 2 s while a process of a
    /// wrapper hung or was dead. containerd 2 says so; 1.6 takes 0 for the sandbox's process then, and for its namespaces those of
    /// that process. (What else it makes of that, `Cri::remove` knows.) Only for what may be asked twice.
    ///
    /// # Errors
    /// It was refused for another reason, or while all of them worked, or answered too late.
    pub fn patiently<T>(&self, call: &'static str, ask: impl Fn() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        loop {
            let start = Instant::now();
            match ask() {
                Ok(answer) => {
                    self.ledger.waited(call, self.hangs.in_time(call, start, OWN)?);
                    return Ok(answer);
                }
                Err(refused) => {
                    let words = format!("{refused:#}").to_lowercase();
                    let by_time = ["deadline exceeded", "deadlineexceeded", "lstat /proc/0/ns/"];
                    ensure!(
                        by_time.iter().any(|said| words.contains(said))
                            && self.hangs.any_since(start)
                            && began.elapsed() < LIMIT,
                        "{call}: {refused:#}"
                    );
                    self.ledger.given_up(call);
                }
            }
        }
    }

    /// Removes a container that has ended.
    ///
    /// # Errors
    /// As of [`Self::patiently`].
    pub fn remove(&self, id: &str) -> Result<()> {
        self.patiently("RemoveContainer", || self.cri.remove(id))
    }

    /// Stops and removes a sandbox with all its containers.
    ///
    /// # Errors
    /// As of [`Self::patiently`].
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.patiently("StopPodSandbox and RemovePodSandbox", || self.cri.remove_pod(pod))
    }
}
