//! `shimtap install`: shows what would be done to this node, asks, does it.
//!
//! What is done and how it is proven stands in `crate::install`; here it is said to a person.

use std::{
    fmt::Write as _,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    process::Command,
};

use super::{Exit, args, say};
use crate::install::{self, Change, InstallFault, Made, Mode, Node, Plan, Record, Undo};

/// Does it.
pub(super) fn run(args: &args::Install) -> Exit {
    match install(args) {
        Ok(exit) => exit,
        Err(fault) => {
            eprintln!("shimtap install: {fault}");
            Exit::Failed
        }
    }
}

fn install(args: &args::Install) -> Result<Exit, InstallFault> {
    let node = Node::look(&args.at.node())?;
    let wanted = args.wanted();
    let plan = Plan::make(&node, &wanted)?;
    say(&shown(&node, &plan, wanted.mode));
    if plan.covered.is_empty() && plan.dropped.is_empty() {
        return idle(&plan);
    }
    if args.dry_run {
        say(&contents(&plan.changes));
        return Ok(Exit::Done);
    }
    if !agreed("install", args.yes) {
        return Ok(Exit::Failed);
    }
    let made = install::carry_out(&node, &plan, &wanted.state)?;
    say("done; containerd confirms it\n");
    if !plan.needs_restart {
        say("containerd need not be restarted: new pods have it from now on\n");
        return Ok(Exit::Done);
    }
    restart(
        (node.unit.as_deref(), &node.config),
        args.restart,
        "new pods are wrapped from then on; running ones stay as they are",
        || taken_back(&made, &plan, &wanted.state),
    )
}

/// What it means that there is nothing to do: all is done, or nothing can be.
fn idle(plan: &Plan) -> Result<Exit, InstallFault> {
    if plan.already.is_empty() { Err(InstallFault::NothingToWrap) } else { Ok(Exit::Done) }
}

/// The plan for a person.
fn shown(node: &Node, plan: &Plan, mode: Mode) -> String {
    let mut out = format!(
        "containerd {} ({}), configuration {}\n",
        node.release,
        node.binary().display(),
        node.config.display()
    );
    for (handler, how) in &plan.covered {
        let _ = writeln!(out, "  wrap        {handler}: {how}");
    }
    for handler in &plan.already {
        let _ = writeln!(out, "  is wrapped  {handler}");
    }
    for (handler, why) in &plan.left_out {
        let _ = writeln!(out, "  leave       {handler}: {why}");
    }
    for handler in &plan.dropped {
        let _ = writeln!(out, "  take out    {handler}: whoever made it has taken it away");
    }
    if plan.covered.is_empty() && plan.dropped.is_empty() {
        out.push_str("nothing to do\n");
        return out;
    }
    for change in &plan.changes {
        let (verb, path) = (verb(change), change.path().display());
        match change {
            Change::Link { target, .. } => writeln!(out, "  {verb}        {path} -> {}", target.display()),
            Change::Content { .. } => writeln!(out, "  {verb}      {path}"),
        }
        .unwrap_or_default();
    }
    if mode == Mode::Pilot {
        out.push_str("pods ask for it by these RuntimeClasses (kubectl apply -f -):\n");
        plan.covered.iter().for_each(|(handler, _)| out.push_str(&runtime_class(handler)));
    }
    out
}

fn verb(change: &Change) -> &'static str {
    match change {
        Change::Link { .. } => "link",
        Change::Content { before: None, .. } => "create",
        Change::Content { .. } => "change",
    }
}

/// What each file would hold.
fn contents(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        if let Change::Content { path, after, .. } = change {
            let _ = write!(out, "--- {}\n{after}", path.display());
        }
    }
    out
}

fn runtime_class(handler: &str) -> String {
    let pilot = install::pilot_of(handler);
    format!(
        "---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: {pilot}\nhandler: {pilot}\n"
    )
}

/// May what `verb` has shown be done? Asked where somebody is there to answer.
pub(super) fn agreed(verb: &str, yes: bool) -> bool {
    if yes {
        return true;
    }
    if !io::stdin().is_terminal() {
        eprintln!(
            "shimtap {verb}: nobody is at a terminal to be asked; --yes does it, --dry-run only shows it"
        );
        return false;
    }
    let _ = write!(io::stderr(), "Do this? [y/N] ");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

/// Restarts containerd (its unit, where that is known, and its configuration) where that is wanted, else says how. Where it does not
/// come up, `undo` takes everything back and it is started once more, also where not all could be taken back: a node without
/// containerd is worse than one without us.
pub(super) fn restart(
    (unit, config): (Option<&str>, &Path),
    wanted: bool,
    then: &'static str,
    undo: impl FnOnce() -> Result<(), InstallFault>,
) -> Result<Exit, InstallFault> {
    let Some(unit) = unit else {
        if wanted {
            return Err(InstallFault::NoUnit { config: config.to_owned(), then });
        }
        say(&format!("to put it into effect: restart containerd the way it was started; {then}\n"));
        return Ok(Exit::Done);
    };
    if !wanted {
        say(&format!("to put it into effect: systemctl restart {unit}; {then}\n"));
        return Ok(Exit::Done);
    }
    let Err(why) = systemctl(unit) else {
        say(&format!("{unit} is restarted; {then}\n"));
        return Ok(Exit::Done);
    };
    let undone = undo();
    let unit_again = systemctl(unit);
    let unit = unit.to_owned();
    Err(match (undone, unit_again) {
        (Ok(()), Ok(())) => {
            InstallFault::Restart { unit, why, then: "everything was put back and it is up again as it was" }
        }
        (Ok(()), Err(_)) => {
            let then = "everything was put back, and it still does not start: see journalctl -u for why";
            InstallFault::Restart { unit, why, then }
        }
        (Err(second), up) => {
            let then = match up {
                Ok(()) => "it is up again, with the files as they are now; shimtap uninstall tries once more",
                Err(_) => "it does not start: see journalctl -u for why; shimtap uninstall tries once more",
            };
            InstallFault::RestartNotUndone { unit, why, second: Box::new(second), then }
        }
    })
}

fn systemctl(unit: &str) -> Result<(), String> {
    let said = Command::new("systemctl").args(["restart", unit]).output();
    let said = said.map_err(|fault| format!("systemctl: {fault}"))?;
    if said.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&said.stderr).trim().replace('\n', "; "))
}

