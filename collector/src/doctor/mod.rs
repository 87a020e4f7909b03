//! `shimtap doctor`: is every container of this node covered, and if not, why not and what to do.
//!
//! In two steps: [`Evidence`] is gathered (containerd's own word, its bundles, the collector's, `/proc`, the disks), then each
//! room looks at it for findings of its kind. Looking changes nothing and waits for nobody longer than the collector's
//! answer. A finding is never guessed: what cannot be seen is a finding that says so, or none.

mod coverage;
mod dangers;
mod evidence;
mod finding;
mod handlers;
mod period;
mod pipeline;
mod releases;
mod room;
mod tasks;

pub use evidence::{Evidence, Places, Told};
pub use finding::{Finding, Id, Severity};
pub use tasks::Task;

/// What was found, the worst first.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let rooms = [
        releases::examine,
        handlers::examine,
        coverage::examine,
        pipeline::examine,
        room::examine,
        dangers::examine,
        period::examine,
    ];
    let mut found: Vec<Finding> = rooms.iter().flat_map(|room| room(evidence)).collect();
    found.sort_by(|a, b| (b.severity, a.id, &a.which).cmp(&(a.severity, b.id, &b.which)));
    found
}

/// How many containers have a copy made of what they write, of how many.
pub fn covered(evidence: &Evidence) -> (usize, usize) {
    let covered = evidence.tasks.iter().filter(|task| evidence.is_wrapped(task)).count();
    (covered, evidence.tasks.len())
}
