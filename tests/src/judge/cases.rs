//! The cases, by name: what `./dev test` runs of them is short, `./dev soak` runs all of them in turns with new seeds.

use super::{Case, Disks, Trouble, Work, heads};
use crate::chaos::dice::Dice;
use crate::rig::Version;

/// What writes in most cases: two containers, on both outputs.
const TALK: Work = Work::Steady { containers: 2, rate: 300 };

/// Files on a disk however full: that of the machine may be.
const ANY_DISK: &str = "[spool]\ndisk_free_bytes = 0\ndisk_free_percent = 0\n";
/// The same, [`LIMIT_BYTES`](super::spool::LIMIT_BYTES) at most.
const SMALL_SPOOL: &str = "[spool]\nlimit_bytes = 1048576\ndisk_free_bytes = 0\ndisk_free_percent = 0\n";

/// A case's name and how it is made.
pub type Made = (&'static str, fn(Version, u64) -> Case);

/// All of them, the short ones first.
pub const ALL: [Made; 20] = [
    ("collector_dies", collector_dies),
    ("processes", processes),
    ("sinks", sinks),
    ("refuses", refuses),
    ("limited", limited),
    ("file_disk", file_disk),
    ("journal_disk", journal_disk),
    ("damage", damage),
    ("heads", heads),
    ("head_disk_full", head_disk_full),
    ("head_disk_hangs", head_disk_hangs),
    ("spool", spool),
    ("spool_full", spool_full),
    ("spool_disk", spool_disk),
    ("spool_damage", spool_damage),
    ("output", output),
    ("crowd", crowd),
    ("anything", anything),
    ("full_and_dead", full_and_dead),
    ("spoilt_and_dead", spoilt_and_dead),
];

/// The case of that name.
#[must_use]
pub fn named(name: &str) -> Option<fn(Version, u64) -> Case> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, made)| *made)
}

impl Case {
    /// A case with the usual load and no trouble.
    #[must_use]
    pub fn new(name: &'static str, version: Version, seed: u64) -> Self {
        Self {
            name,
            version,
            seed,
            works: vec![TALK],
            troubles: Vec::new(),
            journal: "",
            head: None,
            rules: "",
            shim: "",
            disks: Disks::default(),
        }
    }
}

/// The collector dies under load, and nothing else happens: the smallest case.
#[must_use]
pub fn collector_dies(version: Version, seed: u64) -> Case {
    Case { troubles: vec![Trouble::CollectorKilled], ..Case::new("collector_dies", version, seed) }
}

/// Collector, wrappers and containerd die and stop, pods end meanwhile.
#[must_use]
pub fn processes(version: Version, seed: u64) -> Case {
    let troubles = vec![
        Trouble::CollectorKilled,
        Trouble::CollectorStopped,
        Trouble::CollectorHungUp,
        Trouble::CollectorAway,
        Trouble::WrappersDie,
        Trouble::WrapperHangs,
        Trouble::PodsEndMeanwhile,
        Trouble::ContainerdKilled,
    ];
    Case { works: vec![TALK, Work::Brief], troubles, ..Case::new("processes", version, seed) }
}

/// An endpoint in every mood, while the file sink goes on.
#[must_use]
pub fn sinks(version: Version, seed: u64) -> Case {
    let troubles = vec![
        Trouble::SinkSlow,
        Trouble::SinkHangs,
        Trouble::SinkBusy,
        Trouble::SinkCuts,
        Trouble::SinkRefuses,
    ];
    Case { troubles, ..Case::new("sinks", version, seed) }
}

/// An endpoint that refuses for good, and answers whatever it is asked: what it has not got is what was counted as refused, to
/// the byte.
#[must_use]
pub fn refuses(version: Version, seed: u64) -> Case {
    Case { troubles: vec![Trouble::SinkRefuses; 2], ..Case::new("refuses", version, seed) }
}

/// A rule lets through a third of what one container writes, and the collector dies: holes say how many lines they hide.
#[must_use]
pub fn limited(version: Version, seed: u64) -> Case {
    let rules =
        "[[rule]]\nname = \"a third\"\ncontainer = \"steady-0\"\nlines_per_sec = 200\nburst_lines = 10\n";
    Case { troubles: vec![Trouble::CollectorKilled], rules, ..Case::new("limited", version, seed) }
}

