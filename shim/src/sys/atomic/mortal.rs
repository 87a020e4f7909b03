//! Deaths to order: std's atomics, each of whose writes counts as a step, and a fuse per thread that burns down with them.
//!
//! A death is an unwinding: whoever lights a fuse catches it and drops what the dead one had, which for a process is the
//! kernel's part. Loads are no steps: a death before one cannot be told from one before the next write.

use std::{cell::Cell, panic, sync::atomic as std_atomic};

pub use std_atomic::Ordering;

thread_local! {
    static FUSE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// What a dead worker unwinds with.
pub struct Death;

/// Ends whatever this thread does before its step number `steps` (from 0) from now on.
pub fn light(steps: u32) {
    FUSE.set(Some(steps));
}

/// Puts the fuse out; whether it still burned.
pub fn put_out() -> bool {
    FUSE.take().is_some()
}

/// A step of this thread: the last one where its fuse has burned down.
pub fn step() {
    match FUSE.get() {
        None => {}
        Some(0) => {
            FUSE.set(None);
            // Without the hook: a death to order is nothing to report.
            panic::resume_unwind(Box::new(Death));
        }
        Some(left) => FUSE.set(Some(left - 1)),
    }
}

macro_rules! mortal {
    ($name:ident: $int:ty, [$($change:ident),*]) => {
        /// See the standard library's.
        #[repr(transparent)]
        pub struct $name(std_atomic::$name);

        impl $name {
            pub fn load(&self, order: Ordering) -> $int {
                self.0.load(order)
            }
            pub fn store(&self, value: $int, order: Ordering) {
                step();
                self.0.store(value, order);
            }
            $(pub fn $change(&self, value: $int, order: Ordering) -> $int {
                step();
                self.0.$change(value, order)
            })*
        }
    };
}
mortal!(AtomicU8: u8, []);
mortal!(AtomicU32: u32, [swap, fetch_add, fetch_max]);
mortal!(AtomicU64: u64, [fetch_add, fetch_max]);

impl AtomicU8 {
    pub fn new(value: u8) -> Self {
        Self(std_atomic::AtomicU8::new(value))
    }
}

impl AtomicU32 {
    pub fn new(value: u32) -> Self {
        Self(std_atomic::AtomicU32::new(value))
    }
}
