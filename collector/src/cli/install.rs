//! `shimtap install`: shows what would be done to this node, asks, does it.
//!
//! What is done and how it is proven stands in `crate::install`; here it is said to a person.

use std::{
    fmt::Write as _,
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
    process::Command,
};

use super::{Exit, args, say};
use crate::install::{self, Change, InstallFault, Mode, Node, Plan, Record, Undo};

/// How `install` and `uninstall` go on after they have shown what they would do.
pub(super) enum Answer {
    Yes,
    No,
    Nobody,
}

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
    if plan.covered.is_empty() {
        return Ok(if plan.already.is_empty() { Exit::Failed } else { Exit::Done });
    }
    if args.dry_run {
        say(&contents(&plan.changes));
        return Ok(Exit::Done);
    }
    match asked("Do this?", args.yes) {
        Answer::Yes => {}
        Answer::No => return Ok(Exit::Failed),
        Answer::Nobody => {
            eprintln!(
                "shimtap install: nobody is at a terminal to be asked; --yes does it, --dry-run only shows it"
            );
            return Ok(Exit::Failed);
        }
    }
    install::carry_out(&node, &plan, &wanted.state)?;
    say("done; containerd confirms it\n");
    let undo =
        || Record::read(&wanted.state)?.map_or(Ok(()), |record| undone(&record, &wanted.state).map(drop));
    restart(
        node.unit.as_deref(),
        args.restart,
        "new pods are wrapped from then on; running ones stay as they are",
        undo,
    )
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
    if plan.covered.is_empty() {
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
        if let Change::Content { path, after: Some(after), .. } = change {
            let _ = write!(out, "--- {}\n{after}", path.display());
        }
    }
    out
}

fn runtime_class(handler: &str) -> String {
    format!(
        "---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: {handler}-tap\nhandler: {handler}-tap\n"
    )
}

/// Asks where somebody is there to answer.
pub(super) fn asked(question: &str, yes: bool) -> Answer {
    if yes {
        return Answer::Yes;
    }
    if !io::stdin().is_terminal() {
        return Answer::Nobody;
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    match (read, line.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Answer::Yes,
        _ => Answer::No,
    }
}

/// Restarts containerd where that is wanted, else says how. Where it does not come up, `undo` takes everything back and it is
/// started once more: a node without containerd is worse than one without us.
pub(super) fn restart(
    unit: Option<&str>,
    wanted: bool,
    then: &str,
    undo: impl FnOnce() -> Result<(), InstallFault>,
) -> Result<Exit, InstallFault> {
    let Some(unit) = unit else {
        say(&format!("restart containerd; {then}\n"));
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
    undo()?;
    let then = match systemctl(unit) {
        Ok(()) => "everything was put back and it is up again as it was",
        Err(_) => "everything was put back, and it still does not start: see journalctl -u for why",
    };
    Err(InstallFault::Restart { unit: unit.to_owned(), why, then })
}

fn systemctl(unit: &str) -> Result<(), String> {
    let said = Command::new("systemctl").args(["restart", unit]).output();
    let said = said.map_err(|fault| format!("systemctl: {fault}"))?;
    if said.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&said.stderr).trim().replace('\n', "; "))
}

/// Takes an installation back and forgets it, but for what running containers still need; what became of each file.
pub(super) fn undone(record: &Record, state: &Path) -> Result<String, InstallFault> {
    let mut out = String::new();
    let mut fault = None;
    let mut needed = Vec::new();
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
            Ok(Undo::Needed) => needed.push(path),
            Ok(_) => {}
            Err(other) => fault = fault.or(Some(other)),
        }
    }
    if let Some(fault) = fault {
        say(&out);
        return Err(fault);
    }
    if needed.is_empty() {
        return Record::forget(state).map(|()| out);
    }
    out.push_str("new containers do not use what stays; `shimtap uninstall` once more, when those have ended, removes it\n");
    record.left(&needed).keep(state).map(|()| out)
}
