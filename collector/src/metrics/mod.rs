//! What the collector knows in numbers, and how it shows them.
//!
//! `totals` are counters of this process, `registry` is what is known per container and wrapper, the rest writes
//! both as text. Nothing here may wait for the pipeline: a scrape must succeed while everything else stands still.

mod bounded;
mod cadvisor;
mod container;
mod containerd;
mod devices;
#[cfg(test)]
#[path = "../../tests/peer/exposition.rs"]
mod exposition;
mod families;
mod info;
mod journal;
mod labels;
mod lifecycle;
mod limits;
mod machine;
mod notices;
mod open_ended;
mod own;
mod process;
mod quality;
mod registry;
mod report;
mod restarts;
mod sample;
mod sandbox;
mod shortage;
mod sink;
mod spec;
mod stream;
mod text;
mod totals;
mod usage;
mod wrapper;

pub use container::{Container, Live, Update};
pub use containerd::{ContainerdCall, ContainerdResult, ContainerdState, ContainerdTotals};
pub use journal::{DropReason, JournalTotals};
pub use lifecycle::{ExecOutcome, Happened};
pub use machine::{FLOOR, MENDED, Machine};
pub use notices::Notice;
pub use registry::{Registry, Unwrapped};
pub use restarts::Death;
#[cfg(test)]
pub(crate) use sample::{Device, Devices, Io, Layout};
pub use sample::{Said, Sample, SampleSource, Undecoded};
pub use sandbox::is_ended_by_a_scrape;
pub use sink::{SinkTotals, Status};
pub use spec::Spec;
pub use stream::StreamCounts;
pub use totals::{Cut, Totals};
pub use wrapper::{About, Wrapper};

pub use cadvisor::{Wanted, render as expose_cadvisor};
pub use own::render as expose_own;
pub use text::{CONTENT_TYPE, Packing};

/// Both expositions as tests read them.
#[cfg(test)]
pub(crate) fn render_own(registry: &Registry) -> String {
    String::from_utf8(expose_own(registry, Packing::Plain).expect("memory")).expect("text")
}

#[cfg(test)]
pub(crate) fn render_cadvisor(registry: &Registry, wanted: Wanted) -> String {
    String::from_utf8(expose_cadvisor(registry, wanted, Packing::Plain).expect("memory")).expect("text")
}
