//! The kernel facts that the wrapper's survival stands on, each a test of its own name.
//!
//! They were seen on two kernels; they are documented on none. Where one of these fails, the wrapper must not be
//! used as it is: `start` has to hand out the inner shim's own address. Each test prints the kernel's release,
//! so that a report says where it held. None of them may share descriptors with another: they run one at a time,
//! because some fork.

#![expect(clippy::panic, clippy::indexing_slicing, reason = "a broken fact has to fail the test at once")]

mod exact;
mod facts;
mod sys;

use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Keeps other tests from opening descriptors that a forked child would inherit, and says on which kernel we are.
fn alone() -> MutexGuard<'static, ()> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|e| e.to_string());
    println!("kernel {}", release.trim());
    guard
}
