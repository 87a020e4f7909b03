//! Answers: pids, exits, states, stats.
//!
//! An answer does not carry its method; the caller knows it from the request. Decoding an answer as another
//! method's often succeeds and means nothing.

use super::super::wire::{self, Value, WireFault, fields};
use super::{AnyView, TimestampView};

/// Values of [`StateAnswer::status`] (`containerd.v1.types.Status`).
#[expect(missing_docs, reason = "the names are containerd's; its API documents them")]
pub mod status {
    pub const UNKNOWN: u32 = 0;
    pub const CREATED: u32 = 1;
    pub const RUNNING: u32 = 2;
    pub const STOPPED: u32 = 3;
    pub const PAUSED: u32 = 4;
    pub const PAUSING: u32 = 5;
}

/// A `CreateTaskResponse` or `StartResponse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidAnswer {
    /// The process on the host; 0 where the shim does not say (a VM's).
    pub pid: u32,
}

/// A `ConnectResponse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectAnswer {
    /// The shim itself, as it sees its own process id; 0 where it does not say.
    pub shim_pid: u32,
    /// The task's init process; 0 where there is none yet.
    pub task_pid: u32,
}

/// A `WaitResponse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitAnswer {
    /// Exit status; 128 + signal where a signal ended the process.
    pub exit_status: u32,
    /// Nanoseconds since the Unix epoch; `None` where the shim does not say.
    pub exited_at_ns: Option<i64>,
}

/// A `DeleteResponse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteAnswer {
    /// The process on the host; 0 where the shim does not say.
    pub pid: u32,
    /// Exit status; 128 + signal where a signal ended the process.
    pub exit_status: u32,
    /// Nanoseconds since the Unix epoch; `None` where the shim does not say.
    pub exited_at_ns: Option<i64>,
}

/// A `StateResponse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateAnswer<'a> {
    /// The task's id.
    pub id: &'a str,
    /// The exec's id; empty = the init process.
    pub exec_id: &'a str,
    /// Path of the bundle.
    pub bundle: &'a str,
    /// The process on the host; 0 where the shim does not say.
    pub pid: u32,
    /// One of [`status`]'s, or a later one.
    pub status: u32,
    /// Path or URI; empty = none.
    pub stdin: &'a str,
    /// Path or URI; empty = none.
    pub stdout: &'a str,
    /// Path or URI; empty = none.
    pub stderr: &'a str,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Exit status; means something only where `status` is [`status::STOPPED`].
    pub exit_status: u32,
    /// Nanoseconds since the Unix epoch; `None` where the shim does not say.
    pub exited_at_ns: Option<i64>,
}

/// A `StatsResponse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsAnswer<'a> {
    /// Type of the statistics, a bare name as `io.containerd.cgroups.v2.Metrics`; empty where there are none.
    pub type_url: &'a str,
    /// The statistics, encoded as that type.
    pub value: &'a [u8],
}

// === impl PidAnswer ===

impl PidAnswer {
    /// Reads the payload of a Create or Start response.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &[u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        for field in fields(payload) {
            let field = field?;
            if let (1, Value::Varint(value)) = (field.number, field.value) {
                view.pid = wire::low_u32(value);
            }
        }
        Ok(view)
    }
}

// === impl ConnectAnswer ===

impl ConnectAnswer {
    /// Reads the payload of a Connect response.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &[u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Varint(value)) => view.shim_pid = wire::low_u32(value),
                (2, Value::Varint(value)) => view.task_pid = wire::low_u32(value),
                _ => {}
            }
        }
        Ok(view)
    }
}

// === impl ExitAnswer ===

impl ExitAnswer {
    /// Reads the payload of a Wait response.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &[u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        let mut exited_at = TimestampView::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Varint(value)) => view.exit_status = wire::low_u32(value),
                (2, Value::Len(value)) => exited_at.merge(value)?,
                _ => {}
            }
        }
        Ok(Self { exited_at_ns: exited_at.unix_ns(), ..view })
    }
}

// === impl DeleteAnswer ===

impl DeleteAnswer {
    /// Reads the payload of a Delete response.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &[u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        let mut exited_at = TimestampView::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Varint(value)) => view.pid = wire::low_u32(value),
                (2, Value::Varint(value)) => view.exit_status = wire::low_u32(value),
                (3, Value::Len(value)) => exited_at.merge(value)?,
                _ => {}
            }
        }
        Ok(Self { exited_at_ns: exited_at.unix_ns(), ..view })
    }
}

// === impl StateAnswer ===

impl<'a> StateAnswer<'a> {
    /// Reads the payload of a State response.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        let mut exited_at = TimestampView::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(value)) => view.id = wire::text(1, value)?,
                (2, Value::Len(value)) => view.bundle = wire::text(2, value)?,
                (3, Value::Varint(value)) => view.pid = wire::low_u32(value),
                (4, Value::Varint(value)) => view.status = wire::low_u32(value),
                (5, Value::Len(value)) => view.stdin = wire::text(5, value)?,
                (6, Value::Len(value)) => view.stdout = wire::text(6, value)?,
                (7, Value::Len(value)) => view.stderr = wire::text(7, value)?,
                (8, Value::Varint(value)) => view.terminal = value != 0,
                (9, Value::Varint(value)) => view.exit_status = wire::low_u32(value),
                (10, Value::Len(value)) => exited_at.merge(value)?,
                (11, Value::Len(value)) => view.exec_id = wire::text(11, value)?,
                _ => {}
            }
        }
        Ok(Self { exited_at_ns: exited_at.unix_ns(), ..view })
    }
}

// === impl StatsAnswer ===

impl<'a> StatsAnswer<'a> {
    /// Reads the payload of a Stats response.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireFault> {
        let mut stats = AnyView::default();
        for field in fields(payload) {
            let field = field?;
            if let (1, Value::Len(value)) = (field.number, field.value) {
                stats.merge(value)?;
            }
        }
        Ok(Self { type_url: stats.type_url, value: stats.value })
    }
}
