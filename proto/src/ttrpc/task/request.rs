//! Requests: whom they are about, and what Create, Exec, Kill and Update say beyond that.

use super::super::build::put_present;
use super::super::method::Method;
use super::super::wire::{self, Value, WireFault, fields, put_number};
use super::AnyView;

/// Whom a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskRef<'a> {
    /// The task's (container's) id.
    pub id: &'a str,
    /// The exec's id; empty = the init process, and always empty for methods that know only tasks.
    pub exec_id: &'a str,
}

/// A `KillRequest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kill<'a> {
    /// The task's id.
    pub id: &'a str,
    /// The exec's id; empty = the init process.
    pub exec_id: &'a str,
    /// Signal number.
    pub signal: u32,
    /// Every process of the task.
    pub all: bool,
}

/// A `CreateTaskRequest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Create<'a> {
    /// The task's id.
    pub id: &'a str,
    /// Path of the bundle.
    pub bundle: &'a str,
    /// Whether the process gets a terminal (then there is no stderr, whatever its field says).
    pub terminal: bool,
    /// Path or URI; empty = none.
    pub stdin: &'a str,
    /// Path or URI; empty = none.
    pub stdout: &'a str,
    /// Path or URI; empty = none.
    pub stderr: &'a str,
    /// Type of the runtime options; empty where there are none.
    pub options_type_url: &'a str,
    /// The runtime options, encoded as that type.
    pub options: &'a [u8],
}

/// An `ExecProcessRequest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exec<'a> {
    /// The task's id.
    pub id: &'a str,
    /// The new process's id.
    pub exec_id: &'a str,
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// Path or URI; empty = none.
    pub stdin: &'a str,
    /// Path or URI; empty = none.
    pub stdout: &'a str,
    /// Path or URI; empty = none.
    pub stderr: &'a str,
    /// Type of the spec; containerd sends a JSON encoded OCI process.
    pub spec_type_url: &'a str,
    /// The spec.
    pub spec: &'a [u8],
}

/// An `UpdateTaskRequest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Update<'a> {
    /// The task's id.
    pub id: &'a str,
    /// Type of the resources; containerd sends JSON encoded OCI resources.
    pub resources_type_url: &'a str,
    /// The resources.
    pub resources: &'a [u8],
}

// === impl TaskRef ===

impl<'a> TaskRef<'a> {
    /// Reads the payload of a request for `method`.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(method: Method, payload: &'a [u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(value)) => view.id = wire::text(1, value)?,
                (2, Value::Len(value)) if method.has_exec_id() => view.exec_id = wire::text(2, value)?,
                _ => {}
            }
        }
        Ok(view)
    }

    /// The payload of a request that says no more than whom it is about: State, Start, Delete, Wait; with an
    /// empty `exec_id` also Pids, Pause, Resume, Stats, Connect, Shutdown.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.id.len() + self.exec_id.len() + 8);
        put_present(&mut out, 1, self.id.as_bytes());
        put_present(&mut out, 2, self.exec_id.as_bytes());
        out
    }
}

// === impl Kill ===

impl<'a> Kill<'a> {
    /// Reads the payload of a Kill request.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(value)) => view.id = wire::text(1, value)?,
                (2, Value::Len(value)) => view.exec_id = wire::text(2, value)?,
                (3, Value::Varint(value)) => view.signal = wire::low_u32(value),
                (4, Value::Varint(value)) => view.all = value != 0,
                _ => {}
            }
        }
        Ok(view)
    }

    /// The payload of a Kill request.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = TaskRef { id: self.id, exec_id: self.exec_id }.encode();
        if self.signal != 0 {
            put_number(&mut out, 3, u64::from(self.signal));
        }
        if self.all {
            put_number(&mut out, 4, 1);
        }
        out
    }
}

// === impl Create ===

impl<'a> Create<'a> {
    /// Reads the payload of a Create request.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        let mut options = AnyView::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(value)) => view.id = wire::text(1, value)?,
                (2, Value::Len(value)) => view.bundle = wire::text(2, value)?,
                (4, Value::Varint(value)) => view.terminal = value != 0,
                (5, Value::Len(value)) => view.stdin = wire::text(5, value)?,
                (6, Value::Len(value)) => view.stdout = wire::text(6, value)?,
                (7, Value::Len(value)) => view.stderr = wire::text(7, value)?,
                (10, Value::Len(value)) => options.merge(value)?,
                _ => {}
            }
        }
        Ok(Self { options_type_url: options.type_url, options: options.value, ..view })
    }
}

// === impl Exec ===

impl<'a> Exec<'a> {
    /// Reads the payload of an Exec request.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        let mut spec = AnyView::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(value)) => view.id = wire::text(1, value)?,
                (2, Value::Len(value)) => view.exec_id = wire::text(2, value)?,
                (3, Value::Varint(value)) => view.terminal = value != 0,
                (4, Value::Len(value)) => view.stdin = wire::text(4, value)?,
                (5, Value::Len(value)) => view.stdout = wire::text(5, value)?,
                (6, Value::Len(value)) => view.stderr = wire::text(6, value)?,
                (7, Value::Len(value)) => spec.merge(value)?,
                _ => {}
            }
        }
        Ok(Self { spec_type_url: spec.type_url, spec: spec.value, ..view })
    }
}

// === impl Update ===

impl<'a> Update<'a> {
    /// Reads the payload of an Update request.
    ///
    /// # Errors
    /// [`WireFault`] where the payload is not such a message; the sender is at fault.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        let mut resources = AnyView::default();
        for field in fields(payload) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(value)) => view.id = wire::text(1, value)?,
                (2, Value::Len(value)) => resources.merge(value)?,
                _ => {}
            }
        }
        Ok(Self { resources_type_url: resources.type_url, resources: resources.value, ..view })
    }
}
