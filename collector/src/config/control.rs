//! `[control]`: the unix socket that `shimtap ps` asks.

use std::path::PathBuf;

use super::{fault::Faults, ingest::socket_path, section::At, section::Document};

/// Where the control socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/shimtap/control.sock";

/// Resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Path of the unix socket.
    pub socket: PathBuf,
}

/// As the file has it.
#[derive(Default)]
pub(super) struct Raw {
    socket: Option<At<String>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let Some(mut section) = document.section("control") else { return Self::default() };
        let raw = Self { socket: section.string("socket") };
        section.finish();
        raw
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Control {
        Control { socket: socket_path(self.socket, "control.socket", DEFAULT_SOCKET, faults) }
    }
}
