//! Strikes at any wrapper of the node, several side by side, but never two at one wrapper.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Result;

use super::work::{LIMIT, Work};
use crate::{
    chaos::{
        Order,
        dice::Dice,
        pair::{Keepers, Pair},
        schedule::Schedule,
    },
    rig::{Node, eventually, process::holds_open},
    standin::procs::{self, Process},
};

/// Wrappers that somebody is striking, of all nodes: by their command line.
static STRUCK: Mutex<BTreeSet<Vec<String>>> = Mutex::new(BTreeSet::new());

fn struck() -> MutexGuard<'static, BTreeSet<Vec<String>>> {
    STRUCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Strikes until there were enough deaths, the time is over, or the work is.
///
/// # Errors
/// A victim had no successor though its pod lives.
pub fn strike(order: &Order, work: &Work<'_>, stays: &str, dice: Dice) -> Result<()> {
    let mut schedule = Schedule::new(dice, order.mix);
    let keepers = || keepers(work.node);
    let until = Instant::now() + order.time;
    let is_wanted =
        || work.ledger.tally().died() < order.deaths || (order.every_kind && work.ledger.lacks_a_kind());
    while work.goes_on() && is_wanted() && Instant::now() < until {
        let strike = schedule.next_strike();
        // A keeper that hangs in the last steps of its life, when its worker has left, is nobody's to find out.
        let wanted = strike.fault.hangs().then_some(stays);
        let Some(pair) = claim(&mut schedule, &keepers, wanted)? else { continue };
        let body = || pair.strike(strike, &keepers);
        let result = work.hangs.during(strike.fault.hangs(), body);
        struck().remove(pair.name());
        work.ledger.struck(strike, &result?);
    }
    Ok(())
}

/// Takes one of the wrappers that nobody strikes, where it matters that of the pod `wanted`; none where there is none.
fn claim(schedule: &mut Schedule, keepers: &Keepers<'_>, wanted: Option<&str>) -> Result<Option<Pair>> {
    eventually(LIMIT, "a wrapper", || {
        let mut pairs = Pair::all(keepers)?;
        pairs.retain(|pair| wanted.is_none_or(|id| pair.name().iter().any(|word| word == id)));
        let mut taken = struck();
        let free: Vec<&Pair> = pairs.iter().filter(|pair| !taken.contains(pair.name())).collect();
        let Some(pair) = schedule.pick(&free) else { return Ok(pairs.is_empty().then_some(None)) };
        taken.insert(pair.name().to_vec());
        Ok(Some(Some((*pair).clone())))
    })
}

/// The node's keepers.
///
/// # Errors
/// /proc cannot be listed.
pub fn keepers(node: &Node) -> Result<Vec<Process>> {
    let run_dir = node.run_dir();
    let dirs = [node.dir(), &run_dir];
    let mut found = procs::all_keepers()?;
    found.retain(|keeper| holds_open(&Path::new("/proc").join(keeper.pid.to_string()), &dirs));
    Ok(found)
}
