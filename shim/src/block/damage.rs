//! A block in which any word may hold anything: whatever reads it comes to an end, and panics or reads outside nowhere.
//!
//! The process around it is made to survive a worker that dies of such a block (safe mode); this keeps it from dying at
//! all where reading is enough. Used by the property tests below and by `shim/fuzz`.

use std::{os::fd::AsFd, path::Path};

use super::{care::Care, care::Mode, *};
use crate::{
    events::EventRing,
    link::{Switchboard, report},
    tee::ring::{ChunkPool, RingView},
    worker,
};

/// Bytes of input that make one damage.
pub const DAMAGE: usize = 7;

/// What is read and written over and over, since each reader wants it for ever.
#[derive(Clone, Copy)]
pub struct Patient {
    block: &'static Block,
    board: &'static Switchboard,
}

// === impl Patient ===

impl Patient {
    /// A whole block and a switchboard.
    pub fn new() -> Self {
        let block = Block::create().expect("memory is there");
        let board = Switchboard::new().expect("descriptors are there");
        Self { block: Box::leak(Box::new(block)), board: Box::leak(Box::new(board)) }
    }

    /// A new block with this damage; `mode` and the rest are the input's.
    fn hurt(self, input: &[u8]) {
        self.block.renew();
        let tables = self.block.tables();
        for used in [&tables.conns_used, &tables.pendings_used, &tables.tasks_used, &tables.streams_used] {
            used.store(6, Ordering::Relaxed);
        }
        for damage in input.chunks_exact(DAMAGE) {
            let (place, value) = place_and_value(damage);
            let at = i64::try_from(place).unwrap_or(0);
            let _ = nix::sys::uio::pwrite(self.block.memfd(), &value.to_ne_bytes(), at);
        }
    }

    /// Everything that reads a block, on one damaged by `input`. `dir` is a directory that nobody needs.
    pub fn examine(self, input: &[u8], dir: &Path) {
        let (mode, input) = input.split_first().map_or((0, input), |(mode, rest)| (*mode, rest));
        self.hurt(input);
        let reopened = self.block.memfd().try_clone_to_owned().map(Block::open);
        let tables = self.block.tables();
        let signed = tables.magic.load(Ordering::Relaxed) == MAGIC;
        let whole = signed && Block::can_follow(tables.version.load(Ordering::Relaxed));
        assert_eq!(reopened.is_ok_and(|block| block.is_ok()), whole, "opened if it says that it is one");
        assert!(tables.tasks().len() <= TASKS && tables.streams().len() <= STREAMS);
        assert!(tables.conns().len() <= CONNS && tables.pendings().len() <= PENDINGS);
        let _ = report::Reporter::new().changed(self.block, &self.board.stalls);
        let _ = worker::Pipes::in_use(self.block);
        let _ = self.board.has_said_everything(self.block);
        if mode & 1 == 0 {
            use_streams(self.block);
            use_events(self.block);
            use_care(&tables.care);
        } else {
            let mode = if mode & 2 == 0 { Mode::Normal } else { Mode::Safe };
            worker::damage::disarm(self.block, dir);
            worker::damage::begin_with(self.block, self.board, mode);
        }
        // Chunks are given back by number: none of another area's pages may have gone with them.
        assert!(self.block.map_place(Places::events()).is_ok());
    }
}

/// Where (in bytes) and what. Mostly into the tables that are used, and mostly small numbers, which look like indices.
fn place_and_value(damage: &[u8]) -> (usize, u32) {
    use std::mem::offset_of;
    let byte = |n: usize| damage.get(n).copied().unwrap_or(0);
    let raw = usize::from(u16::from_ne_bytes([byte(1), byte(2)]));
    let (start, len) = match byte(0) % 8 {
        0 => (0, Places::TABLES),
        1 => (offset_of!(Tables, conns), 4 * size_of::<Conn>()),
        2 => (offset_of!(Tables, pendings), 6 * size_of::<Pending>()),
        3 => (offset_of!(Tables, tasks), 4 * size_of::<Task>()),
        4 | 5 => (offset_of!(Tables, streams), 6 * size_of::<Stream>()),
        6 => (0, offset_of!(Tables, held)),
        _ => Places::events(),
    };
    let words = (len / 4).max(1);
    // Far places too: 16 bits of words are less than the tables.
    let word = if len == Places::TABLES { raw * 7 } else { raw };
    let value = u32::from_ne_bytes([byte(3), byte(4), byte(5), byte(6)]);
    let value = match byte(0) / 8 % 4 {
        0 | 1 => value % 300,
        2 => u32::MAX - value % 3,
        _ => value,
    };
    (start + word % words * 4, value)
}