/// The file sink's disk is full, more than once.
#[must_use]
pub fn file_disk(version: Version, seed: u64) -> Case {
    // The journal has a disk of its own, or it would lie on the one that is filled.
    let disks = Disks { file_bytes: 24 << 20, journal_bytes: 64 << 20, ..Disks::default() };
    Case { troubles: vec![Trouble::FileDiskFull; 2], disks, ..Case::new("file_disk", version, seed) }
}

/// The journal's disk is full.
#[must_use]
pub fn journal_disk(version: Version, seed: u64) -> Case {
    let disks = Disks { journal_bytes: 6 << 20, ..Disks::default() };
    let journal = "max_bytes = 5242880\n";
    Case {
        troubles: vec![Trouble::JournalDiskFull],
        disks,
        journal,
        ..Case::new("journal_disk", version, seed)
    }
}

/// The journal has lost its end, or a bit of it is wrong.
#[must_use]
pub fn damage(version: Version, seed: u64) -> Case {
    let troubles = vec![Trouble::JournalTruncated, Trouble::JournalFlipped, Trouble::JournalFlipped];
    Case { troubles, ..Case::new("damage", version, seed) }
}

/// A journal of two heads: rules move streams between them while they write, and the collector dies over it.
#[must_use]
pub fn heads(version: Version, seed: u64) -> Case {
    let troubles = vec![
        Trouble::StreamsMove,
        Trouble::CollectorDiesOverAMove,
        Trouble::CollectorDiesOverAMove,
        Trouble::CollectorAway,
        Trouble::CollectorHungUp,
    ];
    Case { works: vec![TALK, Work::Brief], troubles, ..two_heads("heads", version, seed) }
}

/// The disk under one head is full: what goes there waits and is counted where it is dropped, and the other head goes on.
#[must_use]
pub fn head_disk_full(version: Version, seed: u64) -> Case {
    let disks = Disks { head_bytes: 12 << 20, ..Disks::default() };
    let troubles = vec![Trouble::HeadDiskFull, Trouble::StreamsMove];
    Case { troubles, disks, ..two_heads("head_disk_full", version, seed) }
}

/// That disk hangs, for longer than wrappers have room for what goes there.
#[must_use]
pub fn head_disk_hangs(version: Version, seed: u64) -> Case {
    let disks = Disks { head_bytes: 64 << 20, ..Disks::default() };
    // A second's worth in the collector, and as little in files of wrappers.
    let head = Some("max_bytes = 67108864\nqueue_bytes = 1048576\n");
    let troubles = vec![Trouble::HeadDiskHangs];
    let works = vec![Work::Steady { containers: 2, rate: 3000 }];
    let case = two_heads("head_disk_hangs", version, seed);
    Case { works, troubles, disks, head, shim: SMALL_SPOOL, journal: "max_bytes = 268435456\n", ..case }
}

/// A journal of two heads, with streams in both from the beginning.
fn two_heads(name: &'static str, version: Version, seed: u64) -> Case {
    Case { head: Some("max_bytes = 67108864\n"), rules: heads::RULES, ..Case::new(name, version, seed) }
}

/// The collector is away until wrappers write files, and pods end meanwhile.
#[must_use]
pub fn spool(version: Version, seed: u64) -> Case {
    let troubles = vec![Trouble::Spooled, Trouble::PodsEndMeanwhile, Trouble::Spooled];
    Case { troubles, ..much("spool", version, seed) }
}

/// The collector is away until files are full, and rings as well.
#[must_use]
pub fn spool_full(version: Version, seed: u64) -> Case {
    Case { troubles: vec![Trouble::SpoolOverflows], shim: SMALL_SPOOL, ..much("spool_full", version, seed) }
}

/// The disk is full where wrappers write files, and wrappers and containerd die.
#[must_use]
pub fn spool_disk(version: Version, seed: u64) -> Case {
    let disks = Disks { spool_bytes: 24 << 20, ..Disks::default() };
    let troubles = vec![Trouble::SpoolDiskFull, Trouble::WrappersDie, Trouble::ContainerdKilled];
    Case { troubles, disks, ..much("spool_disk", version, seed) }
}

