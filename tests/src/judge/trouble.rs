//! What befalls a site, one thing at a time, and what each may cost.
//!
//! A trouble is over when it returns: the collector runs again, disks have room, the endpoint takes. What it leaves is for the
//! verdict to find. Moments come from the seed; what is waited for is named.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::load::Load;
use super::site::{LIMIT, Site};
use super::{heads, spool};
use crate::chaos::dice::Dice;
use crate::chaos::pair::{Pair, Struck};
use crate::chaos::real::keepers;
use crate::chaos::schedule::{Mix, Schedule};
use crate::chaos::tally::Ledger;
use crate::rig::endpoint::Mood;
use crate::rig::eventually;
use crate::rig::run::run;

/// One thing that befalls a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The collector is killed; another one starts at once.
    CollectorKilled,
    /// It is stopped for up to two seconds, and goes on.
    CollectorStopped,
    /// It is stopped for up to a second, then killed; another one starts.
    CollectorHungUp,
    /// It is told to end, is away for up to two seconds, and another one starts.
    CollectorAway,
    /// Containers are created, write and end while it is away.
    PodsEndMeanwhile,
    /// Workers and keepers die, one at a time.
    WrappersDie,
    /// One of them hangs.
    WrapperHangs,
    /// containerd is killed and starts again.
    ContainerdKilled,
    /// The endpoint takes its time.
    SinkSlow,
    /// It hangs until the sink has given up a request.
    SinkHangs,
    /// It says 503 until the sink stalls.
    SinkBusy,
    /// It takes requests and cuts the answers.
    SinkCuts,
    /// It refuses some requests for good.
    SinkRefuses,
    /// The file sink's disk is full until the sink stalls.
    FileDiskFull,
    /// The journal's disk is full until it is stalled.
    JournalDiskFull,
    /// The collector dies, and the newest file of its journal has lost its last bytes.
    JournalTruncated,
    /// The collector dies, and a bit of one of its journal's files is not what it was.
    JournalFlipped,
    /// Rules move streams from one head of the journal to the other and back, while they write.
    StreamsMove,
    /// The collector dies while they do; another one starts, with the rules of before.
    CollectorDiesOverAMove,
    /// The disk under the journal's second head is full until it is stalled.
    HeadDiskFull,
    /// That disk hangs until wrappers have no room.
    HeadDiskHangs,
    /// It is killed, and away until wrappers have written files.
    Spooled,
    /// It is away until they may write no more, and rings are full as well.
    SpoolOverflows,
    /// It is away, and the disk is full where they write.
    SpoolDiskFull,
    /// It is away, and a spool file has lost its last bytes.
    SpoolTruncated,
    /// It is away, and a bit of a spool file is not what it was.
    SpoolFlipped,
    /// The machine's clock goes an hour forward. Only on a machine that is thrown away.
    ClockForward,
    /// It goes two hours back.
    ClockBack,
}

/// A fault of the rig's.
const NO_PART: &str = "a journal without a file";

/// What may be, after all that has befallen a site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Reasons of holes in the journal.
    pub holes: BTreeSet<&'static str>,
    /// Those of them that there must be, or the trouble was none.
    pub must: BTreeSet<&'static str>,
    /// The journal may have dropped what was old.
    pub dropped: bool,
    /// The journal was damaged.
    pub damaged: bool,
    /// containerd died: its own log may have holes.
    pub containerd_died: bool,
    /// The endpoint refused requests for good.
    pub refused: bool,
    /// The endpoint took requests that it never answered: what it refused when they came again it has all the same.
    pub unanswered: bool,
    /// Streams were moved between the journal's heads, or the trouble was none.
    pub moved: bool,
    /// A collector was started after another: counters that are not sums over the journal began anew.
    pub restarted: bool,
}

impl Trouble {
    /// Deaths and hangs of processes, each of which may come at any time.
    pub const DEATHS: [Self; 7] = [
        Self::CollectorKilled,
        Self::CollectorStopped,
        Self::CollectorHungUp,
        Self::CollectorAway,
        Self::WrappersDie,
        Self::WrapperHangs,
        Self::ContainerdKilled,
    ];

    /// Damage of what lies in files; on a site that writes so much that wrappers spool within seconds.
    pub const SPOILING: [Self; 5] = [
        Self::JournalTruncated,
        Self::JournalFlipped,
        Self::Spooled,
        Self::SpoolTruncated,
        Self::SpoolFlipped,
    ];

    /// Of a site whose journal has room and is on the same disk as everything else.
    pub const ANYWHERE: [Self; 13] = [
        Self::CollectorKilled,
        Self::CollectorStopped,
        Self::CollectorHungUp,
        Self::CollectorAway,
        Self::PodsEndMeanwhile,
        Self::WrappersDie,
        Self::WrapperHangs,
        Self::ContainerdKilled,
        Self::SinkSlow,
        Self::SinkHangs,
        Self::SinkBusy,
        Self::SinkCuts,
        Self::SinkRefuses,
    ];

