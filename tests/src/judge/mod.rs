//! The judge of "nothing is lost silently": cases of trouble on a real node under load, and what must hold afterwards.
//!
//! A *case* is a ground (a private containerd with the wrapper in front of runc, a collector with a file and an OTLP sink,
//! disks of its own where it fills them), work that writes lines that can be computed, troubles in an order that its seed
//! gives, and a verdict over journal, sinks, counters and containerd's own logs. docs/judge.md has the statements. A case that
//! fails names its seed and leaves what it had in a folder.
//!
//! Deaths of wrappers in great number, and what requests become of them, are the business of `chaos`.

pub mod cases;
mod heads;
pub(crate) mod held;
mod load;
pub(crate) mod site;
mod spoken;
mod spool;
mod trouble;
pub mod turns;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use self::load::Load;
pub use self::load::Work;
pub use self::site::{Disks, Site};
pub use self::trouble::{Terms, Trouble, has_own_clock};
pub use self::verdict::Seen;
use crate::chaos::dice::Dice;
use crate::rig::endpoint::Endpoint;
use crate::rig::node::PATIENT;
use crate::rig::{Hook, Node, Setup, Shim, Version};

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name; with the seed it says all of it.
    pub name: &'static str,
    /// On which containerd.
    pub version: Version,
    /// Of order, moments and places.
    pub seed: u64,
    /// What runs.
    pub works: Vec<Work>,
    /// What befalls it, in an order that the seed gives.
    pub troubles: Vec<Trouble>,
    /// More lines of the collector's `[journal]`.
    pub journal: &'static str,
    /// Lines of its `[journal.disk]`, where it has one.
    pub head: Option<&'static str>,
    /// Rules of its collector.
    pub rules: &'static str,
    /// More sections of the wrapper's configuration.
    pub shim: &'static str,
    /// Disks of its own.
    pub disks: Disks,
}

/// Longest pause between two troubles: so that they meet the load anywhere.
const PAUSE: Duration = Duration::from_millis(700);

/// Carries a case out, and judges it.
///
/// # Errors
/// What does not hold, with the case's seed and where its files are.
pub fn run(case: &Case) -> Result<Seen> {
    let endpoint = Endpoint::start()?;
    let setup = Setup::new(case.version, Shim::Wrapped(Hook::Opt));
    let setup = setup.telling(site::settings(&endpoint, case));
    let setup = setup.shim_toml(&format!("{PATIENT}{}", case.shim));
    let judged = setup.run(|node| {
        let judged = on_node(case, node, &endpoint);
        judged.inspect_err(|_| {
            if let Err(fault) = keep(node, &evidence(case)) {
                eprintln!("judge: the files of {} could not be kept: {fault:#}", case.name);
            }
        })
    });
    judged.with_context(|| {
        format!(
            "case {} on {:?}, seed {}: repeat it with `sudo ./dev soak --case {} --seed {}`; its files are in {}",
            case.name,
            case.version,
            case.seed,
            case.name,
            case.seed,
            evidence(case).display()
        )
    })
}

fn on_node(case: &Case, node: &Node, endpoint: &Endpoint) -> Result<Seen> {
    let site = Site::start(node, endpoint, case.disks)?;
    let mut dice = Dice::new(case.seed, case.name);
    let mut terms = Terms::default();
    if case.rules.contains("lines_per_sec") {
        terms.holes.insert(held::LIMITED);
        terms.must.insert(held::LIMITED);
    }
    let mut troubles = case.troubles.clone();
    dice.shuffle(&mut troubles);
    for trouble in &troubles {
        trouble.widen(&mut terms);
    }
    let load = Load::new(&site, case.seed);
    let spoken = load.run(&case.works, |load| {
        for trouble in &troubles {
            // The moment is what is random here.
            thread::sleep(dice.pause(PAUSE));
            let befell = trouble.befall(&site, load, &mut dice);
            befell.with_context(|| format!("of {troubles:?}"))?;
        }
        thread::sleep(dice.pause(PAUSE));
        Ok(())
    });
    let spoken = spoken.with_context(|| format!("under {troubles:?}"))?;
    site.calm();
    let judged = verdict::settle(&site, &spoken).and_then(|()| verdict::verdict(&site, &spoken, &terms));
    let seen = judged.with_context(|| format!("after {troubles:?}"))?;
    site.close();
    Ok(seen)
}

/// Where a failed case leaves what it had.
fn evidence(case: &Case) -> PathBuf {
    std::env::temp_dir().join(format!("shimtap-judge-{}-{:?}-{}", case.name, case.version, case.seed))
}

/// Copies the collector's files, its log, and containerd's logs of containers.
fn keep(node: &Node, to: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for name in ["kept", "collector.log", "collector.toml", "containerd.log", "logs", "host", "shim.toml"] {
        let from = node.dir().join(name);
        let copied = Command::new("cp").arg("-a").arg(&from).arg(to).status();
        copied.with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}
