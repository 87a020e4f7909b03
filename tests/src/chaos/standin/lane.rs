//! One wrapped stand-in shim under work, and what all who work on it share.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use containerd_shim_protos::protobuf::Message;

use crate::{
    chaos::{Order, hangs::Hangs, tally::Ledger},
    standin::client::{connection::Connection, frame::Answer, pod::Pod},
};

/// The longest that anything may take: a hung worker is found out within 5.5 s, the rest is for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long the answer to a Wait is held at most.
const HELD: Duration = Duration::from_secs(2);

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
    /// When one of its two processes hung.
    pub hangs: Hangs,
    /// What befell it so far, each with how long it took; the last ones are told with a fault.
    pub past: Mutex<Vec<String>>,
    /// What an answer may take beyond what it should.
    pub slack: Duration,
    names: AtomicU32,
}

impl<'a> Lane<'a> {
    /// A lane on which nobody works yet.
    #[must_use]
    pub fn new(pod: &'a Pod, ledger: &'a Ledger, order: &Order) -> Self {
        Self {
            pod,
            ledger,
            over: AtomicBool::new(false),
            may_be_safe: order.threshold,
            hangs: Hangs::default(),
            past: Mutex::default(),
            slack: order.slack,
            names: AtomicU32::new(0),
        }
    }

    /// A number that no other FIFO of this lane has in its name.
    pub fn fresh(&self) -> u32 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    /// What befell it last, of many.
    pub fn last_strikes(&self) -> String {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let last: Vec<&str> = past.iter().rev().take(4).map(String::as_str).collect();
        format!("after {} strikes, backwards {}", past.len(), last.join("; "))
    }

    /// Whether work goes on.
    pub fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Ends the work of all; gives what it was given, under the name of who ends it.
    pub fn ended_by<T>(&self, who: &str, result: Result<T>) -> Result<T> {
        result.inspect_err(|_| self.over.store(true, Ordering::Relaxed)).with_context(|| who.to_owned())
    }

    /// A request and its answer, which comes in time.
    ///
    /// # Errors
    /// As [`Connection::send`] and [`Lane::answer`].
    pub fn call<M: Message>(&self, c: &Connection, method: &str, message: &M) -> Result<Answer> {
        let stream = c.send(method, message)?;
        self.answer(c, stream, Instant::now()).with_context(|| format!("{method} on stream {stream}"))
    }

    /// The answer to what was `sent` then, which comes in time.
    ///
    /// # Errors
    /// As [`Connection::answer`], or it came too late.
    pub fn answer(&self, c: &Connection, stream: u32, sent: Instant) -> Result<Answer> {
        let answer = c.answer(stream, PATIENCE)?;
        let what = "answer of the stand-in";
        self.ledger.waited(what, self.hangs.in_time(what, sent, self.slack)?);
        Ok(answer)
    }

    /// The answer to a Wait of a process that ends about now: it may be held for 2 s while output drains.
    ///
    /// # Errors
    /// As [`Lane::answer`].
    pub fn exit(&self, c: &Connection, stream: u32) -> Result<Answer> {
        let began = Instant::now();
        let answer = c.answer(stream, PATIENCE)?;
        let what = "exit of a process of the stand-in";
        self.ledger.waited(what, self.hangs.in_time(what, began, HELD + self.slack)?);
        Ok(answer)
    }
}
