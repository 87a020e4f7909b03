//! What the codecs make of given bytes: tables of literals, the refused ones beside the good ones.
//!
//! The bytes are written out here and must never be produced by the code under test.

#[cfg(test)]
mod bootstrap;
#[cfg(test)]
mod build;
#[cfg(test)]
mod envelope;
#[cfg(test)]
mod header;
#[cfg(test)]
mod peek;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod rewrite;
#[cfg(test)]
mod task;
#[cfg(test)]
mod wire;

/// Shutdown{id "a"} to v2 on stream 1, as containerd sends it.
#[cfg(test)]
const SHUTDOWN: &[u8] =
    b"\x00\x00\x00\x28\x00\x00\x00\x01\x01\x00\x0a\x17containerd.task.v2.Task\x12\x08Shutdown\x1a\x03\x0a\x01a";
