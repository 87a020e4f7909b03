//! What others may ask the collector: metrics and health over TCP, everything else over a unix socket.
//!
//! Both listeners live on a thread of their own with a runtime of their own, so that a busy or standing pipeline
//! never makes the collector look dead. Nothing here waits for the pipeline.

mod body;
mod control;
mod copies;
mod explain;
mod health;
mod logs;
mod metrics;
mod open_ended;
mod patient;
mod sandboxes;
mod server;
mod top;
mod wrappers;

#[cfg(test)]
pub(crate) use control::ps;
pub use control::{Ps, PsContainer, PsStream, PsUnwrapped};
pub use explain::{Explained, ExplainedStream};
#[cfg(test)]
pub use health::HealthPlace;
pub use health::{Health, HealthContainerd, HealthJournal, HealthSink};
pub use open_ended::PsOpenEnded;
pub use sandboxes::PsSandbox;
pub use server::{Admin, AdminFault};
#[cfg(test)]
pub(crate) use top::top;
pub use top::{Top, TopContainer, TopNetwork, TopOverhead, TopSample};
pub use wrappers::{PsDeath, PsWrapper};
