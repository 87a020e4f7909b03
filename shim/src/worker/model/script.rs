//! What may happen, as values that proptest makes and shortens.

use proptest::prelude::*;
use shimtap_proto::ttrpc::Method;

/// One thing that somebody does. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// containerd makes a task, if there are not too many.
    Create { conn: usize, both: bool },
    /// containerd asks about one.
    Ask { conn: usize, task: usize, method: Method, filler: usize },
    /// Bytes leave containerd.
    Send { conn: usize, most: usize },
    /// The inner shim answers one of what it was asked.
    Answer { nth: usize, refuses: bool },
    /// Bytes leave the inner shim.
    Reply { conn: usize, most: usize },
    /// A container writes.
    Write { output: usize, len: usize },
    /// A container ends.
    Exit { task: usize },
    /// containerd reads.
    Read { output: usize, most: usize },
    /// The collector comes, or comes anew.
    Attach,
    /// It goes; perhaps what it had not acknowledged is lost with it.
    Detach { forgets: bool },
    /// It takes at most so many messages of each stream.
    Take { most: usize },
    /// It acknowledges part of what it has of a stream, perhaps its end.
    Acknowledge { output: usize, part: u8, end: bool },
    /// A container writes much, faster than is taken.
    Flood { output: usize, rounds: u8, takes: usize, part: u8 },
    /// The worker gets a round of its loop.
    Turn,
    /// It dies before one of its next steps, perhaps its successor too.
    Die { after: u32, again: Option<u32> },
}

/// Connections at a time.
pub const CONNS: usize = 2;

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        3 => Just(Method::Start),
        4 => Just(Method::Wait),
        3 => Just(Method::State),
        2 => Just(Method::Kill),
        1 => Just(Method::Delete),
        2 => Just(Method::Stats),
        2 => Just(Method::Exec),
        1 => Just(Method::Pause),
        2 => Just(Method::Update),
        2 => Just(Method::Pids),
        1 => Just(Method::CloseIo),
    ]
}

fn filler() -> impl Strategy<Value = usize> {
    prop_oneof![6 => Just(0usize), 2 => 0usize..3000, 1 => 30_000usize..200_000]
}

/// How many bytes of what waits.
fn most() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(usize::MAX), 1 => 1usize..40, 1 => 1usize..50_000]
}

/// Each byte of a text is a step, so a Create has a thousand of them.
fn die() -> impl Strategy<Value = Act> {
    let after = prop_oneof![4 => 0u32..60, 2 => 0u32..1500];
    (after, prop::option::weighted(0.3, 0u32..60)).prop_map(|(after, again)| Act::Die { after, again })
}

fn act() -> impl Strategy<Value = Act> {
    let output = 0usize..4;
    prop_oneof![
        2 => (0..CONNS, any::<bool>()).prop_map(|(conn, both)| Act::Create { conn, both }),
        6 => (0..CONNS, 0usize..2, method(), filler())
            .prop_map(|(conn, task, method, filler)| Act::Ask { conn, task, method, filler }),
        6 => (0..CONNS, most()).prop_map(|(conn, most)| Act::Send { conn, most }),
        6 => (0usize..5, prop::bool::weighted(0.1)).prop_map(|(nth, refuses)| Act::Answer { nth, refuses }),
        6 => (0..CONNS, most()).prop_map(|(conn, most)| Act::Reply { conn, most }),
        8 => (output.clone(), prop_oneof![1usize..300, 1usize..70_000])
            .prop_map(|(output, len)| Act::Write { output, len }),
        1 => (0usize..2).prop_map(|task| Act::Exit { task }),
        5 => (output.clone(), prop_oneof![Just(1 << 20), 1usize..9000])
            .prop_map(|(output, most)| Act::Read { output, most }),
        2 => Just(Act::Attach),
        1 => any::<bool>().prop_map(|forgets| Act::Detach { forgets }),
        5 => prop_oneof![Just(usize::MAX), 1usize..4].prop_map(|most| Act::Take { most }),
        4 => (output.clone(), prop_oneof![Just(255u8), any::<u8>()], any::<bool>())
            .prop_map(|(output, part, end)| Act::Acknowledge { output, part, end }),
        2 => (output, 1u8..30, 0usize..3, prop_oneof![1u8..30, any::<u8>()])
            .prop_map(|(output, rounds, takes, part)| Act::Flood { output, rounds, takes, part }),
        12 => Just(Act::Turn),
        8 => die(),
    ]
}

/// A history; it begins with a Create, in half of them with a death on its way.
pub fn acts() -> impl Strategy<Value = Vec<Act>> {
    let create = (0..CONNS, any::<bool>()).prop_map(|(conn, both)| (conn, Act::Create { conn, both }));
    let first = (create, prop::option::of(die()), prop::option::of(Just(Act::Attach)));
    (first, prop::collection::vec(act(), 20..250)).prop_map(|(((conn, create), die, attach), rest)| {
        let send = Act::Send { conn, most: usize::MAX };
        [create, send].into_iter().chain(die).chain(attach).chain(rest).collect()
    })
}
