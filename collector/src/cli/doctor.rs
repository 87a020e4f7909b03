//! `shimtap doctor`: what is found on this node, for a person or as JSON.
//!
//! It asks the collector and has `crate::doctor` look; here it is said.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    Exit, args,
    ask::{AskFault, Collector},
    cells::counted,
};
use crate::doctor::{self, Evidence, Finding, Severity, Told};

/// So many names of a finding are shown to a person; JSON has all.
const SHOWN: usize = 6;

/// Looks, says, and ends with what was found.
pub(super) fn run(args: &args::Doctor) -> Exit {
    if !nix::unistd::geteuid().is_root() {
        eprintln!(
            "shimtap doctor: containerd's bundles and other processes are root's to read; run it as root"
        );
        return Exit::Failed;
    }
    let collector = Collector::at(args.asked.socket.as_deref());
    let told = ask(&collector).map_err(|fault| fault.to_string());
    let evidence = Evidence::gather(args.places(), told);
    let found = doctor::examine(&evidence);
    super::say(&if args.json { json(&evidence, &found) } else { shown(&evidence, &found) });
    if found.iter().all(|one| one.severity == Severity::Note) { Exit::Done } else { Exit::Found }
}

fn ask(collector: &Collector) -> Result<Told, AskFault> {
    let (_, health) = collector.get("/v1/health")?;
    let (_, ps) = collector.get("/v1/ps")?;
    let (_, explained) = collector.get("/v1/explain")?;
    Ok(Told { ps, explained, health })
}

#[derive(Serialize)]
struct Report<'a> {
    shimtap: &'static str,
    containerd: Option<String>,
    containers: usize,
    covered: usize,
    findings: &'a [Finding],
}

fn json(evidence: &Evidence, found: &[Finding]) -> String {
    let (covered, containers) = doctor::covered(evidence);
    let report = Report {
        shimtap: env!("CARGO_PKG_VERSION"),
        containerd: evidence.containerd.as_ref().ok().map(|node| node.release.to_string()),
        containers,
        covered,
        findings: found,
    };
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

fn shown(evidence: &Evidence, found: &[Finding]) -> String {
    let mut out = String::new();
    if let Ok(node) = &evidence.containerd {
        let _ = writeln!(out, "containerd {}, configuration {}", node.release, node.config.display());
    }
    let (covered, all) = doctor::covered(evidence);
    let _ = writeln!(out, "{covered} of {all} containers are wrapped (sandboxes count)");
    if let Ok(told) = &evidence.collector {
        let sinks: Vec<&str> = told.health.sinks.iter().map(|sink| sink.name.as_str()).collect();
        let sinks = if sinks.is_empty() { "none".to_owned() } else { sinks.join(", ") };
        let _ = writeln!(
            out,
            "collector {}, {} wrappers attached, sinks: {sinks}",
            told.health.version,
            told.ps.wrappers.len()
        );
    }
    for one in found {
        let _ = write!(out, "\n{:<8} {}\n  {}\n", one.severity.label(), one.id.label(), one.what);
        for which in one.which.iter().take(SHOWN) {
            let _ = writeln!(out, "    {which}");
        }
        if one.which.len() > SHOWN {
            let _ = writeln!(out, "    and {} more (--json names all)", one.which.len() - SHOWN);
        }
        let _ = writeln!(out, "  do: {}", one.remedy);
    }
    let count = |severity| found.iter().filter(|one| one.severity == severity).count();
    let (faults, warnings) = (count(Severity::Fault), count(Severity::Warning));
    let _ = match (faults, warnings) {
        (0, 0) => writeln!(out, "\nall is well"),
        _ => writeln!(out, "\n{}, {}", counted(faults, "fault"), counted(warnings, "warning")),
    };
    out
}
