//! A scripted client that plays containerd: runs a shim binary as the daemon does, makes FIFOs as CRI does, and
//! speaks hand-made ttrpc frames over raw connections.
//!
//! It is strict where containerd is (one answer per request, start's pipe read to its end) and patient for a
//! stated time where containerd would be patient for ever: what does not come is an error that says what was
//! waited for, never a hang.

pub mod audit;
pub mod barren;
pub mod connection;
pub mod fifo;
pub mod frame;
pub mod in_time;
pub mod kata;
pub mod lab;
pub mod launch;
pub mod logged;
pub mod mute;
pub mod pod;
pub mod rules;
pub mod sandbox;
pub mod spooled;
pub mod upgrade;
pub mod wrapped;

use std::time::Duration;

/// How long anything may take before the client gives up on it. Far above what any of it needs, far below what
/// a person waits.
pub const PATIENCE: Duration = Duration::from_secs(60);
