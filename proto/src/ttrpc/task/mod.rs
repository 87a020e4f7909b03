//! The messages of the Task service, as far as shimtap looks at them.
//!
//! v2 and v3 have the same. Views borrow from the payload and are read-only; an absent string is empty and an
//! absent number 0, as in protobuf, except where absence means something (times). They must never be used to
//! build what is forwarded: that is [`rewrite`](super::rewrite)'s.

mod answer;
mod request;

use super::wire::{self, Value, WireFault, fields};

pub use answer::{ConnectAnswer, DeleteAnswer, ExitAnswer, PidAnswer, StateAnswer, StatsAnswer, status};
pub use request::{Create, Exec, Kill, TaskRef, Update};

/// Field numbers of the paths that shimtap replaces, by message.
pub mod field {
    /// `CreateTaskRequest.stdout`.
    pub const CREATE_STDOUT: u32 = 6;
    /// `CreateTaskRequest.stderr`.
    pub const CREATE_STDERR: u32 = 7;
    /// `ExecProcessRequest.stdout`.
    pub const EXEC_STDOUT: u32 = 5;
    /// `ExecProcessRequest.stderr`.
    pub const EXEC_STDERR: u32 = 6;
    /// `StateResponse.stdout`.
    pub const STATE_STDOUT: u32 = 6;
    /// `StateResponse.stderr`.
    pub const STATE_STDERR: u32 = 7;
}

/// A `google.protobuf.Any`; several of one field are merged, as in protobuf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct AnyView<'a> {
    type_url: &'a str,
    value: &'a [u8],
}

/// A `google.protobuf.Timestamp`; several of one field are merged, as in protobuf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct TimestampView {
    seconds: i64,
    nanos: i32,
}

// === impl AnyView ===

impl<'a> AnyView<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), WireFault> {
        for field in fields(message) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(value)) => self.type_url = wire::text(1, value)?,
                (2, Value::Len(value)) => self.value = value,
                _ => {}
            }
        }
        Ok(())
    }
}

// === impl TimestampView ===

impl TimestampView {
    fn merge(&mut self, message: &[u8]) -> Result<(), WireFault> {
        for field in fields(message) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Varint(value)) => self.seconds = value.cast_signed(),
                (2, Value::Varint(value)) => self.nanos = wire::low_u32(value).cast_signed(),
                _ => {}
            }
        }
        Ok(())
    }

    /// Nanoseconds since the Unix epoch. `None` where there is no timestamp, where it is empty (a shim that has
    /// nothing to say, not an exit at midnight of 1970), and where 64 bits do not hold it, which is so for Go's
    /// zero time in year 1: unknown is never a number.
    fn unix_ns(self) -> Option<i64> {
        if (self.seconds, self.nanos) == (0, 0) {
            return None;
        }
        self.seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(self.nanos))
    }
}
