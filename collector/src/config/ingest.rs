//! `[ingest]`: the socket that wrappers connect to, and what a peer may do there.

use std::{path::PathBuf, time::Duration};

use shimtap_proto::link;

use super::{fault::Faults, section::At, section::Document};

/// Resolved.
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
    /// Time from accepting a connection to its whole `Hello`.
    pub hello: Duration,
    /// Time from the first to the last byte of any later message.
    pub message: Duration,
    /// How long an unfinished line waits for a wrapper that went away.
    pub orphan: Duration,
    /// Ended streams whose position is remembered.
    pub positions: usize,
}

/// As the file has it.
#[derive(Default)]
pub(super) struct Raw {
    socket: Option<At<String>>,
    connections: Option<At<u64>>,
    tasks: Option<At<u64>>,
    message_bytes: Option<At<u64>>,
    hello_secs: Option<At<u64>>,
    message_secs: Option<At<u64>>,
    orphan_secs: Option<At<u64>>,
    positions: Option<At<u64>>,
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let Some(mut section) = document.section("ingest") else { return Self::default() };
        let raw = Self {
            socket: section.string("socket"),
            connections: section.number("connections", 1..=65_536),
            tasks: section.number("tasks_per_connection", 1..=65_536),
            // A message carries up to 64 KiB of output besides its own fields.
            message_bytes: section.number("message_bytes", 128 << 10..=1 << 20),
            hello_secs: section.number("hello_secs", 1..=60),
            message_secs: section.number("message_secs", 1..=600),
            orphan_secs: section.number("orphan_secs", 1..=86_400),
            positions: section.number("positions", 0..=1_000_000),
        };
        section.finish();
        raw
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Ingest {
        Ingest {
            socket: socket_path(self.socket, "ingest.socket", link::COLLECTOR_SOCKET, faults),
            // A node runs some hundred pods.
            connections: size(self.connections, 4_096),
            tasks: size(self.tasks, 1_024),
            message_bytes: size(self.message_bytes, link::MESSAGE_MAX),
            hello: seconds(self.hello_secs, 5),
            message: seconds(self.message_secs, 10),
            // Longer than the wrapper's back-off (5 s) and than the start of a worker's successor by far.
            orphan: seconds(self.orphan_secs, 60),
            positions: size(self.positions, 8_192),
        }
    }
}

/// A path for a unix socket: absolute, and short enough for the kernel.
pub(super) fn socket_path(raw: Option<At<String>>, key: &str, default: &str, faults: &mut Faults) -> PathBuf {
    let Some(At { line, value }) = raw else { return PathBuf::from(default) };
    if !value.starts_with('/') {
        faults.push(Some(line), key, "must be an absolute path");
    }
    // sockaddr_un has 108 bytes, one of them the final NUL.
    if value.len() > 107 {
        faults.push(Some(line), key, "is longer than the 107 bytes a unix socket's path may have");
    }
    PathBuf::from(value)
}

/// A number as a size in memory.
pub(super) fn size(raw: Option<At<u64>>, default: usize) -> usize {
    // Every option's range fits 32 bits.
    raw.map_or(default, |at| usize::try_from(at.value).unwrap_or(usize::MAX))
}

/// A number of seconds.
pub(super) fn seconds(raw: Option<At<u64>>, default: u64) -> Duration {
    Duration::from_secs(raw.map_or(default, |at| at.value))
}
