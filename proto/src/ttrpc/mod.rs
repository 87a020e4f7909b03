//! ttrpc as containerd and its shims speak it: what a frame is, what its body says, and how to change one
//! field of it.
//!
//! Layer one of three (a frame; bytes to frames; what frames mean): slices in, values out. It must never read
//! or wait, never panic on what a peer sent, and never normalise what it forwards: a frame that we do not
//! change on purpose leaves byte for byte as it came.
//!
//! * [`Header`] and [`peek_method`] decide what a frame is from its first bytes, without allocating.
//! * [`RequestView`], [`ResponseView`] and [`task`] read bodies, borrowing from them.
//! * [`rewrite`] replaces a field at wire level, [`repair`] mends statistics.
//! * [`request_frame`], [`status_frame`] and the `encode` functions of [`task`] make frames of our own.

mod build;
mod code;
mod header;
mod message;
mod method;
mod peek;
pub mod repair;
pub mod rewrite;
pub mod task;
pub mod wire;

pub use build::{request_frame, status_frame};
pub use code::Code;
pub use header::{
    BODY_MAX, FLAG_NO_DATA, FLAG_REMOTE_CLOSED, FLAG_REMOTE_OPEN, HEADER_LEN, Header, HeaderFault, Kind,
    LENGTH_SANE,
};
pub use message::{RequestView, ResponseView};
pub use method::{Method, TaskApi};
pub use peek::{PEEK_MAX, Peek, peek_method};
pub use wire::WireFault;
