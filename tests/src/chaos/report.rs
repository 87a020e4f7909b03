//! A run as a page: what was done to the wrappers, what went on meanwhile, and what was wrong.
//!
//! It shows figures and judges nothing: whether a run was green is whether it has no faults.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, Result};

use super::{
    Ground,
    hangs::LIMIT,
    schedule::Role,
    tally::{Tally, Volume},
};
use crate::fault::Fault;

/// One line of the list of pieces.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Where it was, and its seed.
    pub what: String,
    /// Its deaths.
    pub deaths: u64,
    /// Seconds.
    pub took: u64,
    /// Whether it had no faults.
    pub green: bool,
}

/// What a page begins with: names and values.
pub type Head<'a> = [(&'a str, String)];

/// What there was on each ground.
pub type Grounds = BTreeMap<Ground, Tally>;

/// The sum of all grounds.
#[must_use]
pub fn sum(grounds: &Grounds) -> Tally {
    let mut all = Tally::default();
    grounds.values().cloned().for_each(|tally| all.add(tally));
    all
}

/// The page.
///
/// # Errors
/// None: writing into memory does not fail.
pub fn page(title: &str, head: &Head<'_>, grounds: &Grounds, pieces: &[Piece]) -> Result<String> {
    let tally = &sum(grounds);
    let mut out = format!("# {title}\n\nWritten by `./dev soak`; not by hand.\n\n| | |\n|---|---|\n");
    for (name, value) in head {
        writeln!(out, "| {name} | {value} |").context("write")?;
    }
    // The judge's cases alone leave all of these empty.
    if pieces.iter().any(|piece| piece.deaths > 0) || !tally.faults.is_empty() {
        deaths(&mut out, tally, grounds)?;
        losses(&mut out, tally)?;
        work(&mut out, tally)?;
    }
    writeln!(out, "\n## Pieces\n\n| piece | deaths | seconds | |\n|---|---|---|---|").context("write")?;
    for piece in pieces {
        let how = if piece.green { "green" } else { "**failed**" };
        writeln!(out, "| {} | {} | {} | {how} |", piece.what, piece.deaths, piece.took).context("write")?;
    }
    Ok(out)
}

/// Deaths by ground, process and fault; and what there was to lose meanwhile.
fn by_ground(out: &mut String, tally: &Tally, grounds: &Grounds) -> Result<()> {
    let faults = Fault::ALL.map(|fault| fault.to_string()).join(" | ");
    writeln!(out, "| on | of | {faults} | all |\n|---|---|---|---|---|---|---|")?;
    let rows = grounds.iter().map(|(ground, tally)| (ground.to_string(), tally));
    for (place, tally) in rows.clone().chain([("all".to_owned(), tally)]) {
        for role in [Role::Worker, Role::Keeper] {
            let of_it = Fault::ALL.map(|fault| *tally.deaths.get(&(role, fault)).unwrap_or(&0));
            let cells = of_it.map(|n| n.to_string()).join(" | ");
            writeln!(out, "| {place} | {role} | {cells} | {} |", of_it.iter().sum::<u64>())?;
        }
    }
    writeln!(
        out,
        "\n| on | deaths | frames | lines read by containerd's side | of captured streams, lines written | \
         lines in the collector's file | bytes admitted missing | faults |\n|---|---|---|---|---|---|---|---|"
    )?;
    for (place, tally) in rows.chain([("all".to_owned(), tally)]) {
        let Tally { frames, outside, captured, inside, gaps, faults, .. } = tally;
        writeln!(
            out,
            "| {place} | {} | {frames} | {} | {} | {} | {} | {} |",
            tally.died(),
            outside.lines,
            captured.lines,
            inside.lines,
            gaps.values().sum::<u64>(),
            faults.len()
        )?;
    }
    Ok(())
}

