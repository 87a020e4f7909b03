//! What an Update asked of a task, for those who are told of the task later: the end of its announcement's area in the block.
//!
//! The relay thread writes: that limits may change, before the request goes on, and to what, when the answer says so. Anybody
//! reads. An Update whose end nobody saw, or that is too long to be kept, leaves the limits unknown; the bundle's then must not
//! be told any more. The relayed bytes are never touched.

use std::mem::size_of;

use crate::{
    block::{Block, Places},
    sys::shared::copy_out,
};

/// Where it lies in the area: behind everything that an announcement may be, on a page of its own.
pub const AT: usize = 12 << 10;
/// Longest resources that are kept; containerd's have some hundred bytes.
const KEPT_MAX: usize = (4 << 10) - HEAD;
const HEAD: usize = 4 * size_of::<u32>();

/// What is known of a task's limits.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// They are the bundle's.
    None,
    /// They may be others than the bundle's.
    Unknown,
    /// These resources were taken last.
    To {
        /// The JSON, as it came.
        resources: Vec<u8>,
        /// Nothing was asked before.
        first: bool,
    },
}

/// What stands before the resources. Read twice: a change in between shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    /// Handles are never used again, so what another task left in this place is nobody's.
    handle: u32,
    /// Updates asked for.
    asked: u32,
    /// 1: the last one was taken, and the resources are its.
    taken: u32,
    len: u32,
}

/// Relay thread, before the request goes on: task `index` may be about to have other limits.
pub fn asked(block: &Block, index: usize, handle: u32) {
    let before = Head::read(block, index).filter(|head| head.handle == handle).map_or(0, |head| head.asked);
    Head { handle, asked: before.saturating_add(1), ..Head::default() }.write(block, index);
}

/// Relay thread: the shim took `resources`; `None` = nobody knows what it did.
pub fn answered(block: &Block, index: usize, handle: u32, resources: Option<&[u8]>) {
    let Some(resources) = resources.filter(|json| json.len() <= KEPT_MAX) else { return };
    let (Some(head), Ok(len)) = (Head::read(block, index), u32::try_from(resources.len())) else { return };
    // Of two on their way at once nobody knows which was done last.
    let alone = head.handle == handle && head.taken == 0;
    if alone && put(block, index, HEAD, resources) {
        Head { taken: 1, len, ..head }.write(block, index);
    }
}

/// What is known of the limits of task `index`.
pub fn change(block: &Block, index: usize, handle: u32) -> Change {
    let Some(head) = Head::read(block, index) else { return Change::Unknown };
    if head.handle != handle || head.asked == 0 {
        return Change::None;
    }
    let mut resources = vec![0; usize::try_from(head.len).unwrap_or(0).min(KEPT_MAX)];
    let whole = get(block, index, HEAD, &mut resources) && Head::read(block, index) == Some(head);
    if head.taken == 0 || !whole {
        return Change::Unknown;
    }
    Change::To { resources, first: head.asked == 1 }
}

fn at(index: usize, offset: usize) -> usize {
    Places::announcement(index).0.saturating_add(AT).saturating_add(offset)
}

fn get(block: &Block, index: usize, offset: usize, into: &mut [u8]) -> bool {
    copy_out(block.memfd(), at(index, offset), into).is_ok_and(|n| n == into.len())
}

fn put(block: &Block, index: usize, offset: usize, bytes: &[u8]) -> bool {
    let Ok(at) = i64::try_from(at(index, offset)) else { return false };
    nix::sys::uio::pwrite(block.memfd(), bytes, at).is_ok_and(|n| n == bytes.len())
}

// === impl Head ===

impl Head {
    fn read(block: &Block, index: usize) -> Option<Self> {
        let mut bytes = [0u8; HEAD];
        let words = get(block, index, 0, &mut bytes).then(|| bytes.as_chunks::<4>().0.iter());
        let mut words = words?.map(|word| u32::from_ne_bytes(*word));
        Some(Self { handle: words.next()?, asked: words.next()?, taken: words.next()?, len: words.next()? })
    }

    fn write(self, block: &Block, index: usize) {
        let words = [self.handle, self.asked, self.taken, self.len];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // A memfd of ours that cannot be written has run out of memory, and then much more is lost than this.
        put(block, index, 0, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(resources: &[u8], first: bool) -> Change {
        Change::To { resources: resources.to_vec(), first }
    }

    #[test]
    fn only_what_was_taken_is_known() {
        let block = Block::create().expect("a block");
        assert_eq!(change(&block, 3, 7), Change::None);
        asked(&block, 3, 7);
        assert_eq!(change(&block, 3, 7), Change::Unknown, "on its way");
        answered(&block, 3, 7, Some(b"{}"));
        assert_eq!(change(&block, 3, 7), to(b"{}", true));
        asked(&block, 3, 7);
        assert_eq!(change(&block, 3, 7), Change::Unknown);
        answered(&block, 3, 7, Some(b"{\"cpu\":{}}"));
        assert_eq!(change(&block, 3, 7), to(b"{\"cpu\":{}}", false), "something was asked before");
        asked(&block, 3, 7);
        answered(&block, 3, 7, None);
        assert_eq!(change(&block, 3, 7), Change::Unknown, "refused, or nobody knows");
    }

    #[test]
    fn what_another_task_left_is_not_this_ones() {
        let block = Block::create().expect("a block");
        asked(&block, 0, 7);
        answered(&block, 0, 7, Some(b"{}"));
        assert_eq!(change(&block, 0, 8), Change::None);
        answered(&block, 0, 8, Some(b"[]"));
        assert_eq!(change(&block, 0, 8), Change::None, "nobody had asked");
        asked(&block, 0, 8);
        assert_eq!((change(&block, 0, 7), change(&block, 0, 8)), (Change::None, Change::Unknown));
    }

    #[test]
    fn too_much_is_not_kept() {
        let block = Block::create().expect("a block");
        for (len, kept) in [(KEPT_MAX, true), (KEPT_MAX + 1, false)] {
            asked(&block, 127, 1);
            answered(&block, 127, 1, Some(&vec![b' '; len]));
            assert_eq!(matches!(change(&block, 127, 1), Change::To { .. }), kept);
        }
        assert_eq!(change(&block, 126, 1), Change::None);
    }
}
