//! `[ingest]`: the socket that wrappers connect to, and what a peer may do there.

use std::{path::PathBuf, time::Duration};

use shimtap_proto::link;

use super::{
    option::{Heading, Number, Text},
    section::Document,
};

/// As it stands in the file, or is without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// Path of the unix socket.
    pub socket: PathBuf,
    /// Most connections at a time; one wrapper has one.
    pub connections: usize,
    /// Most tasks announced on one connection; a pod has few.
    pub tasks: usize,
    /// Largest message, in bytes.
    pub message_bytes: usize,
    /// How long wrappers gather output of a stream that has just sent some.
    pub gather: Duration,
    /// Time from accepting a connection to its whole `Hello`.
    pub hello: Duration,
    /// Time from the first to the last byte of any later message.
    pub message: Duration,
    /// How long an unfinished line waits for a wrapper that went away.
    pub orphan: Duration,
    /// Ended streams whose position is remembered.
    pub positions: usize,
}

const SOCKET: Text = Text {
    key: "socket",
    says: "The unix socket that wrappers connect to. Mode 0600; root and the collector's own user get through.",
    default: link::COLLECTOR_SOCKET,
};
// A node runs some hundred pods.
const CONNECTIONS: Number = Number {
    key: "connections",
    says: "Most connections at a time; a wrapper (one per pod) has one.",
    range: 1..=65_536,
    default: 4_096,
};
const TASKS: Number = Number {
    key: "tasks_per_connection",
    says: "Most tasks announced on one connection.",
    range: 1..=65_536,
    default: 1_024,
};
// A message carries up to 64 KiB of output besides its own fields.
const MESSAGE_BYTES: Number = Number {
    key: "message_bytes",
    says: "Largest message of a wrapper.",
    range: 128 << 10..=1 << 20,
    default: 1 << 20,
};
const _: () = assert!(MESSAGE_BYTES.default == link::MESSAGE_MAX as u64, "what a wrapper may send is taken");
// docs/adr/0032: less than the wrappers' coalesce_ms, so that what was just moved need not wait for a timer of its own.
const GATHER_MS: Number = Number {
    key: "gather_ms",
    says: "How long after a message of a container's output a wrapper gathers for the next one. Less than `coalesce_ms` of shim.toml \
           (40) sends at once what a busy container's wrapper moves; more makes fewer messages, and later ones; 0 never waits.",
    range: 0..=1_000,
    default: 30,
};
const HELLO_SECS: Number = Number {
    key: "hello_secs",
    says: "From accepting a connection to its first whole message.",
    range: 1..=60,
    default: 5,
};
const MESSAGE_SECS: Number = Number {
    key: "message_secs",
    says: "From the first to the last byte of any later message.",
    range: 1..=600,
    default: 10,
};
// Longer than the wrapper's back-off (5 s) and than the start of a worker's successor by far.
const ORPHAN_SECS: Number = Number {
    key: "orphan_secs",
    says: "How long an open stream, and a container's state, wait for a wrapper that went away; and for how long something of Kata's \
           has been without a shim before `shimtap ps --orphans` lists it.",
    range: 1..=86_400,
    default: 60,
};
const POSITIONS: Number = Number {
    key: "positions",
    says: "Ended streams whose position is remembered.",
    range: 0..=1_000_000,
    default: 8_192,
};

pub(super) const HEADING: Heading = Heading {
    name: "ingest",
    says: "",
    is_comment: false,
    options: &[
        &SOCKET,
        &CONNECTIONS,
        &TASKS,
        &MESSAGE_BYTES,
        &GATHER_MS,
        &HELLO_SECS,
        &MESSAGE_SECS,
        &ORPHAN_SECS,
        &POSITIONS,
    ],
};

// === impl Ingest ===

impl Ingest {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let mut section = document.section(&HEADING);
        let ingest = Self {
            socket: section.socket(&SOCKET),
            connections: section.size(&CONNECTIONS),
            tasks: section.size(&TASKS),
            message_bytes: section.size(&MESSAGE_BYTES),
            gather: section.millis(&GATHER_MS),
            hello: section.seconds(&HELLO_SECS),
            message: section.seconds(&MESSAGE_SECS),
            orphan: section.seconds(&ORPHAN_SECS),
            positions: section.size(&POSITIONS),
        };
        section.finish();
        ingest
    }
}