    /// Widens what may be.
    pub fn widen(self, terms: &mut Terms) {
        match self {
            Self::CollectorKilled
            | Self::CollectorHungUp
            | Self::CollectorAway
            | Self::PodsEndMeanwhile
            | Self::Spooled => terms.restarted = true,
            Self::StreamsMove => terms.moved = true,
            Self::CollectorDiesOverAMove => terms.restarted = true,
            // Wrappers may have room for as long as it takes, or not.
            Self::HeadDiskFull => {
                terms.dropped = true;
                terms.holes.insert("overflow");
            }
            Self::HeadDiskHangs => {
                terms.holes.insert("overflow");
                terms.must.insert("overflow");
            }
            Self::SpoolOverflows | Self::SpoolDiskFull => {
                terms.restarted = true;
                terms.holes.insert("overflow");
                terms.must.insert("overflow");
            }
            Self::SpoolTruncated | Self::SpoolFlipped => {
                terms.restarted = true;
                // The second where a file's damage comes before it has said anything of a stream.
                terms.holes.extend(["spool_corrupt", "spool_lost"]);
            }
            Self::ContainerdKilled => terms.containerd_died = true,
            Self::SinkRefuses => terms.refused = true,
            Self::SinkCuts => terms.unanswered = true,
            Self::JournalDiskFull => terms.dropped = true,
            Self::JournalTruncated | Self::JournalFlipped => {
                terms.damaged = true;
                terms.restarted = true;
                // What was acknowledged and is lost no wrapper has any more.
                terms.holes.insert("journal_lost");
            }
            Self::CollectorStopped
            | Self::WrappersDie
            | Self::WrapperHangs
            | Self::SinkSlow
            | Self::SinkHangs
            | Self::SinkBusy
            | Self::FileDiskFull
            | Self::ClockForward
            | Self::ClockBack => {}
        }
    }

    /// Lets it happen, from its beginning to its end.
    pub fn befall(self, site: &Site<'_>, load: &Load<'_>, dice: &mut Dice) -> Result<()> {
        let done = match self {
            Self::CollectorKilled => site.kill_collector().and_then(|()| site.node.start_collector()),
            Self::CollectorStopped => {
                site.signal_collector(Signal::SIGSTOP)?;
                thread::sleep(dice.pause(Duration::from_secs(2)));
                site.signal_collector(Signal::SIGCONT)
            }
            Self::CollectorHungUp => {
                site.signal_collector(Signal::SIGSTOP)?;
                thread::sleep(dice.pause(Duration::from_secs(1)));
                site.kill_collector()?;
                site.node.start_collector()
            }
            Self::CollectorAway => {
                site.end_collector()?;
                thread::sleep(dice.pause(Duration::from_secs(2)));
                site.node.start_collector()
            }
            Self::PodsEndMeanwhile => pods_end_meanwhile(site, load, dice),
            Self::WrappersDie => strikes(site, dice, Mix { hangs: 0, ..Mix::default() }, 6),
            Self::WrapperHangs => strikes(site, dice, Mix { hangs: 100, ..Mix::default() }, 1),
            Self::ContainerdKilled => {
                load.containerd_dies(|| site.node.restart().and_then(|()| site.cri.await_ready()))
            }
            Self::SinkSlow => mood(site, Mood::Dawdle(Duration::from_millis(300)), |asked| {
                eventually(LIMIT, "the endpoint to be asked", || {
                    Ok((site.endpoint.asked() >= asked + 3).then_some(()))
                })
            }),
            Self::SinkHangs => mood(site, Mood::Hang, |_| failed(site, "timeout")),
            Self::SinkBusy => mood(site, Mood::Busy, |_| site.until("shimtap_sink_stalled", "otlp", 1)),
            Self::SinkCuts => mood(site, Mood::CutAnswer, |_| failed(site, "connection_lost")),
            Self::SinkRefuses => mood(site, Mood::Refuse, |_| {
                let before = site.metric("shimtap_sink_rejected_records_total", "otlp")?;
                site.until("shimtap_sink_rejected_records_total", "otlp", before + 1)
            }),
            Self::FileDiskFull => file_disk_full(site),
            Self::JournalDiskFull => journal_disk_full(site),
            Self::JournalTruncated => damaged(site, |parts| cut(parts.last().context(NO_PART)?, dice)),
            Self::JournalFlipped => damaged(site, |parts| flip(one_of(parts, dice)?, dice)),
            Self::StreamsMove => heads::streams_move(site, dice),
            Self::CollectorDiesOverAMove => heads::dies_over_a_move(site, dice),
            Self::HeadDiskFull => heads::disk_full(site, load, dice),
            Self::HeadDiskHangs => heads::disk_hangs(site, load, dice),
            Self::Spooled => spool::fills(site, |_| Ok(())),
            Self::SpoolOverflows => spool::overflows(site, load),
            Self::SpoolDiskFull => spool::disk_full(site, load),
            Self::SpoolTruncated => spool::damaged(site, |path| cut(path, dice)),
            Self::SpoolFlipped => spool::damaged(site, |path| flip(path, dice)),
            Self::ClockForward => clock_steps(3600),
            Self::ClockBack => clock_steps(-7200),
        };
        done.with_context(|| format!("{self:?}"))
    }
}

