//! The child that makes what must not be lost with its keeper (docs/adr/0008) dies between two of its system calls, or the
//! keeper does and the child goes on.

use anyhow::{Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::standin::tracer::{Edge, Outcome, Whose, name};

use super::{
    connections::a_connection_comes,
    trap::{Alive, Done, Sweep, talker, traced},
};

/// How many descriptors it opened.
fn opened(outcome: &Outcome) -> usize {
    let opens = |call| matches!(name(call).as_str(), "open" | "openat");
    outcome.stops.iter().filter(|s| opens(s.call) && s.edge == Edge::Exit && s.result >= 0).count()
}

/// A Create, at whose end a child opens both writers of containerd's FIFOs.
fn both_writers(whose: Whose) -> Result<()> {
    Sweep::of_child_beside("both writers", whose).run(&talker(), |pod, trap| {
        let fifos = pod.fifos("task")?;
        let request = pod.create_request(&fifos);
        let (outcome, _) = traced::<_, api::CreateTaskResponse>(pod, trap, "Create", &request)?;
        // Else nobody would have died between the two.
        ensure!(outcome.killed || opened(&outcome) == 2, "one child opens both: {:?}", outcome.stops);
        Ok(Done::of_init(outcome, fifos, Alive::Created))
    })
}

/// Killed between the two, or before it has told of one, it leaves those that it has made where the keeper finds them: containerd's
/// readers see no end, and all that is written.
#[test]
fn the_child_that_opens_both_writers_dies() -> Result<()> {
    both_writers(Whose::Child)
}

/// The child goes on, and the worker has from it what it makes after its keeper's death.
#[test]
fn the_keeper_dies_while_a_child_opens_both_writers() -> Result<()> {
    both_writers(Whose::Parent)
}

/// It accepts: the connection is the worker's, or waits still.
#[test]
fn the_child_that_accepts_dies() -> Result<()> {
    a_connection_comes(Sweep::of_child_beside("accept beside", Whose::Child).a_third())
}

/// The child goes on.
#[test]
fn the_keeper_dies_while_a_child_accepts() -> Result<()> {
    a_connection_comes(Sweep::of_child_beside("accept beside", Whose::Parent).a_third())
}
