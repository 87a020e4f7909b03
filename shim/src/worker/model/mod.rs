//! A worker against a model of what it has to do, through random sequences of everything that containerd, an inner shim, its
//! containers and a collector do, with deaths between any two steps.
//!
//! `tests/tests/standin_deaths.rs` kills the real program at each of its system calls, once per run, in operations that were
//! thought of. Here a death may also fall between two writes of memory, in a state that a long random history has led to, and
//! the successor may die as well. Real: the worker, its block, its pipes, FIFOs and sockets, the keeper's service. Played by
//! the test: containerd, the inner shim, the container, the collector; of the link thread its cursors are real. Not here: another process,
//! a keeper's death, safe mode, the second thread (`shim/loom`).

mod calls;
mod collector;
mod output;
mod script;
pub(crate) mod stage;
mod wire;
mod world;

use std::time::{Duration, Instant};

use proptest::{prelude::*, test_runner::RngSeed};
use shimtap_proto::ttrpc::Method;

use self::{
    script::{Act, acts},
    world::World,
};

/// Longer than any held answer waits.
const PATIENCE: Duration = Duration::from_secs(60);

fn play(script: &[Act]) {
    let mut world = World::new();
    world.play_all(script);
    end(world);
}

fn end(mut world: World) {
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
    #![proptest_config(ProptestConfig { cases: cases(), rng_seed: seed(), failure_persistence: None, max_shrink_iters: 2000, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn a_wrapper_does_what_it_has_to_whenever_its_worker_dies(script in acts()) {
        play(&script);
    }
}

/// However much there is.
const ALL: usize = usize::MAX;

/// The request that is open is answered on this connection.
fn answered(conn: usize) -> [Act; 3] {
    [Act::Answer { nth: 0, refuses: false }, Act::Reply { conn, most: ALL }, Act::Turn]
}

/// A task is made.
fn created(conn: usize) -> Vec<Act> {
    let asked = [Act::Create { conn, both: false }, Act::Send { conn, most: ALL }, Act::Turn];
    [asked, answered(conn)].concat()
}

/// containerd asks about the first task.
fn asked(conn: usize, method: Method) -> [Act; 2] {
    [Act::Ask { conn, task: 0, method, filler: 0 }, Act::Send { conn, most: ALL }]
}

/// The collector takes what there is and acknowledges it, `end`: its end as well.
fn taken(end: bool) -> [Act; 2] {
    [Act::Take { most: ALL }, Act::Acknowledge { output: 0, part: 255, end }]
}

/// A worker that had freed an answered request and died before it noted so, while another request waited: the successor took
/// the entry for the one and then concluded the other with it, so that the Wait was forgotten.
#[test]
fn a_request_is_not_concluded_with_the_answer_to_another() {
    for after in 0..80 {
        let [wait, sent] = asked(0, Method::Wait);
        play(
            &[
                &created(1)[..],
                &asked(1, Method::Start),
                &[wait, Act::Turn, Act::Answer { nth: 0, refuses: false }, Act::Reply { conn: 1, most: ALL }],
                &[sent, Act::Die { after, again: None }],
            ]
            .concat(),
        );
    }
}

/// A Delete lets go of the answer to a Wait on a connection that the successor, which goes through them in order, had not taken
/// up yet: it could not be sent, and that connection was ended for it.
#[test]
fn an_answer_that_a_delete_lets_go_waits_for_its_connection_to_be_taken_up() {
    for after in 0..80 {
        play(
            &[
                &created(0)[..],
                &asked(1, Method::Wait),
                &[Act::Write { output: 0, len: 1 }, Act::Exit { task: 0 }, Act::Turn],
                &answered(1),
                &asked(0, Method::Delete),
                &[Act::Die { after, again: None }],
            ]
            .concat(),
        );
    }
}

/// A task is made, and `asked_of_it`; then it is deleted, the collector takes all, and only after that the rest of the answers comes.
fn forgotten_before_it_is_told(asked_of_it: &[Act]) {
    play(
        &[
            &[Act::Attach][..],
            &created(0),
            asked_of_it,
            &asked(0, Method::Delete),
            &[Act::Turn],
            &answered(0),
            &[Act::Turn],
            &taken(true),
            &[Act::Take { most: ALL }, Act::Turn],
            &[Act::Reply { conn: 1, most: ALL }, Act::Turn],
        ]
        .concat(),
    );
}

