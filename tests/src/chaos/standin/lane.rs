//! One wrapped stand-in shim under work, and what all who work on it share.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use containerd_shim_protos::protobuf::Message;

use crate::{
    chaos::tally::Ledger,
    standin::client::{connection::Connection, frame::Answer, pod::Pod},
};

/// The longest that anything may take: a hung worker is found out within 5.5 s, the rest is for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What those who work share.
#[derive(Debug)]
pub struct Lane<'a> {
    /// The pod under fire.
    pub pod: &'a Pod,
    /// Where it is counted.
    pub ledger: &'a Ledger,
    /// Set when it is enough, or when somebody has found a fault.
    pub over: AtomicBool,
    /// The wrapper may be in safe mode, in which it observes nothing and rewrites nothing.
    pub may_be_safe: bool,
    names: AtomicU32,
}

impl<'a> Lane<'a> {
    /// A lane on which nobody works yet.
    #[must_use]
    pub fn new(pod: &'a Pod, ledger: &'a Ledger, may_be_safe: bool) -> Self {
        Self { pod, ledger, over: AtomicBool::new(false), may_be_safe, names: AtomicU32::new(0) }
    }

    /// A number that no other FIFO of this lane has in its name.
    pub fn fresh(&self) -> u32 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether work goes on.
    pub fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Ends the work of all; gives what it was given, under the name of who ends it.
    pub fn ended_by<T>(&self, who: &str, result: Result<T>) -> Result<T> {
        result.inspect_err(|_| self.over.store(true, Ordering::Relaxed)).with_context(|| who.to_owned())
    }

    /// A request and its answer.
    ///
    /// # Errors
    /// As [`Connection::send`] and [`Connection::answer`].
    pub fn call<M: Message>(&self, c: &Connection, method: &str, message: &M) -> Result<Answer> {
        let stream = c.send(method, message)?;
        self.answer(c, stream).with_context(|| format!("{method} on stream {stream}"))
    }

    /// An answer, with how long it took.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub fn answer(&self, c: &Connection, stream: u32) -> Result<Answer> {
        let began = Instant::now();
        let answer = c.answer(stream, PATIENCE)?;
        self.ledger.waited("answer of the stand-in", began.elapsed());
        Ok(answer)
    }
}
