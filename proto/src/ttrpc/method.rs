//! The methods of containerd's Task service, and its two names.
//!
//! v2 and v3 have the same 17 unary methods with byte-identical messages; only the service name differs. The
//! discriminants are stored in the wrapper's memory block, so they never change.

/// A method of `containerd.task.v{2,3}.Task`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are containerd's; its API documents them")]
pub enum Method {
    State = 1,
    Create = 2,
    Start = 3,
    Delete = 4,
    Pids = 5,
    Pause = 6,
    Resume = 7,
    Checkpoint = 8,
    Kill = 9,
    Exec = 10,
    ResizePty = 11,
    CloseIo = 12,
    Update = 13,
    Wait = 14,
    Stats = 15,
    Connect = 16,
    Shutdown = 17,
}

/// The version of the Task service that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TaskApi {
    /// containerd 1.x, Kata, and 2.x after a downgrade.
    V2 = 2,
    /// containerd 2.x.
    V3 = 3,
}

// === impl Method ===

impl Method {
    /// Every method, in order of discriminant.
    pub const ALL: [Self; 17] = [
        Self::State,
        Self::Create,
        Self::Start,
        Self::Delete,
        Self::Pids,
        Self::Pause,
        Self::Resume,
        Self::Checkpoint,
        Self::Kill,
        Self::Exec,
        Self::ResizePty,
        Self::CloseIo,
        Self::Update,
        Self::Wait,
        Self::Stats,
        Self::Connect,
        Self::Shutdown,
    ];

    /// The method with this discriminant.
    #[must_use]
    pub fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.to_u8() == byte)
    }

    /// The discriminant (1 to 17; 0 is free to mean "none" where one byte is all there is).
    #[must_use]
    pub const fn to_u8(self) -> u8 {
        self as u8
    }

    /// The method with this name on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "State",
            Self::Create => "Create",
            Self::Start => "Start",
            Self::Delete => "Delete",
            Self::Pids => "Pids",
            Self::Pause => "Pause",
            Self::Resume => "Resume",
            Self::Checkpoint => "Checkpoint",
            Self::Kill => "Kill",
            Self::Exec => "Exec",
            Self::ResizePty => "ResizePty",
            Self::CloseIo => "CloseIO",
            Self::Update => "Update",
            Self::Wait => "Wait",
            Self::Stats => "Stats",
            Self::Connect => "Connect",
            Self::Shutdown => "Shutdown",
        }
    }

    /// Whether field 2 of the request is an exec id (elsewhere it is something else or not there).
    #[must_use]
    pub const fn has_exec_id(self) -> bool {
        matches!(
            self,
            Self::State
                | Self::Start
                | Self::Delete
                | Self::Kill
                | Self::Exec
                | Self::ResizePty
                | Self::CloseIo
                | Self::Wait
        )
    }
}

// === impl TaskApi ===

impl TaskApi {
    /// Both, older first.
    pub const ALL: [Self; 2] = [Self::V2, Self::V3];

    /// The service name on the wire.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Self::V2 => "containerd.task.v2.Task",
            Self::V3 => "containerd.task.v3.Task",
        }
    }

    /// The version with this service name.
    #[must_use]
    pub fn from_service(service: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.service() == service)
    }

    /// The number in the name, 2 or 3.
    #[must_use]
    pub const fn to_u8(self) -> u8 {
        self as u8
    }

    /// The version with this number.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }
}
