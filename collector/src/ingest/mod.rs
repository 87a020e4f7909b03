//! The ttrpc server that wrappers connect to, by docs/protocol.md.
//!
//! Layers: `frames` (bytes to frames, with limits), `connection` (handshake, the two directions of one
//! connection), `data` and `session` (what messages mean), `streams` (positions, which outlive connections), `home` (which
//! head of the journal has a stream), `acks`.
//! A peer can cause a count, a rate-limited log line and the end of its own connection, and nothing else.

mod acks;
mod connection;
mod data;
mod event_label;
mod fault;
mod frames;
mod happened;
mod home;
mod listener;
#[cfg(next_link)]
mod next;
mod session;
mod spool;
mod stream_counts;
mod streams;

use std::sync::Arc;

use tokio::sync::watch;

pub use event_label::EventLabel;
pub use fault::FaultKind;
pub use listener::{ListenFault, Listener};
pub use spool::{Aside, Spools};
pub use streams::{Memory, Streams};

use crate::{config, metrics::Registry, rules::Rules, sinks::Outlets};

/// What all connections share.
#[derive(Debug)]
pub struct Ingest {
    /// Limits.
    pub config: config::Ingest,
    /// What wrappers are told.
    pub stats: config::Stats,
    /// What is known.
    pub registry: Arc<Registry>,
    /// How far each stream is.
    pub streams: Streams,
    /// What is collected of whom; changes while we run.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// What wrappers wrote to files.
    pub spools: Spools,
    /// Where records go.
    pub outlets: Outlets,
}
