//! What a power cut leaves, in two boots with one disk that outlives both: the first works until it is cut off, the second
//! judges.
//!
//! The first says how far the journal certainly is on the disk: with `fsync = "interval"` what stood in its files before the last
//! but one fdatasync began, with `"always"` all that was acknowledged. The host carries that over to the second, which knows
//! nothing else of it. The four statements: the journal opens at its last whole frame; the collector says that the one before it did
//! not end in order; streams are open-ended for the reason `power_cut`; and everything that was brought to the disk is there,
//! right and once, and in the sink.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use super::node::{LIMIT, get, start_collector_told, start_containerd, systemctl};
use crate::judge::held::{Held, covered, held};
use crate::judge::site::sum;
use crate::line::Marked;
use crate::oracle::{Journal, Kept, StreamKey, Tape, journal, sink};
use crate::rig::cri::Wanted;
use crate::rig::vm::power::{CUT, DURABLE, Fsync};
use crate::rig::{Version, now_and_then};

/// The disk that outlives the cut, where the collector's unit has its state.
const DISK: &str = "/dev/vdc";
const STATE: &str = "/var/lib/shimtap";
const JOURNAL: &str = "/var/lib/shimtap/journal";
const SINK: &str = "/var/lib/shimtap/lines.jsonl";

/// Files of 640 KiB, so that there are some by the cut. What the disk keeps free is nobody's concern here.
fn told(fsync: Fsync) -> String {
    format!(
        "[file]\npath = \"{SINK}\"\n[journal]\ndir = \"{JOURNAL}\"\nmax_bytes = 5242880\nreserve_bytes = 0\n\
         reserve_percent = 0\nfsync = \"{}\"\n",
        fsync.word()
    )
}
/// Raw bytes of each stream in the journal from which on the cut may come.
const ENOUGH: u64 = 200_000;

/// A collector that was told to wait for a second for wrappers has given them up by then.
const GIVEN_UP: Duration = Duration::from_secs(5);

const NAMES: [&str; 2] = ["one", "two"];
const WIDTH: usize = 160;
/// How often the collector is asked: each answer costs an emulated machine a tenth of its second.
const LOOK: Duration = Duration::from_millis(250);

/// Works until the machine is cut off; returns only where something fails.
pub fn load(fsync: Fsync) -> Result<()> {
    mount_state()?;
    start_collector_told(&told(fsync))?;
    let cri = start_containerd(Version::Packaged)?;
    let pod = cri.run_pod("load")?;
    for name in NAMES {
        let (mark, width) = (format!("mark={name}"), format!("width={WIDTH}"));
        let command = ["speaker", "lines=100000000", "rate=100", "batch=4", "to=both", &mark, &width];
        cri.run(&pod, &Wanted { name, command: &command, ..Wanted::default() })?;
    }
    let mut is_told = false;
    loop {
        let ends = match fsync {
            Fsync::Always => acknowledged()?,
            Fsync::Interval => synced()?,
        };
        for ((name, stream), end) in &ends {
            say(&format!("{DURABLE} {name}/{stream}={end}"))?;
        }
        let all = ends.len() == 2 * NAMES.len() && ends.values().all(|end| *end > ENOUGH);
        if !is_told && all {
            is_told = true;
            say(CUT)?;
        }
    }
}

/// What stands in the journal's files, once that was brought to the disk.
fn synced() -> Result<BTreeMap<(String, String), u64>> {
    let ends = ends(&journal(Path::new(JOURNAL))?);
    // The second fdatasync from here on began after this was read.
    let synced = syncs()? + 2;
    now_and_then(LOOK, LIMIT, "two fdatasyncs", || Ok((syncs()? >= synced).then_some(())))?;
    Ok(ends)
}

/// What sinks have by now: a frame goes to them in the step in which it is acknowledged, and with `fsync = "always"` that is
/// after its fdatasync.
fn acknowledged() -> Result<BTreeMap<(String, String), u64>> {
    let before = syncs()?;
    now_and_then(LOOK, LIMIT, "an fdatasync", || Ok((syncs()? > before).then_some(())))?;
    let has = sink(Path::new(SINK)).context("read the sink's file")?;
    let known = journal(Path::new(JOURNAL))?;
    let ours = known.streams.iter().filter(|(_, kept)| NAMES.contains(&kept.name.as_str()));
    let end = |key: &StreamKey| has.get(key).map_or(0, Tape::end);
    Ok(ours.map(|(key, kept)| ((kept.name.clone(), key.stream.clone()), end(key))).collect())
}

