//! Deaths of the wrapper's processes, seeded, under work of every kind, and the proof that nobody noticed.
//!
//! A *piece* is a place (wrapped stand-in shims, or a real containerd), a plan of strikes, work that goes on meanwhile, and
//! its judgement: what was asked and answered, what was written and read on both sides, and what is left. Pieces are
//! what tests and `./dev soak` are made of. A piece that fails names its seed; the same seed makes the same plan.
//!
//! Nothing here asks the wrapper how it did: requests are counted by the shim behind it, bytes by who reads them.

pub mod dice;
pub mod hangs;
pub mod judge;
pub mod pair;
pub mod real;
pub mod report;
pub mod schedule;
pub mod standin;
pub mod tally;

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use self::{
    schedule::Mix,
    tally::{Ledger, Tally},
};
use crate::rig::{
    Version,
    collector::{Collector, Settings, spool_dir},
    node,
};

/// Where a piece takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ground {
    /// Stand-in shims, and a client that plays containerd.
    Standin,
    /// A private containerd with runc, asked by `ctr` and over CRI.
    Real(Version),
}

/// What a piece shall be.
#[derive(Clone, Debug)]
pub struct Order {
    /// Where.
    pub ground: Ground,
    /// Of the plan and of the work.
    pub seed: u64,
    /// Deaths on each lane, or on the node.
    pub deaths: u64,
    /// No strike begins after this time.
    pub time: Duration,
    /// Pods side by side; on a node, who strikes side by side.
    pub lanes: u32,
    /// Kinds of strikes.
    pub mix: Mix,
    /// Five deaths in ten seconds mean safe mode, as by default; else never.
    pub threshold: bool,
    /// Goes on until each kind of work was done, within its time.
    pub every_kind: bool,
    /// What an answer of a stand-in may take beyond what it should, on a machine without time.
    pub slack: Duration,
}

impl Order {
    /// A piece with the usual mix.
    #[must_use]
    pub fn new(ground: Ground, seed: u64, deaths: u64, lanes: u32) -> Self {
        Self {
            ground,
            seed,
            deaths,
            time: Duration::from_secs(600),
            lanes,
            mix: Mix::default(),
            threshold: false,
            every_kind: false,
            slack: Duration::ZERO,
        }
    }

    /// Another mix.
    #[must_use]
    pub fn mix(mut self, mix: Mix) -> Self {
        self.mix = mix;
        self
    }

    /// Deaths on all lanes together.
    #[must_use]
    pub fn all_deaths(&self) -> u64 {
        if self.ground == Ground::Standin { self.deaths * u64::from(self.lanes) } else { self.deaths }
    }

    /// Until each kind of work was done.
    #[must_use]
    pub fn of_every_kind(mut self) -> Self {
        self.every_kind = true;
        self
    }

    /// Where much else is done at the same time, which may take its time of every answer.
    #[must_use]
    pub fn among_others(mut self) -> Self {
        self.slack = Duration::from_secs(10);
        self
    }

    /// With the threshold of safe mode as it is by default.
    #[must_use]
    pub fn with_threshold(mut self) -> Self {
        self.threshold = true;
        self
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standin => "stand-in shims",
            Self::Real(Version::Packaged) => "the distribution's containerd, ctr and CRI",
            Self::Real(Version::OneSeven) => "containerd 1.7, ctr and CRI",
            Self::Real(Version::Pinned) => "the pinned containerd, ctr and CRI",
        })
    }
}

/// Carries a piece out. What went wrong is in the tally's faults.
#[must_use]
pub fn run(order: &Order) -> Tally {
    let ledger = Ledger::default();
    let done = match order.ground {
        Ground::Standin => on_standins(order, &ledger),
        Ground::Real(version) => real::run(order, version, &ledger),
    };
    let mut tally = ledger.close();
    if let Err(fault) = done {
        tally.faults.push(format!("{:?}, seed {}: {fault:#}", order.ground, order.seed));
    }
    tally
}

fn on_standins(order: &Order, ledger: &Ledger) -> Result<()> {
    let mut dir = Scratch::new()?;
    let collector = Collector::start(&dir.dir, &dir.mark, &Settings::default())?;
    let judged = || -> Result<()> {
        let written = standin::run(order, &collector, ledger)?;
        judge::settle(&collector, ledger)?;
        judge::file_holds(collector, &written, !order.threshold, ledger)
    }();
    dir.keep |= judged.is_err();
    judged.with_context(|| format!("the collector's file and log are kept in {}", dir.dir.display()))
}

/// A folder that goes with its piece, unless something was wrong.
struct Scratch {
    mark: String,
    dir: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new() -> Result<Self> {
        let mark = format!("chaos-{}", node::unique());
        let dir = std::env::temp_dir().join(&mark);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self { mark, dir, keep: std::env::var_os("SHIMTAP_KEEP").is_some() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _shown_by_tmp = std::fs::remove_dir_all(&self.dir);
            let _never_made_by_most = std::fs::remove_dir_all(spool_dir(&self.mark));
        }
    }
}
