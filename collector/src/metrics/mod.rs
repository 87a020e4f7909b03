//! What the collector knows in numbers, and how it shows them.
//!
//! `totals` are counters of this process, `registry` is what is known per container and wrapper, the rest writes
//! both as text. Nothing here may wait for the pipeline: a scrape must succeed while everything else stands still.

mod cadvisor;
mod container;
mod devices;
#[cfg(test)]
#[path = "../../tests/peer/exposition.rs"]
mod exposition;
mod families;
mod journal;
mod labels;
mod notices;
mod own;
mod process;
mod quality;
mod registry;
mod restarts;
mod sample;
mod sink;
mod spec;
mod text;
mod totals;
mod wrapper;

pub use container::{Container, StreamCounts, Update};
pub use journal::DropReason;
pub use notices::Notice;
pub use registry::{Registry, Unwrapped};
#[cfg(test)]
pub(crate) use sample::Layout;
pub use sample::{Sample, SampleSource, Undecoded};
pub use sink::{SinkTotals, Status};
pub use spec::Spec;
pub use totals::Totals;
pub use wrapper::{About, Wrapper};

pub use cadvisor::{Wanted, render as render_cadvisor};
pub use own::render as render_own;
pub use text::CONTENT_TYPE;
