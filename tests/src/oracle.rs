//! The oracle: what the container wrote, what containerd's log holds of it, and what a sink holds,
//! made comparable as bytes.
//!
//! It reads what others wrote and never what the code under test says about itself, except for the gaps
//! that the sink itself admits.

pub mod board;
pub mod cgroup;
mod cri_log;
pub mod exposition;
pub mod families;
mod heads;
mod holes;
mod journal;
pub mod moved;
mod otlp;
mod sink;
pub mod yaml;

pub use cri_log::{CriLog, cri_log};
pub use holes::{holes, holes_and_end, stretches, whole_but_for_ends_of_containerd};
pub use journal::{Journal, Kept, Record, journal};
pub use otlp::{attribute, otlp_file, otlp_request, victoria_logs};
pub use sink::{Judgement, Piece, StreamKey, Tape, Tapes, one_tape, sink, sink_text};
