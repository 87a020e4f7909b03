//! What befalls a journal of two heads: rules that move streams between them, a collector that dies over it, and a disk under
//! one head that is full or takes nothing.
//!
//! [`RULES`] hold before and after each of these, so that every trouble of a case finds streams in both heads.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::load::Load;
use super::site::{LIMIT, Site};
use super::spool::{RINGS, written};
use crate::chaos::dice::Dice;
use crate::oracle::{Journal, Kept, StreamKey, journal, one_tape, sink};
use crate::rig::eventually;

/// Who is where: of the two steady containers one, and whatever else runs is in memory.
pub const RULES: &str = "[[rule]]\nname = \"one\"\ncontainer = \"steady-0\"\nstore = \"disk\"\n";

/// Rules behind those, and which output of a steady container they keep on the disk.
type Others = (&'static str, fn(&str, &str) -> bool);

/// Each has a steady stream elsewhere than [`RULES`], and than each of the others.
const OTHERS: [Others; 4] = [
    (
        "[[rule]]\ncontainer = \"steady-0\"\nstore = \"memory\"\n[[rule]]\ncontainer = \"steady-1\"\nstore = \"disk\"\n",
        |container, _| container == "steady-1",
    ),
    ("[[rule]]\nstore = \"disk\"\n", |_, _| true),
    ("[[rule]]\nstore = \"memory\"\n", |_, _| false),
    (
        "[[rule]]\nstream = \"stderr\"\nstore = \"disk\"\n[[rule]]\nstream = \"stdout\"\nstore = \"memory\"\n",
        |_, stream| stream == "stderr",
    ),
];
/// The case's own.
const NONE: Others = ("", |container, _| container == "steady-0");

/// The metric that says that the disk under the second head takes nothing.
const STALLED: (&str, &str) = ("shimtap_journal_stalled", "store=\"disk\"");

/// Two reloads that move streams while they write, and one that moves them back; each is waited for.
pub fn streams_move(site: &Site<'_>, dice: &mut Dice) -> Result<()> {
    // A trouble before this one may have left it to the next output of each.
    are_placed(site, NONE)?;
    let mut others = OTHERS;
    dice.shuffle(&mut others);
    for rules in others.into_iter().take(2).chain([NONE]) {
        site.judge_by(rules.0)?;
        are_placed(site, rules)?;
        thread::sleep(dice.pause(Duration::from_millis(300)));
    }
    Ok(())
}

/// A reload, and the collector is killed while streams are being moved. The next one has the case's own rules again, which
/// moves them as well.
pub fn dies_over_a_move(site: &Site<'_>, dice: &mut Dice) -> Result<()> {
    site.judge_by(dice.pick(&OTHERS).context("there are some")?.0)?;
    // A move takes one write of the journal.
    thread::sleep(dice.pause(Duration::from_millis(60)));
    site.kill_collector()?;
    site.node.start_collector()
}

/// The disk under one head is full until it is stalled, and longer than wrappers have room.
pub fn disk_full(site: &Site<'_>, load: &Load<'_>, dice: &mut Dice) -> Result<()> {
    let ballast = site.fill(&site.node.dir().join("kept/disk"))?;
    // It grows into every room that the journal makes, until nothing is left to be dropped.
    eventually(LIMIT, "the journal's second head to be stalled", || {
        ballast.grow()?;
        Ok((site.metric(STALLED.0, STALLED.1)? > 0).then_some(()))
    })?;
    others_go_on(site, load, dice)?;
    drop(ballast);
    site.until_none(STALLED.0, STALLED.1)
}

/// It hangs: whoever writes to it waits in the kernel, for longer than wrappers have room.
pub fn disk_hangs(site: &Site<'_>, load: &Load<'_>, dice: &mut Dice) -> Result<()> {
    let dir = site.node.dir().join("kept/disk");
    let disk = site.disk(&dir)?;
    disk.freeze()?;
    let result = site.until(STALLED.0, STALLED.1, 1).and_then(|()| {
        others_go_on(site, load, dice)?;
        ensure!(site.metric(STALLED.0, STALLED.1)? > 0, "the disk is frozen, and nobody says so");
        written(load, 2 * RINGS)
    });
    disk.thaw()?;
    result?;
    site.until_none(STALLED.0, STALLED.1)
}

/// Containers of another pod, kept in memory, begin, write and end: all of it is in the journal and in the file at once.
fn others_go_on(site: &Site<'_>, load: &Load<'_>, dice: &mut Dice) -> Result<()> {
    let pod = site.cri.run_pod(&load.fresh("others"))?;
    let ids = load.some_briefs(&pod, dice, 2)?;
    site.cri.remove_pod(&pod)?;
    eventually(LIMIT, "what is kept in memory to go on, and to the file", || {
        let Ok(memory) = journal(&site.journal_dir()) else { return Ok(None) };
        let tapes = sink(&site.file())?;
        for id in &ids {
            let mut ended = 0;
            for (key, kept) in memory.streams.iter().filter(|(key, _)| key.container == *id) {
                let tape = one_tape(&tapes, id, &key.stream)?;
                let has_all = tape.is_some_and(|tape| tape.end() == kept.end);
                ended += usize::from(kept.ending.is_some() && has_all);
            }
            if ended < 2 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// Waits until every output of the steady containers goes on where these rules have it.
fn are_placed(site: &Site<'_>, (rules, is_on_disk): Others) -> Result<()> {
    eventually(LIMIT, &format!("steady streams where {rules:?} has them"), || {
        // A file that is being written is read again.
        let (Ok(memory), Ok(disk)) = (journal(&site.journal_dir()), journal(&site.head_dir())) else {
            return Ok(None);
        };
        let end = |head: &Journal, key: &StreamKey| head.streams.get(key).map_or(0, |kept| kept.end);
        let is_steady = |(_, kept): &(&StreamKey, &Kept)| kept.name.starts_with("steady-");
        let all: BTreeMap<_, _> = memory.streams.iter().chain(&disk.streams).filter(is_steady).collect();
        let is_placed = |(key, kept): (&StreamKey, &Kept)| {
            // Of the head that it has left, a stream has all up to there, and the other one more.
            let (memory, disk) = (end(&memory, key), end(&disk, key));
            memory != disk && (disk > memory) == is_on_disk(&kept.name, &key.stream)
        };
        Ok((all.len() == 4 && all.into_iter().all(is_placed)).then_some(()))
    })
}
