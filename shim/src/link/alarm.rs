//! Whether the next byte of output wakes the link thread: it is armed before the link thread looks, so that what moves
//! while it looks wakes it. No byte may fall between the look and the sleep, nor between two sessions (`shim/loom`).

use std::sync::atomic::Ordering;

use crate::sys::atomic::{AtomicU32, fence};

/// Nothing rings.
const NEVER: u32 = 0;
/// Whatever moves rings.
const ANY: u32 = 1;
/// Only more than may wait rings.
const MUCH: u32 = 2;

/// Two words, between two threads.
pub struct Alarm {
    armed: AtomicU32,
    /// 1: a collector is attached. Without one nobody would do anything about what moved, and who attaches looks first.
    attached: AtomicU32,
}

// === impl Alarm ===

impl Alarm {
    /// Not armed, and nobody attached.
    pub fn new() -> Self {
        Self { armed: AtomicU32::new(NEVER), attached: AtomicU32::new(0) }
    }

    /// Link thread: a collector is attached, or none is any more.
    pub fn attach(&self, attached: bool) {
        self.attached.store(u32::from(attached), Ordering::Release);
        // The other half of `is_heard`: what comes too early to be rung for is seen by the looks behind this.
        fence(Ordering::SeqCst);
    }

    /// Is a collector attached?
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire) != 0
    }

    /// Relay thread, after it has stored something: would somebody look who is rung for it now?
    pub fn is_heard(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_attached()
    }

    /// Link thread, before it looks at what there is: the next byte rings.
    pub fn arm(&self) {
        self.armed.store(ANY, Ordering::Relaxed);
        // Each side writes its word and reads the other's. Only this order, the same for both, keeps the looks behind the
        // writes: a processor may otherwise let a look overtake the write before it, and both see nothing.
        fence(Ordering::SeqCst);
    }

    /// Link thread, after it has looked: a timer comes soon enough for little.
    pub fn only_much(&self) {
        self.armed.store(MUCH, Ordering::Relaxed);
    }

    /// Link thread, after it has looked: nothing may go before something else wakes it.
    pub fn disarm(&self) {
        self.armed.store(NEVER, Ordering::Relaxed);
    }

    /// Relay thread, after the position of a stream has moved, and much waits or little: is it to ring? Once per arming,
    /// since a link thread that has been woken looks at everything. Not asked first whether anybody is attached: such a look
    /// may overtake the move, and who attaches just then would not see that.
    pub fn goes_off(&self, much: bool) -> bool {
        fence(Ordering::SeqCst);
        match self.armed.load(Ordering::Relaxed) {
            NEVER => false,
            MUCH if !much => false,
            _ => self.armed.swap(NEVER, Ordering::Relaxed) != NEVER && self.is_heard(),
        }
    }
}
