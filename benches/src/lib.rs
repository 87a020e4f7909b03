//! What the benches share: places to measure in, readings of /proc, and one way to report.
//!
//! A bench never judges: it prints what it measured beside the target and always ends with 0 unless it could not
//! measure. Everything is compared within one run, unwrapped and wrapped taking turns, because the machine is not
//! ours alone.

pub mod arrivals;
pub mod bed;
pub mod favour;
pub mod feed;
pub mod fleet;
pub mod footprint;
pub mod line;
pub mod options;
pub mod peer;
pub mod plain;
pub mod pour;
pub mod questions;
pub mod report;
pub mod sleepers;
pub mod spread;
pub mod stamp;
pub mod usage;
pub mod witness;
