//! The block against what a successor, a stranger or a damaged memfd may hand us.

use std::{
    mem::{offset_of, size_of},
    os::fd::{AsFd, OwnedFd},
};

use super::{counters::Counter, *};
use crate::sys::shared::memfd;

fn duplicate(fd: BorrowedFd<'_>) -> OwnedFd {
    fd.try_clone_to_owned().unwrap()
}

#[test]
fn what_one_process_writes_another_reads() {
    let block = Block::create().unwrap();
    let tables = block.tables();
    tables.identity.id.set("abc");
    TaskState::Running.store(&tables.tasks[3].state);
    note_used(&tables.tasks_used, 3);
    let successor = Block::open(duplicate(block.memfd())).unwrap();
    assert_eq!(successor.tables().identity.id.get(), "abc");
    assert_eq!(successor.tables().tasks().len(), 4);
    assert_eq!(TaskState::load(&successor.tables().tasks()[3].state), TaskState::Running);
}

#[test]
fn what_is_no_block_of_ours_is_refused() {
    let refused = |fd: OwnedFd| Block::open(fd).err();
    assert_eq!(refused(memfd("x", 4096).unwrap()), Some(Errno::EPROTO), "too short");
    assert_eq!(refused(memfd("x", Places::TOTAL).unwrap()), Some(Errno::EPROTO), "all zeros");
    let other = Block::create().unwrap();
    for far in [0, FIRST - 1, LAYOUT + 2, u32::MAX] {
        other.tables().version.store(far, Ordering::Release);
        assert_eq!(refused(duplicate(other.memfd())), Some(Errno::EPROTO), "layout {far}");
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(refused(OwnedFd::from(file)), Some(Errno::EPROTO), "no memfd at all");
}

#[test]
fn a_neighbour_s_block_is_read_and_becomes_ours_with_a_worker() {
    let other = Block::create().unwrap();
    other.tables().identity.id.set("abc");
    other.tables().version.store(LAYOUT + 1, Ordering::Release);
    let ours = Block::open(duplicate(other.memfd())).unwrap();
    assert_eq!(other.tables().version.load(Ordering::Relaxed), LAYOUT + 1, "reading changes nothing");
    ours.make_ours().unwrap();
    assert_eq!(other.tables().version.load(Ordering::Relaxed), LAYOUT);
    assert_eq!(ours.tables().identity.id.get(), "abc");
}

#[test]
fn a_word_of_no_state_is_the_first_state() {
    let word = crate::sys::atomic::AtomicU32::new(9999);
    assert_eq!(DirState::load(&word), DirState::Idle);
    assert_eq!(TaskState::load(&word), TaskState::Free);
}

#[test]
fn texts_that_do_not_fit_are_empty() {
    let block = Block::create().unwrap();
    let text = &block.tables().identity.key;
    assert!(text.set(&"k".repeat(ID)));
    assert!(!text.set(&"k".repeat(ID + 1)));
    assert!(text.is_empty());
    assert!(text.set_bytes(&[0xff, 0xfe]));
    assert_eq!(text.get(), "", "what is not UTF-8 reads as empty");
    assert_eq!(text.bytes(), [0xff, 0xfe]);
}

#[test]
fn every_descriptor_has_a_slot_of_its_own() {
    let mut slots = vec![Slot::LISTENER, Slot::ALIVE, Slot::WATCH, Slot::TAP, Slot::TAP.plus(1)];
    slots.extend([Slot::SWITCH, Slot::IMAGE, Slot::FALLBACK]);
    for n in 0..CONNS {
        slots.extend([Slot::outer(n), Slot::inner(n)]);
    }
    for n in 0..STREAMS {
        slots.extend((0..3).map(|k| Slot::stream(n).plus(k)));
    }
    for n in 0..PIPES {
        slots.extend([Slot::pipe(n), Slot::pipe(n).plus(1)]);
    }
    let count = slots.len();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), count);
    assert!(slots.iter().all(|s| s.index() < Slot::COUNT));
    assert_eq!(Slot::from_number(u32::MAX), None);
}

#[test]
fn places_do_not_overlap() {
    let mut places = vec![(0, Places::TABLES), Places::events(), Places::chunks()];
    places.extend((0..TASKS).map(Places::announcement));
    places.extend((0..CONNS).map(Places::frames));
    let end = places.iter().fold(0, |end, (start, len)| {
        assert!(*start >= end && start.is_multiple_of(4096), "{start} after {end}");
        start + len
    });
    assert_eq!(end, Places::TOTAL);
}

