//! A power cut: a machine with a disk that outlives it works until its process is killed, and another one boots with that disk.
//!
//! What the guest's kernel had not written to the disk by then is gone. What it had written is there even where it asked for
//! no flush: a disk with a cache of its own that loses it is not shown.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::base::administrator;
use super::{Base, Machine, Plan, Report, Suite, home, one_at_a_time, payload};
use crate::rig::eventually;
use crate::rig::run::{Finished, Running, run};

/// The guest says with this line that the cut may come.
pub const CUT: &str = "=== cut";
/// With this word begin lines that say what is on the disk: `name/stream=bytes`.
pub const DURABLE: &str = "=== durable";

/// The suite's name in the second boot.
pub const VERDICT: &str = "power:verdict";

const SIZE: &str = "256M";

/// When the first boot's journal is brought to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Every second, beside all else.
    Interval,
    /// Before anything is acknowledged.
    Always,
}

/// Boots, lets the guest work, cuts it off `late` after it has said that this may be, boots again, and reads what the guest says
/// of what it found. `limit` is for each boot.
///
/// # Errors
/// A machine did not come so far.
pub fn cut(fsync: Fsync, late: Duration, limit: Duration) -> Result<Report> {
    let base = Base::ready().context("build the node's disk")?;
    let _alone = one_at_a_time()?;
    let name = format!("power-{}", fsync.word());
    let dir = home().join(&name);
    let kept = dir.join("kept.img");
    let plan =
        |name: &str, arguments: Vec<String>| Plan { suites: vec![Suite::power(name, arguments, limit)] };
    let disk =
        payload::build(&dir, &plan("power:load", vec!["load".to_owned(), fsync.word().to_owned()]), &[])?;
    make(&kept)?;
    let machine = Machine::new(&base, &disk).with_disk(&kept);
    let said = cut_off(machine.for_plan(&dir), &dir, late, limit)?;
    let mut arguments = vec!["verdict".to_owned()];
    arguments.extend(durable(&said)?);
    // It is in the payload's folder, which is built anew.
    let aside = home().join(format!("{name}.img"));
    fs::rename(&kept, &aside).context("put the disk aside")?;
    let disk = payload::build(&dir, &plan(VERDICT, arguments), &[])?;
    fs::rename(&aside, &kept).context("put the disk back")?;
    let text = Machine::new(&base, &disk).with_disk(&kept).run(&dir, limit)?;
    Report::parse(&text)
}

// === impl Fsync ===

impl Fsync {
    /// As the configuration has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Always => "always",
        }
    }

    /// The policy of that word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Interval, Self::Always].into_iter().find(|policy| policy.word() == word)
    }
}

/// Runs it until `late` after its word; what it said by then.
fn cut_off(qemu: Command, dir: &Path, late: Duration, limit: Duration) -> Result<String> {
    let report = dir.join("report.log");
    let said = || fs::read_to_string(&report).unwrap_or_default().replace('\r', "");
    let mut machine = Running::start(qemu)?;
    let told = eventually(limit, "the guest to be ready for the cut", || {
        let ready = said().lines().any(|line| line == CUT);
        anyhow::ensure!(ready || machine.is_running()?, "the machine ended by itself: {}", said());
        Ok(ready.then_some(()))
    });
    told.with_context(said)?;
    // The moment is what is random here.
    std::thread::sleep(late);
    let by_now = said();
    drop(machine);
    Ok(by_now)
}

/// The last word on each stream, of whole lines only.
fn durable(said: &str) -> Result<Vec<String>> {
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let words = whole.lines().filter_map(|line| line.strip_prefix(DURABLE)?.trim().split_once('='));
    let last: std::collections::BTreeMap<&str, &str> = words.collect();
    anyhow::ensure!(last.len() == 4, "the guest said nothing of four streams: {last:?}");
    Ok(last.iter().map(|(whose, end)| format!("{whose}={end}")).collect())
}

/// A disk with a journal of its own, as a node has it.
fn make(path: &Path) -> Result<()> {
    let mut mke2fs = administrator("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4"]).arg(path).arg(SIZE);
    run(mke2fs, Duration::from_secs(60))
        .and_then(Finished::ok)
        .context("mke2fs (package e2fsprogs)")
        .map(drop)
}
