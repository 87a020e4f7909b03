//! The two files in which the wrapper's relay thread and its link thread meet, compiled as they are against loom's atomics:
//! each test in `tests/` is run in every order of memory operations that the language allows, not only in those that
//! this processor shows.
//!
//! What stands around those files (`block`, `sys`) is small here, so that a run ends: chunks of two bytes, two of them. Bulk
//! bytes, which the kernel copies, are relaxed atomics: as weak as anything can be.

#![allow(missing_docs, reason = "the real files say what they are")]

pub mod block;
pub mod sys;

// They are formatted where they are: rustfmt would look for their tests here.
#[rustfmt::skip]
#[path = "../../src/link/alarm.rs"]
pub mod alarm;
#[rustfmt::skip]
#[path = "../../src/tee/ring.rs"]
pub mod ring;
