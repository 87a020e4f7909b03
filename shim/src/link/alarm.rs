//! Whether the next byte of output wakes the link thread: it is armed before the link thread looks, so that what moves
//! while it looks wakes it. No byte may fall between the look and the sleep (`shim/loom`).

use std::sync::atomic::Ordering;

use crate::sys::atomic::{AtomicU32, fence};

/// Nothing rings.
const NEVER: u32 = 0;
/// Whatever moves rings.
const ANY: u32 = 1;
/// Only more than may wait rings.
const MUCH: u32 = 2;

/// One word, between two threads.
pub struct Alarm(AtomicU32);

// === impl Alarm ===

impl Alarm {
    /// Not armed.
    pub fn new() -> Self {
        Self(AtomicU32::new(NEVER))
    }

    /// Link thread, before it looks at what there is: the next byte rings.
    pub fn arm(&self) {
        self.0.store(ANY, Ordering::Relaxed);
        // Each side writes its word and reads the other's. Only this order, the same for both, keeps the looks behind the
        // writes: a processor may otherwise let a look overtake the write before it, and both see nothing.
        fence(Ordering::SeqCst);
    }

    /// Link thread, after it has looked: a timer comes soon enough for little.
    pub fn only_much(&self) {
        self.0.store(MUCH, Ordering::Relaxed);
    }

    /// Link thread, after it has looked: nothing may go before something else wakes it.
    pub fn disarm(&self) {
        self.0.store(NEVER, Ordering::Relaxed);
    }

    /// Relay thread, after the position of a stream has moved, and much waits or little: is it to ring? Once per arming,
    /// since a link thread that has been woken looks at everything.
    pub fn goes_off(&self, much: bool) -> bool {
        fence(Ordering::SeqCst);
        match self.0.load(Ordering::Relaxed) {
            NEVER => false,
            MUCH if !much => false,
            _ => self.0.swap(NEVER, Ordering::Relaxed) != NEVER,
        }
    }
}
