//! How what became of tasks is shown.

use super::{
    super::{
        families as f, labels,
        registry::Registry,
        text::{Text, Value},
    },
    Book, Durations, EXEC_BOUNDS_NS, ExecOutcome, ExitClass, Figures, Group, START_BOUNDS_NS,
};
use crate::closed::Closed;

/// Picks a group's durations.
type Pick = fn(&Figures) -> &Durations;

/// Writes the families.
pub(in crate::metrics) fn render(text: &mut Text, registry: &Registry) {
    registry.lifecycle.settle();
    let book = registry.lifecycle.book();
    let groups: Vec<_> = book.groups.iter().map(|(group, figures)| (group.labels(), figures)).collect();
    let histograms: [(_, Pick, &[u64]); 3] = [
        (&f::CREATE_SECONDS, |figures| &figures.create, &START_BOUNDS_NS),
        (&f::START_SECONDS, |figures| &figures.start, &START_BOUNDS_NS),
        (&f::EXEC_SECONDS, |figures| &figures.exec, &EXEC_BOUNDS_NS),
    ];
    for (family, pick, bounds) in histograms {
        let mut writer = text.family(family);
        for (labels, figures) in &groups {
            let durations = pick(figures);
            writer.histogram(labels, bounds, &durations.counts, durations.sum_ns);
        }
    }
    let mut writer = text.family(&f::EXECS);
    for (group, figures) in &groups {
        for outcome in ExecOutcome::ALL {
            let mut row = group.clone();
            labels::push(&mut row, "outcome", Some(outcome.label()));
            let count = figures.execs.get(outcome).copied().unwrap_or(0);
            writer.sample(&row, Value::Whole(count), None);
        }
    }
    exits(text, &book);
}

fn exits(text: &mut Text, book: &Book) {
    let mut writer = text.family(&f::EXITS);
    let mut row = |group: &Group, class: ExitClass, code: &str, count: u64| {
        let mut row = group.labels();
        labels::push(&mut row, "class", Some(class.label()));
        labels::push(&mut row, "code", Some(code));
        writer.sample(&row, Value::Whole(count), None);
    };
    for (exit, count) in book.exits.iter() {
        let code = exit.code.map_or_else(String::new, |code| code.to_string());
        row(&exit.group, exit.class, &code, *count);
    }
    // An alert on the first one needs the 0 before it.
    for (group, _) in book.groups.iter() {
        for (class, code) in [(ExitClass::Oom, Some(super::KILLED)), (ExitClass::StartFailure, None)] {
            if !book.exits.iter().any(|(exit, _)| (&exit.group, exit.class) == (group, class)) {
                row(group, class, &code.map_or_else(String::new, |code| code.to_string()), 0);
            }
        }
    }
}

// === impl Group ===

impl Group {
    fn labels(&self) -> String {
        let mut row = String::new();
        labels::push(&mut row, "handler", Some(&self.handler));
        labels::push(&mut row, "shim", Some(self.shim.label()));
        row
    }
}
