//! What others may ask the collector: metrics and health over TCP, everything else over a unix socket.
//!
//! Both listeners live on a thread of their own with a runtime of their own, so that a busy or standing pipeline
//! never makes the collector look dead. Nothing here waits for the pipeline.

mod body;
mod control;
mod explain;
mod health;
mod logs;
mod metrics;
mod server;

pub use control::{Ps, PsContainer, PsStream, PsUnwrapped, PsWrapper};
pub use explain::{Explained, ExplainedStream};
pub use health::{Health, HealthSink};
pub use server::{Admin, AdminFault};
