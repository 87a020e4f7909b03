//! A worker or a keeper dies between any two syscalls of an operation, and nobody notices.
//!
//! For each operation of containerd's, one fresh wrapper after the other: at the n-th stop of the victim's main thread (the
//! relay, or the keeper) it is killed, n = 1, 2, 3 … until the operation ends before the kill is reached. Each time the
//! operation must be answered once and rightly, the stand-in shim must have got every request once, every byte of
//! output must have passed in order, and the FIFOs must end. A doubled request is a failure even where containerd
//! would survive it.
//!
//! `cargo test --test standin_deaths -- --nocapture` prints where the deaths were.

mod beside;
mod connections;
mod execs;
mod keeper;
mod loggers;
mod stats;
mod tasks;
mod trap;