/// Everything that is done to a stream's ring.
fn use_streams(block: &'static Block) {
    let mut pool = ChunkPool::recover(block).expect("mappings are there");
    let (out, into) = crate::sys::fd::pipe().expect("descriptors are there");
    let view = RingView::new(block);
    for stream in block.tables().streams.iter().take(6) {
        let pos = stream.pos.load(Ordering::Relaxed);
        let room = pool.reserve(stream, 70_000, false);
        assert!(room <= 70_000);
        let _ = nix::unistd::write(&into, &[7; 100]);
        let _ = pool.fill(stream, out.as_fd(), pos, 100.min(room));
        crate::sys::fd::forget(out.as_fd());
        ChunkPool::mark(stream, pos, 1);
        for offset in [0, pos, pos / 2, u64::MAX] {
            let _ = view.read(stream, offset, 1 << 16);
            let _ = RingView::times(stream, offset, 1 << 16);
        }
        pool.trim(stream);
        pool.skip(stream, pos);
        pool.free_all(stream, 0);
    }
}

fn use_events(block: &'static Block) {
    let Ok(ring) = EventRing::new(block) else { return };
    let mut position = ring.tail();
    for _ in 0..100 {
        let Some((_, behind)) = ring.at(position) else { break };
        position = behind;
    }
    ring.finish();
    ring.push(shimtap_proto::link::Event::default());
}

fn use_care(care: &Care) {
    care.note_ready(5);
    let _ = care.take_announced();
    let cause = crate::keeper::Cause { reason: super::care::Reason::Crashed, signal: 11, exit_status: 0 };
    (0..20).for_each(|n| care.note_death(nix::unistd::Pid::from_raw(1), cause, n, n));
}

/// A memfd of any size (`None`: that of a block) and beginning is refused, unless it is a block.
pub fn open_stranger(len: Option<usize>, beginning: &[u8]) {
    let len = len.unwrap_or(Places::TOTAL);
    let Ok(other) = memfd("other", len) else { return };
    let beginning = beginning.get(..len.min(beginning.len())).unwrap_or(&[]);
    let _ = nix::sys::uio::pwrite(&other, beginning, 0);
    // What was not written is zeros.
    let mut head = beginning.iter().copied().chain(std::iter::repeat(0));
    let magic = u64::from_ne_bytes(std::array::from_fn(|_| head.next().unwrap_or(0)));
    let layout = u32::from_ne_bytes(std::array::from_fn(|_| head.next().unwrap_or(0)));
    let whole = len == Places::TOTAL && magic == MAGIC && Block::can_follow(layout);
    assert_eq!(Block::open(other).err(), (!whole).then_some(Errno::EPROTO));
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;

    static PATIENT: OnceLock<Patient> = OnceLock::new();

    /// Found by fuzzing the judge below: zeros behind what was written are part of a number.
    #[test]
    fn a_version_may_be_written_in_part() {
        let beginning = [&MAGIC.to_ne_bytes()[..], &[2, 0]].concat();
        open_stranger(None, &beginning);
    }

    /// Examined in a directory of its own.
    fn examine(input: &[u8], name: &str) {
        let dir = std::env::temp_dir().join(format!("shimtap-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        PATIENT.get_or_init(Patient::new).examine(input, &dir);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// Found by chance below: a damage may make a block the next release's, which is opened as well.
    #[test]
    fn a_block_may_become_another_layouts() {
        let head = 6;
        let version_at = u16::try_from(std::mem::offset_of!(Tables, version) / 4).unwrap().to_ne_bytes();
        for layout in [LAYOUT + 1, LAYOUT + 2, 0] {
            for mode in 0..4 {
                let damage = [&[mode, head][..], &version_at, &layout.to_ne_bytes()].concat();
                examine(&damage, "layouts");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn readers_of_a_damaged_block_come_to_an_end(input in prop::collection::vec(any::<u8>(), 1..2000)) {
            examine(&input, "damage");
        }

        /// A damage of random bytes hardly ever says that it is a block of another layout.
        #[test]
        fn a_block_of_another_layout_is_refused(layout in any::<u32>(), cut in 0usize..12) {
            let beginning = [&MAGIC.to_ne_bytes()[..], &layout.to_ne_bytes()].concat();
            open_stranger(None, &beginning);
            open_stranger(None, &beginning[..cut]);
        }

        /// Other sizes, other first words: refused, whatever else they hold.
        #[test]
        fn what_is_not_a_whole_block_of_ours_is_refused(
            len in prop::option::of(0usize..100_000),
            beginning in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            open_stranger(len, &beginning);
        }
    }
}
