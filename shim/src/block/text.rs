//! A short string in the block.

use std::sync::atomic::Ordering;

use crate::sys::{
    atomic::{AtomicU8, AtomicU32},
    shared::shared_layout,
};

shared_layout! {
    /// At most `N` bytes of text. The length is stored last, so a half-written text is the empty one.
    pub struct Text<const N: usize> {
        len: AtomicU32,
        bytes: [AtomicU8; N],
    }
}

// === impl Text ===

impl<const N: usize> Text<N> {
    /// Stores `text`; false (and the empty text) where it is too long.
    pub fn set(&self, text: &str) -> bool {
        self.set_bytes(text.as_bytes())
    }

    /// The same for bytes that are no text.
    pub fn set_bytes(&self, bytes: &[u8]) -> bool {
        self.len.store(0, Ordering::Release);
        if bytes.len() > N {
            return false;
        }
        for (cell, byte) in self.bytes.iter().zip(bytes) {
            cell.store(*byte, Ordering::Relaxed);
        }
        self.len.store(u32::try_from(bytes.len()).unwrap_or(0), Ordering::Release);
        true
    }

    /// The text; what is not UTF-8 (only a corrupt block) reads as empty.
    pub fn get(&self) -> String {
        String::from_utf8(self.bytes()).unwrap_or_default()
    }

    /// What was stored, as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.raw().collect()
    }

    /// Is it exactly this?
    pub fn is(&self, text: &str) -> bool {
        self.raw().eq(text.bytes())
    }

    /// Is it empty?
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    fn raw(&self) -> impl Iterator<Item = u8> + '_ {
        let len = usize::try_from(self.len.load(Ordering::Acquire)).unwrap_or(0);
        self.bytes.iter().take(len).map(|b| b.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { len: AtomicU32::new(0), bytes: std::array::from_fn(|_| AtomicU8::new(0)) }
    }
}
