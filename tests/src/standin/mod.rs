//! Both ends of a shim that is not one: a stand-in for the real shim that counts every request it gets, and a
//! scripted client that plays containerd.
//!
//! Between the two stands what is judged. Neither may share code with it: frames and messages are those of the
//! crates `ttrpc` and `containerd-shim-protos`, so that a mistake of ours cannot agree with itself. The stand-in
//! runs no containers; what its "processes" write and when they end is told by a [`script::Script`] in the
//! bundle, so that the client knows every byte beforehand.

pub mod census;
pub mod client;
pub mod journal;
pub mod kata;
pub mod logger;
pub mod process;
pub mod procs;
pub mod sandbox;
pub mod script;
pub mod serve;
pub mod stall;
pub mod task;
pub mod tracer;
pub mod verbs;