/// The layout is a format between releases. If this fails, a field was moved: append instead, or raise LAYOUT.
#[test]
fn layout_version_2_stays_as_it_is() {
    assert_eq!(LAYOUT, 2);
    assert_eq!((size_of::<Dir>(), size_of::<Conn>(), size_of::<Pending>()), (32, 72, 600));
    assert_eq!((size_of::<Task>(), size_of::<Stream>(), size_of::<Identity>()), (776, 1680, 1344));
    let tables = [
        offset_of!(Tables, identity),
        offset_of!(Tables, keeper_pid),
        offset_of!(Tables, events_head),
        offset_of!(Tables, care),
        offset_of!(Tables, spool),
        offset_of!(Tables, counters),
        offset_of!(Tables, held),
        offset_of!(Tables, conns),
        offset_of!(Tables, pendings),
        offset_of!(Tables, tasks),
        offset_of!(Tables, streams),
        offset_of!(Tables, repairs),
        size_of::<Tables>(),
    ];
    assert_eq!(
        tables,
        [16, 1360, 1416, 1448, 2032, 2376, 5352, 13576, 22792, 329992, 429320, 859400, 860424]
    );
}

#[test]
fn a_new_block_costs_a_few_pages() {
    let block = Block::create().unwrap();
    let _ = block.tables().streams();
    let blocks = nix::sys::stat::fstat(block.memfd().as_fd()).unwrap().st_blocks;
    assert!(blocks * 512 <= 16 << 10, "{} bytes", blocks * 512);
}

/// What `./dev miri` runs: the words of the block as they are in any memory, since a mapping is not for miri.
mod plain_memory {
    use std::sync::atomic::Ordering;

    use crate::{
        block::{PendingState, Slot, link_to, linked, text::Text, words},
        sys::atomic::AtomicU32,
    };

    #[test]
    fn words_states_and_links_hold_what_they_are_given() {
        let word = AtomicU32::new(0);
        assert_eq!(linked(&word), None);
        word.store(link_to(Some(7)), Ordering::Release);
        assert_eq!(linked(&word), Some(7));
        words::store(&word, usize::MAX);
        assert_eq!(words::load(&word), usize::try_from(u32::MAX).unwrap());
        for state in PendingState::ALL {
            state.store(&word);
            assert_eq!(PendingState::load(&word), *state);
        }
        assert_eq!(Slot::from_number(Slot::TAP.number()), Some(Slot::TAP));
    }

    #[test]
    fn a_text_is_read_as_far_as_it_was_written() {
        let text = Text::<8>::default();
        for (said, kept) in [("", ""), ("abc", "abc"), ("12345678", "12345678"), ("123456789", "")] {
            text.set(said);
            assert_eq!(text.get(), kept);
            assert!(text.is(kept));
        }
    }

    /// A writer and a reader at once: the reader gets bytes of either, never others, and there is no data race for miri to
    /// report.
    #[test]
    fn a_text_may_be_read_while_it_is_written() {
        let text = Text::<4>::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20).for_each(|n| assert!(text.set(if n % 2 == 0 { "aaaa" } else { "bbbb" }))));
            for _ in 0..20 {
                assert!(text.bytes().iter().all(|b| [0, b'a', b'b'].contains(b)));
            }
        });
    }
}

/// All of this crate's sources but their tests, and but the list itself.
fn product(dir: &std::path::Path) -> String {
    let mut out = String::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let is_list = path.ends_with("block/counters.rs");
        if path.is_dir() {
            out += &product(&path);
        } else if !is_list && path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            out += text.split("#[cfg(test)]\nmod tests").next().unwrap();
        }
    }
    out
}

/// A counter that nobody counts would be shown as 0 for ever, which says that nothing of the kind happened.
#[test]
fn each_counter_is_counted_somewhere() {
    let text = product(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let used = |counter: &Counter| {
        let name = format!("Counter::{counter:?}");
        text.match_indices(&name).any(|(at, _)| {
            let next = text[at + name.len()..].chars().next();
            !next.is_some_and(|c| c.is_ascii_alphanumeric())
        })
    };
    let idle: Vec<_> =
        Counter::ALL.iter().map(|(counter, _)| counter).filter(|counter| !used(counter)).collect();
    assert!(idle.is_empty(), "nobody counts {idle:?}");
}
