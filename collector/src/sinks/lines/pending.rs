//! Encoded lines on their way out.

/// Lines, of which those at the front may be gone already.
#[derive(Debug, Default)]
pub struct Pending {
    text: Vec<u8>,
    done: usize,
}

/// Memory beyond this is given back: one line of 256 KiB of quotes takes half a megabyte, once.
const KEPT: usize = 512 << 10;

// === impl Pending ===

impl Pending {
    /// Where to append lines.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Bytes that are not written yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len().saturating_sub(self.done)
    }

    /// True once everything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is not written yet.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.text.get(self.done..).unwrap_or_default()
    }

    /// Another `written` bytes are.
    pub fn advance(&mut self, written: usize) {
        self.done = self.done.saturating_add(written);
        if self.is_empty() {
            self.clear();
        }
    }

    /// The last `written` bytes that were, are not any more. Of what was written to its end nothing is left to be taken back.
    pub fn take_back(&mut self, written: usize) {
        self.done = self.done.saturating_sub(written);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT);
        self.done = 0;
    }
}
