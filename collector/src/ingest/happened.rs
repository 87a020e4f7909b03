//! What an event says of its task: a new state, other limits, and what is counted of its life.

use std::sync::Arc;

use shimtap_proto::link;

use super::event_label::EventLabel;
use crate::{
    metrics::{Container, Cut, ExecOutcome, Happened, Registry, Spec, Update, Wrapper},
    node::Death,
};

/// Takes an event of a task that is known.
pub(super) fn happened(
    registry: &Registry,
    wrapper: &Wrapper,
    container: &Arc<Container>,
    event: &link::Event,
) {
    let kind = EventLabel::of(event);
    if kind == EventLabel::Lost {
        lost(registry, wrapper, container, event.outlived);
    } else if event.process.is_empty() {
        of_init(registry, container, kind, event);
    } else {
        of_exec(registry, container, kind, event);
    }
}

fn of_init(registry: &Registry, container: &Arc<Container>, kind: EventLabel, event: &link::Event) {
    let well = event.code == 0;
    let (update, what) = match kind {
        EventLabel::Create if well => (None, Some(Happened::Created(event.duration_ns))),
        EventLabel::Start if well => {
            let started = Update::Started { at_ns: event.time_ns, pid: event.pid };
            (Some(started), Some(Happened::Started(event.duration_ns)))
        }
        EventLabel::Start => (None, Some(Happened::Refused)),
        EventLabel::Kill if well => (Some(Update::Killed), None),
        EventLabel::Exit => {
            let exited = Update::Exited { at_ns: event.time_ns, status: event.exit_status };
            // Told twice by a wrapper that was replaced meanwhile, it is one end.
            let first = container.live().exit_status.is_none();
            (Some(exited), first.then_some(Happened::Exited(event.exit_status)))
        }
        EventLabel::Delete if well => (Some(Update::Deleted), None),
        // A shim that refuses one may have done a part of it.
        EventLabel::Update => (Some(Update::Limits(Spec::asked(&event.resources).filter(|_| well))), None),
        _ => (None, None),
    };
    if let Some(update) = update {
        container.update(update);
    }
    if let Some(what) = what {
        registry.lifecycle.note(container, what);
    }
}

/// Its shim is gone. Of a VM that is gone as well, which of the two was first is for those who watch both
/// (`node/vm/deaths.rs`); where its hypervisor runs on, there is no question.
fn lost(registry: &Registry, wrapper: &Wrapper, container: &Arc<Container>, outlived: bool) {
    let of_vm = container.shim.is_kata();
    if of_vm && !outlived {
        wrapper.machine.told_of_its_shims_end();
    } else if container.lost_its_shim() {
        registry.lifecycle.note(container, Happened::ShimDied);
        if of_vm && wrapper.machine.dies() {
            registry.totals.sandbox_deaths.add(Death::Shim, 1);
        }
    }
}

/// An exec's events are not the task's.
fn of_exec(registry: &Registry, container: &Arc<Container>, kind: EventLabel, event: &link::Event) {
    let (outcome, ran_ns) = match kind {
        EventLabel::Start if event.code == 0 => {
            if !container.exec_started(&event.process, event.time_ns) {
                registry.totals.cuts.add(Cut::Execs, 1);
            }
            return;
        }
        EventLabel::Start => (ExecOutcome::StartFailure, None),
        EventLabel::Exit => {
            let Some(started) = container.exec_ended(&event.process) else { return };
            let outcome = if event.exit_status == 0 { ExecOutcome::Success } else { ExecOutcome::Failure };
            (outcome, started.map(|started| event.time_ns.saturating_sub(started)))
        }
        EventLabel::Delete => {
            container.exec_deleted(&event.process);
            return;
        }
        _ => return,
    };
    registry.lifecycle.note(container, Happened::Exec(outcome, ran_ns));
}
