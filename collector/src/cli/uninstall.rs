//! `shimtap uninstall`: every file as it was before `shimtap install`, to the byte.
//!
//! Running pods keep their wrappers until they end; the wrapper's binary must stay until then, since containerd runs it once
//! more to clean up after each.

use super::{
    Exit, args,
    install::{agreed, restart, undone},
    say,
};
use crate::install::{InstallFault, Node, Record};

/// Does it.
pub(super) fn run(args: &args::Uninstall) -> Exit {
    match uninstall(args) {
        Ok(exit) => exit,
        Err(fault) => {
            eprintln!("shimtap uninstall: {fault}");
            Exit::Failed
        }
    }
}

fn uninstall(args: &args::Uninstall) -> Result<Exit, InstallFault> {
    let state = args.at.state();
    let mut record =
        Record::read(&state)?.ok_or_else(|| InstallFault::NotInstalled { path: Record::path(&state) })?;
    say(&format!("shimtap {} wraps {} here\n", record.shimtap, record.handlers.join(", ")));
    for change in &record.changes {
        say(&format!("  put back    {}\n", change.path().display()));
    }
    if args.dry_run {
        return Ok(Exit::Done);
    }
    if !agreed("uninstall", args.yes) {
        return Ok(Exit::Failed);
    }
    // Before anything is put back: afterwards it may not be there to be found.
    let at = args.at.node_of(&record.config);
    let running = Node::running(&at);
    let (unit, bundles) = running.map(|found| (found.unit, found.state)).unwrap_or_default();
    // As its command line says today, whatever it said when the record was made.
    record.bundles = bundles.unwrap_or(record.bundles);
    say(&undone(&record, &state)?);
    restart(
        (unit.as_deref(), &record.config),
        args.restart,
        "new pods are no longer wrapped; running ones keep their wrappers",
        || Ok(()),
    )
}
