//! `[control]`: the unix socket that `shimtap ps` and its like ask.

use std::path::PathBuf;

use super::{
    option::{Heading, Text},
    section::Document,
};

/// Where the control socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/shimtap/control.sock";

/// As it stands in the file, or is without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Path of the unix socket.
    pub socket: PathBuf,
}

const SOCKET: Text = Text {
    key: "socket",
    says: "The unix socket that shimtap ps, top, logs, explain, doctor and reload ask. Mode 0600; root and the collector's own user \
           get through.",
    default: DEFAULT_SOCKET,
};

pub(super) const HEADING: Heading =
    Heading { name: "control", says: "", is_comment: false, options: &[&SOCKET] };

// === impl Control ===

impl Control {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let mut section = document.section(&HEADING);
        let control = Self { socket: section.socket(&SOCKET) };
        section.finish();
        control
    }
}
