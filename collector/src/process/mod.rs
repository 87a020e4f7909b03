//! From bytes to records: one [`Tape`] per stream.
//!
//! Pure: it takes what the wrapper sent and gives records and figures. It must never wait, look at a clock or
//! know where its input comes from; whether a stage behind it has room was settled before.

mod clock;
mod join;
mod lines;
mod tape;

pub use clock::Clock;
pub use join::Joiner;
pub use lines::{FRAGMENT_MAX, LINE_MAX, Times};
pub use tape::{Edge, Tape, TapeFault};

#[cfg(test)]
mod tests;