/// The rest of a Wait's answer came when its task had been deleted, taken by the collector and forgotten: its free entry
/// in the table was marked as a task that has ended, for ever.
#[test]
fn an_exit_that_comes_late_marks_no_forgotten_entry() {
    forgotten_before_it_is_told(
        &[
            &asked(1, Method::Wait)[..],
            &[Act::Turn, Act::Exit { task: 0 }],
            &[Act::Answer { nth: 0, refuses: false }, Act::Reply { conn: 1, most: 5 }],
        ]
        .concat(),
    );
}

/// A State that the shim answered, whose task was deleted, taken by the collector and forgotten before that came: it named our FIFO.
#[test]
fn an_answer_that_comes_late_names_containerds_fifos() {
    forgotten_before_it_is_told(
        &[
            &asked(1, Method::State)[..],
            &[Act::Turn, Act::Exit { task: 0 }, Act::Answer { nth: 0, refuses: false }],
        ]
        .concat(),
    );
}

/// Likewise with two Waits: each of them told of the exit.
#[test]
fn an_exit_that_is_answered_late_and_twice_is_told_once() {
    forgotten_before_it_is_told(
        &[
            &asked(1, Method::Wait)[..],
            &asked(1, Method::Wait),
            &[Act::Turn, Act::Exit { task: 0 }],
            &[Act::Answer { nth: 0, refuses: false }, Act::Answer { nth: 0, refuses: false }],
        ]
        .concat(),
    );
}

/// The collector had said that all bytes are durable when it was told of the end, and was killed before that was: the task was done
/// with, and its stream was taken for one that was cut off.
#[test]
fn an_end_is_told_again_until_it_is_durable() {
    let bytes = [Act::Write { output: 0, len: 9 }, Act::Turn, Act::Read { output: 0, most: 100 }, Act::Turn];
    let over =
        [&[Act::Exit { task: 0 }, Act::Turn][..], &asked(0, Method::Delete), &[Act::Turn], &answered(0)];
    play(
        &[
            &[Act::Attach][..],
            &created(0),
            &bytes,
            &taken(false),
            &over.concat(),
            &taken(false),
            &[Act::Detach { forgets: true }, Act::Attach],
            &taken(true),
        ]
        .concat(),
    );
}

/// What came while a full ring was being taken has no copy: a Gap says so, no longer and no shorter, whenever its worker dies, or
/// where none does; what the ring had arrives, and what comes when that is acknowledged is copied again (docs/adr/0027).
#[test]
fn what_has_passed_a_full_ring_is_a_gap_whenever_its_worker_dies() {
    let mut before = created(0);
    before.extend([Act::Attach, Act::Flood { output: 0, rounds: 28, takes: 1, part: 10 }]);
    let taking = [Act::Take { most: ALL }, Act::Acknowledge { output: 0, part: 128, end: false }];
    let mut after = vec![Act::Attach, Act::Write { output: 0, len: 9_000 }, Act::Turn];
    after.extend(std::iter::repeat_n(taking, 8).flatten());
    after.push(Act::Flood { output: 0, rounds: 2, takes: 0, part: 0 });
    let mut left = 0;
    for death in [None].into_iter().chain((0..40).map(Some)) {
        let mut world = World::new();
        world.play_all(&before);
        left += u32::from(world.leaves_a_ring());
        death.into_iter().for_each(|after| world.play(Act::Die { after, again: None }));
        world.play_all(&after);
        end(world);
    }
    // Where the machine has no time for a fifth of a second the collector counts as away, and the oldest are dropped.
    assert!(left > 0, "no ring was ever left to the collector");
}

/// A suite plays the same histories each time, so that it says what a change has done; `./dev model` plays others, and finds.
fn seed() -> RngSeed {
    if std::env::var_os("SHIMTAP_MODEL_CASES").is_some() {
        RngSeed::Random
    } else {
        RngSeed::Fixed(20_261_122)
    }
}

/// How many histories: SHIMTAP_MODEL_CASES, else as many as a suite has time for.
fn cases() -> u32 {
    std::env::var("SHIMTAP_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64)
}