/// The endpoint is in that mood until `over`, which is told how often it was asked before.
fn mood(site: &Site<'_>, mood: Mood, over: impl FnOnce(u64) -> Result<()>) -> Result<()> {
    let asked = site.endpoint.asked();
    site.endpoint.be(mood);
    let result = over(asked);
    site.calm();
    result
}

/// Waits until one more request has failed for that reason.
fn failed(site: &Site<'_>, error: &str) -> Result<()> {
    let label = format!("error=\"{error}\"");
    let before = site.metric("shimtap_sink_errors_total", &label)?;
    site.until("shimtap_sink_errors_total", &label, before + 1)
}

fn pods_end_meanwhile(site: &Site<'_>, load: &Load<'_>, dice: &mut Dice) -> Result<()> {
    site.kill_collector()?;
    let pod = site.cri.run_pod(&load.fresh("meanwhile"))?;
    load.some_briefs(&pod, dice, 3)?;
    site.cri.remove_pod(&pod)?;
    site.node.start_collector()
}

/// So many deaths of workers and keepers.
fn strikes(site: &Site<'_>, dice: &mut Dice, mix: Mix, deaths: u64) -> Result<()> {
    let ledger = Ledger::default();
    let mut schedule = Schedule::new(Dice::new(dice.roll(u64::MAX), "strikes"), mix);
    let all = || keepers(site.node);
    while ledger.tally().died() < deaths {
        let pairs = Pair::all(&all)?;
        let Some(pair) = schedule.pick(&pairs) else { continue };
        let strike = schedule.next_strike();
        let struck = pair.strike(strike, &all)?;
        if !matches!(struck, Struck::Ended { .. }) {
            ledger.struck(strike, &struck);
        }
    }
    Ok(())
}

fn file_disk_full(site: &Site<'_>) -> Result<()> {
    let dir = site.node.dir().join("kept");
    let ballast = site.fill(&dir)?;
    site.until("shimtap_sink_stalled", "file", 1)?;
    drop(ballast);
    site.until_none("shimtap_sink_stalled", "file")
}

/// The ballast grows into every room that the journal makes, until nothing is left to be dropped.
fn journal_disk_full(site: &Site<'_>) -> Result<()> {
    let ballast = site.fill(&site.journal_dir())?;
    eventually(LIMIT, "the journal to be stalled", || {
        ballast.grow()?;
        Ok((site.metric("shimtap_journal_stalled", "")? > 0).then_some(()))
    })?;
    drop(ballast);
    site.until_none("shimtap_journal_stalled", "")
}

/// The collector dies, `damage` is done to the files of its journal, and another one starts.
fn damaged(site: &Site<'_>, damage: impl FnOnce(&[PathBuf]) -> Result<()>) -> Result<()> {
    site.kill_collector()?;
    damage(&site.journal()?.parts)?;
    site.node.start_collector()
}

/// Any of them.
fn one_of<'p>(parts: &'p [PathBuf], dice: &mut Dice) -> Result<&'p Path> {
    let index = dice.roll(u64::try_from(parts.len())?.max(1));
    parts.get(usize::try_from(index)?).map(PathBuf::as_path).context(NO_PART)
}

/// Is this a machine whose clock may be stepped?
#[must_use]
pub fn has_own_clock() -> bool {
    fs::read_to_string("/proc/sys/kernel/hostname").is_ok_and(|name| name.trim() == "node")
}

fn clock_steps(seconds: i64) -> Result<()> {
    ensure!(has_own_clock(), "others live by this machine's clock: only in the node VM (docs/node-vm.md)");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    let then = i64::try_from(now.as_secs())? + seconds;
    let mut date = Command::new("date");
    date.args(["-u", "-s", &format!("@{then}")]);
    run(date, LIMIT)?.ok().context("set the clock").map(drop)
}

/// Takes up to a third of a file away, from its end.
fn cut(path: &Path, dice: &mut Dice) -> Result<()> {
    let (file, length) = opened(path)?;
    let gone = 1 + dice.roll((length / 3).max(1));
    file.set_len(length - gone.min(length)).with_context(|| format!("cut {}", path.display()))
}

/// Makes another one of one bit of a file.
fn flip(path: &Path, dice: &mut Dice) -> Result<()> {
    let (file, length) = opened(path)?;
    let (at, bit) = (dice.roll(length), dice.roll(8));
    let mut byte = [0];
    let flipped = file
        .read_exact_at(&mut byte, at)
        .and_then(|()| file.write_all_at(&byte.map(|byte| byte ^ (1 << bit)), at));
    flipped.with_context(|| format!("flip a bit of {}", path.display()))
}

/// A file to be damaged, and its length.
fn opened(path: &Path) -> Result<(fs::File, u64)> {
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let length = file.metadata().context("look at it")?.len();
    ensure!(length > 0, "{} is empty", path.display());
    Ok((file, length))
}
