//! Whether the next byte of output wakes the link thread: it is armed before the link thread looks, so that what moves
//! while it looks wakes it. No byte may fall between the look and the sleep (`shim/loom`).

use std::sync::atomic::Ordering;

use crate::sys::atomic::{AtomicU32, fence};

/// One word, between two threads.
pub struct Alarm(AtomicU32);

// === impl Alarm ===

impl Alarm {
    /// Not armed.
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Link thread, before it looks at what there is: the next byte rings.
    pub fn arm(&self) {
        self.0.store(1, Ordering::Relaxed);
        // Each side writes its word and reads the other's. Only this order, the same for both, keeps the looks behind the
        // writes: a processor may otherwise let a look overtake the write before it, and both see nothing.
        fence(Ordering::SeqCst);
    }

    /// Link thread: something else wakes it soon enough.
    pub fn disarm(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Relay thread, after the position of a stream has moved: is it to ring? Once per arming.
    pub fn goes_off(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.swap(0, Ordering::Relaxed) == 1
    }
}