/// Files of wrappers are damaged while the collector is away.
#[must_use]
pub fn spool_damage(version: Version, seed: u64) -> Case {
    let troubles = vec![Trouble::SpoolTruncated, Trouble::SpoolFlipped, Trouble::SpoolFlipped];
    Case { troubles, ..much("spool_damage", version, seed) }
}

/// Containers that write so much that a wrapper has to spool within a second, and a journal that holds all of it.
fn much(name: &'static str, version: Version, seed: u64) -> Case {
    Case {
        works: vec![Work::Steady { containers: 2, rate: 3000 }],
        journal: "max_bytes = 268435456\n",
        shim: ANY_DISK,
        ..Case::new(name, version, seed)
    }
}

/// Lines beyond all limits, output that is no text, containers that live for some milliseconds, and a collector that dies
/// over it.
#[must_use]
pub fn output(version: Version, seed: u64) -> Case {
    let works = vec![
        Work::Long { bytes: 16 << 20 },
        Work::Noise { bytes: 4 << 20 },
        Work::Brief,
        Work::Steady { containers: 1, rate: 100 },
    ];
    let troubles = vec![Trouble::CollectorStopped, Trouble::CollectorKilled];
    Case { works, troubles, ..Case::new("output", version, seed) }
}

/// 200 containers that write at once.
#[must_use]
pub fn crowd(version: Version, seed: u64) -> Case {
    Case { works: vec![Work::Crowd { containers: 200 }], ..Case::new("crowd", version, seed) }
}

/// The machine's clock goes forward and back, and a collector begins in between. Not among [`ALL`]: it asks for a machine that is
/// thrown away ([`super::has_own_clock`]), and runs in the node VM.
#[must_use]
pub fn clock(version: Version, seed: u64) -> Case {
    let troubles =
        vec![Trouble::ClockForward, Trouble::ClockBack, Trouble::ClockBack, Trouble::CollectorKilled];
    let works = vec![Work::Steady { containers: 2, rate: 50 }, Work::Brief];
    Case { works, troubles, ..Case::new("clock", version, seed) }
}

/// A dozen troubles as the seed has it, with all kinds of work.
#[must_use]
pub fn anything(version: Version, seed: u64) -> Case {
    let troubles = picked(seed, 12, &Trouble::ANYWHERE);
    Case { works: vec![TALK, Work::Brief], troubles, ..Case::new("anything", version, seed) }
}

/// Disks under journal and file sink are full, and processes die in between, as the seed has it.
#[must_use]
pub fn full_and_dead(version: Version, seed: u64) -> Case {
    let mut troubles = vec![Trouble::JournalDiskFull, Trouble::FileDiskFull, Trouble::ContainerdKilled];
    troubles.extend(picked(seed, 5, &Trouble::DEATHS));
    // The file has room for all that is written meanwhile.
    let disks = Disks { journal_bytes: 6 << 20, file_bytes: 96 << 20, ..Disks::default() };
    let journal = "max_bytes = 5242880\n";
    Case { troubles, disks, journal, ..Case::new("full_and_dead", version, seed) }
}

/// Journal and spool files are damaged, and processes die in between, as the seed has it. Nothing ends meanwhile: what a
/// damaged journal has lost of the end of a stream whose wrapper is gone nobody can say again.
#[must_use]
pub fn spoilt_and_dead(version: Version, seed: u64) -> Case {
    let mut troubles = picked(seed, 4, &Trouble::SPOILING);
    troubles.extend([Trouble::ContainerdKilled, Trouble::WrappersDie]);
    troubles.extend(picked(seed.wrapping_add(1), 3, &Trouble::DEATHS));
    let works = vec![Work::Steady { containers: 2, rate: 1000 }];
    Case { works, troubles, ..much("spoilt_and_dead", version, seed) }
}

/// So many of these, as the seed has it.
fn picked(seed: u64, count: u32, of: &[Trouble]) -> Vec<Trouble> {
    let mut dice = Dice::new(seed, "troubles");
    (0..count).filter_map(|_| dice.pick(of).copied()).collect()
}
