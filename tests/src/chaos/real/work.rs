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
    chaos::{judge::Written, tally::Ledger},
    rig::{Node, cri::Cri},
};

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

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
    hung: Mutex<Hung>,
}

/// When something hung.
#[derive(Debug, Default)]
struct Hung {
    now: u32,
    last: Option<Instant>,
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
            hung: Mutex::default(),
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

    /// Something hangs while `body` runs.
    pub fn while_hung<T>(&self, body: impl FnOnce() -> T) -> T {
        let hung = || self.hung.lock().unwrap_or_else(PoisonError::into_inner);
        hung().now += 1;
        let result = body();
        let mut hung = hung();
        hung.now -= 1;
        hung.last = Some(Instant::now());
        result
    }

    fn was_hung_since(&self, start: Instant) -> bool {
        let hung = self.hung.lock().unwrap_or_else(PoisonError::into_inner);
        hung.now > 0 || hung.last.is_some_and(|last| last >= start)
    }

    /// Asks; and asks again where containerd itself gave up a State after 2 s while a process of a wrapper hung. containerd 2
    /// says so; 1.6 takes 0 for the sandbox's process then, and for its namespaces those of that process. Only for what may
    /// be asked twice.
    ///
    /// # Errors
    /// It was refused for another reason, or while nothing hung.
    pub fn patiently<T>(&self, call: &'static str, ask: impl Fn() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        loop {
            let start = Instant::now();
            match ask() {
                Ok(answer) => {
                    self.ledger.waited(call, start.elapsed());
                    return Ok(answer);
                }
                Err(refused) => {
                    let words = format!("{refused:#}").to_lowercase();
                    let by_time = ["deadline exceeded", "deadlineexceeded", "lstat /proc/0/ns/"];
                    ensure!(
                        by_time.iter().any(|said| words.contains(said))
                            && self.was_hung_since(start)
                            && began.elapsed() < LIMIT,
                        "{call}: {refused:#}"
                    );
                    self.ledger.given_up(call);
                }
            }
        }
    }
}