/// Takes back what this installation has done; what earlier ones did stays as they left it.
fn taken_back(made: &Made, plan: &Plan, state: &Path) -> Result<(), InstallFault> {
    let (_, stayed) = each_undone(&made.record.step(plan))?;
    kept(made.record.left(made.last.as_ref(), &stayed), state)
}

/// Takes all installations back and forgets them, but for what running containers still need; what became of each file.
pub(super) fn undone(record: &Record, state: &Path) -> Result<String, InstallFault> {
    let (mut out, stayed) = each_undone(record)?;
    if !stayed.is_empty() {
        out.push_str("new containers do not use what stays; `shimtap uninstall` once more, when those have ended, removes it\n");
    }
    kept(record.left(None, &stayed), state).map(|()| out)
}

fn kept(left: Option<Record>, state: &Path) -> Result<(), InstallFault> {
    left.map_or_else(|| Record::forget(state), |left| left.keep(state))
}

/// What became of each file, and those that had to stay.
fn each_undone(record: &Record) -> Result<(String, Vec<PathBuf>), InstallFault> {
    let mut out = String::new();
    let mut fault = None;
    let mut stayed = Vec::new();
    for (path, how) in record.undo() {
        let word = match how {
            Ok(Undo::Is) => "is as it was",
            Ok(Undo::Restored) => "restored",
            Ok(Undo::Cut) => "changed by somebody since: only shimtap's keys taken out",
            Ok(Undo::Needed) => "stays while containers run that were started by it",
            Err(_) => "not restored",
        };
        let _ = writeln!(out, "  {}: {word}", path.display());
        match how {
            Ok(Undo::Needed) => stayed.push(path),
            Ok(_) => {}
            Err(other) => fault = fault.or(Some(other)),
        }
    }
    match fault {
        None => Ok((out, stayed)),
        Some(fault) => {
            say(&out);
            Err(fault)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "new pods are wrapped from then on";

    #[test]
    fn a_restart_that_cannot_be_had_is_said() {
        let config = Path::new("/x/config.toml");
        let undo = || -> Result<(), InstallFault> { panic!("nothing is to be undone") };
        let fault = restart((None, config), true, THEN, undo).expect_err("there is no unit");
        let said = fault.to_string();
        assert!(
            said.contains("/x/config.toml") && said.contains("was not restarted") && said.contains(THEN),
            "{said}"
        );
        assert_eq!(restart((None, config), false, THEN, undo).expect("not wanted"), Exit::Done);
        assert_eq!(restart((Some("x.service"), config), false, THEN, undo).expect("not wanted"), Exit::Done);
    }

    /// No machine has such a unit, and one without systemd has no systemctl: both fail as a containerd that does not come up does.
    #[test]
    fn a_failed_restart_takes_everything_back_or_says_why_not() {
        let unit = Some("shimtap-test-no-such.service");
        let mut undone = false;
        let fault = restart((unit, Path::new("/x")), true, THEN, || {
            undone = true;
            Ok(())
        });
        let said = fault.expect_err("it does not come up").to_string();
        assert!(undone && said.contains("everything was put back, and it still does not start"), "{said}");
        let fault = restart((unit, Path::new("/x")), true, THEN, || Err(InstallFault::NoContainerd));
        let said = fault.expect_err("it does not come up").to_string();
        let why = InstallFault::NoContainerd.to_string();
        assert!(
            said.contains(&why)
                && said.contains("restarting shimtap-test")
                && said.contains("does not start"),
            "{said}"
        );
    }

    #[test]
    fn a_node_on_which_nothing_can_be_wrapped_is_a_failure_with_a_reason() {
        let mut plan = Plan::default();
        let said = idle(&plan).expect_err("nothing").to_string();
        assert!(said.contains("no handler"), "{said}");
        plan.already.push("runc".to_owned());
        assert_eq!(idle(&plan).expect("all is done"), Exit::Done);
    }
}
