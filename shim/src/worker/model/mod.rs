//! A worker against a model of what it has to do, through random sequences of everything that containerd, an inner shim, its
//! containers and a collector do, with deaths between any two steps.
//!
//! `tests/tests/standin_deaths.rs` kills the real program at each of its system calls, once per run, in operations that were
//! thought of. Here a death may also fall between two writes of memory, in a state that a long random history has led to, and
//! the successor may die as well. Real: the worker, its block, its pipes, FIFOs and sockets, the keeper's service. Played by
//! the test: containerd, the inner shim, the container, the link thread. Not here: another process, a keeper's death, safe
//! mode, the second thread (`shim/model`).

mod calls;
mod output;
mod script;
pub(crate) mod stage;
mod wire;
mod world;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use shimtap_proto::ttrpc::Method;

use self::{
    script::{Act, acts},
    world::World,
};

/// Longer than any held answer waits.
const PATIENCE: Duration = Duration::from_secs(5);

fn play(script: Vec<Act>) {
    let mut world = World::new();
    for act in script {
        world.act(act);
        world.check();
    }
    // Everybody does what is left to do.
    let deadline = Instant::now() + PATIENCE;
    while !world.settle() {
        assert!(Instant::now() < deadline, "it hangs: {}", world.left());
        world.check();
    }
    world.check_settled();
    world.end_tasks();
    while !world.settle() || !world.is_forgotten() {
        assert!(Instant::now() < deadline, "it hangs at the end: {}", world.left());
        world.check();
    }
    world.check_forgotten();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2000, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn a_wrapper_does_what_it_has_to_whenever_its_worker_dies(script in acts()) {
        play(script);
    }
}

/// A worker that had freed an answered request and died before it noted so, while another request waited: the successor took
/// the entry for the one and then concluded the other with it, so that the Wait was forgotten.
#[test]
fn a_request_is_not_concluded_with_the_answer_to_another() {
    let all = usize::MAX;
    for after in 0..80 {
        play(vec![
            Act::Create { conn: 1, both: false },
            Act::Send { conn: 1, most: all },
            Act::Turn,
            Act::Answer { nth: 0, refuses: false },
            Act::Reply { conn: 1, most: all },
            Act::Turn,
            Act::Ask { conn: 1, task: 0, method: Method::Start, filler: 0 },
            Act::Send { conn: 1, most: all },
            Act::Ask { conn: 0, task: 0, method: Method::Wait, filler: 0 },
            Act::Turn,
            Act::Answer { nth: 0, refuses: false },
            Act::Reply { conn: 1, most: all },
            Act::Send { conn: 0, most: all },
            Act::Die { after, again: None },
        ]);
    }
}

/// A Delete lets go of the answer to a Wait on a connection that the successor, which goes through them in order, had not taken
/// up yet: it could not be sent, and that connection was ended for it.
#[test]
fn an_answer_that_a_delete_lets_go_waits_for_its_connection_to_be_taken_up() {
    let all = usize::MAX;
    for after in 0..80 {
        play(vec![
            Act::Create { conn: 0, both: false },
            Act::Send { conn: 0, most: all },
            Act::Turn,
            Act::Answer { nth: 0, refuses: false },
            Act::Reply { conn: 0, most: all },
            Act::Turn,
            Act::Ask { conn: 1, task: 0, method: Method::Wait, filler: 0 },
            Act::Send { conn: 1, most: all },
            Act::Write { output: 0, len: 1 },
            Act::Exit { task: 0 },
            Act::Turn,
            Act::Answer { nth: 0, refuses: false },
            Act::Reply { conn: 1, most: all },
            Act::Turn,
            Act::Ask { conn: 0, task: 0, method: Method::Delete, filler: 0 },
            Act::Send { conn: 0, most: all },
            Act::Die { after, again: None },
        ]);
    }
}

/// How many histories: SHIMTAP_MODEL_CASES, else as many as a suite has time for.
fn cases() -> u32 {
    std::env::var("SHIMTAP_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64)
}