/// Judges what the cut left. `durable`: `name/stream=bytes`, as the first boot said it last.
pub fn verdict(durable: &[String]) -> Result<()> {
    mount_state()?;
    let found = journal(Path::new(JOURNAL)).context("read the journal as the cut left it")?;
    ensure!(!found.clean, "the cut journal says that its collector ended in order");
    let newest = found.parts.last().context("no journal at all")?;
    let older = found.damaged.iter().find(|(path, _)| path != newest);
    ensure!(older.is_none(), "an older file is torn: {older:?}");
    let before = ends(&found);
    println!("found in {} files: {before:?}; torn: {:?}", found.parts.len(), found.damaged);

    // What ended with the power is nobody's to come back: it stays so when others would have been given up.
    start_collector_told(&(told(Fsync::Interval) + "[ingest]\norphan_secs = 1\n"))?;
    let page = now_and_then(LOOK, LIMIT, "the sink to have everything", || {
        let page = get("/metrics")?;
        let lag = sum(&page, "shimtap_sink_lag_bytes", "")? + sum(&page, "shimtap_sink_in_flight", "")?;
        Ok((lag == 0).then_some(page))
    })?;
    thread::sleep(GIVEN_UP);
    systemctl(&["stop", "shimtap.service"])?;
    ensure!(sum(&page, "shimtap_journal_unclean", "")? == 1, "the collector saw no cut");
    let kept = journal(Path::new(JOURNAL)).context("read the journal after its recovery")?;
    ensure!(kept.damaged.is_empty() && kept.aside.is_empty(), "{:?} {:?}", kept.damaged, kept.aside);
    let tapes = sink(Path::new(SINK)).context("read the sink's file")?;
    let mut lines = 0;
    for durable in durable {
        let (whose, end) = durable.split_once('=').with_context(|| durable.clone())?;
        let (name, stream) = whose.split_once('/').with_context(|| durable.clone())?;
        let (key, kept) = of(&kept, name, stream)?;
        let before = before.get(&(name.to_owned(), stream.to_owned())).copied().unwrap_or_default();
        let judged = judge(kept, stream, (end.parse()?, before)).with_context(|| whose.to_owned())?;
        let written =
            Marked { mark: name, stream, width: WIDTH }.tape_of(usize::try_from(kept.end)? + (1 << 20));
        let tape = tapes.get(key).with_context(|| format!("the sink has nothing of {whose}"))?;
        // Of what the journal has lost the sink may have had more than it is told now.
        let has = covered(tape, &written).with_context(|| format!("{whose} in the sink"))?;
        ensure!(
            has.gaps == 0 && has.delivered >= judged.delivered,
            "{whose}: the sink has {has:?}, the journal {judged:?}"
        );
        println!(
            "{whose}: {end} bytes were on the disk, {} are there, with holes {:?}; the sink has {}",
            judged.end, judged.holes, has.delivered
        );
        lines += judged.delivered;
    }
    ensure!(
        lines == sum(&page, "shimtap_log_bytes_total", "")?,
        "{lines} bytes are there, others are counted"
    );
    Ok(())
}

/// What must hold of one stream of the journal, of which so much was on the disk, and so much was found.
fn judge(kept: &Kept, stream: &str, (durable, found): (u64, u64)) -> Result<Held> {
    ensure!(kept.end >= durable, "{durable} bytes were on the disk, {} are there", kept.end);
    ensure!(kept.end == found, "its last whole frame ended at {found}, now it ends at {}", kept.end);
    let ending = kept.ending.as_deref().unwrap_or("none");
    ensure!(ending == "power_cut", "its ending is {ending}");
    let written = Marked { mark: &kept.name, stream, width: WIDTH }.tape_of(usize::try_from(kept.end)?);
    let has = held(&kept.tape(), &written)?;
    // What an emulated machine was too slow for, its wrapper has thrown away and told long before the cut.
    let overflow = has.holes.get("overflow").copied().unwrap_or_default();
    ensure!(
        has.gaps == 0 && has.delivered > 0 && has.delivered + overflow == kept.end,
        "{has:?} of {} bytes",
        kept.end
    );
    Ok(has)
}

/// How far each stream of ours is.
fn ends(journal: &Journal) -> BTreeMap<(String, String), u64> {
    let ours = journal.streams.iter().filter(|(_, kept)| NAMES.contains(&kept.name.as_str()));
    ours.map(|(key, kept)| ((kept.name.clone(), key.stream.clone()), kept.end)).collect()
}

fn of<'a>(journal: &'a Journal, name: &str, stream: &str) -> Result<(&'a StreamKey, &'a Kept)> {
    let mut all = journal.streams.iter().filter(|(key, kept)| kept.name == name && key.stream == stream);
    let first = all.next().with_context(|| format!("no {name}/{stream} in the journal"))?;
    ensure!(all.next().is_none(), "more than one {name}/{stream}");
    Ok(first)
}

/// How often the journal was brought to the disk.
fn syncs() -> Result<u64> {
    let page = get("/metrics")?;
    let count = page.lines().find_map(|line| line.strip_prefix("shimtap_journal_fsync_seconds_count "));
    count.context("no count of fdatasyncs")?.trim().parse().context("the count")
}

fn mount_state() -> Result<()> {
    fs::create_dir_all(STATE).context("create the mount point")?;
    mount(Some(DISK), STATE, Some("ext4"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount {DISK}"))
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("write to the report")
}