fn deaths(out: &mut String, tally: &Tally, grounds: &Grounds) -> Result<()> {
    let hung: u64 = tally.deaths.iter().filter(|((_, fault), _)| fault.hangs()).map(|(_, n)| n).sum();
    let at_calls: u64 = tally.places.values().sum();
    writeln!(
        out,
        "\n## Deaths\n\n{} deaths, {hung} of them of hung processes; {at_calls} at a chosen system call, the rest at any instant. \
         During {} of them the worker's link thread stood still. On a real containerd the processes that hang are those of the pod \
         that stays: its others come and go, and a keeper that hangs as its pod ends is nobody's to find out. Not in it: link threads \
         that hang for good (`standin_hung`), and deaths of the child that writes spool files (`standin_spool`).\n",
        tally.died(),
        tally.links
    )?;
    by_ground(out, tally, grounds)?;
    let places: Vec<String> = tally.places.iter().map(|(place, n)| format!("`{place}` {n}")).collect();
    writeln!(out, "\nSystem calls, before (`>`) and after (`<`) them: {}.", places.join(", "))?;
    let restarts: Vec<String> =
        tally.restarts.iter().filter(|(_, n)| **n > 0).map(|(why, n)| format!("{why} {n}")).collect();
    writeln!(out, "\nReplacements that the collector was told of: {}.", restarts.join(", "))?;
    writeln!(
        out,
        "\nMost workers of one wrapper: {}. Time without a worker, of all: {:.1} s.",
        tally.generation,
        tally.without_worker.as_secs_f64()
    )?;
    writeln!(
        out,
        "\nEach answer of the stand-in came within {} s for each process that hung while it was waited for (once where none did) and the time \
         that successors of dead ones took, that to a Wait with the 2 s for which it is held, a whole ttrpc stream and what real containerds make of an exec and of a \
         container's start with 10 s of their own; later is a fault. Steps and lives below consist of many such.\n\n| longest wait | ms |\n|---|---|",
        LIMIT.as_secs()
    )?;
    for (kind, wait) in &tally.longest {
        writeln!(out, "| {kind} | {} |", wait.as_millis())?;
    }
    Ok(())
}

fn losses(out: &mut String, tally: &Tally) -> Result<()> {
    let row = |volume: Volume| format!("{} lines, {} bytes", volume.lines, volume.bytes);
    writeln!(out, "\n## Losses\n\n| | |\n|---|---|")?;
    writeln!(
        out,
        "| faults: lost, doubled, reordered, refused, wrongly answered, left behind | {} |",
        tally.faults.len()
    )?;
    writeln!(
        out,
        "| requests that the stand-in counted, each once and unchanged | {} on {} connections, up to {} bytes |",
        tally.requests, tally.connections, tally.largest
    )?;
    writeln!(out, "| frames that the wrappers say they relayed | {} |", tally.frames)?;
    writeln!(out, "| containerd's side read what was written | {} |", row(tally.outside))?;
    writeln!(out, "| of captured streams was written | {} |", row(tally.captured))?;
    writeln!(out, "| of it the collector's file holds | {} |", row(tally.inside))?;
    writeln!(
        out,
        "| spool files that wrappers left as their pods ended, each taken by the collector | {} |",
        tally.spooled
    )?;
    let gaps: Vec<String> = tally.gaps.iter().map(|(why, bytes)| format!("{why} {bytes}")).collect();
    writeln!(
        out,
        "| bytes that the file admits to miss | {} |",
        if gaps.is_empty() { "0".to_owned() } else { gaps.join(", ") }
    )?;
    writeln!(
        out,
        "| pods that ran unwrapped (their keeper died before `start` was answered), as the collector was told | {} |",
        tally.unwrapped
    )?;
    writeln!(out, "| streams not captured, as the collector was told | {} |", tally.not_captured)?;
    writeln!(out, "| containers absent from the file for one of these two reasons | {} |", tally.absent)?;
    let given_up: Vec<String> = tally.given_up.iter().map(|(call, n)| format!("{call} {n}")).collect();
    writeln!(
        out,
        "| calls that containerd gave up by itself after 2 s while something hung, asked again | {} |",
        if given_up.is_empty() { "0".to_owned() } else { given_up.join(", ") }
    )?;
    writeln!(
        out,
        "| Stats that took more than 2 s, answered by the wrapper as `foreign_bound_ms` has it | {} |",
        tally.bounded
    )?;
    writeln!(
        out,
        "| strikes that missed: at a process that had gone, or did not come to the point | {} |",
        tally.missed
    )?;
    for fault in &tally.faults {
        writeln!(out, "\n```\n{fault}\n```")?;
    }
    Ok(())
}

fn work(out: &mut String, tally: &Tally) -> Result<()> {
    writeln!(out, "\n## Work under fire\n\n| kind | done, each judged |\n|---|---|")?;
    for (kind, n) in &tally.done {
        writeln!(out, "| {kind} | {n} |")?;
    }
    Ok(())
}
